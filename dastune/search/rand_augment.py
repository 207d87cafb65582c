"""RandAugment as a Proposer: (N, M) from a grid walked so that a budget cut short has seen all of it, or by TPE."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

import torch

from dastune.config.methods import LARGEST_M
from dastune.policy.policy import Choice, Policy, Stages, Step
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.tpe import TPE, Axis
from dastune.seeds import generator


def spread_order(n: Sequence[int], m: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """Return the grid of all (N, M) from coarse to fine: corners, then middle, then the gaps.

    Each point is the one farthest from all before it, the axes scaled to [0, 1] (farthest-point sampling, Gonzalez
    1985); `seed` decides between equally far ones, so that a cut grid favours no corner over many seeds.
    """
    grid = list(product(n, m))
    rest = [grid[i] for i in torch.randperm(len(grid), generator=generator(seed, "rand_augment"))]

    place = {point: (_scaled(point[0], n), _scaled(point[1], m)) for point in rest}
    # How far each point is from all in the order; at first, so that a corner comes first, from the middle. Rounded, so
    # that what is equally far but for rounding errors is a tie.
    room = {point: round(math.dist(place[point], (0.5, 0.5)), 9) for point in rest}
    order: list[tuple[int, int]] = []
    while rest:
        farthest = max(rest, key=room.__getitem__)
        rest.remove(farthest)
        for point in rest:
            distance = round(math.dist(place[point], place[farthest]), 9)
            room[point] = min(room[point], distance) if order else distance
        order.append(farthest)
    return order


def _scaled(value: int, axis: Sequence[int]) -> float:
    low, high = min(axis), max(axis)
    return (value - low) / (high - low) if high > low else 0.5


def rand_augment_policy(space: SearchSpace, n: int, magnitude: float) -> Stages:
    """Return RandAugment over `space`: N stages, each uniform over all ops at `magnitude` in [0, 1] of their ranges."""
    stage = tuple(Choice(weight=1, step=_step(op, magnitude)) for op in space.ops)
    return Stages(stages=(stage,) * n, geometry=space.geometry)


def _step(op: SpaceOp, magnitude: float) -> Step:
    """Return the op at `magnitude`; posterize at the whole bits that come of it, as torchvision's tables have them."""
    step = op.at(magnitude)
    if op.name != "posterize":
        return step
    bits = float(torch.tensor(step.low).round())  # as the op itself rounds: the pixels are the same
    return step.model_copy(update={"low": bits, "high": bits})


class RandAugmentProposer:
    """RandAugment (Cubuk et al., NeurIPS 2020): N ops drawn uniformly, all at magnitude M, constant over a training.

    By a grid, as published, every (N, M) comes once. TPE never ends, and may propose a point again: its score is of
    another child then.
    """

    keep = 1

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        search: Literal["grid", "tpe"] = "grid",
        n: Sequence[int],
        m: Sequence[int],
        scale: Literal["paper", "torchvision"] = "paper",
    ) -> None:
        """Make a proposer.

        Args:
            space: the ops, all of them, noise ops included. What their ranges mean at which end is the space's:
                `ra-torchvision` with scale "torchvision" is torchvision's RandAugment(num_ops=N, magnitude=M),
                `ra-paper` with scale "paper" the paper's.
            seed: of the grid's order, or of TPE.
            search: the grid from coarse to fine, or TPE, to which N and M are ordered axes.
            n: numbers of ops in a row to try, distinct.
            m: magnitudes to try, distinct: 0 is the start of each op's range, LARGEST_M[scale] its end.
            scale: how M counts.

        Raises:
            ValueError: an M that is not on the scale.
        """
        self._largest_m = LARGEST_M[scale]
        if not all(0 <= value <= self._largest_m for value in m):
            raise ValueError(f"m must lie in 0 .. {self._largest_m}, the scale {scale}; got {list(m)}")
        self._space = space
        self._n, self._m = sorted(n), sorted(m)
        axes = {"n": Axis(len(n), ordered=True), "m": Axis(len(m), ordered=True)}
        self._tpe = TPE(axes, seed) if search == "tpe" else None
        self._order = spread_order(n, m, seed) if search == "grid" else []
        self._next = 0  # in the grid's order
        self._asked: list[dict[str, int]] = []  # of TPE, and not told yet

    @property
    def space_size_log10(self) -> float:
        """The decimal logarithm of the number of (N, M)."""
        return math.log10(len(self._n) * len(self._m))

    def policy(self, n: int, m: int) -> Stages:
        """Return RandAugment(N, M) over the space."""
        return rand_augment_policy(self._space, n, m / self._largest_m)

    def ask(self) -> Policy | None:
        """Return the policy of the next point, or None at the end of the grid."""
        if self._tpe is not None:
            self._asked.append(self._tpe.ask())
            return self.policy(self._n[self._asked[-1]["n"]], self._m[self._asked[-1]["m"]])
        if self._next == len(self._order):
            return None
        self._next += 1
        return self.policy(*self._order[self._next - 1])

    def tell(self, policy: Policy, score: float) -> None:
        """Hear the score of the policy asked first among those not told."""
        if self._tpe is not None:
            self._tpe.tell(self._asked.pop(0), score)

    def state_dict(self) -> dict[str, Any]:
        """Return everything: the grid's order and the place in it, or TPE's state and the points not told yet."""
        if self._tpe is not None:
            return {"tpe": self._tpe.state_dict(), "asked": [dict(point) for point in self._asked]}
        return {"order": [list(point) for point in self._order], "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        if self._tpe is not None:
            self._tpe.load_state_dict(state["tpe"])
            self._asked = [dict(point) for point in state["asked"]]
        else:
            self._order = [(n, m) for n, m in state["order"]]
            self._next = state["next"]
