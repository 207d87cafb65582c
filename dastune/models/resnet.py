"""ResNets (He et al., CVPR 2016, arXiv 1512.03385) as torchvision has them, untrained."""

from typing import Literal

from torch import nn
from torchvision.models import resnet as torchvision_resnet

from dastune.models.network import Dropout, Network


class ResNet(Network):
    """ResNet-`depth`.

    Args:
        classes: number of logits K.
        depth: 18, 34, 50, 101 or 152.
        stem: "imagenet" is a 7 x 7 convolution of stride 2 and a max pool, which DAS' authors have for images of 32
            pixels, too; "small" a 3 x 3 convolution of stride 1 alone.
        dropout: probability before the last layer, in [0, 1).
    """

    def __init__(
        self, classes: int, depth: int = 18, stem: Literal["imagenet", "small"] = "imagenet", dropout: float = 0.0
    ) -> None:
        super().__init__()
        trunk: torchvision_resnet.ResNet = getattr(torchvision_resnet, f"resnet{depth}")(num_classes=classes)
        begin: list[nn.Module] = [trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool]
        if stem == "small":
            begin = [nn.Conv2d(3, 64, 3, padding=1, bias=False), trunk.bn1, trunk.relu]
        groups = [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
        drop = [Dropout(dropout)] if dropout > 0 else []
        self.features = nn.Sequential(*begin, *groups, trunk.avgpool, nn.Flatten(), *drop)
        self.head = trunk.fc
        self.initialise()
