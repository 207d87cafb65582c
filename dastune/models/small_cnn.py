"""A three-layer convolutional network for tiny images, where a study should take minutes on a CPU."""

from torch import nn

from dastune.models.network import Network


class SmallCNN(Network):
    """Three conv3x3-BN-ReLU layers with `channels`, 2x and 4x `channels`, the last two with stride 2, then the mean.

    Args:
        classes: number of logits K.
        channels: channels of the first layer.
    """

    def __init__(self, classes: int, channels: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stride, outputs in ((1, channels), (2, 2 * channels), (2, 4 * channels)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)]
            layers.append(nn.ReLU(inplace=True))
            inputs = outputs
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inputs, classes)
        self.initialise()
