"""What every search of the table keeps to, on real digits; DAS in all its kinds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from dastune.augment.standard import StandardAugmentation
from dastune.config import study
from dastune.policy.policy import Genotype, Policy, policy_from_json, policy_to_json
from dastune.policy.space import SearchSpace
from dastune.search.search import Search, SearchProgress
from dastune.search.table import SEARCHES, Setting, build_search
from dastune.training.loop import Task

Through = Callable[[dict[str, Any]], dict[str, Any]]
Differences = Callable[[Any, Any], list[str]]
Make = Callable[[int], Search]
OPS = ("identity", "rotate", "equalize", "gaussian_replace")
SMALL = {"inputs": 1, "nodes": 2}
AUGMENTED = {"estimator": "first_order", "validation": "augmented"}


def das(**options: Any) -> study.Das:
    return study.Das(method="das", **{"validation_batch": 30, "search_share": 0.3, **options})


# Options of each, and log10 of its space: 4 ops, 10 magnitudes, 11 probabilities.
METHODS: dict[str, tuple[study.Method, float]] = {
    "das": (das(stages=2), 2 * math.log10(4)),
    "das_forward": (das(estimator="alignment_forward"), math.log10(4)),
    "das_exact": (das(estimator="exact"), math.log10(4)),
    "das_first_order": (das(**AUGMENTED), math.log10(4)),
    "das_blend": (das(relaxation="blend", validation="augmented"), math.log10(4)),
    "das_cells": (
        das(topology={"inputs": 2, "nodes": 2, "cells": 2, "join": "sum"}, selection="argmax"),
        math.log10(4**2 * 3 * 4**2),
    ),
    "das_add": (das(selection="perturbation_add", search_share=0.15), math.log10(4)),
    "das_uniform": (das(estimator="none", selection="uniform", stages=2), 2 * math.log10(4)),
    "das_argmax": (das(selection="argmax", stages=2), 2 * math.log10(4)),
    "das_ranges": (das(magnitude_ranges=3), math.log10(1 + 3 + 1 + 1)),
    "das_paper": (das(preset="paper", topology=SMALL), math.log10(4 * 4**2)),
    "auto_augment": (study.AutoAugment(method="auto_augment", sub_policies=2), 4 * math.log10(4 * 11 * 10)),
    "rand_augment": (study.RandAugment(method="rand_augment", n=(1, 2), m=(3, 9)), math.log10(4)),
    "rand_augment_tpe": (study.RandAugment(method="rand_augment", search="tpe", n=(1, 2), m=(3, 9)), math.log10(4)),
    "auto_augment_tpe": (
        study.AutoAugment(method="auto_augment", search="tpe", sub_policies=2),
        4 * math.log10(4 * 11 * 10),
    ),
    "auto_augment_random": (
        study.AutoAugment(method="auto_augment", search="random", sub_policies=2),
        4 * math.log10(4 * 11 * 10),
    ),
    "auto_augment_parallel": (
        study.AutoAugment(method="auto_augment", sub_policies=2, children_in_parallel=3),
        4 * math.log10(4 * 11 * 10),
    ),
    "random": (study.Random(method="random", sub_policies=2), 4 * math.log10(4 * 11 * 10)),
    "random_halving": (
        study.Random(
            method="random",
            sub_policies=2,
            children_in_parallel=2,
            halving=study.Halving(children=6, eta=2),
        ),
        4 * math.log10(4 * 11 * 10),
    ),
    "uniform": (study.Uniform(method="uniform"), 0.0),
    "trivial": (study.Trivial(method="trivial"), 0.0),
    "trivial_wide": (study.Trivial(method="trivial", ops="trivial-wide"), 0.0),
    "standard": (study.StandardOnly(method="standard"), 0.0),
    "none": (study.NoAugmentation(method="none"), 0.0),
    "published": (study.Published(method="published", policy="aa-cifar10"), 0.0),
}
FIXED = ("uniform", "trivial", "trivial_wide", "standard", "none", "published")
STEPS = 60  # a published selection is over by then, and so is a grid of four
TAKEN = (0, 3, 30)  # where a state is taken: at the start, early, and amid a selection or a child
MORE = 14  # steps after that


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make(method: str, make_task: Callable[..., Task], space_of: Callable[..., SearchSpace]) -> Make:
    task = make_task(train=40, validation=60, standard=StandardAugmentation(crop_px=1, cutout_px=4))
    return lambda seed: build_search(METHODS[method][0], Setting(task, space_of(*OPS), child_epochs=3, seed=seed))


@dataclass
class Record:
    """An unbroken run with seed 0, all STEPS of it.

    Attributes:
        best, summaries: before each step, and after the last.
        states: step -> the state before it.
        sgd_steps: steps that networks' optimisers had made after each step.
    """

    best: list[Policy] = field(default_factory=list)
    summaries: list[dict[str, float]] = field(default_factory=list)
    progress: list[SearchProgress] = field(default_factory=list)
    states: dict[int, dict[str, Any]] = field(default_factory=dict)
    sgd_steps: list[int] = field(default_factory=list)


_RECORDS: dict[str, Record] = {}


@pytest.fixture
def record(method: str, make: Make, through_a_file: Through) -> Record:
    """The unbroken run, made by the first test that asks for it."""
    if method not in _RECORDS:
        record, search = Record(), make(0)
        with counted_sgd_steps() as count:
            for i in range(STEPS + 1):
                record.best.append(search.best())
                record.summaries.append(dict(search.summary()))
                if {i, i - MORE} & set(TAKEN):
                    record.states[i] = through_a_file(search.state_dict())
                if i < STEPS:
                    record.progress.append(search.step(i / STEPS))
                    record.sgd_steps.append(count[0])
        _RECORDS[method] = record
    return _RECORDS[method]


class counted_sgd_steps:  # noqa: N801  a context manager
    """Count the steps that all networks' optimisers make, in a list of one."""

    def __enter__(self) -> list[int]:
        count = [0]

        def counted(optimiser: torch.optim.Optimizer, *_: Any) -> None:
            count[0] += isinstance(optimiser, torch.optim.SGD)

        self._hook = register_optimizer_step_post_hook(counted)
        return count

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def run(search: Search, start: int, stop: int) -> Search:
    for i in range(start, stop):
        search.step(i / STEPS)
    return search


def test_the_table_is_tested_whole() -> None:
    # das_video has another space and network: test_das_video.
    assert {type(options) for options, _ in METHODS.values()} == set(SEARCHES) - {study.DasVideo}


def test_there_is_a_best_policy_at_any_moment(record: Record) -> None:
    for policy, summary in zip(record.best, record.summaries, strict=True):
        assert policy_from_json(policy_to_json(policy)) == policy
        assert all(math.isfinite(value) for value in summary.values())
    for progress in record.progress:
        assert all(math.isfinite(value) for value in progress.metrics.values())


def test_a_step_is_at_most_one_optimiser_step_for_each_child_and_says_so(method: str, record: Record) -> None:
    total = 0
    at_once = getattr(METHODS[method][0], "children_in_parallel", 1)
    for progress, sgd_steps in zip(record.progress, record.sgd_steps, strict=True):
        assert 0 <= progress.steps <= at_once
        total += progress.steps
        assert sgd_steps == total


def test_the_seed_decides(make: Make, method: str, record: Record, differences: Differences) -> None:
    again, other = (run(make(seed), 0, 3) for seed in (0, 1))
    assert differences(again.state_dict(), record.states[3]) == []
    run(again, 3, MORE)
    assert again.best() == record.best[MORE]
    assert differences(again.state_dict(), record.states[MORE]) == []
    if method not in FIXED:
        assert differences(other.state_dict(), record.states[3]) != []


@pytest.mark.parametrize("taken", TAKEN)
def test_resuming_is_not_noticed(taken: int, make: Make, record: Record, differences: Differences) -> None:
    second = make(0)
    second.load_state_dict(record.states[taken])
    run(second, taken, taken + MORE)
    assert second.best() == record.best[taken + MORE]
    assert second.summary() == record.summaries[taken + MORE]
    assert differences(second.state_dict(), record.states[taken + MORE]) == []


@pytest.mark.parametrize("taken", TAKEN[1:])
def test_a_state_does_not_change_afterwards(
    taken: int, make: Make, record: Record, through_a_file: Through, differences: Differences
) -> None:
    first, second = make(0), make(0)
    first.load_state_dict(record.states[taken])
    run(first, taken, taken + 1)
    state = first.state_dict()
    as_it_was = through_a_file(state)
    second.load_state_dict(state)
    for search in (first, second):  # neither who gave it nor who took it changes it
        run(search, taken + 1, taken + 5)
        assert differences(state, as_it_was) == []
    assert differences(first.state_dict(), second.state_dict()) == []


def test_the_size_of_the_space(make: Make, method: str) -> None:
    assert make(0).space_size_log10 == pytest.approx(METHODS[method][1])


def test_searches_leave_torch_s_own_generator_alone(make: Make, record: Record) -> None:
    before = torch.get_rng_state()
    search = make(0)
    search.load_state_dict(record.states[30])
    run(search, 30, 34)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", ["das_paper"])
def test_the_published_search_has_decided_all_within_these_steps(record: Record) -> None:
    assert record.progress[-1].done
    assert record.summaries[30]["decisions"] < record.summaries[-1]["decisions"] == 3
    assert isinstance(record.best[-1], Genotype)
