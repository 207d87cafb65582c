"""Black-box searches: children, their scores, and the end of a list of policies."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dastune.policy.policy import NO_AUGMENTATION, Choice, Policy, Stages, Step
from dastune.search.black_box import BlackBoxSearch
from dastune.search.search import SearchProgress
from dastune.seeds import derive
from dastune.training import loop
from dastune.training.loop import Evaluation, Task, Training

MakeTask = Callable[..., Task]
LISTED: tuple[Policy, ...] = tuple(
    Stages(stages=((Choice(weight=1, step=Step(op=op)),),)) for op in ("invert", "identity")
)


class Listed:
    """A Proposer that asks for the policies of a list."""

    space_size_log10 = 0.5

    def __init__(self, policies: tuple[Policy, ...] = LISTED) -> None:
        self.policies = policies
        self.next = 0
        self.told: list[tuple[Policy, float]] = []

    def ask(self) -> Policy | None:
        self.next += 1
        return self.policies[self.next - 1] if self.next <= len(self.policies) else None

    def tell(self, policy: Policy, score: float) -> None:
        self.told.append((policy, score))

    def best(self) -> Policy:
        return max(self.told, key=lambda pair: pair[1])[0] if self.told else NO_AUGMENTATION

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next = state["next"]


def test_every_policy_is_scored_by_a_child_of_its_own(make_task: MakeTask) -> None:
    task, proposer = make_task(), Listed()
    search = BlackBoxSearch(task, proposer, child_epochs=4, seed=5)
    progress: list[SearchProgress] = []
    while not progress or not progress[-1].done:
        progress.append(search.step(0.0))
    # A child: 12 training batches and, with 70 images to validate on, one evaluation.
    assert [(p.account, p.steps) for p in progress] == ([("train", 1)] * 12 + [("validate", 0)]) * 2
    scores = []
    for child, policy in enumerate(LISTED):
        training = Training(task, policy, 4, derive(5, "child", child))
        while not training.done:
            training.step()
        evaluation = Evaluation(task, training.network)
        evaluation.step()
        scores.append(evaluation.accuracy)
    assert proposer.told == list(zip(LISTED, scores, strict=True))
    assert progress[12].metrics == {"child_accuracy": scores[0], "val_accuracy": scores[0], "children": 1.0}
    assert progress[25].metrics == {"child_accuracy": scores[1], "val_accuracy": max(scores), "children": 2.0}
    assert search.summary() == {"children": 2.0, "val_accuracy": max(scores)}
    assert search.step(0.0).done  # and again
    assert search.space_size_log10 == 0.5


def test_a_diverged_child_scores_nothing(make_task: MakeTask) -> None:
    proposer = Listed()
    search = BlackBoxSearch(make_task(learning_rate=1e6), proposer, child_epochs=20, seed=0)
    while not search.step(0.0).done:
        pass
    assert [score for _, score in proposer.told] == [0.0, 0.0]
    assert search.summary() == {"children": 2.0, "val_accuracy": 0.0}


def test_a_child_that_is_not_finished_does_not_count(make_task: MakeTask) -> None:
    search = BlackBoxSearch(make_task(), Listed(), child_epochs=4, seed=0)
    for _ in range(12):
        search.step(0.0)
    assert search.best() == NO_AUGMENTATION
    search.step(0.0)
    assert search.best() == LISTED[0]


@pytest.mark.parametrize("taken", [1, 3, 4, 5, 6, 8])  # in the training and in the evaluation of both children
def test_resuming_is_not_noticed(
    taken: int,
    make_task: MakeTask,
    through_a_file: Callable[[dict[str, Any]], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 30)  # 3 batches of training and 3 of evaluation a child

    def begun(steps: int) -> BlackBoxSearch:
        search = BlackBoxSearch(make_task(), Listed(), child_epochs=1, seed=0)
        for _ in range(steps):
            search.step(0.0)
        return search

    unbroken, second = begun(12), begun(0)
    second.load_state_dict(through_a_file(begun(taken).state_dict()))
    for _ in range(12 - taken):
        second.step(0.0)
    assert second.summary() == unbroken.summary()
    assert second.step(0.0).done


@pytest.mark.parametrize("policies", [(), LISTED[:1]])
def test_a_search_at_its_end_resumes_at_its_end(policies: tuple[Policy, ...], make_task: MakeTask) -> None:
    search = BlackBoxSearch(make_task(), Listed(policies), child_epochs=1, seed=0)
    while not search.step(0.0).done:
        pass
    resumed = BlackBoxSearch(make_task(), Listed(policies), child_epochs=1, seed=0)
    resumed.load_state_dict(search.state_dict())
    assert resumed.step(0.0).done
    assert resumed.summary() == search.summary()
