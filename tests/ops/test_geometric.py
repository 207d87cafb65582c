"""Geometric ops against torchvision, signs and non-square images included, and the seam for composing maps."""

import math
from collections.abc import Callable

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dastune.ops import geometric
from dastune.ops.table import OPS

GENERATOR = torch.Generator()
SIZES = [(40, 56), (40, 40), (33, 20)]


def affine(
    images: torch.Tensor, shift: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)
) -> torch.Tensor:
    """Translate by pixels and shear by slopes, about the centre."""
    degrees = [math.degrees(math.atan(slope)) for slope in shear]
    moved: torch.Tensor = tv.affine(images, 0, list(shift), 1, degrees, interpolation=InterpolationMode.BILINEAR)
    return moved


ORACLES: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "shear_x": lambda images, slope: affine(images, shear=(slope, 0)),
    "shear_y": lambda images, slope: affine(images, shear=(0, slope)),
    "translate_x": lambda images, fraction: affine(images, shift=(fraction * images.shape[-1], 0)),
    "translate_y": lambda images, fraction: affine(images, shift=(0, fraction * images.shape[-2])),
    "rotate": lambda images, degrees: tv.rotate(images, degrees, interpolation=InterpolationMode.BILINEAR),
}


def test_every_geometric_op_has_its_oracle() -> None:
    assert set(ORACLES) == {op.name for op in OPS.values() if op.geometric}


@pytest.mark.parametrize("magnitude", [0.0, 0.21, -0.21, 0.5, -0.77, 1.0, -1.0])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ORACLES)
def test_equals_torchvision(name: str, size: tuple[int, int], magnitude: float, photos: torch.Tensor) -> None:
    images = photos[..., : size[0], : size[1]]
    argument = magnitude * OPS[name].high
    changed = OPS[name].function(images, torch.full((len(images),), argument), GENERATOR)
    # Places are rounded to about 1e-6 pixel, border pixels included.
    torch.testing.assert_close(changed, ORACLES[name](images, argument), atol=5e-5, rtol=0)


@pytest.mark.parametrize("pixels", [-14, -1, 3, 14])
def test_whole_pixels_move_exactly(pixels: int, photos_u8: torch.Tensor) -> None:
    images = photos_u8 / 255
    right = geometric.translate_x(images, torch.full((8,), pixels / 56), GENERATOR)
    down = geometric.translate_y(images, torch.full((8,), pixels / 40), GENERATOR)
    for changed, axis in ((right, 3), (down, 2)):
        expected = photos_u8.roll(pixels, axis)
        lost = range(pixels) if pixels > 0 else range(pixels, 0)
        expected.index_fill_(axis, torch.tensor(lost) % expected.shape[axis], 0)
        assert torch.equal((changed * 255).round().to(torch.uint8), expected)


def test_quarter_turn_is_counter_clockwise(photos: torch.Tensor) -> None:
    square = photos[..., :40]
    turned = geometric.rotate(square, torch.full((8,), 90.0), GENERATOR)
    torch.testing.assert_close(turned, square.rot90(1, (2, 3)), atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", ORACLES)
def test_turning_back_composes_to_the_identity(name: str) -> None:
    argument = torch.linspace(-1, 1, 7) * OPS[name].high
    there, back = (geometric.matrix(name, sign * argument, (40, 56)) for sign in (1, -1))
    torch.testing.assert_close(there @ back, torch.eye(3).expand(7, 3, 3), atol=1e-6, rtol=0)


def test_one_warp_of_the_product_is_the_ops_in_order(photos: torch.Tensor) -> None:
    # Whole pixels and quarter turns, where the two ways sample the same pixels.
    square = photos[..., :40]
    shift, turn = torch.full((8,), 0.25), torch.full((8,), 90.0)
    matrices = geometric.matrix("translate_x", shift, (40, 40)) @ geometric.matrix("rotate", turn, (40, 40))
    in_order = geometric.rotate(geometric.translate_x(square, shift, GENERATOR), turn, GENERATOR)
    torch.testing.assert_close(geometric.warp(square, matrices), in_order, atol=5e-5, rtol=0)


def test_different_ops_for_different_images_warp_at_once(photos: torch.Tensor) -> None:
    arguments = {name: torch.full((1,), 0.7 * OPS[name].high) for name in ORACLES}
    matrices = torch.cat([geometric.matrix(name, argument, (40, 56)) for name, argument in arguments.items()])
    singles = [OPS[name].function(photos[i : i + 1], a, GENERATOR) for i, (name, a) in enumerate(arguments.items())]
    torch.testing.assert_close(geometric.warp(photos[:5], matrices), torch.cat(singles), atol=1e-6, rtol=0)


def test_nearest_keeps_class_numbers() -> None:
    masks = torch.randint(0, 21, (4, 1, 24, 30), generator=torch.Generator().manual_seed(0)).float()
    turned = geometric.warp(masks, geometric.matrix("rotate", torch.full((4,), 17.0), (24, 30)), mode="nearest")
    assert set(turned.flatten().tolist()) <= set(range(21))
    expected = tv.rotate(masks, 17.0, interpolation=InterpolationMode.NEAREST)
    assert (turned != expected).float().mean() < 0.01  # places on the line between two pixels may fall either way


def test_an_unknown_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="'zoom' is no geometric op"):
        geometric.matrix("zoom", torch.zeros(1), (8, 8))
