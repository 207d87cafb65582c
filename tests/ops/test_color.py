"""Colour ops: what is exact on 8-bit images, against PIL and torchvision; tables of grey levels; cutout by a loop.

The levels of torchvision's tables are in test_torchvision.py.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional as tv

from dastune.ops import color
from dastune.ops.draws import uniform
from dastune.ops.table import OPS

SEEDS = torch.arange(8)
NO_ARGUMENT = torch.zeros(8)
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
# On floats torchvision cuts nothing; sums are in another order.
FLOAT_ROUNDING = 1e-5
ALL_LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


def levels(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8)


def by_pil(images: torch.Tensor, change: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    """Return uint8 images, each changed as a PIL image."""
    return torch.stack([tv.pil_to_tensor(change(tv.to_pil_image(image))) for image in images])


def flat_and_rare(photos_u8: torch.Tensor) -> torch.Tensor:
    """Images with what histograms stumble on: one colour, two colours, few grey levels, a lone bright pixel."""
    images = photos_u8.clone()
    images[0] = 77
    images[1, :, :20], images[1, :, 20:] = 10, 200
    images[2] = images[2] // 60 * 60
    images[3] = 5
    images[3, :, 0, 0] = 250
    return images


def test_equalize_is_torchvisions_and_pils_exactly(photos_u8: torch.Tensor) -> None:
    for images in (photos_u8, flat_and_rare(photos_u8), photos_u8[..., :16, :17], photos_u8[..., :8, :8]):
        changed = levels(color.equalize(images / 255, NO_ARGUMENT, SEEDS))
        assert torch.equal(changed, tv.equalize(images))
        assert torch.equal(changed, by_pil(images, ImageOps.equalize))


@EXAMPLES
@given(
    side=st.integers(8, 64),
    low=st.integers(0, 255),
    span=st.integers(1, 256),
    seed=st.integers(0, 2**16),
)
def test_equalize_is_pils_for_any_histogram(side: int, low: int, span: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    # The square of a uniform number: dark levels are more frequent.
    share = torch.rand(1, 3, side, 24, generator=draws) ** 2
    images = (low + share * span).clamp(0, 255).to(torch.uint8)
    changed = levels(color.equalize(images / 255, NO_ARGUMENT[:1], SEEDS[:1]))
    assert torch.equal(changed, by_pil(images, ImageOps.equalize))


def test_equalize_leaves_what_is_too_small_to_equalise() -> None:
    images = torch.rand(8, 3, 15, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(color.equalize(images, NO_ARGUMENT, SEEDS), images)


def test_invert_is_exact_at_every_level() -> None:
    assert torch.equal(levels(color.invert(ALL_LEVELS / 255, NO_ARGUMENT[:1], SEEDS[:1])), 255 - ALL_LEVELS)


@pytest.mark.parametrize("bits", [8.0, 7.4, 6.6, 5.0, 4.0, 3.0, 2.0, 1.0])
def test_posterize_is_torchvisions_and_pils_exactly(bits: float, photos_u8: torch.Tensor) -> None:
    for images in (photos_u8, ALL_LEVELS):
        changed = levels(color.posterize(images / 255, torch.full((len(images),), bits), SEEDS[: len(images)]))
        assert torch.equal(changed, tv.posterize(images, round(bits)))
        assert torch.equal(changed, by_pil(images, lambda image: ImageOps.posterize(image, round(bits))))


def test_solarize_is_pils_exactly_at_every_threshold() -> None:
    thresholds = torch.arange(257)
    images = ALL_LEVELS.expand(257, -1, -1, -1)
    changed = levels(color.solarize(images / 255, thresholds / 255, thresholds))
    picture = tv.to_pil_image(ALL_LEVELS[0])
    expected = [tv.pil_to_tensor(ImageOps.solarize(picture, threshold)) for threshold in thresholds.tolist()]
    assert torch.equal(changed, torch.stack(expected))


def test_solarize_add_is_a_table_of_grey_levels() -> None:
    added = torch.arange(111)
    images = ALL_LEVELS.expand(111, -1, -1, -1)
    changed = levels(color.solarize_add(images / 255, added / 255, added))
    picture = tv.to_pil_image(ALL_LEVELS[0])
    for level, image in zip(added.tolist(), changed, strict=True):
        table = [min(255, x + level) if x < 128 else x for x in range(256)]
        assert torch.equal(image, tv.pil_to_tensor(picture.point(table)))


def test_solarize_add_is_a_table_on_photographs(photos_u8: torch.Tensor) -> None:
    changed = levels(color.solarize_add(photos_u8 / 255, torch.full((8,), 110 / 255), SEEDS))
    table = [x + 110 if x < 128 else x for x in range(256)] * 3
    assert torch.equal(changed, by_pil(photos_u8, lambda image: image.point(table)))


def test_auto_contrast_stretches_to_the_ends(photos_u8: torch.Tensor) -> None:
    for images in (photos_u8, flat_and_rare(photos_u8)):
        changed = color.auto_contrast(images / 255, NO_ARGUMENT, SEEDS)
        # torchvision cuts to whole grey levels: up to 1/255.
        torch.testing.assert_close(changed, tv.autocontrast(images) / 255, atol=1.01 / 255, rtol=0)
    ends = torch.stack([changed[4:].amin((2, 3)), changed[4:].amax((2, 3))], -1)
    assert torch.equal(ends, torch.tensor([0.0, 1.0]).expand(4, 3, 2))


BLENDS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "color": tv.adjust_saturation,
    "contrast": tv.adjust_contrast,
    "brightness": tv.adjust_brightness,
    "sharpness": tv.adjust_sharpness,
}


@pytest.mark.parametrize("change", [-0.99, -0.9, -0.5, -0.1, 0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("name", BLENDS)
def test_blends_are_torchvisions_on_floats(name: str, change: float, photos: torch.Tensor) -> None:
    for images in (photos, photos[:, :1], photos[..., :39, :27]):
        changed = OPS[name].function(images, torch.full((8,), change), SEEDS)
        torch.testing.assert_close(changed, BLENDS[name](images, 1 + change), atol=FLOAT_ROUNDING, rtol=0)


def test_what_blends_start_from_is_pils(photos_u8: torch.Tensor) -> None:
    everything = torch.full((8,), -1.0)
    starts: dict[str, Callable[[Image.Image], Image.Image]] = {
        "color": lambda image: image.convert("L").convert("RGB"),
        "contrast": lambda image: ImageEnhance.Contrast(image).enhance(0),
        "brightness": lambda image: Image.new("RGB", image.size),
        "sharpness": lambda image: image.filter(ImageFilter.SMOOTH),
    }
    for name, start in starts.items():
        changed = OPS[name].function(photos_u8 / 255, everything, SEEDS) * 255
        # PIL rounds to whole levels, for contrast both the grey image and its mean; its weights have three digits.
        tolerance = 1.0 if name == "contrast" else 0.53
        torch.testing.assert_close(changed, by_pil(photos_u8, start).float(), atol=tolerance, rtol=0)


@EXAMPLES
@given(change=st.floats(0, 0.8), seed=st.integers(0, 2**16), height=st.integers(8, 40), width=st.integers(8, 40))
@pytest.mark.parametrize("name", BLENDS)
def test_opposite_changes_lie_as_far_on_either_side(
    name: str, change: float, seed: int, height: int, width: int
) -> None:
    # In the middle of the range, where nothing is clamped.
    images = 0.45 + 0.1 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    more, less = (OPS[name].function(images, torch.full((2,), sign * change), SEEDS[:2]) for sign in (1, -1))
    torch.testing.assert_close((more + less) / 2, images, atol=1e-6, rtol=0)


def test_sharpness_leaves_border_pixels(photos: torch.Tensor) -> None:
    changed = color.sharpness(photos, torch.full((8,), 0.9), SEEDS)
    border = torch.ones(40, 56, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert torch.equal(changed[..., border], photos[..., border])
    assert not torch.equal(changed, photos)


@pytest.mark.parametrize("size", [(32, 32), (40, 56), (39, 27), (8, 9)])
def test_cutout_is_a_loop_over_pixels(size: tuple[int, int], photos_u8: torch.Tensor) -> None:
    height, width = size
    images = photos_u8[..., :height, :width] / 255
    sides = torch.tensor([0.0, 0.05, 0.1, 60 / 331, 0.2, 0.5, 0.9, 1.0])
    expected = images.clone()
    for image, side, (down, right) in zip(expected, sides.tolist(), uniform(SEEDS, 2).tolist(), strict=True):
        half = side * min(height, width) / 2
        for y in range(height):
            for x in range(width):
                if abs(y + 0.5 - down * height) < half and abs(x + 0.5 - right * width) < half:
                    image[:, y, x] = 0.5
    assert torch.equal(color.cutout(images, sides, SEEDS), expected)


@pytest.mark.parametrize("size", [(40, 56), (20, 33)])
def test_cutout_greys_a_square_and_nothing_else(size: tuple[int, int]) -> None:
    images = torch.full((400, 3, *size), 0.9)
    side = 0.2 * min(size)
    changed = color.cutout(images, torch.full((400,), 0.2), torch.arange(400))
    grey = changed == 0.5
    assert torch.equal(changed[~grey], images[~grey])
    assert torch.equal(grey[:, 0], grey[:, 1])
    rows, columns = grey[:, 0].any(2), grey[:, 0].any(1)
    assert torch.equal(grey[:, 0], rows[:, :, None] & columns[:, None, :])
    for span in (rows.sum(1), columns.sum(1)):
        assert span.max() <= side + 1  # whole pixels
        assert span.float().mean() == pytest.approx(side, rel=0.15)  # a little less: the border clips some
    centres = (rows * torch.arange(size[0])).sum(1) / rows.sum(1)
    assert centres.min() < 0.1 * size[0]
    assert centres.max() > 0.85 * size[0]


def test_values_between_grey_levels_survive_posterize_and_equalize() -> None:
    images = torch.rand(8, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    between = images * 255 - (images * 255).round()
    for changed in (
        color.posterize(images, torch.full((8,), 6.0), SEEDS),
        color.equalize(images, NO_ARGUMENT, SEEDS),
    ):
        inside = (changed > 0) & (changed < 1)
        left = changed * 255 - (changed * 255).round()
        torch.testing.assert_close(left[inside], between[inside], atol=1e-3, rtol=0)
