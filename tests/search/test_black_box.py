"""Black-box searches: children, their scores, several at the same time, successive halving, and the end of a list."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from dastune.config.methods import Halving
from dastune.policy.policy import NO_AUGMENTATION, Choice, Policy, Stages, Step
from dastune.search.black_box import BlackBoxSearch
from dastune.search.child import LocalCrew
from dastune.search.search import Child, SearchProgress
from dastune.seeds import derive
from dastune.training import loop
from dastune.training.estimate import rung_steps
from dastune.training.loop import Evaluation, Task, Training

MakeTask = Callable[..., Task]
Through = Callable[[dict[str, Any]], dict[str, Any]]
Differences = Callable[[Any, Any], list[str]]


def of_op(op: str, **arguments: Any) -> Stages:
    return Stages(stages=((Choice(weight=1, step=Step(op=op, **arguments)),),))


LISTED: tuple[Policy, ...] = (of_op("invert"), of_op("identity"))
FIVE: tuple[Policy, ...] = (
    of_op("invert"),
    of_op("gaussian_replace"),
    of_op("identity"),
    of_op("rotate", low=0, high=10, signed=True),
    of_op("heavy_blur", low=0.4, high=0.4),
)


class Listed:
    """A Proposer that asks for the policies of a list."""

    space_size_log10 = 0.5
    keep = 1

    def __init__(self, policies: tuple[Policy, ...] = LISTED) -> None:
        self.policies = policies
        self.next = 0
        self.told: list[tuple[Policy, float]] = []

    def ask(self) -> Policy | None:
        self.next += 1
        return self.policies[self.next - 1] if self.next <= len(self.policies) else None

    def tell(self, policy: Policy, score: float) -> None:
        self.told.append((policy, score))

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next = state["next"]


def search_of(task: Task, proposer: Listed, epochs: int, seed: int = 0, **options: Any) -> BlackBoxSearch:
    return BlackBoxSearch(task, proposer, LocalCrew(task, epochs, seed), epochs, **options)


def to_the_end(search: BlackBoxSearch) -> list[SearchProgress]:
    progress = [search.step(0.0)]
    while not progress[-1].done:
        progress.append(search.step(0.0))
    return progress


def scores_by_hand(task: Task, policy: Policy, child: int, epochs: int, rungs: tuple[int, ...]) -> Iterator[float]:
    """The validation accuracy of a child after each of `rungs` steps."""
    training = Training(task, policy, epochs, derive(5, "child", child))
    for rung in rungs:
        while training.steps < rung:
            training.step(rung)
        evaluation = Evaluation(task, training.network)
        while not evaluation.done:
            evaluation.step()
        yield evaluation.accuracy


def test_every_policy_is_scored_by_a_child_of_its_own(make_task: MakeTask) -> None:
    task, proposer = make_task(), Listed()
    search = search_of(task, proposer, 4, seed=5)
    progress = to_the_end(search)
    # A child: 12 training batches and, with 70 images to validate on, one evaluation.
    assert [(p.account, p.steps) for p in progress] == ([("train", 1)] * 12 + [("validate", 0)]) * 2
    scores = [next(scores_by_hand(task, policy, child, 4, (12,))) for child, policy in enumerate(LISTED)]
    assert proposer.told == list(zip(LISTED, scores, strict=True))
    assert progress[12].metrics == {"child_accuracy": scores[0], "val_accuracy": scores[0], "children": 1.0}
    assert progress[25].metrics == {"child_accuracy": scores[1], "val_accuracy": max(scores), "children": 2.0}
    assert search.summary() == {"children": 2.0, "val_accuracy": max(scores)}
    assert progress[1].children == (Child(0, LISTED[0], epochs=2 / 3, score=None, status="training"),)
    assert progress[25].children == progress[25].ended == (Child(1, LISTED[1], 4.0, scores[1], "scored"),)
    assert [p.ended for p in progress[:12]] == [()] * 12
    assert search.step(0.0).done  # and again
    assert search.space_size_log10 == 0.5


def test_a_diverged_child_scores_nothing_and_ends_with_its_epoch(make_task: MakeTask) -> None:
    proposer = Listed()
    search = search_of(make_task(learning_rate=1e6), proposer, 20)
    progress = to_the_end(search)
    assert [score for _, score in proposer.told] == [0.0, 0.0]
    assert search.summary() == {"children": 2.0}
    assert search.best() == NO_AUGMENTATION  # rather than what made a network diverge
    ended = [child for p in progress for child in p.ended]
    assert [(child.index, child.score, child.status) for child in ended] == [(0, 0.0, "diverged"), (1, 0.0, "diverged")]
    assert all(child.epochs == int(child.epochs) < 20 for child in ended)  # 60 steps are not made in vain
    assert len(progress) == 3 * sum(child.epochs for child in ended)


def test_a_child_whose_validation_loss_is_not_finite_scores_nothing(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluation, "loss", property(lambda self: float("inf")))
    proposer = Listed()
    progress = to_the_end(search_of(make_task(), proposer, 1))
    assert [score for _, score in proposer.told] == [0.0, 0.0]
    assert progress[-1].ended[0].status == "diverged"


def test_a_child_that_is_not_finished_does_not_count(make_task: MakeTask) -> None:
    search = search_of(make_task(), Listed(), 4)
    for _ in range(12):
        search.step(0.0)
    assert search.best() == NO_AUGMENTATION
    search.step(0.0)
    assert search.best() == LISTED[0]


@pytest.mark.parametrize("parallel", [2, 3])
def test_children_trained_at_the_same_time_score_as_one_by_one(parallel: int, make_task: MakeTask) -> None:
    one_by_one, together = Listed(FIVE), Listed(FIVE)
    to_the_end(search_of(make_task(), one_by_one, 2))
    progress = to_the_end(search_of(make_task(), together, 2, parallel=parallel))
    assert together.told == one_by_one.told
    at_once = [min(parallel, 5 - begun) for begun in range(0, 5, parallel)]
    # 6 training batches and one evaluation for each cohort
    assert [p.steps for p in progress] == [steps for count in at_once for steps in [count] * 6 + [0]]
    assert [len(p.children) for p in progress] == [count for count in at_once for _ in range(7)]


def test_rungs() -> None:
    assert rung_steps(120, None) == (120,)
    assert rung_steps(120, Halving(children=8, eta=2)) == (15, 30, 60, 120)
    assert rung_steps(120, Halving(children=9, eta=3)) == (13, 40, 120)
    assert rung_steps(120, Halving(children=5, eta=2)) == (30, 60, 120)
    assert rung_steps(2, Halving(children=8, eta=2)) == (1, 2)  # a step is the least a child can be trained


@pytest.mark.parametrize("parallel", [1, 2])
def test_successive_halving_by_hand(parallel: int, make_task: MakeTask) -> None:
    task, proposer = make_task(), Listed(FIVE)
    search = search_of(task, proposer, 4, seed=5, halving=Halving(children=5, eta=2), parallel=parallel)
    progress = to_the_end(search)
    scores = [list(scores_by_hand(task, policy, child, 4, (3, 6, 12))) for child, policy in enumerate(FIVE)]
    # Of five two go on, of two one; of equal ones the earlier.
    second = sorted(range(5), key=lambda child: (-scores[child][0], child))[:2]
    [last] = sorted(second, key=lambda child: (-scores[child][1], child))[:1]
    rungs = [2 if child == last else 1 if child in second else 0 for child in range(5)]
    assert proposer.told == [(FIVE[child], scores[child][rungs[child]]) for child in range(5)]
    assert sum(p.steps for p in progress) == 5 * 3 + 2 * 3 + 6
    ended = {child.index: child for p in progress for child in p.ended}
    assert [ended[child].status for child in range(5)] == ["scored" if rung == 2 else "stopped" for rung in rungs]
    assert [ended[child].epochs for child in range(5)] == [(1, 2, 4)[rung] for rung in rungs]
    assert search.summary()["children"] == 5
    assert search.best() == max(proposer.told, key=lambda told: told[1])[0]


def test_amid_a_round_of_halving_partial_scores_count(make_task: MakeTask) -> None:
    task = make_task()
    search = search_of(task, Listed(FIVE), 4, seed=5, halving=Halving(children=5, eta=2))
    for _ in range(3 * 4):  # three children, three training batches and an evaluation each
        search.step(0.0)
    scores = [next(scores_by_hand(task, policy, child, 4, (3,))) for child, policy in enumerate(FIVE[:3])]
    assert search.best() == FIVE[scores.index(max(scores))]
    assert search.summary() == {"children": 0.0, "val_accuracy": max(scores)}


def test_of_those_that_began_a_rung_one_in_eta_goes_on_also_where_some_diverged(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging = [True, True]  # the first two validations
    monkeypatch.setattr(
        Evaluation, "loss", property(lambda self: float("nan") if diverging and diverging.pop() else 1.0)
    )
    search = search_of(make_task(), Listed(FIVE), 4, halving=Halving(children=5, eta=2))
    progress = to_the_end(search)
    # Rung 0: five children, 3 steps each. Two diverge and one of three is stopped: two go on as if none had diverged.
    assert sum(p.steps for p in progress) == 5 * 3 + 2 * 3 + 6
    ended = sorted((child.index, child.status) for p in progress for child in p.ended)
    assert [status for _, status in ended[:2]] == ["diverged", "diverged"]
    assert sorted(status for _, status in ended[2:]) == ["scored", "stopped", "stopped"]


def test_a_round_with_diverged_children_only_ends(make_task: MakeTask) -> None:
    proposer = Listed(FIVE)
    search = search_of(make_task(learning_rate=1e6), proposer, 40, halving=Halving(children=5, eta=2), parallel=2)
    progress = to_the_end(search)
    assert {score for _, score in proposer.told} == {0.0}
    assert {child.status for p in progress for child in p.ended} == {"diverged"}


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 30), ({"parallel": 2}, 18), ({"parallel": 2, "halving": Halving(children=5, eta=2)}, 24)],
    ids=["one by one", "two at a time", "halving"],
)
def test_resuming_is_not_noticed(
    options: dict[str, Any],
    steps: int,
    make_task: MakeTask,
    through_a_file: Through,
    differences: Differences,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 30)  # 3 batches of training an epoch and 3 of evaluation

    def begun(taken: int) -> BlackBoxSearch:
        search = search_of(make_task(), Listed(FIVE), 1 if "halving" not in options else 2, **options)
        for _ in range(taken):
            search.step(0.0)
        return search

    unbroken = begun(steps)
    for taken in range(0, steps, 2):
        second = begun(3)  # whatever it was at
        second.load_state_dict(through_a_file(begun(taken).state_dict()))
        for _ in range(steps - taken):
            second.step(0.0)
        assert second.summary() == unbroken.summary()
        assert second.best() == unbroken.best()
        assert differences(second.state_dict(), unbroken.state_dict()) == []


@pytest.mark.parametrize("policies", [(), LISTED[:1]])
def test_a_search_at_its_end_resumes_at_its_end(policies: tuple[Policy, ...], make_task: MakeTask) -> None:
    search = search_of(make_task(), Listed(policies), 1)
    to_the_end(search)
    resumed = search_of(make_task(), Listed(policies), 1)
    resumed.load_state_dict(search.state_dict())
    assert resumed.step(0.0).done
    assert resumed.summary() == search.summary()
