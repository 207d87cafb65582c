"""LossCurve: the training loss of a final training, a point an epoch."""

import math
from collections.abc import Mapping
from typing import Any

import torch

MOST_POINTS = 100  # each is a row of MLflow's store


class LossCurve:
    """Gathers the loss of each step into means over whole epochs, one or, in long trainings, several to a point.

    There are `MOST_POINTS` points at most; the last one may be of fewer epochs. Losses stay on their device until a
    point is due.
    """

    def __init__(self, epochs: int, steps_per_epoch: int) -> None:
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._stride = math.ceil(epochs / MOST_POINTS)
        self._sum: torch.Tensor | None = None
        self._count = 0

    def add(self, loss: torch.Tensor, steps: int) -> tuple[int, float] | None:
        """Take in the loss of the step that made it `steps` in all; return (epoch, mean) if a point is due."""
        # Not in place: a state_dict may hold the old sum. In float64, as the sum of hundreds.
        self._sum = loss.double() if self._sum is None else self._sum.to(loss.device) + loss
        self._count += 1
        epoch, rest = divmod(steps, self._steps_per_epoch)
        if rest or (epoch % self._stride and epoch < self._epochs):
            return None
        mean = float(self._sum) / self._count
        self._sum, self._count = None, 0
        return epoch, mean

    def state_dict(self) -> dict[str, Any]:
        """Return what has gathered since the last point."""
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called; a sum on another device goes to that of the next loss."""
        self._sum, self._count = state["sum"], state["count"]
