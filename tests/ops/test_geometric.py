"""Geometric ops: directions, symmetry, what each field of a geometry does, and the seam for composing maps.

Equality with torchvision is in test_torchvision.py.
"""

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dastune.ops import geometric
from dastune.ops.spaces import DASTUNE, TORCHVISION, Geometry
from dastune.ops.table import OPS

NAMES = [op.name for op in OPS.values() if op.geometric]
SEEDS = torch.zeros(8, dtype=torch.int64)
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
# Places are rounded to about 1e-5 pixel, and neighbouring pixels differ by up to 1.
SAMPLING = 5e-5


def whole_levels(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8)


@pytest.mark.parametrize("pixels", [-14, -1, 3, 14])
def test_whole_pixels_move_exactly(pixels: int, photos_u8: torch.Tensor) -> None:
    images = photos_u8 / 255
    right = geometric.translate_x(images, torch.full((8,), pixels / 56), SEEDS)
    down = geometric.translate_y(images, torch.full((8,), pixels / 40), SEEDS)
    for changed, axis in ((right, 3), (down, 2)):
        expected = photos_u8.roll(pixels, axis)
        lost = range(pixels) if pixels > 0 else range(pixels, 0)
        expected.index_fill_(axis, torch.tensor(lost) % expected.shape[axis], 0)
        assert torch.equal(whole_levels(changed), expected)


def test_quarter_turn_is_counter_clockwise(photos: torch.Tensor) -> None:
    square = photos[..., :40]
    turned = geometric.rotate(square, torch.full((8,), 90.0), SEEDS)
    torch.testing.assert_close(turned, square.rot90(1, (2, 3)), atol=SAMPLING, rtol=0)


def test_positive_slopes_move_the_lower_rows_left_and_the_right_columns_up() -> None:
    images = torch.zeros(8, 1, 21, 21)
    images[:, :, 10, :] = images[:, :, :, 10] = 1  # a cross
    sheared = geometric.shear_x(images, torch.full((8,), 0.3), SEEDS)[0, 0]
    assert sheared[18].argmax() < 10 < sheared[2].argmax()
    sheared = geometric.shear_y(images, torch.full((8,), 0.3), SEEDS)[0, 0]
    assert sheared[:, 18].argmax() < 10 < sheared[:, 2].argmax()


@EXAMPLES
@given(height=st.integers(8, 40), width=st.integers(8, 40), seed=st.integers(0, 99), magnitude=st.floats(-1, 1))
@pytest.mark.parametrize("name", NAMES)
def test_the_mirror_image_takes_the_other_sign(name: str, height: int, width: int, seed: int, magnitude: float) -> None:
    images = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(seed))
    argument = torch.full((2,), magnitude * OPS[name].high)
    moved = geometric.move(name, images, argument)
    for axis in (2, 3):
        # A translation along the other axis than the mirror's keeps its sign, and so does zoom.
        sign = 1 if name in ({2: "translate_x", 3: "translate_y"}[axis], "zoom") else -1
        mirrored = geometric.move(name, images.flip(axis), sign * argument)
        torch.testing.assert_close(mirrored, moved.flip(axis), atol=SAMPLING, rtol=0)


@pytest.mark.parametrize("geometry", [DASTUNE, TORCHVISION], ids=["dastune", "torchvision"])
@pytest.mark.parametrize("name", NAMES)
def test_an_argument_of_0_moves_nothing(name: str, geometry: Geometry, photos: torch.Tensor) -> None:
    moved = geometric.move(name, photos, torch.zeros(8), geometry)
    torch.testing.assert_close(moved, photos, atol=SAMPLING if geometry == DASTUNE else 0, rtol=0)


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_shears_leave_the_centre_or_the_corner(name: str) -> None:
    slope = torch.tensor([0.3, -0.2])
    centre, corner = torch.tensor([0.0, 0, 1]), torch.tensor([-1.0, -1, 1])
    for about, fixed, moves in (("centre", centre, corner), ("corner", corner, centre)):
        matrices = geometric.matrix(name, slope, (20, 31), Geometry(shear_about=about))
        torch.testing.assert_close(matrices @ fixed, fixed.expand(2, 3), atol=1e-6, rtol=0)
        assert (matrices @ moves - moves).abs().max() > 0.1


@EXAMPLES
@given(height=st.integers(8, 40), width=st.integers(8, 40), seed=st.integers(0, 99), change=st.floats(-0.95, 3))
def test_zoom_is_torchvisions_scale(height: int, width: int, seed: int, change: float) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    zoomed = geometric.zoom(images, torch.full((2,), change), SEEDS[:2])
    expected = tv.affine(images, 0.0, [0, 0], 1 + change, [0.0, 0.0], InterpolationMode.BILINEAR)
    torch.testing.assert_close(zoomed, expected, atol=SAMPLING, rtol=0)


def test_a_zoom_by_2_shows_the_middle_quarter_and_one_by_a_half_the_image_in_it() -> None:
    image = torch.zeros(1, 1, 16, 16)
    image[..., 4:12, 4:12] = 1
    larger = geometric.zoom(image, torch.tensor([1.0]), SEEDS[:1])
    assert torch.equal(larger[..., 1:-1, 1:-1].round(), torch.ones(1, 1, 14, 14))
    smaller = geometric.zoom(torch.ones(1, 1, 16, 16), torch.tensor([-0.5]), SEEDS[:1])
    assert torch.equal(smaller, image)


@pytest.mark.parametrize("change", [0.3137, -0.317, 1.531])  # no place on the line between two pixels
def test_nearest_zoom_is_pils_affine(change: float, photos_u8: torch.Tensor) -> None:
    zoomed = geometric.move("zoom", photos_u8 / 255, torch.full((8,), change), Geometry(interpolation="nearest"))
    factor = 1 + change
    coefficients = (1 / factor, 0, 28 - 28 / factor, 0, 1 / factor, 20 - 20 / factor)
    for image, own in zip(photos_u8, whole_levels(zoomed), strict=True):
        theirs = tv.to_pil_image(image).transform((56, 40), Image.Transform.AFFINE, coefficients)
        assert torch.equal(tv.pil_to_tensor(theirs), own)


@EXAMPLES
@given(pixels=st.integers(-40, 40), part=st.floats(0.01, 0.99), side=st.integers(8, 48))
@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_whole_pixels_cuts_translations_towards_0(name: str, pixels: int, part: float, side: int) -> None:
    size = (side, 9) if name == "translate_y" else (9, side)
    meant = pixels + (part if pixels >= 0 else -part)
    cut, whole = (
        geometric.matrix(name, torch.tensor([distance / side]), size, geometry)
        for distance, geometry in ((meant, Geometry(whole_pixels=True)), (pixels, DASTUNE))
    )
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=0)


def test_a_translation_that_is_whole_but_for_rounding_is_whole() -> None:
    sides = torch.arange(8, 300)
    for side in sides.tolist():
        pixels = torch.arange(-side, side + 1)
        matrices = geometric.matrix("translate_x", pixels / side, (9, side), Geometry(whole_pixels=True))
        torch.testing.assert_close(matrices[:, 0, 2] * side / -2, pixels.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill", [(0.5,), (0.1, 0.5, 1.0)], ids=str)
def test_fill_comes_from_outside_and_changes_nothing_inside(
    fill: tuple[float, ...], interpolation: str, photos: torch.Tensor
) -> None:
    argument = torch.full((8,), 0.25)  # 14 pixels of 56
    filled = geometric.move("translate_x", photos, argument, Geometry(interpolation=interpolation, fill=fill))
    black = geometric.move("translate_x", photos, argument, Geometry(interpolation=interpolation))
    expected = torch.tensor(fill)[:, None, None].expand(8, 3, 40, 14)
    torch.testing.assert_close(filled[..., :14], expected, atol=SAMPLING, rtol=0)
    torch.testing.assert_close(filled[..., 14:], black[..., 14:], atol=SAMPLING, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_turning_back_composes_to_the_identity(name: str) -> None:
    argument = torch.linspace(-1, 1, 7) * OPS[name].high
    opposite = 1 / (1 + argument) - 1 if name == "zoom" else -argument
    there, back = (geometric.matrix(name, way, (40, 56)) for way in (argument, opposite))
    torch.testing.assert_close(there @ back, torch.eye(3).expand(7, 3, 3), atol=1e-6, rtol=0)


def test_one_warp_of_the_product_is_the_ops_in_order(photos: torch.Tensor) -> None:
    # Whole pixels and quarter turns, where the two ways sample the same pixels.
    square = photos[..., :40]
    shift, turn = torch.full((8,), 0.25), torch.full((8,), 90.0)
    matrices = geometric.matrix("translate_x", shift, (40, 40)) @ geometric.matrix("rotate", turn, (40, 40))
    in_order = geometric.rotate(geometric.translate_x(square, shift, SEEDS), turn, SEEDS)
    torch.testing.assert_close(geometric.warp(square, matrices), in_order, atol=SAMPLING, rtol=0)


def test_different_ops_for_different_images_warp_at_once(photos: torch.Tensor) -> None:
    arguments = {name: torch.full((1,), 0.7 * OPS[name].high) for name in NAMES}
    matrices = torch.cat([geometric.matrix(name, argument, (40, 56)) for name, argument in arguments.items()])
    singles = [OPS[name].function(photos[i : i + 1], a, SEEDS[:1]) for i, (name, a) in enumerate(arguments.items())]
    torch.testing.assert_close(geometric.warp(photos[: len(NAMES)], matrices), torch.cat(singles), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill", [(0.0,), (0.2, 0.5, 0.9)])
def test_several_maps_at_once_are_one_after_the_other(
    mode: Literal["bilinear", "nearest"], fill: tuple[float, ...], photos: torch.Tensor
) -> None:
    matrices = torch.stack([geometric.matrix(name, torch.linspace(-0.4, 0.4, 8), (40, 56)) for name in NAMES], 1)
    warped = geometric.warps(photos, matrices, mode, fill)
    assert warped.shape == (8, 3, len(NAMES), 40, 56)
    for place in range(len(NAMES)):
        assert torch.equal(warped[:, :, place], geometric.warp(photos, matrices[:, place], mode, fill))


def test_nearest_keeps_class_numbers() -> None:
    masks = torch.randint(0, 21, (4, 1, 24, 30), generator=torch.Generator().manual_seed(0)).float()
    matrices = geometric.matrix("rotate", torch.full((4,), 17.0), (24, 30))
    turned = geometric.warp(masks, matrices, mode="nearest")
    assert set(turned.flatten().tolist()) <= set(range(21))
    expected = tv.rotate(masks, 17.0, interpolation=InterpolationMode.NEAREST)
    assert (turned != expected).float().mean() < 0.01  # places on the line between two pixels may fall either way
    filled = geometric.warp(masks, matrices, mode="nearest", fill=(255,))
    outside = geometric.warp(torch.ones_like(masks), matrices, mode="nearest") == 0
    assert torch.equal(filled, turned.masked_fill(outside, 255))


@EXAMPLES
@given(
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    x_px=st.one_of(st.integers(-45, 45), st.floats(-45, 45, width=32)),
    y_px=st.one_of(st.integers(-45, 45), st.floats(-45, 45, width=32)),
    fill=st.sampled_from([(0.0,), (0.5,), (0.1, 0.5, 1.0)]),
)
def test_shifting_one_image_is_warping_it(
    size: tuple[int, int], x_px: float, y_px: float, fill: tuple[float, ...]
) -> None:
    height, width = size
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    matrices = torch.eye(3)[None].clone()
    matrices[0, 0, 2], matrices[0, 1, 2] = -2 * x_px / width, -2 * y_px / height
    shifted = geometric.shifted(image, x_px, y_px, fill)
    # A ten thousandth of a pixel along each axis is taken for none.
    torch.testing.assert_close(shifted, geometric.warp(image, matrices, fill=fill), atol=SAMPLING + 2e-4, rtol=0)
    assert ((shifted >= 0) & (shifted <= 1 + 1e-6)).all()
    assert torch.equal(image, before)


@pytest.mark.parametrize(("x_px", "y_px"), [(3, 0), (-3, 2), (0, -7), (56, 0), (0, -40), (-1000, 1000)])
def test_shifting_by_whole_pixels_is_exact(x_px: int, y_px: int, photos: torch.Tensor) -> None:
    shifted = geometric.shifted(photos[:1], x_px, y_px)
    padded = torch.nn.functional.pad(photos[:1], (56, 56, 40, 40))
    left, top = (min(max(side - pixels, 0), 2 * side) for side, pixels in ((56, x_px), (40, y_px)))
    assert torch.equal(shifted, padded[..., top : top + 40, left : left + 56])


def test_an_unknown_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="'flip' is no geometric op"):
        geometric.matrix("flip", torch.zeros(1), (8, 8))


def test_a_fill_for_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="2 fill values for images of 3 channels"):
        geometric.warp(torch.zeros(1, 3, 8, 8), torch.eye(3)[None], fill=(0.5, 0.5))
