"""RandAugment as a Proposer: a grid of (N, M), walked so that a budget cut short has seen all of it coarsely."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch

from dastune.policy.policy import NO_AUGMENTATION, Choice, Policy, Stages, policy_from_json, policy_to_json
from dastune.policy.space import SearchSpace
from dastune.seeds import generator

MAX_M = 10
"""The M at which an op reaches the end of its range; the published grids go on to 30 by extrapolating, ours do not."""


def spread_order(n: Sequence[int], m: Sequence[float], seed: int) -> list[tuple[int, float]]:
    """Return the grid of all (N, M) from coarse to fine: corners, then middle, then the gaps.

    Each point is the one farthest from all before it, the axes scaled to [0, 1] (farthest-point sampling, Gonzalez
    1985); `seed` decides between equally far ones, so that a cut grid favours no corner over many seeds.
    """
    grid = list(product(n, m))
    rest = [grid[i] for i in torch.randperm(len(grid), generator=generator(seed, "rand_augment"))]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return _scaled(point[0], n), _scaled(point[1], m)

    def room(point: tuple[int, float]) -> float:
        # The first point is to be a corner. Rounded, so that what is equally far but for rounding errors is a tie.
        nearest = min((math.dist(place(point), place(seen)) for seen in order), default=None)
        return round(math.dist(place(point), (0.5, 0.5)) if nearest is None else nearest, 9)

    order: list[tuple[int, float]] = []
    while rest:
        order.append(max(rest, key=room))
        rest.remove(order[-1])
    return order


def _scaled(value: float, axis: Sequence[float]) -> float:
    low, high = min(axis), max(axis)
    return (value - low) / (high - low) if high > low else 0.5


class RandAugmentProposer:
    """RandAugment (Cubuk et al., NeurIPS 2020): N ops drawn uniformly, all at magnitude M, chosen by grid search."""

    def __init__(
        self, space: SearchSpace, seed: int, *, n: Sequence[int] = (1, 2, 3), m: Sequence[float] = tuple(range(1, 11))
    ) -> None:
        """Make a proposer.

        Args:
            space: the ops, all of them, noise ops included.
            seed: of the grid's order.
            n: numbers of ops in a row to try, distinct.
            m: magnitudes to try, distinct, on AutoAugment's scale: 0 is the start of each op's range, 10 its end.

        Raises:
            ValueError: an M outside 0 .. 10.
        """
        if not all(0 <= value <= MAX_M for value in m):
            raise ValueError(f"m must lie in 0 .. {MAX_M}; got {list(m)}")
        self._space = space
        self._order = spread_order(n, m, seed)
        self._next = 0
        self._best: tuple[float, Policy] = (-math.inf, NO_AUGMENTATION)

    @property
    def space_size_log10(self) -> float:
        """The decimal logarithm of the number of (N, M) in the grid."""
        return math.log10(len(self._order))

    def policy(self, n: int, m: float) -> Stages:
        """Return RandAugment(N, M) over the space: N stages, each uniform over all ops at magnitude M / 10."""
        stage = tuple(Choice(weight=1, step=op.at(m / MAX_M)) for op in self._space.ops)
        return Stages(stages=(stage,) * n, geometry=self._space.geometry)

    def ask(self) -> Policy | None:
        """Return the policy of the grid's next point, or None at its end."""
        if self._next == len(self._order):
            return None
        self._next += 1
        return self.policy(*self._order[self._next - 1])

    def tell(self, policy: Policy, score: float) -> None:
        """Hear a child's score."""
        if score > self._best[0]:
            self._best = score, policy

    def best(self) -> Policy:
        """Return the policy that scored best, the earliest of equals; before the first score, no augmentation."""
        return self._best[1]

    def state_dict(self) -> dict[str, Any]:
        """Return everything: the grid's order and the place in it, the best policy and its score."""
        score, policy = self._best
        order = [list(point) for point in self._order]
        return {"order": order, "next": self._next, "best": [score, policy_to_json(policy)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._order = [(n, m) for n, m in state["order"]]
        self._next = state["next"]
        score, policy = state["best"]
        self._best = score, policy_from_json(policy)
