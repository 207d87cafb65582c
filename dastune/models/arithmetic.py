"""What a forward pass of each network takes, in closed form, so that a study can be planned without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arithmetic:
    """One image's forward pass.

    Attributes:
        flops: floating point operations of convolutions and linear layers; a multiply-add counts as two.
        layers: convolutions and linear layers one after the other.
    """

    flops: int
    layers: int


def small_cnn(classes: int, side_px: int, channels: int = 16) -> Arithmetic:
    """Return the arithmetic of a SmallCNN on square images."""
    multiply_adds, inputs = 0, 3
    for stride, outputs in ((1, channels), (2, 2 * channels), (2, 4 * channels)):
        side_px = -(-side_px // stride)
        multiply_adds += side_px**2 * 9 * inputs * outputs
        inputs = outputs
    return Arithmetic(2 * (multiply_adds + inputs * classes), layers=4)


def wide_resnet(classes: int, side_px: int, depth: int = 28, width: int = 2, dropout: float = 0.0) -> Arithmetic:
    """Return the arithmetic of a WideResNet on square images; `dropout` takes none that counts."""
    multiply_adds, inputs = side_px**2 * 9 * 3 * 16, 16
    for group, outputs in enumerate((16 * width, 32 * width, 64 * width)):
        side_px = -(-side_px // (2 if group else 1))
        for block in range((depth - 4) // 6):
            shortcut = 1 if block == 0 and (group or inputs != outputs) else 0
            multiply_adds += side_px**2 * (9 * inputs + 9 * outputs + shortcut * inputs) * outputs
            inputs = outputs
    return Arithmetic(2 * (multiply_adds + inputs * classes), layers=depth - 2)


_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet(classes: int, side_px: int, depth: int = 18, stem: str = "imagenet", dropout: float = 0.0) -> Arithmetic:
    """Return the arithmetic of a ResNet on square images; `dropout` takes none that counts."""
    kernel, inputs, bottleneck = (7, 64, depth >= 50) if stem == "imagenet" else (3, 64, depth >= 50)
    side_px = -(-side_px // 2) if stem == "imagenet" else side_px
    multiply_adds = side_px**2 * kernel**2 * 3 * inputs
    side_px = -(-side_px // 2) if stem == "imagenet" else side_px
    for group, blocks in enumerate(_BLOCKS[depth]):
        width, outputs = 64 * 2**group, 64 * 2**group * (4 if bottleneck else 1)
        for block in range(blocks):
            before = side_px**2
            side_px = -(-side_px // (2 if group and block == 0 else 1))
            if bottleneck:  # torchvision's stride is on the 3 x 3 convolution
                multiply_adds += before * inputs * width + side_px**2 * (9 * width + outputs) * width
            else:
                multiply_adds += side_px**2 * 9 * (inputs + outputs) * outputs
            if inputs != outputs or (group and block == 0):
                multiply_adds += side_px**2 * inputs * outputs
            inputs = outputs
    return Arithmetic(2 * (multiply_adds + inputs * classes), layers=depth)
