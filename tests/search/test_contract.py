"""What every search of the table keeps to, on real digits."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from dastune.augment.standard import StandardAugmentation
from dastune.config import study
from dastune.policy.policy import Genotype, policy_from_json, policy_to_json
from dastune.policy.space import SearchSpace
from dastune.search.search import Search
from dastune.search.table import SEARCHES, Setting, build_search
from dastune.training.loop import Task

Through = Callable[[dict[str, Any]], dict[str, Any]]
Make = Callable[[int], Search]
OPS = ("identity", "rotate", "equalize", "gaussian_replace")
PAPER = study.DasPaper(method="das", preset="paper", inputs=1, nodes=2, search_share=0.3)
# Options of each, and log10 of its space: 4 ops, 10 magnitudes, 11 probabilities.
METHODS: dict[str, tuple[study.Method, float]] = {
    "das": (study.Das(method="das", stages=2, validation_batch=30), 2 * math.log10(4)),
    "das_paper": (PAPER, math.log10(4 * 4**2)),
    "auto_augment": (study.AutoAugment(method="auto_augment", sub_policies=2), 4 * math.log10(4 * 11 * 10)),
    "rand_augment": (study.RandAugment(method="rand_augment", n=(1, 2), m=(3, 9)), math.log10(4)),
    "rand_augment_tpe": (study.RandAugment(method="rand_augment", search="tpe", n=(1, 2), m=(3, 9)), math.log10(4)),
    "random": (study.Random(method="random", sub_policies=2), 4 * math.log10(4 * 11 * 10)),
    "trivial": (study.Trivial(method="trivial"), 0.0),
    "none": (study.NoAugmentation(method="none"), 0.0),
}
STEPS = 90  # a selection is over by then, and so is a grid of four


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make(method: str, make_task: Callable[..., Task], space_of: Callable[..., SearchSpace]) -> Make:
    task = make_task(train=40, validation=60, standard=StandardAugmentation(crop_px=1, cutout_px=4))
    return lambda seed: build_search(METHODS[method][0], Setting(task, space_of(*OPS), child_epochs=3, seed=seed))


@pytest.fixture
def sgd_steps() -> Iterator[list[int]]:
    """The number of steps all networks' optimisers have made, in a list of one."""
    count = [0]

    def counted(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        count[0] += isinstance(optimiser, torch.optim.SGD)

    hook = register_optimizer_step_post_hook(counted)
    yield count
    hook.remove()


def run(search: Search, start: int, stop: int) -> Search:
    for i in range(start, stop):
        search.step(i / STEPS)
    return search


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two states are not equal bit for bit."""
    if type(first) is not type(second):
        return [where]
    if isinstance(first, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [where]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [where]
        return [d for key in first for d in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [where]
        return [d for i, pair in enumerate(zip(first, second, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    return [] if first == second else [where]


def test_the_table_is_tested_whole() -> None:
    assert {type(options) for options, _ in METHODS.values()} == set(SEARCHES)


def test_there_is_a_best_policy_at_any_moment(make: Make) -> None:
    search = make(0)
    for i in range(STEPS):
        policy = search.best()
        assert policy_from_json(policy_to_json(policy)) == policy
        progress = search.step(i / STEPS)
        assert all(math.isfinite(value) for value in search.summary().values())
        assert all(math.isfinite(value) for value in progress.metrics.values())
        if progress.done:
            break
    assert policy_from_json(policy_to_json(search.best())) == search.best()


def test_a_step_is_at_most_one_optimiser_step_and_says_so(make: Make, sgd_steps: list[int]) -> None:
    search = make(0)
    total = 0
    for i in range(STEPS):
        progress = search.step(i / STEPS)
        assert progress.steps in (0, 1)
        total += progress.steps
        assert sgd_steps == [total]


def test_the_seed_decides(make: Make, method: str) -> None:
    first, again, other = (run(make(seed), 0, 30) for seed in (0, 0, 1))
    assert first.best() == again.best()
    assert differences(first.state_dict(), again.state_dict()) == []
    if method not in ("trivial", "none"):
        assert differences(first.state_dict(), other.state_dict()) != []


@pytest.mark.parametrize("taken", [0, 3, 40])  # at the start, early, and amid a selection or a child
def test_resuming_is_not_noticed(taken: int, make: Make, through_a_file: Through) -> None:
    unbroken = run(make(0), 0, taken + 30)
    second = make(0)
    second.load_state_dict(through_a_file(run(make(0), 0, taken).state_dict()))
    run(second, taken, taken + 30)
    assert second.best() == unbroken.best()
    assert second.summary() == unbroken.summary()
    assert differences(second.state_dict(), unbroken.state_dict()) == []


def test_six_steps_are_three_and_three(make: Make, through_a_file: Through) -> None:
    unbroken = run(make(0), 0, 6)
    second = make(0)
    second.load_state_dict(through_a_file(run(make(0), 0, 3).state_dict()))
    assert differences(run(second, 3, 6).state_dict(), unbroken.state_dict()) == []
    assert second.best() == unbroken.best()


@pytest.mark.parametrize("taken", [3, 40])
def test_a_state_does_not_change_afterwards(taken: int, make: Make, through_a_file: Through) -> None:
    first, second = run(make(0), 0, taken), make(0)
    state = first.state_dict()
    as_it_was = through_a_file(state)
    second.load_state_dict(state)
    for search in (first, second):  # neither who gave it nor who took it changes it
        run(search, taken, taken + 10)
        assert differences(state, as_it_was) == []
    assert differences(first.state_dict(), second.state_dict()) == []


def test_the_size_of_the_space(make: Make, method: str) -> None:
    assert make(0).space_size_log10 == pytest.approx(METHODS[method][1])


def test_searches_leave_torch_s_own_generator_alone(make: Make) -> None:
    before = torch.get_rng_state()
    run(make(0), 0, 6)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_paper_s_search_has_decided_all_within_these_steps(
    make_task: Callable[..., Task], space_of: Callable[..., SearchSpace]
) -> None:
    task = make_task(train=40, validation=60)
    search = run(build_search(PAPER, Setting(task, space_of(*OPS), child_epochs=3, seed=0)), 0, STEPS)
    assert isinstance(search.best(), Genotype)
    assert search.summary()["decisions"] == 3
