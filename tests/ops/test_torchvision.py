"""Every op against torchvision and PIL at every level of torchvision's own tables, on uint8 tensors, on PIL images and,
where dastune samples differently, on floats."""

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dastune.ops import geometric
from dastune.ops.spaces import DASTUNE, SPACES, RangedOp
from dastune.ops.table import OPS

TORCHVISIONS = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "identity": "Identity",
    "auto_contrast": "AutoContrast",
    "invert": "Invert",
    "equalize": "Equalize",
    "solarize": "Solarize",
    "posterize": "Posterize",
    "color": "Color",
    "contrast": "Contrast",
    "brightness": "Brightness",
    "sharpness": "Sharpness",
}
TRANSFORMS = {
    "aa-torchvision": (v2.AutoAugment, 10),
    "ra-torchvision": (v2.RandAugment, 31),
    "trivial-wide": (v2.TrivialAugmentWide, 31),
}
SHAPES = [(3, 32, 32), (3, 40, 56), (3, 39, 27), (1, 39, 27)]
FILLS = [(128,), (30, 130, 250)]

# In grey levels. torchvision cuts (PIL too) the result to whole levels, which loses up to 1; ours keeps fractions.
RESULT_CUT = 1.0
# What a blend starts from is cut to whole levels (grey on tensors) or rounded (smoothed, and all of PIL's), and then
# weighted by a change of up to 1.
BLEND_CUT, BLEND_ROUNDED = 1.0, 0.5
# PIL's grey has weights of three digits, ours torchvision's four: 0.0001 of 255; and float32 rounds.
SLACK = 0.03
# Per op: (on uint8 tensors, on PIL images). Ops that are not here are exact.
TOLERANCES = {
    "auto_contrast": (RESULT_CUT, RESULT_CUT),
    "brightness": (RESULT_CUT, RESULT_CUT),
    "color": (RESULT_CUT + BLEND_CUT, RESULT_CUT + BLEND_ROUNDED),
    "contrast": (RESULT_CUT + BLEND_CUT, RESULT_CUT + BLEND_ROUNDED),
    "sharpness": (RESULT_CUT + BLEND_ROUNDED, RESULT_CUT + BLEND_ROUNDED),
}
# A pixel whose place in the input is this near, in pixels, to the line between two pixels may take either of them. On
# tensors float32 rounds places to 1e-5; PIL adds up steps rounded to 2^-16, which come to 3e-4 at these sizes.
TENSOR_TIE, PIL_TIE = 1e-4, 1e-3
# How many pixels of an op such ties change, at any one level and on average over levels. Shears of 0.2 put every
# fifth row on a tie, and rotations by 10 degrees of an odd-sized image its middle.
WORST_TIES, MEAN_TIES = 0.12, 0.015
# A threshold may be this near, in grey levels, to the level of a pixel: float32 then decides which is higher.
LEVEL_TIE = 1e-3
# Bilinear sampling of float images: places are rounded to about 1e-5 pixel.
BILINEAR_TOLERANCE = 5e-5


@dataclass(frozen=True)
class Level:
    """One row of torchvision's table for an op, with one of its signs: its magnitude, and what ours is."""

    torchvision: float
    ours: float


def levels(space: str, op: RangedOp, height: int, width: int) -> list[Level]:
    """Return all levels of torchvision's table, both signs; ours are computed from the op's own range."""
    transform, bins = TRANSFORMS[space]
    magnitudes_of, signed = transform._AUGMENTATION_SPACE[TORCHVISIONS[op.op]]
    assert signed == op.signed
    magnitudes = magnitudes_of(bins, height, width)
    if magnitudes is None:
        return [Level(0.0, 0.0)]
    side = {"translate_x": width, "translate_y": height}.get(op.op, 1)
    found = []
    for index, magnitude in enumerate(magnitudes.tolist()):
        # float32 makes 15.999999 of a magnitude of 16, and torchvision then moves by 15 pixels.
        magnitude = round(magnitude, 4) if op.op.startswith("translate") else magnitude
        ours = op.low + index / (bins - 1) * (op.high - op.low)
        if space == "trivial-wide" and op.op.startswith("translate"):
            ours *= 32 / side  # torchvision's are 32 pixels of any image; ours the side, which is that of 32 x 32
        meant = ours * side
        assert round(meant) == magnitude if op.op == "posterize" else meant == pytest.approx(magnitude, abs=1e-4)
        found += [Level(sign * magnitude, sign * ours) for sign in ((1, -1) if signed else (1,))]
    return found


def ours(name: str, images: torch.Tensor, all_levels: list[Level], space: str) -> torch.Tensor:
    """Return (levels, B, C, H, W) of float grey levels: one batch of all levels at once."""
    geometry = SPACES[space].geometry
    arguments = torch.tensor([level.ours for level in all_levels]).repeat_interleave(len(images))
    batch = images.repeat(len(all_levels), 1, 1, 1) / 255
    if OPS[name].geometric:
        changed = geometric.move(name, batch, arguments, geometry)
    else:
        changed = OPS[name].function(batch, arguments, torch.zeros(len(batch), dtype=torch.int64))
    return 255 * changed.view(len(all_levels), *images.shape)


@cache
def _transform(space: str) -> v2.Transform:
    return TRANSFORMS[space][0]()


def on_tensors(
    space: str, name: str, images: torch.Tensor, magnitude: float, fill: tuple[int, ...] | None = None
) -> torch.Tensor:
    """Return torchvision's result on a batch of uint8 images."""
    changed: torch.Tensor = _transform(space)._apply_image_or_video_transform(
        images,
        TORCHVISIONS[name],
        magnitude,
        InterpolationMode.NEAREST,
        {torch.Tensor: None if fill is None else [float(value) for value in fill]},
    )
    return changed


def on_pil(
    space: str, name: str, images: torch.Tensor, magnitude: float, fill: tuple[int, ...] | None = None
) -> torch.Tensor:
    """Return torchvision's result on each image as a PIL image."""
    pictures = [tv.to_pil_image(image) for image in images]
    fills = {type(pictures[0]): None if fill is None else list(fill) if len(fill) > 1 else fill[0]}
    changed = [
        _transform(space)._apply_image_or_video_transform(
            picture, TORCHVISIONS[name], magnitude, InterpolationMode.NEAREST, fills
        )
        for picture in pictures
    ]
    return torch.stack([tv.pil_to_tensor(picture) for picture in changed])


def test_torchvisions_tables_hold_the_ops_of_the_spaces() -> None:
    for space, (transform, _) in TRANSFORMS.items():
        assert {TORCHVISIONS[op.op] for op in SPACES[space].ops} == set(transform._AUGMENTATION_SPACE)


UNMOVED = [(space, op) for space in TRANSFORMS for op in SPACES[space].ops if not OPS[op.op].geometric]
MOVED = [(space, op) for space in TRANSFORMS for op in SPACES[space].ops if OPS[op.op].geometric]


def label(value: object) -> str:
    return value.op if isinstance(value, RangedOp) else str(value)


@pytest.mark.parametrize(("space", "op"), UNMOVED, ids=label)
def test_values_are_torchvisions_at_every_level(space: str, op: RangedOp, photos_u8: torch.Tensor) -> None:
    for channels, height, width in SHAPES:
        images = photos_u8[2:5, :channels, :height, :width]
        all_levels = levels(space, op, height, width)
        for level, changed in zip(all_levels, ours(op.op, images, all_levels, space), strict=True):
            tied = (images.double() - 255 * level.torchvision).abs() < LEVEL_TIE if op.op == "solarize" else None
            for oracle, tolerance in zip((on_tensors, on_pil), TOLERANCES.get(op.op, (0.0, 0.0)), strict=True):
                expected = oracle(space, op.op, images, level.torchvision)
                if op.op in TOLERANCES:
                    assert (changed - expected).abs().max() <= tolerance + SLACK, (level, oracle)
                else:
                    different = changed.round() != expected
                    assert not (different if tied is None else different & ~tied).any(), (level, oracle)


@pytest.mark.parametrize(("space", "op"), MOVED, ids=label)
def test_nearest_sampling_is_torchvisions_at_every_level(space: str, op: RangedOp, photos_u8: torch.Tensor) -> None:
    for channels, height, width in SHAPES:
        images = photos_u8[2:4, :channels, :height, :width]
        all_levels = levels(space, op, height, width)
        shares: dict[object, list[float]] = {on_tensors: [], on_pil: []}
        for level, changed in zip(all_levels, ours(op.op, images, all_levels, space), strict=True):
            nearness = tie_distance(op.op, level.torchvision, height, width)
            for oracle, tie in ((on_tensors, TENSOR_TIE), (on_pil, PIL_TIE)):
                different = changed.round() != oracle(space, op.op, images, level.torchvision)
                assert not (different & (nearness > tie)).any(), (level, oracle)
                shares[oracle].append(different.float().mean().item())
        for of_levels in shares.values():
            assert max(of_levels) <= WORST_TIES
            assert sum(of_levels) / len(of_levels) <= MEAN_TIES


@pytest.mark.parametrize("fill", FILLS, ids=str)
@pytest.mark.parametrize(("space", "op"), [(space, op) for space, op in MOVED if space == "aa-torchvision"], ids=label)
def test_nearest_fill_is_torchvisions(space: str, op: RangedOp, fill: tuple[int, ...], photos_u8: torch.Tensor) -> None:
    geometry = SPACES[space].geometry
    for _, height, width in SHAPES[:3]:
        images = photos_u8[2:4, :, :height, :width]
        for level in levels(space, op, height, width):
            matrices = geometric.matrix(op.op, torch.full((2,), level.ours), (height, width), geometry)
            moved = geometric.warp(images / 255, matrices, geometry.interpolation, [value / 255 for value in fill])
            nearness = tie_distance(op.op, level.torchvision, height, width)
            for oracle, tie in ((on_tensors, TENSOR_TIE), (on_pil, PIL_TIE)):
                different = (moved * 255).round() != oracle(space, op.op, images, level.torchvision, fill)
                assert not (different & (nearness > tie)).any(), (level, oracle)


@pytest.mark.parametrize(("space", "op"), MOVED, ids=label)
def test_bilinear_sampling_is_torchvisions_at_every_level(space: str, op: RangedOp, photos_u8: torch.Tensor) -> None:
    for _, height, width in SHAPES[:3]:
        images = photos_u8[2:4, :, :height, :width] / 255
        all_levels = levels(space, op, height, width)
        arguments = torch.tensor([level.ours for level in all_levels]).repeat_interleave(2)
        batch = images.repeat(len(all_levels), 1, 1, 1)
        expected = torch.cat([bilinear(op.op, images, level.ours) for level in all_levels])
        moved = OPS[op.op].function(batch, arguments, torch.zeros(len(batch), dtype=torch.int64))
        torch.testing.assert_close(moved, expected, atol=BILINEAR_TOLERANCE, rtol=0)
        # torchvision's own fill weighs what is left of a border pixel twice, and so mixes black into it: here the
        # share of each pixel that comes from inside is torchvision's, and the rest is filled.
        inside = torch.cat([bilinear(op.op, torch.ones(2, 3, height, width), level.ours) for level in all_levels])
        for fill in ((0.5,), (0.1, 0.5, 1.0)):
            matrices = geometric.matrix(op.op, arguments, (height, width), DASTUNE)
            filled = expected + (1 - inside) * torch.tensor(fill)[:, None, None]
            moved = geometric.warp(batch, matrices, "bilinear", fill)
            torch.testing.assert_close(moved, filled, atol=BILINEAR_TOLERANCE, rtol=0)


def bilinear(name: str, images: torch.Tensor, argument: float) -> torch.Tensor:
    """Return torchvision's op about the centre, of float images, without cuts to whole pixels."""
    if name == "rotate":
        turned: torch.Tensor = tv.rotate(images, argument, InterpolationMode.BILINEAR)
        return turned
    shift, shear = [0.0, 0.0], [0.0, 0.0]
    axis = "xy".index(name[-1])
    if name.startswith("shear"):
        shear[axis] = math.degrees(math.atan(argument))
    else:
        shift[axis] = argument * images.shape[3 - axis]
    moved: torch.Tensor = tv.affine(images, 0, shift, 1, shear, InterpolationMode.BILINEAR)
    return moved


def tie_distance(name: str, argument: float, height: int, width: int) -> torch.Tensor:
    """Return how far (H, W) from the line between two input pixels each output pixel's place is, in pixels."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    match name:
        case "shear_x":
            x = x + argument * (y + 0.5)
        case "shear_y":
            y = y + argument * (x + 0.5)
        case "rotate":
            sine, cosine = math.sin(math.radians(argument)), math.cos(math.radians(argument))
            x, y = x - (width - 1) / 2, y - (height - 1) / 2
            x, y = cosine * x - sine * y + (width - 1) / 2, sine * x + cosine * y + (height - 1) / 2
    return torch.minimum(*((place + 0.5 - (place + 0.5).round()).abs() for place in (x, y)))
