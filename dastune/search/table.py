"""SEARCHES: the one list of methods, from their options in a study to the Search that runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dastune.config import study
from dastune.policy.space import SearchSpace
from dastune.search.auto_augment import AutoAugmentProposer
from dastune.search.black_box import BlackBoxSearch
from dastune.search.controls import Control, no_policy, trivial_policy
from dastune.search.das import DASOptions, DASSearch
from dastune.search.rand_augment import RandAugmentProposer
from dastune.search.random_policies import RandomProposer
from dastune.search.search import Search
from dastune.search.tpe import TPEProposer
from dastune.training.loop import Task


@dataclass(frozen=True)
class Setting:
    """What a search is built from, besides its own options."""

    task: Task
    space: SearchSpace
    child_epochs: int
    seed: int


def _das(options: study.Das, setting: Setting) -> Search:
    space = setting.space.split(options.magnitude_ranges)
    chosen = options.model_dump(exclude={"method", "preset", "topology", "magnitude_ranges"})
    chosen["validation_batch"] = options.validation_batch or setting.task.recipe.batch_size
    return DASSearch(setting.task, space, DASOptions(topology=options.wiring, **chosen), setting.seed)


def _auto_augment(options: study.AutoAugment, setting: Setting) -> Search:
    proposer = AutoAugmentProposer(
        setting.space, setting.seed, sub_policies=options.sub_policies, keep_policies=options.keep_policies
    )
    return BlackBoxSearch(setting.task, proposer, setting.child_epochs, setting.seed)


def _rand_augment(options: study.RandAugment, setting: Setting) -> Search:
    propose = TPEProposer if options.search == "tpe" else RandAugmentProposer
    proposer = propose(setting.space, setting.seed, n=options.n, m=options.m)
    return BlackBoxSearch(setting.task, proposer, setting.child_epochs, setting.seed)


def _random(options: study.Random, setting: Setting) -> Search:
    proposer = RandomProposer(setting.space, setting.seed, sub_policies=options.sub_policies)
    return BlackBoxSearch(setting.task, proposer, setting.child_epochs, setting.seed)


def _trivial(options: study.Trivial, setting: Setting) -> Search:
    return Control(trivial_policy(setting.space))


def _none(options: study.NoAugmentation, setting: Setting) -> Search:
    return Control(no_policy())


SEARCHES: dict[type[study.Method], Callable[[Any, Setting], Search]] = {
    study.Das: _das,
    study.AutoAugment: _auto_augment,
    study.RandAugment: _rand_augment,
    study.Random: _random,
    study.Trivial: _trivial,
    study.NoAugmentation: _none,
}


def build_search(options: study.Method, setting: Setting) -> Search:
    """Return the search that `options` asks for."""
    return SEARCHES[type(options)](options, setting)
