"""Wide ResNet (Zagoruyko and Komodakis, arXiv 1605.07146): WRN-depth-width for small images."""

import torch
from torch import nn

from dastune.models.network import Dropout, Network


class WideBlock(nn.Module):
    """Pre-activation basic block: BN-ReLU-conv3x3, BN-ReLU-dropout-conv3x3, and a shortcut from the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.dropout = Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.norm1(x).relu_()  # in place: a normalisation's result is needed by nothing else
        residual: torch.Tensor = self.conv2(self.dropout(self.norm2(self.conv1(active)).relu_()))
        through: torch.Tensor = x if self.shortcut is None else self.shortcut(active)
        return through + residual


class WideResNet(Network):
    """WRN-`depth`-`width`: three groups of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    Args:
        classes: number of logits K.
        depth: 6 n + 4 layers, n at least 1.
        width: widening factor of the channels.
        dropout: probability inside the blocks, in [0, 1).

    Raises:
        ValueError: there is no Wide ResNet of this depth.
    """

    def __init__(self, classes: int, depth: int = 28, width: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 with n >= 1: 10, 16, 22, 28 ...; got {depth}")
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
        channels = 16
        for group, outputs in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range((depth - 4) // 6):
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(WideBlock(channels, outputs, stride, dropout))
                channels = outputs
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)
        self.initialise()
