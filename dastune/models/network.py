"""Network: a classifier that says where its last layer is, which DAS' closed form needs. Dropout that resumes."""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import nn


class Classifier(Protocol):
    """What trainings and searches need of a network: logits are `head(features(images))`."""

    @property
    def features(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Maps images_BCHW, normalised, to features_BF."""

    @property
    def head(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Maps features_BF to logits_BK."""


class Network(nn.Module):
    """A classifier `head(features(images))`.

    `features` maps images_BCHW (normalised float32) to features_BF; `head` is the last linear layer, F to K logits.
    """

    features: nn.Module
    head: nn.Linear

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits_BK."""
        return cast(torch.Tensor, self.head(self.features(images_BCHW)))

    def initialise(self) -> None:
        """He initialisation (fan out) of the convolutions, zero bias of the head; as WRN, arXiv 1605.07146."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)


class Dropout(nn.Module):
    """Dropout from a generator of its own, whose state is part of the network's: a resumed training drops the same.

    Its seed comes from torch's default generator when it is built, as the weights do.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` with elements set to 0 with `probability` and the others scaled up, in training mode."""
        if not self.training:
            return x
        generator = self._generator
        if x.device.type != "cpu":
            seed = int(torch.randint(2**62, (), generator=generator))
            generator = torch.Generator(x.device).manual_seed(seed)
        kept = torch.empty_like(x).bernoulli_(1 - self.probability, generator=generator)
        return x * kept / (1 - self.probability)

    def get_extra_state(self) -> torch.Tensor:
        """Return the generator's state, which `state_dict` then holds."""
        return self._generator.get_state()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Set the generator's state, from what `load_state_dict` was given."""
        self._generator.set_state(state.cpu())
