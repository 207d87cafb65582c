"""Network: a classifier that says where its last layer is, which DAS' closed form needs."""

from typing import cast

import torch
from torch import nn


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
