"""BlackBoxSearch: asks a Proposer for policies and scores each by training a child with it."""

import math
from collections.abc import Mapping
from typing import Any

from dastune.policy.policy import Policy, policy_from_json, policy_to_json
from dastune.search.search import Proposer, SearchProgress
from dastune.seeds import derive
from dastune.training.loop import Evaluation, Task, Training


class BlackBoxSearch:
    """A Search whose score is the validation accuracy of a child trained from scratch.

    Args:
        task: search-train images to train children on, search-validation images to score them.
        proposer: proposes policies and hears the scores.
        child_epochs: epochs of a child.
        seed: child c gets its own weights and order, a function of (seed, c), the same for every method.
    """

    def __init__(self, task: Task, proposer: Proposer, child_epochs: int, seed: int) -> None:
        self._task = task
        self._proposer = proposer
        self._child_epochs = child_epochs
        self._seed = seed
        self._scores: list[float] = []
        self._policy: Policy | None = None
        self._begin(proposer.ask())

    def _begin(self, policy: Policy | None) -> None:
        self._policy = policy
        if policy is not None:
            seed = derive(self._seed, "child", len(self._scores))
            self._training = Training(self._task, policy, self._child_epochs, seed)
            self._evaluation = Evaluation(self._task, self._training.network)

    @property
    def space_size_log10(self) -> float:
        """log10 of the number of policies the proposer chooses from."""
        return self._proposer.space_size_log10

    def step(self, spent: float) -> SearchProgress:
        """Train or evaluate the current child by one batch; at its end tell the proposer and begin the next."""
        if self._policy is None:
            return SearchProgress(steps=0, account="search", done=True)
        if not self._training.done:
            self._training.step()
            return SearchProgress(steps=1, account="train")
        self._evaluation.step()
        if not self._evaluation.done:
            return SearchProgress(steps=0, account="validate")
        # A diverged child scores 0: its accuracy would be that of guessing the first class.
        score = self._evaluation.accuracy if math.isfinite(self._evaluation.loss) else 0.0
        self._scores.append(score)
        self._proposer.tell(self._policy, score)
        self._begin(self._proposer.ask())
        metrics = {"child_accuracy": score, "val_accuracy": max(self._scores), "children": float(len(self._scores))}
        return SearchProgress(steps=0, account="validate", metrics=metrics, done=self._policy is None)

    def best(self) -> Policy:
        """Return the proposer's best; a child that is not finished does not count."""
        return self._proposer.best()

    def summary(self) -> Mapping[str, float]:
        """Return the best child's validation accuracy, if any, and the number of finished children."""
        summary = {"children": float(len(self._scores))}
        if self._scores:
            summary["val_accuracy"] = max(self._scores)
        return summary

    def state_dict(self) -> dict[str, Any]:
        """Return the proposer, the scores, and the child in progress."""
        child = None
        if self._policy is not None:
            child = {
                "policy": policy_to_json(self._policy),
                "training": self._training.state_dict(),
                "evaluation": self._evaluation.state_dict(),
            }
        return {"proposer": self._proposer.state_dict(), "scores": list(self._scores), "child": child}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._proposer.load_state_dict(state["proposer"])
        self._scores = list(state["scores"])
        child = state["child"]
        self._begin(None if child is None else policy_from_json(child["policy"]))
        if child is not None:
            self._training.load_state_dict(child["training"])
            self._evaluation.load_state_dict(child["evaluation"])
