"""OPS: the one list of operations, with what each argument means. Imports no torch, so that YAML can be checked fast.

An op is a function ``op(images_BCHW, argument_B, generator) -> images_BCHW`` in the module its row names. Images are
float32 in [0, 1]; ``argument_B`` is physical (degrees, a fraction of the side, bits ...), one per image, its sign
already drawn. `low` and `high` are the argument at magnitude 0 and 1; at magnitude m it is ``low + m * (high - low)``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    import torch

    OpFunction = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]

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
        gradient: how the gradient reaches the image ("exact", "straight-through", or "none" where nothing of the
            image is left).
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
    gradient: Literal["exact", "straight-through", "none"] = "exact"
    destroys: str = ""

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


_ROWS = (
    Op("shear_x", "geometric", "slope", "pixels per pixel", 0.0, 0.3, signed=True, neutral_at_low=True),
    Op("shear_y", "geometric", "slope", "pixels per pixel", 0.0, 0.3, signed=True, neutral_at_low=True),
    Op("translate_x", "geometric", "fraction", "of the width", 0.0, 0.45, signed=True, neutral_at_low=True),
    Op("translate_y", "geometric", "fraction", "of the height", 0.0, 0.45, signed=True, neutral_at_low=True),
    Op("rotate", "geometric", "degrees", "degrees", 0.0, 30.0, signed=True, neutral_at_low=True),
    Op("identity", "color", neutral_at_low=True),
    Op("auto_contrast", "color"),
    Op("invert", "color"),
    Op("equalize", "color", gradient="straight-through"),
    # Neutral for pixels below 1: a white pixel is inverted at threshold 1, as in PIL at threshold 255.
    Op("solarize", "color", "threshold", "of white", 256 / 255, 0.0, neutral_at_low=True),
    Op("posterize", "color", "bits", "bits of 8", 8.0, 4.0, neutral_at_low=True, gradient="straight-through"),
    Op("color", "color", "change", "factor less 1", 0.0, 0.9, signed=True, neutral_at_low=True),
    Op("contrast", "color", "change", "factor less 1", 0.0, 0.9, signed=True, neutral_at_low=True),
    Op("brightness", "color", "change", "factor less 1", 0.0, 0.9, signed=True, neutral_at_low=True),
    Op("sharpness", "color", "change", "factor less 1", 0.0, 0.9, signed=True, neutral_at_low=True),
    Op("cutout", "color", "side", "of the shorter side", 0.0, 0.2, neutral_at_low=True),
    Op("gaussian_replace", "noise", gradient="none", destroys="Everything: Gaussian noise takes the image's place."),
    Op("pixel_shuffle", "noise", destroys="All shape and texture; only the image's colours are left."),
    Op("constant", "noise", gradient="none", destroys="Everything: one random colour takes the image's place."),
    Op("phase_scramble", "noise", destroys="The place of every edge; only the power spectrum is left."),
    Op("salt_and_pepper", "noise", "share", "of pixels", 0.6, 0.95, destroys="Most pixels, made black or white."),
    Op("patch_shuffle", "noise", destroys="Shape beyond a patch; only the content of 16 patches is left."),
    Op("heavy_blur", "noise", "sd", "of the side", 0.4, 1.0, destroys="All detail; a spread of colour is left."),
    Op("additive_gaussian", "noise", "sd", "of white", 0.6, 1.5, destroys="Fine detail and faint contrast."),
    Op("row_shuffle", "noise", destroys="All vertical structure; only the content of single rows is left."),
    Op("random_mask", "noise", "share", "of 16 patches", 0.6, 0.95, destroys="Most of the image, patch by patch."),
    Op("channel_noise", "noise", "sd", "of white", 1.0, 3.0, destroys="Colour, brightness and most contrast."),
    Op("tiny_crop", "noise", "side", "of the side", 0.3, 0.1, destroys="All but a small window at a random place."),
)

OPS: dict[str, Op] = {op.name: op for op in _ROWS}

_DAS_IMAGE = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "auto_contrast", "invert", "equalize"),
    *("solarize", "posterize", "color", "brightness", "sharpness", "cutout"),
)

# das-image: DAS's 15 ops for its comparison with AutoAugment and RandAugment (arXiv 2403.15194, supplement F.1), which
# lack contrast. ra: the 14 of RandAugment (arXiv 1909.13719, section 3).
SPACES: dict[str, tuple[str, ...]] = {
    "das-image": (*_DAS_IMAGE, "identity"),
    "das-image-contrast": (*_DAS_IMAGE, "contrast", "identity"),
    "ra": (
        *("identity", "auto_contrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast"),
        *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
    ),
}

# Noise level k of a study takes the first k. The first is very probably the noise op of DAS's own Figure 9; the order
# of OPS goes on so that each next op destroys something else than the ones just before it.
NOISE_LISTS: dict[str, tuple[str, ...]] = {"default": tuple(op.name for op in _ROWS if op.noise)}
