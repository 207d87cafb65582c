"""Recipe: how a network is trained, and its optimiser and learning rate schedule."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum.

    Attributes:
        batch_size: images per step.
        learning_rate: the largest.
        schedule: "cosine" falls to 0 over the training; "step" is times 0.1 after each third.
        gradient_clip: the largest norm that the gradient of all weights together may have; None: any.
    """

    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: Literal["cosine", "step"]
    gradient_clip: float | None = None

    def optimiser(self, network: nn.Module) -> torch.optim.SGD:
        """Return the optimiser of all weights of `network`."""
        return torch.optim.SGD(
            network.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
        )

    def step(self, optimiser: torch.optim.Optimizer, network: nn.Module) -> None:
        """Update the weights of `network` along their gradients, which are scaled down first if they are too long."""
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip)
        optimiser.step()

    def learning_rate_at(self, progress: float) -> float:
        """Return the learning rate after the share `progress`, in [0, 1], of a training."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return float(self.learning_rate * 0.1 ** min(int(3 * progress), 2))


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
