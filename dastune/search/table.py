"""SEARCHES: the one list of methods, from their options in a study to the Search that runs."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from dastune.augment.video import ClipForm
from dastune.config import study
from dastune.policy.space import SearchSpace
from dastune.search.auto_augment import AutoAugmentProposer
from dastune.search.black_box import BlackBoxSearch
from dastune.search.child import Crew, LocalCrew
from dastune.search.controls import Control, no_policy, trivial_policy, trivial_wide_policy, uniform_policy
from dastune.search.das import DASOptions, DASSearch
from dastune.search.published import published_policy
from dastune.search.rand_augment import RandAugmentProposer
from dastune.search.search import Proposer, Search
from dastune.training.loop import Task


@dataclass(frozen=True)
class Setting:
    """What a search is built from, besides its own options.

    `crew` trains the children of a black-box search; None: this process, in turns.
    """

    task: Task
    space: SearchSpace
    child_epochs: int
    seed: int
    crew: Crew | None = None


_DAS_KEYS = {field.name for field in fields(DASOptions)} - {"topology", "form"}


def _das(options: study.Das, setting: Setting, form: ClipForm | None = None) -> Search:
    space = setting.space.split(options.magnitude_ranges)
    chosen = {key: value for key, value in options.model_dump().items() if key in _DAS_KEYS}
    chosen["validation_batch"] = options.validation_batch or setting.task.recipe.batch_size
    return DASSearch(setting.task, space, DASOptions(topology=options.wiring, form=form, **chosen), setting.seed)


def _das_video(options: study.DasVideo, setting: Setting) -> Search:
    # Whatever becomes of the cell, it is searched for with its clips in time: one seed finds one cell.
    order: dict[str, Literal["time", "shuffled", "one"]] = {"clip": "time", "shuffled": "shuffled", "frame": "one"}
    return _das(options, setting, ClipForm(options.frames, options.profile, order[options.use]))


def _black_box(options: study.BlackBox, setting: Setting, proposer: Proposer) -> Search:
    crew = setting.crew or LocalCrew(setting.task, setting.child_epochs, setting.seed)
    return BlackBoxSearch(
        setting.task,
        proposer,
        crew,
        setting.child_epochs,
        parallel=options.children_in_parallel,
        halving=options.halving,
    )


def _auto_augment(options: study.AutoAugment, setting: Setting) -> Search:
    proposer = AutoAugmentProposer(
        setting.space,
        setting.seed,
        search=options.search,
        sub_policies=options.sub_policies,
        keep_policies=options.keep_policies,
        # No fewer than are asked for at a time, so that each is proposed by the controller it would be one by one.
        batch=options.controller_batch or max(2, options.children_in_parallel),
    )
    return _black_box(options, setting, proposer)


def _rand_augment(options: study.RandAugment, setting: Setting) -> Search:
    proposer = RandAugmentProposer(
        setting.space, setting.seed, search=options.search, n=options.n, m=options.m, scale=options.scale
    )
    return _black_box(options, setting, proposer)


def _random(options: study.Random, setting: Setting) -> Search:
    proposer = AutoAugmentProposer(
        setting.space, setting.seed, search="random", sub_policies=options.sub_policies, keep_policies=1
    )
    return _black_box(options, setting, proposer)


def _uniform(options: study.Uniform, setting: Setting) -> Search:
    return Control(uniform_policy(setting.space))


def _trivial(options: study.Trivial, setting: Setting) -> Search:
    return Control(trivial_wide_policy() if options.ops == "trivial-wide" else trivial_policy(setting.space))


def _no_policy(options: study.StandardOnly | study.NoAugmentation, setting: Setting) -> Search:
    return Control(no_policy())


def _published(options: study.Published, setting: Setting) -> Search:
    return Control(published_policy(options.policy))


SEARCHES: dict[type[study.Method], Callable[[Any, Setting], Search]] = {
    study.Das: _das,
    study.DasVideo: _das_video,
    study.AutoAugment: _auto_augment,
    study.RandAugment: _rand_augment,
    study.Random: _random,
    study.Uniform: _uniform,
    study.Trivial: _trivial,
    study.StandardOnly: _no_policy,
    study.NoAugmentation: _no_policy,
    study.Published: _published,
}


def build_search(options: study.Method, setting: Setting) -> Search:
    """Return the search that `options` asks for."""
    return SEARCHES[type(options)](options, setting)
