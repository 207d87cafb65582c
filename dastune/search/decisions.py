"""Who makes AutoAugment's decisions: a controller trained by PPO, TPE over sub-policies, or chance."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Protocol

import torch

from dastune.search.controller import PPO, Controller
from dastune.search.tpe import TPE, Axis
from dastune.seeds import generator

STARTUP_SEQUENCES = 10
"""Sequences drawn uniformly before TPE has a say.

On a made-up reward with a child's noise, in which an op pays the less the more of it there is, 4 are about as good for
50 and 100 children where the noise is half the spread of random policies, and worse where it is twice that spread; 20
are worse for 20 and 50 children.
"""


class Decisions(Protocol):
    """Proposes sequences of decisions and hears how they scored; decision t lies in 0 .. sizes[t % kinds] - 1."""

    def ask(self) -> list[int]:
        """Return a sequence; several may be asked before they are told."""

    def tell(self, decisions: Sequence[int], score: float) -> None:
        """Hear the score, in [0, 1], of the earliest sequence that has none yet."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as tensors and plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""


class PPODecisions:
    """Samples of a controller, which learns from each `batch` of scores by PPO."""

    def __init__(self, sizes: Sequence[int], rounds: int, seed: int, batch: int) -> None:
        self._batch = batch
        self._generator = generator(seed, "auto_augment", "decisions")
        self._ppo = PPO(Controller(sizes, rounds, generator(seed, "auto_augment", "weights")))
        # Decisions and their log probabilities (T each) of the sequences since the last update, in the order asked,
        # and the scores of those told: the first ones.
        self._asked: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._scores: list[float] = []

    @torch.no_grad()
    def ask(self) -> list[int]:
        """Return a sequence sampled from the controller as it is now."""
        controller = self._ppo.controller
        decisions_BT = controller.sample(1, self._generator)
        self._asked.append((decisions_BT[0], controller.log_probabilities(decisions_BT)[0][0]))
        decisions: list[int] = decisions_BT[0].tolist()
        return decisions

    def tell(self, decisions: Sequence[int], score: float) -> None:
        """Hear a score; every `batch` of them update the controller."""
        self._scores.append(score)
        if len(self._scores) == self._batch:
            asked, log_probabilities = zip(*self._asked[: self._batch], strict=True)
            self._ppo.update(torch.stack(asked), torch.stack(log_probabilities), torch.tensor(self._scores))
            del self._asked[: self._batch], self._scores[:]

    def state_dict(self) -> dict[str, Any]:
        """Return weights, Adam, baseline, generator, and what was asked but not learnt from."""
        return {
            "ppo": self._ppo.state_dict(),
            "generator": self._generator.get_state(),
            "asked": [list(pair) for pair in self._asked],
            "scores": list(self._scores),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._ppo.load_state_dict(state["ppo"])
        self._generator.set_state(state["generator"])
        self._asked = [(decisions_T, log_probability_T) for decisions_T, log_probability_T in state["asked"]]
        self._scores = list(state["scores"])


class TPEDecisions:
    """Parts of a sequence, each from one density of good parts; a part's score is that of its sequence."""

    def __init__(self, sizes: Sequence[int], rounds: int, parts: int, seed: int) -> None:
        """Make one.

        Args:
            sizes: choices of each kind of decision. Choices of the first kind have no order; of the others, near ones
                are alike.
            rounds: how often all kinds take their turn in a sequence.
            parts: the equal parts that a sequence is cut into.
            seed: of all draws.
        """
        self._parts = parts
        turns = product(range(rounds // parts), enumerate(sizes))
        axes = {f"{turn}_{kind}": Axis(size, ordered=kind > 0) for turn, (kind, size) in turns}
        self._names = tuple(axes)
        self._tpe = TPE(axes, seed, startup=STARTUP_SEQUENCES * parts)

    def ask(self) -> list[int]:
        """Return a sequence of parts that are drawn one by one."""
        points = [self._tpe.ask() for _ in range(self._parts)]
        return [point[name] for point in points for name in self._names]

    def tell(self, decisions: Sequence[int], score: float) -> None:
        """Hear a score, as that of each part."""
        for start in range(0, len(decisions), len(self._names)):
            self._tpe.tell(dict(zip(self._names, decisions[start:], strict=False)), score)

    def state_dict(self) -> dict[str, Any]:
        """Return TPE's state."""
        return self._tpe.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._tpe.load_state_dict(state)


class UniformDecisions:
    """Every decision drawn uniformly, whatever the scores: the control that the other two have to beat."""

    def __init__(self, sizes: Sequence[int], rounds: int, seed: int) -> None:
        self._sizes, self._rounds = tuple(sizes), rounds
        self._generator = generator(seed, "random_policies")

    def ask(self) -> list[int]:
        """Return a uniform sequence."""
        columns = [torch.randint(size, (self._rounds,), generator=self._generator) for size in self._sizes]
        decisions: list[int] = torch.stack(columns, dim=1).flatten().tolist()
        return decisions

    def tell(self, decisions: Sequence[int], score: float) -> None:
        """Learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return the generator."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._generator.set_state(state["generator"])
