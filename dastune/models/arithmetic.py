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
