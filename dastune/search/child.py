"""A child's training, batch by batch, and the crew that trains children, here in this process."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dastune.policy.policy import Policy
from dastune.seeds import derive
from dastune.training.loop import Evaluation, Task, Training


@dataclass(frozen=True)
class Advance:
    """What one batch did for a child.

    Attributes:
        trained: whether it was a training batch; else one of validation.
        steps: optimiser steps of the child so far.
        score: its validation accuracy, in [0, 1], if the validation is complete with this batch; 0 if it diverged.
        diverged: its loss is not finite; it is not worth another batch.
    """

    trained: bool
    steps: int
    score: float | None = None
    diverged: bool = False


class ChildTraining:
    """One policy's training, that stops to be validated wherever it is told to, and goes on from there."""

    def __init__(self, task: Task, policy: Policy, epochs: int, seed: int) -> None:
        self._task = task
        self._training = Training(task, policy, epochs, seed)
        self._evaluation: Evaluation | None = None

    def advance(self, until: int) -> Advance:
        """Train by one batch, or validate by one where `until` optimiser steps are done."""
        training = self._training
        if training.steps < until:
            loss = training.step(until)
            # Once an epoch: to look at a loss is to wait for the device. Without the look, a diverged child would use
            # up device time to its end.
            diverged = training.steps % training.steps_per_epoch == 0 and not math.isfinite(float(loss))
            return Advance(True, training.steps, 0.0 if diverged else None, diverged)
        evaluation = self._evaluation = self._evaluation or Evaluation(self._task, training.network)
        evaluation.step()
        if not evaluation.done:
            return Advance(False, training.steps)
        self._evaluation = None
        # The accuracy of a diverged network would be that of guessing the first class.
        diverged = not math.isfinite(evaluation.loss)
        return Advance(False, training.steps, 0.0 if diverged else evaluation.accuracy, diverged)

    def state_dict(self) -> dict[str, Any]:
        """Return the training, and the validation if it is amid one."""
        evaluation = None if self._evaluation is None else self._evaluation.state_dict()
        return {"training": self._training.state_dict(), "evaluation": evaluation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._training.load_state_dict(state["training"])
        self._evaluation = None
        if state["evaluation"] is not None:
            self._evaluation = Evaluation(self._task, self._training.network)
            self._evaluation.load_state_dict(state["evaluation"])


class Crew(Protocol):
    """Trains the children of one search. A child goes by its index, of which weights, order and draws are functions."""

    def begin(self, child: int, policy: Policy, state: Mapping[str, Any] | None = None) -> None:
        """Take on a child, from its beginning or from a state of it."""

    def advance(self, children: Sequence[int], until: int) -> list[Advance]:
        """Do one batch of each of `children`; see `ChildTraining.advance`."""

    def state(self, child: int) -> dict[str, Any]:
        """Return the state of a child, as tensors and plain data; a copy."""

    def end(self, child: int) -> None:
        """Forget a child."""


class LocalCrew:
    """Trains the children in this process, in turns.

    Args:
        task: search-train images to train on, search-validation images to score with.
        epochs: of a child that is trained whole.
        seed: child c gets its own weights, order and draws, functions of (seed, c), the same for every method.
    """

    def __init__(self, task: Task, epochs: int, seed: int) -> None:
        self._task, self._epochs, self._seed = task, epochs, seed
        self._children: dict[int, ChildTraining] = {}

    def begin(self, child: int, policy: Policy, state: Mapping[str, Any] | None = None) -> None:
        """Take on a child, from its beginning or from a state of it."""
        training = ChildTraining(self._task, policy, self._epochs, derive(self._seed, "child", child))
        if state is not None:
            training.load_state_dict(state)
        self._children[child] = training

    def advance(self, children: Sequence[int], until: int) -> list[Advance]:
        """Do one batch of each of `children`, in turn."""
        return [self._children[child].advance(until) for child in children]

    def state(self, child: int) -> dict[str, Any]:
        """Return the state of a child."""
        return self._children[child].state_dict()

    def end(self, child: int) -> None:
        """Forget a child."""
        del self._children[child]
