"""BlackBoxSearch: asks a Proposer for policies and scores each by training a child with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dastune.config.methods import Halving
from dastune.policy.policy import Policy, policy_from_json, policy_to_json
from dastune.search.child import Crew
from dastune.search.ranking import Ranking
from dastune.search.search import Child, ChildStatus, Proposer, SearchProgress
from dastune.training.estimate import rung_steps
from dastune.training.loop import Batches, Task


@dataclass
class _Member:
    """A child of the cohort. `rungs`: how many it has been validated at."""

    index: int
    policy: Policy
    status: ChildStatus = "training"
    begun: bool = False
    steps: int = 0
    rungs: int = 0
    score: float | None = None


class BlackBoxSearch:
    """A Search whose score is the validation accuracy of a child trained from scratch.

    Children come in cohorts: one child, or as many as are trained at the same time, or as many as compete in a round of
    successive halving. The proposer hears of all of a cohort once the last of them has ended, in the order asked; a
    child that was ended early counts with its score of then.

    Args:
        task: search-train images to train children on, search-validation images to score them.
        proposer: proposes policies and hears the scores.
        crew: trains the children.
        child_epochs: epochs of a child that is trained whole.
        parallel: how many children are trained at the same time, batch by batch.
        halving: successive halving; None: every child is trained whole.
    """

    def __init__(
        self,
        task: Task,
        proposer: Proposer,
        crew: Crew,
        child_epochs: int,
        *,
        parallel: int = 1,
        halving: Halving | None = None,
    ) -> None:
        self._proposer = proposer
        self._crew = crew
        self._parallel = parallel
        self._eta = halving.eta if halving else 1
        self._cohort_size = halving.children if halving else parallel
        self._steps_per_epoch = Batches(len(task.train), task.recipe.batch_size, seed=0).per_epoch
        self._rung_steps = rung_steps(child_epochs * self._steps_per_epoch, halving)
        self._ranking = Ranking(proposer.keep)
        self._asked = self._ended = 0
        self._cohort: list[_Member] = []
        self._rung = 0
        self._begin_cohort()

    def _begin_cohort(self) -> None:
        self._cohort, self._rung = [], 0
        while len(self._cohort) < self._cohort_size and (policy := self._proposer.ask()) is not None:
            self._cohort.append(_Member(self._asked, policy))
            self._asked += 1

    @property
    def space_size_log10(self) -> float:
        """log10 of the number of policies the proposer chooses from."""
        return self._proposer.space_size_log10

    def step(self, spent: float) -> SearchProgress:
        """Train or validate by one batch each child whose turn it is; at a cohort's end tell the proposer."""
        if not self._cohort:
            return SearchProgress(steps=0, account="search", done=True)
        members = self._at_work()[: self._parallel]
        for member in members:
            if not member.begun:
                self._crew.begin(member.index, member.policy)
                member.begun = True
        advances = self._crew.advance([member.index for member in members], self._rung_steps[self._rung])
        for member, advance in zip(members, advances, strict=True):
            member.steps = advance.steps
            if advance.diverged:
                member.status = "diverged"
            if advance.score is not None:
                member.score = advance.score
                member.rungs += 1
        ended = [member for member in members if member.status == "diverged"]
        while self._cohort and not self._at_work():
            ended += self._end_rung()
        steps = sum(advance.trained for advance in advances)
        return SearchProgress(
            steps=steps,
            account="train" if steps else "validate",
            metrics=self._let_go(ended),
            done=not self._cohort,
            children=tuple(map(self._child, members)),
            ended=tuple(map(self._child, ended)),
        )

    def _at_work(self) -> list[_Member]:
        """Return the children that are still to reach the rung, in order."""
        return [member for member in self._cohort if member.status == "training" and member.rungs == self._rung]

    def _end_rung(self) -> list[_Member]:
        """Choose who goes on to the next rung, or end the cohort; return who ends with it."""
        began = sum(member.rungs > self._rung for member in self._cohort)
        alive = [member for member in self._cohort if member.status == "training"]
        last = self._rung == len(self._rung_steps) - 1
        best_first = sorted(alive, key=lambda member: -(member.score or 0.0))
        ended = alive if last else best_first[max(1, began // self._eta) :]
        for member in ended:
            member.status = "scored" if last else "stopped"
        self._rung += 1
        if len(ended) == len(alive):
            for member in self._cohort:
                assert member.score is not None
                self._proposer.tell(member.policy, member.score)
            self._ranking = self._ranking_so_far()
            self._begin_cohort()
        return sorted(ended, key=lambda member: member.index)

    def _let_go(self, ended: Sequence[_Member]) -> Mapping[str, float]:
        """Count the children that have ended, let the crew forget them, and return what there is to log of them."""
        if not ended:
            return {}
        for member in ended:
            self._crew.end(member.index)
        scores = [member.score or 0.0 for member in ended]
        self._ended += len(ended)
        return {"child_accuracy": sum(scores) / len(scores), **self.summary()}

    def _child(self, member: _Member) -> Child:
        epochs = member.steps / self._steps_per_epoch
        return Child(member.index, member.policy, epochs, member.score, member.status)

    def best(self) -> Policy:
        """Return the best policy, or the best ones joined; none while there is no score.

        A child that has not been validated does not count, nor one that diverged; one in a round of successive halving
        counts with its score at the last rung.
        """
        return self._ranking_so_far().policy()

    def _ranking_so_far(self) -> Ranking:
        ranking = self._ranking.copy()
        for member in self._cohort:
            if member.score is not None and member.status != "diverged":
                ranking.add(member.policy, member.score)
        return ranking

    def summary(self) -> Mapping[str, float]:
        """Return the validation accuracy of the best policy, if any, and the number of children that have ended."""
        best = self._ranking_so_far().best_score
        return {"children": float(self._ended), **({} if best is None else {"val_accuracy": best})}

    def state_dict(self) -> dict[str, Any]:
        """Return the proposer, the ranking, the counts, and the children of the cohort."""
        return {
            "proposer": self._proposer.state_dict(),
            "ranking": self._ranking.state(),
            "asked": self._asked,
            "ended": self._ended,
            "rung": self._rung,
            "cohort": [self._member_state(member) for member in self._cohort],
        }

    def _member_state(self, member: _Member) -> dict[str, Any]:
        in_training = member.begun and member.status == "training"
        return {
            **vars(member),
            "policy": policy_to_json(member.policy),
            "training": self._crew.state(member.index) if in_training else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        for member in self._cohort:
            if member.begun and member.status == "training":
                self._crew.end(member.index)
        self._proposer.load_state_dict(state["proposer"])
        self._ranking.load(state["ranking"])
        self._asked, self._ended, self._rung = state["asked"], state["ended"], state["rung"]
        self._cohort = []
        for saved in state["cohort"]:
            fields = {key: value for key, value in saved.items() if key not in ("policy", "training")}
            member = _Member(policy=policy_from_json(saved["policy"]), **fields)
            self._cohort.append(member)
            if saved["training"] is not None:
                self._crew.begin(member.index, member.policy, saved["training"])
