"""Colour ops against torchvision on 8-bit images, and PIL where it is the source of the meaning."""

from collections.abc import Callable

import pytest
import torch
from PIL import ImageOps
from torchvision.transforms.v2 import functional as tv

from dastune.ops import color
from dastune.ops.table import OPS

GENERATOR = torch.Generator()
NO_ARGUMENT = torch.zeros(8)


def levels(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8)


def flat_and_rare(photos_u8: torch.Tensor) -> torch.Tensor:
    """Images with what histograms stumble on: one colour, two colours, few grey levels, a lone bright pixel."""
    images = photos_u8.clone()
    images[0] = 77
    images[1, :, :20], images[1, :, 20:] = 10, 200
    images[2] = images[2] // 60 * 60
    images[3] = 5
    images[3, :, 0, 0] = 250
    return images


def test_equalize_is_torchvisions_exactly(photos_u8: torch.Tensor) -> None:
    for images in (photos_u8, flat_and_rare(photos_u8), photos_u8[..., :16, :17], photos_u8[..., :8, :8]):
        changed = color.equalize(images / 255, NO_ARGUMENT, GENERATOR)
        assert torch.equal(levels(changed), tv.equalize(images))


def test_equalize_is_pils(photos_u8: torch.Tensor) -> None:
    changed = levels(color.equalize(photos_u8 / 255, NO_ARGUMENT, GENERATOR))
    for image, expected in zip(changed, photos_u8, strict=True):
        assert torch.equal(image, tv.pil_to_tensor(ImageOps.equalize(tv.to_pil_image(expected))))


def test_invert_is_torchvisions_exactly(photos_u8: torch.Tensor) -> None:
    assert torch.equal(levels(color.invert(photos_u8 / 255, NO_ARGUMENT, GENERATOR)), tv.invert(photos_u8))


@pytest.mark.parametrize("bits", [8.0, 7.4, 6.6, 5.0, 4.0, 1.0])
def test_posterize_is_torchvisions_exactly(bits: float, photos_u8: torch.Tensor) -> None:
    changed = color.posterize(photos_u8 / 255, torch.full((8,), bits), GENERATOR)
    assert torch.equal(levels(changed), tv.posterize(photos_u8, round(bits)))


@pytest.mark.parametrize("threshold", [0, 1, 100, 128, 254, 255])
def test_solarize_is_torchvisions_exactly(threshold: int, photos_u8: torch.Tensor) -> None:
    changed = color.solarize(photos_u8 / 255, torch.full((8,), threshold) / 255, GENERATOR)
    assert torch.equal(levels(changed), tv.solarize(photos_u8, threshold))


def test_auto_contrast_is_torchvisions(photos_u8: torch.Tensor) -> None:
    # torchvision cuts to whole grey levels: up to 1/255.
    for images in (photos_u8, flat_and_rare(photos_u8)):
        changed = color.auto_contrast(images / 255, NO_ARGUMENT, GENERATOR)
        torch.testing.assert_close(changed, tv.autocontrast(images) / 255, atol=1.01 / 255, rtol=0)


BLENDS: dict[str, tuple[Callable[[torch.Tensor, float], torch.Tensor], float]] = {
    # torchvision cuts results to whole levels (1/255), and grey, mean and smoothed images before that.
    "color": (tv.adjust_saturation, 2.01 / 255),
    "contrast": (tv.adjust_contrast, 2.01 / 255),
    "brightness": (tv.adjust_brightness, 1.01 / 255),
    "sharpness": (tv.adjust_sharpness, 2.01 / 255),
}


@pytest.mark.parametrize("change", [-0.9, -0.5, -0.1, 0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", BLENDS)
def test_blends_are_torchvisions(name: str, change: float, photos_u8: torch.Tensor) -> None:
    oracle, tolerance = BLENDS[name]
    changed = OPS[name].function(photos_u8 / 255, torch.full((8,), change), GENERATOR)
    torch.testing.assert_close(changed, oracle(photos_u8, 1 + change) / 255, atol=tolerance, rtol=0)
    # On floats torchvision cuts nothing.
    torch.testing.assert_close(changed, oracle(photos_u8 / 255, 1 + change), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(40, 56), (20, 33)])
def test_cutout_greys_a_square_and_nothing_else(size: tuple[int, int]) -> None:
    images = torch.full((400, 3, *size), 0.9)
    side = 0.2 * min(size)
    changed = color.cutout(images, torch.full((400,), 0.2), torch.Generator().manual_seed(0))
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
        color.posterize(images, torch.full((8,), 6.0), GENERATOR),
        color.equalize(images, NO_ARGUMENT, GENERATOR),
    ):
        inside = (changed > 0) & (changed < 1)
        left = changed * 255 - (changed * 255).round()
        torch.testing.assert_close(left[inside], between[inside], atol=1e-3, rtol=0)
