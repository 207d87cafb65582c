"""OPS: the one list of operations, with what each argument means. Imports no torch, so that YAML can be checked fast.

An op is a pure function ``op(images_BCHW, argument_B, seed_B) -> images_BCHW`` in the module its row names. Images are
float32 in [0, 1]; ``argument_B`` is physical (degrees, a fraction of the side, bits ...), one per image, its sign
already drawn; ``seed_B`` (int64) decides what an image's own random pixels are. What happens to an image depends on its
own row of the three alone. `low` and `high` are the argument at magnitude 0 and 1; at magnitude m it is
``low + m * (high - low)``.

AutoAugment's SamplePairing is not here: it blends with another image of the batch, so its result depends on the batch,
its label belongs to one of the two, and neither torchvision, albumentations nor timm could take such a policy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    import torch

    OpFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

Module = Literal["geometric", "color", "noise"]


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: how policies and YAML call it; also the function's name in `module`.
        module: the module of this package that holds the function.
        argument: name of the physical argument, or "" if the op has none.
        unit: unit of the argument, for people.
        low, high: argument at magnitude 0 and at magnitude 1.
        signed: the sign of the argument is drawn per image, with probability 1/2 each.
        neutral_at_low: the op returns its input unchanged at argument `low`.
        gradient: how the gradient reaches the image: "exact" (0 where nothing of the image is left), or
            "straight-through" (that of the identity, past the rounding).
        argument_gradient: how it reaches the argument: "exact", "straight-through" (the op's docstring says of what),
            or "none" for ops without an argument.
        destroys: for noise ops, what information is lost; "" for the others.
    """

    name: str
    module: Module
    argument: str = ""
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    signed: bool = False
    neutral_at_low: bool = False
    gradient: Literal["exact", "straight-through"] = "exact"
    argument_gradient: Literal["exact", "straight-through", "none"] = "none"
    destroys: str = ""

    @property
    def legal(self) -> tuple[float, float]:
        """The smallest and the largest argument that mean anything."""
        return _LEGAL.get(self.name) or _LEGAL.get(self.argument, (-1000.0, 1000.0))

    def legal_range(self, *, signed: bool) -> tuple[float, float]:
        """Return the smallest and the largest bound of a range, whose sign is drawn afterwards if `signed`."""
        least, most = self.legal
        return (0.0, min(most, -least)) if signed else (least, most)

    @property
    def geometric(self) -> bool:
        """Whether the op moves pixels by an affine map (masks would have to move along)."""
        return self.module == "geometric"

    @property
    def noise(self) -> bool:
        """Whether the op destroys information on purpose."""
        return self.module == "noise"

    @property
    def function(self) -> "OpFunction":
        """The op itself; the first use imports torch."""
        return cast("OpFunction", getattr(import_module(f"dastune.ops.{self.module}"), self.name))


# By the op's or the argument's name. Beyond 1000 in whatever unit, no image is left, and float32 ends.
_LEGAL = {
    "zoom": (-0.99, 99.0),  # a hundredth of the size to a hundred times as large
    "share": (0.0, 1.0),
    "side": (0.0, 1.0),
    "bits": (0.0, 8.0),
    "threshold": (0.0, 256 / 255),
    "sd": (0.0, 1000.0),
}


def _noise(
    name: str,
    destroys: str,
    argument: str = "",
    unit: str = "",
    low: float = 0.0,
    high: float = 0.0,
    argument_gradient: Literal["exact", "straight-through", "none"] | None = None,
) -> Op:
    gradient = argument_gradient or ("exact" if argument else "none")
    return Op(name, "noise", argument, unit, low, high, argument_gradient=gradient, destroys=destroys)


_ROWS = (
    Op("shear_x", "geometric", "slope", "pixels per pixel", 0.0, 0.3, True, True, argument_gradient="exact"),
    Op("shear_y", "geometric", "slope", "pixels per pixel", 0.0, 0.3, True, True, argument_gradient="exact"),
    Op("translate_x", "geometric", "fraction", "of the width", 0.0, 0.45, True, True, argument_gradient="exact"),
    Op("translate_y", "geometric", "fraction", "of the height", 0.0, 0.45, True, True, argument_gradient="exact"),
    Op("rotate", "geometric", "degrees", "degrees", 0.0, 30.0, True, True, argument_gradient="exact"),
    Op("zoom", "geometric", "change", "factor less 1", 0.0, 0.3, True, True, argument_gradient="exact"),
    Op("identity", "color", neutral_at_low=True),
    Op("auto_contrast", "color"),
    Op("invert", "color"),
    Op("equalize", "color", gradient="straight-through"),
    # Neutral for pixels below 1: a white pixel is inverted at threshold 1, as in PIL at threshold 255.
    Op("solarize", "color", "threshold", "of white", 256 / 255, 0.0, False, True, argument_gradient="straight-through"),
    Op("solarize_add", "color", "change", "of white", 0.0, 110 / 255, False, True, argument_gradient="exact"),
    Op("posterize", "color", "bits", "bits of 8", 8.0, 4.0, False, True, "straight-through", "straight-through"),
    Op("color", "color", "change", "factor less 1", 0.0, 0.9, True, True, argument_gradient="exact"),
    Op("contrast", "color", "change", "factor less 1", 0.0, 0.9, True, True, argument_gradient="exact"),
    Op("brightness", "color", "change", "factor less 1", 0.0, 0.9, True, True, argument_gradient="exact"),
    Op("sharpness", "color", "change", "factor less 1", 0.0, 0.9, True, True, argument_gradient="exact"),
    Op("cutout", "color", "side", "of the shorter side", 0.0, 0.2, False, True, argument_gradient="straight-through"),
    _noise("gaussian_replace", "Everything: Gaussian noise takes the image's place."),
    _noise("pixel_shuffle", "All shape and texture; only the image's colours are left."),
    _noise("constant", "Everything: one random colour takes the image's place."),
    _noise("phase_scramble", "The place of every edge; only the power spectrum is left."),
    _noise("salt_and_pepper", "Most pixels, made black or white.", "share", "of pixels", 0.6, 0.95, "straight-through"),
    _noise("patch_shuffle", "Shape beyond a patch; only the content of 16 patches is left."),
    _noise("heavy_blur", "All detail; a spread of colour is left.", "sd", "of the side", 0.4, 1.0),
    _noise("additive_gaussian", "Fine detail and faint contrast.", "sd", "of white", 0.6, 1.5),
    _noise("row_shuffle", "All vertical structure; only the content of single rows is left."),
    _noise("random_mask", "Most patches of the image.", "share", "of 16 patches", 0.6, 0.95, "straight-through"),
    _noise("channel_noise", "Colour and brightness, and all contrast where it saturates.", "sd", "of white", 1.0, 3.0),
    _noise("tiny_crop", "All but a small window at a random place.", "side", "of the side", 0.3, 0.1),
)

OPS: dict[str, Op] = {op.name: op for op in _ROWS}

GEOMETRIC: tuple[str, ...] = tuple(op.name for op in _ROWS if op.geometric)

# Noise level k of a study takes the first k. The first is very probably the noise op of DAS's own Figure 9; the order
# of OPS goes on so that each next op destroys something else than the ones just before it.
NOISE_LISTS: dict[str, tuple[str, ...]] = {"default": tuple(op.name for op in _ROWS if op.noise)}


def at_distance(name: str, argument: float, distance: int) -> float:
    """Return the argument of op `name` in a frame `distance` steps of `argument` each from the middle one.

    It is `distance` times as much; zoom's factor is to the power of `distance`, and kept within what is legal, since
    powers soon leave it. A negative distance goes the other way: moved by it and by its opposite, an image is back.
    """
    if name != "zoom":
        return distance * argument
    least, most = OPS[name].legal
    return min(max((1 + argument) ** distance - 1, least), most)
