"""A crew of several processes, here of fakes that hold what a process would: same children, wherever they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dastune.config import StudyConfig
from dastune.data.dataset import Dataset
from dastune.orchestration.crew import ChildServer, SpreadCrew, Worker
from dastune.orchestration.grid import Assignment
from dastune.orchestration.setting import child_server, search_of
from dastune.policy.policy import NO_AUGMENTATION
from dastune.search.search import Search

STEPS = 20


class Elsewhere:
    """A Worker whose calls are made when they are waited for, in order, as an actor's queue would."""

    def __init__(self, server: ChildServer) -> None:
        self.server = server
        self.waiting: list[Callable[[], None]] = []
        self.calls: list[str] = []

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        result: list[Any] = []
        self.waiting.append(lambda: result.append(getattr(self.server, method)(*arguments)))
        self.calls.append(method)

        def wait() -> Any:
            while self.waiting:
                self.waiting.pop(0)()
            return result[0]

        return wait


@pytest.fixture
def parallel_study(study_of: Callable[..., StudyConfig]) -> StudyConfig:
    halving = {"children": 6, "eta": 2}
    return study_of(methods={"random": {"children_in_parallel": 3, "halving": halving, "sub_policies": 2}})


@pytest.fixture
def make(parallel_study: StudyConfig, dataset: Dataset) -> Callable[[int], tuple[Search, list[Elsewhere]]]:
    assignment = Assignment("random", 2, 0)

    def search(workers: int) -> tuple[Search, list[Elsewhere]]:
        others = [Elsewhere(child_server(parallel_study, assignment, dataset)) for _ in range(workers)]
        made: list[Worker] = list(others)
        return search_of(parallel_study, assignment, dataset, torch.device("cpu"), made), others

    return search


def run(search: Search, steps: int) -> list[Any]:
    return [search.step(0.0) for _ in range(steps)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_where_children_are_trained_changes_nothing(
    workers: int, make: Callable[[int], tuple[Search, list[Elsewhere]]]
) -> None:
    alone, _ = make(0)
    spread, others = make(workers)
    assert run(spread, STEPS) == run(alone, STEPS)
    assert spread.best() == alone.best() != NO_AUGMENTATION
    assert all("advance" in other.calls for other in others[:2])  # three at a time need two besides this process


@pytest.mark.parametrize("taken", [0, 3, 7, 11])
def test_a_state_does_not_say_where_children_were(
    taken: int, make: Callable[[int], tuple[Search, list[Elsewhere]]]
) -> None:
    unbroken, _ = make(0)
    run(unbroken, STEPS)
    first, _ = make(2)
    run(first, taken)
    second, _ = make(1)
    run(second, 2)
    second.load_state_dict(first.state_dict())
    run(second, STEPS - taken)
    assert second.best() == unbroken.best()
    assert second.summary() == unbroken.summary()


def test_children_that_share_a_place_are_spread_when_it_is_their_turn(
    parallel_study: StudyConfig, dataset: Dataset
) -> None:
    here, there, alone = (child_server(parallel_study, Assignment("random", 2, 0), dataset)._crew for _ in range(3))
    worker = Elsewhere(ChildServer(there))
    crew = SpreadCrew(here, [worker])
    for child in range(3):
        crew.begin(child, NO_AUGMENTATION)
        alone.begin(child, NO_AUGMENTATION)
    assert (set(here._children), set(there._children)) == ({0, 2}, {1})
    for children in ([0, 1], [1, 2], [0, 2], [0, 2], [0, 1, 2]):
        assert crew.advance(children, 3) == alone.advance(children, 3)
    assert (set(here._children), set(there._children)) == ({0}, {1, 2})
    for child in range(3):
        crew.end(child)
    assert (here._children, there._children) == ({}, {})
