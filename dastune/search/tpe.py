"""RandAugment's (N, M) chosen by a tree-structured Parzen estimator instead of a grid; the only door to Optuna."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from dastune.policy.policy import NO_AUGMENTATION, Policy
from dastune.policy.space import SearchSpace
from dastune.search.rand_augment import RandAugmentProposer
from dastune.seeds import derive

_SEED_BELOW = 2**32  # numpy's limit


class TPEProposer:
    """TPE (Bergstra et al., NeurIPS 2011, as Optuna has it) over RandAugment's N and M; never at its end.

    The next point is a function of the seed and of all scores so far: the sampler is made anew from them at each ask,
    so that a resumed search goes on bit for bit, and no state of Optuna's is kept.
    """

    def __init__(self, space: SearchSpace, seed: int, *, n: Sequence[int], m: Sequence[float]) -> None:
        """Make a proposer.

        Args:
            space: the ops, all of them, noise ops included.
            seed: of the sampler.
            n: numbers of ops in a row to choose from.
            m: magnitudes to choose from, 0 .. 10, as for the grid.
        """
        self._grid = RandAugmentProposer(space, seed, n=n, m=m)
        self._seed = seed
        # Ordered indices, so that TPE knows which values are neighbours.
        self._n, self._m = sorted(n), sorted(m)
        self._axes: dict[str, optuna.distributions.BaseDistribution] = {
            "n": optuna.distributions.IntDistribution(0, len(self._n) - 1),
            "m": optuna.distributions.IntDistribution(0, len(self._m) - 1),
        }
        self._asked: list[tuple[int, int]] = []
        self._scores: list[float] = []

    @property
    def space_size_log10(self) -> float:
        """log10 of the number of (N, M)."""
        return self._grid.space_size_log10

    def ask(self) -> Policy:
        """Return the policy of the next point."""
        sampler = optuna.samplers.TPESampler(seed=derive(self._seed, "tpe", len(self._asked)) % _SEED_BELOW)
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study(direction="maximize", sampler=sampler)
        finally:
            optuna.logging.set_verbosity(verbosity)
        study.add_trials(
            optuna.trial.create_trial(params={"n": n, "m": m}, distributions=self._axes, value=score)
            for (n, m), score in zip(self._asked, self._scores, strict=False)
        )
        point = study.ask(self._axes).params
        self._asked.append((point["n"], point["m"]))
        return self._policy(self._asked[-1])

    def tell(self, policy: Policy, score: float) -> None:
        """Hear the score of the policy asked first among those not told."""
        self._scores.append(score)

    def best(self) -> Policy:
        """Return the policy that scored best, the earliest of equals; before the first score, no augmentation."""
        if not self._scores:
            return NO_AUGMENTATION
        return self._policy(self._asked[max(range(len(self._scores)), key=self._scores.__getitem__)])

    def _policy(self, point: tuple[int, int]) -> Policy:
        return self._grid.policy(self._n[point[0]], self._m[point[1]])

    def state_dict(self) -> dict[str, Any]:
        """Return the seed, the points asked and their scores."""
        asked = [list(point) for point in self._asked]
        return {"seed": self._seed, "asked": asked, "scores": list(self._scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._seed = state["seed"]
        self._asked = [(n, m) for n, m in state["asked"]]
        self._scores = list(state["scores"])
