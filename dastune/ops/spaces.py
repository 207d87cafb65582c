"""Named op spaces: lists of ops with ranges, and how their geometric ops sample. Imports no torch.

A list never changes under its name; a new one gets a new name. Studies keep the ranges themselves, not the name.

Where a list has no suffix, ranges, signs and sampling are dastune's own. "-video" lists are for clips: their ranges are
of the step from a frame to the next one ("-shear" adds shears). "-torchvision" lists are torchvision's
(transforms.v2, 0.29), value by value; "-paper" lists are the ranges as their paper prints them, where a higher
magnitude does not always change the image more: at magnitude 1, solarize and posterize leave it as it is, and the four
enhancements go from 0.1 to 1.9 without a random sign.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dastune.ops.table import OPS

Grey = Annotated[float, Field(ge=0, le=1, strict=True)]


class Geometry(BaseModel):
    """How geometric ops sample an image. A named space brings its own geometry; dastune's is the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    """Between pixels, or the nearest pixel."""
    shear_about: Literal["centre", "corner"] = "centre"
    """The point of the image that a shear leaves where it is: the centre, or the top left corner."""
    whole_pixels: Annotated[bool, Field(strict=True)] = False
    """Whether translations are cut to whole pixels, towards 0."""
    fill: Annotated[tuple[Grey, ...], Field(min_length=1)] = (0.0,)
    """What comes from outside the image: one value in [0, 1] for all channels, or one for each."""
    sampling: Literal["each", "once"] = "each"
    """`each` samples the image for every geometric op. `once` composes the maps of consecutive ones and samples once,
    which is sharper and faster, and keeps what a first op moves out of the image and a second one moves back. A cell
    that blends images samples at each of its edges."""


DASTUNE = Geometry()
TORCHVISION = Geometry(interpolation="nearest", shear_about="corner", whole_pixels=True)


@dataclass(frozen=True)
class RangedOp:
    """An op with its physical argument at magnitude 0 (`low`) and 1 (`high`), and whether its sign is random."""

    op: str
    low: float
    high: float
    signed: bool


@dataclass(frozen=True)
class OpSpace:
    """A named op space."""

    ops: tuple[RangedOp, ...]
    geometry: Geometry = DASTUNE

    @property
    def names(self) -> tuple[str, ...]:
        """The ops' names, in order."""
        return tuple(ranged.op for ranged in self.ops)


def _ours(*names: str) -> tuple[RangedOp, ...]:
    return tuple(RangedOp(name, OPS[name].low, OPS[name].high, OPS[name].signed) for name in names)


def _with(names: tuple[str, ...], **ranges: tuple[float, float]) -> tuple[RangedOp, ...]:
    """Return `names` with the given (low, high), of both signs where low is 0 and the op is signed, else as in OPS."""
    return tuple(
        RangedOp(name, *ranges[name], OPS[name].signed and ranges[name][0] == 0) if name in ranges else _ours(name)[0]
        for name in names
    )


def _geometric(shear: float, translate: float, rotate: float) -> dict[str, tuple[float, float]]:
    pairs = {"shear_x": shear, "shear_y": shear, "translate_x": translate, "translate_y": translate, "rotate": rotate}
    return {name: (0.0, high) for name, high in pairs.items()}


def _enhancements(low: float, high: float) -> dict[str, tuple[float, float]]:
    return dict.fromkeys(("color", "contrast", "brightness", "sharpness"), (low, high))


_MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_DAS_IMAGE = (
    *(*_MOVES, "auto_contrast", "invert", "equalize", "solarize", "posterize", "color", "brightness"),
    *("sharpness", "cutout"),
)
_AA = (
    *(*_MOVES, "auto_contrast", "invert", "equalize", "solarize", "posterize", "contrast", "color", "brightness"),
    *("sharpness", "cutout"),
)
_RA = (
    *("identity", "auto_contrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
_TRANSLATE = 150 / 331  # AutoAugment's 150 pixels of its ImageNet images, 331 wide
_TORCHVISION = {**_geometric(0.3, _TRANSLATE, 30.0), **_enhancements(0.0, 0.9), "solarize": (1.0, 0.0)}
_PAPER = {
    **_geometric(0.3, _TRANSLATE, 30.0),
    **_enhancements(-0.9, 0.9),
    "solarize": (0.0, 256 / 255),
    "posterize": (4.0, 8.0),
    "cutout": (0.0, 60 / 331),
}
_WIDE = {
    # 32 pixels, here of images 32 wide.
    **_geometric(0.99, 1.0, 135.0),
    **_enhancements(0.0, 0.99),
    "solarize": (1.0, 0.0),
    "posterize": (8.0, 2.0),
}
_VIDEO = ("identity", "translate_x", "translate_y", "zoom", "rotate")
_PER_FRAME: dict[str, tuple[float, float]] = {
    **_geometric(0.1, 0.12, 20.0),
    "zoom": (0.0, 0.3),
}

SPACES: dict[str, OpSpace] = {
    # DAS's 15 ops for its comparison with AutoAugment and RandAugment (arXiv 2403.15194, supplement F.1): no contrast.
    "das-image": OpSpace(_ours(*_DAS_IMAGE, "identity")),
    "das-image-contrast": OpSpace(_ours(*_DAS_IMAGE, "contrast", "identity")),
    # DAS's ops for image to video, with the ranges of the step from a frame to the next; shears at our own choice.
    "das-video": OpSpace(_with(_VIDEO, **_PER_FRAME)),
    "das-video-shear": OpSpace(_with((*_VIDEO, "shear_x", "shear_y"), **_PER_FRAME)),
    # AutoAugment's 16 (arXiv 1805.09501, Table 6) without SamplePairing.
    "aa": OpSpace(_ours(*_AA)),
    "aa-torchvision": OpSpace(_with(tuple(name for name in _AA if name != "cutout"), **_TORCHVISION), TORCHVISION),
    "aa-paper": OpSpace(_with(_AA, **_PAPER), TORCHVISION),
    # RandAugment's 14 (arXiv 1909.13719, section 3), with AutoAugment's ranges.
    "ra": OpSpace(_ours(*_RA)),
    "ra-torchvision": OpSpace(_with(_RA, **_TORCHVISION), TORCHVISION),
    "ra-paper": OpSpace(_with(_RA, **_PAPER), TORCHVISION),
    # TrivialAugment's wide space (Müller and Hutter, ICCV 2021), as torchvision's TrivialAugmentWide has it.
    "trivial-wide": OpSpace(_with(_RA, **_WIDE), TORCHVISION),
}
