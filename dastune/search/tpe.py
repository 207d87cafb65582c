"""A tree-structured Parzen estimator over a few discrete axes: the only door to Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from dastune.seeds import derive

MOST = 200
"""More points than these are not remembered, since each makes an ask take longer: 3 ms for six axes and 200 points."""
BEST, NEWEST = 50, 100
"""What is remembered of them when there are more: the best, and the newest of the others."""

_STUDY = "tpe"
_SEED_BELOW = 2**32  # numpy's limit


@dataclass(frozen=True)
class Axis:
    """The values 0 .. size - 1 of one coordinate; `ordered` says whether neighbours are alike."""

    size: int
    ordered: bool


class TPE:
    """TPE (Bergstra et al., NeurIPS 2011, as Optuna has it): proposes points like the best tenth of those told.

    A new point is the one of 24 drawn from the density of the best that is the least likely among the others. Axes are
    modelled together (`multivariate`): one by one they would give nearly the same point at each ask until the next is
    told, and so a policy made of one sub-policy five times.

    The next point is a function of the seed, of how many points were asked for, and of all points told, in order: each
    ask has a sampler of its own, and what was asked but not told has no say. So no state of Optuna's is kept.
    """

    def __init__(self, axes: Mapping[str, Axis], seed: int, *, startup: int = 10) -> None:
        """Make one.

        Args:
            axes: by name. They are modelled together: what is good with what counts.
            seed: of all draws.
            startup: points to be told before the model is used (BEST + NEWEST do for any more); before, draws are
                uniform.
        """
        self._axes = {name: _distribution(axis) for name, axis in axes.items()}
        self._seed = seed
        self._startup = min(startup, BEST + NEWEST)
        self._asks = 0
        self._remember([])

    def ask(self) -> dict[str, int]:
        """Return the next point."""
        seed = derive(self._seed, "tpe", self._asks) % _SEED_BELOW
        self._asks += 1
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=self._startup, multivariate=True, constant_liar=False
        )
        # A Study goes on seeing the trials of its first look. (`Study.ask` looks anew, but takes three times as long
        # and leaves a trial behind.)
        study = optuna.load_study(study_name=_STUDY, storage=self._storage, sampler=sampler)
        sought = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
        point = sampler.sample_relative(study, sought, self._axes)
        if not point:  # before the model is used
            point = {name: sampler.sample_independent(study, sought, name, axis) for name, axis in self._axes.items()}
        return {name: int(point[name]) for name in self._axes}

    def tell(self, point: Mapping[str, int], score: float) -> None:
        """Hear the score of a point, asked for or not; higher is better."""
        self._told.append((dict(point), score))
        self._study.add_trial(self._trial(*self._told[-1]))
        if len(self._told) > MOST:
            by_score = sorted(range(len(self._told)), key=lambda index: -self._told[index][1])
            kept = sorted(by_score[:BEST] + sorted(by_score[BEST:])[-NEWEST:])
            self._remember([self._told[index] for index in kept])

    def _remember(self, told: list[tuple[dict[str, int], float]]) -> None:
        """Let `told` be all there is, in a study of its own; Optuna is to say nothing of it."""
        self._told = told
        self._storage = optuna.storages.InMemoryStorage()
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._study = optuna.create_study(storage=self._storage, study_name=_STUDY, direction="maximize")
        finally:
            optuna.logging.set_verbosity(verbosity)
        self._study.add_trials(self._trial(point, score) for point, score in told)

    def _trial(self, point: dict[str, int], score: float) -> optuna.trial.FrozenTrial:
        return optuna.trial.create_trial(params=point, distributions=self._axes, value=score)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed, the number of asks and what is remembered of all that was told."""
        told = [[dict(point), score] for point, score in self._told]
        return {"seed": self._seed, "asks": self._asks, "told": told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._seed, self._asks = state["seed"], state["asks"]
        self._remember([(dict(point), score) for point, score in state["told"]])


def _distribution(axis: Axis) -> optuna.distributions.BaseDistribution:
    if axis.ordered:
        return optuna.distributions.IntDistribution(0, axis.size - 1)
    return optuna.distributions.CategoricalDistribution(tuple(range(axis.size)))
