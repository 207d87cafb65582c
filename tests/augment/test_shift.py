"""Planted shifts against torchvision, and what they depend on."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dastune.augment.shift import shifted
from dastune.augment.steps import DRAWS
from dastune.data.dataset import Pixels
from dastune.policy.policy import Step
from dastune.seeds import generator

IMAGES = 700  # more than a block
ROTATE = Step(op="rotate", low=0, high=40)
INVERT = Step(op="invert")


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    """Return images (N, 3, 8, 8) with all values."""
    return np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 8, 8), dtype=np.uint8)


def magnitudes_and_signs(part: str, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the documented stream holds for each image: magnitude and coin in [0, 1), sign -1 or 1."""
    draws = torch.rand(IMAGES, DRAWS, generator=generator("shift", part, place), dtype=torch.float64).numpy()
    return draws[:, 0], np.where(draws[:, 1] < 0.5, -1, 1), draws[:, 2]


def test_rotation_is_torchvisions(pixels: Pixels) -> None:
    magnitude_N, sign_N, _ = magnitudes_and_signs("train", 0)
    indices = np.array([640, 3, 77, 12, 510])
    moved = shifted(pixels, indices, [ROTATE], "train")
    for image, index in zip(moved, indices, strict=True):
        degrees = float(40 * magnitude_N[index] * sign_N[index])
        # torchvision turns counter-clockwise, and its own fill weighs what is left of a border pixel twice: compare
        # the pixels that come from inside alone.
        grey = torch.from_numpy(pixels[index]).float()
        inside = tv.rotate(torch.ones_like(grey), degrees, InterpolationMode.BILINEAR) > 1 - 1e-4
        expected = tv.rotate(grey, degrees, InterpolationMode.BILINEAR)
        assert inside.float().mean() > 0.3
        assert (torch.from_numpy(image) - expected)[inside].abs().max() < 0.51


def test_inversion_is_torchvisions(pixels: Pixels) -> None:
    moved = shifted(pixels, np.arange(IMAGES), [INVERT], "test")
    assert moved.dtype == np.uint8
    assert np.array_equal(moved, tv.invert(torch.from_numpy(pixels)).numpy())


def test_ops_come_one_after_the_other(pixels: Pixels) -> None:
    """Black comes in at the corners after inversion, white before it."""
    white = np.full_like(pixels, 255)
    steps = [INVERT, Step(op="rotate", low=40, high=40)]
    assert shifted(white, np.arange(9), steps, "test").max() == 0
    assert shifted(white, np.arange(9), steps[::-1], "test")[:, :, 0, 0].min() == 255


def test_magnitudes_fill_the_range_and_signs_are_even(pixels: Pixels) -> None:
    """A vertical line of the image, moved by a fraction of the width, tells where it went."""
    line = np.zeros((IMAGES, 3, 1, 41), dtype=np.uint8)
    line[..., 20] = 255
    moved = shifted(line, np.arange(IMAGES), [Step(op="translate_x", low=5 / 41, high=15 / 41)], "test")
    places = (moved[:, 0, 0] @ np.arange(41.0)) / moved[:, 0, 0].sum(1) - 20
    assert 4.99 < np.abs(places).min() < 5.2
    assert 14.8 < np.abs(places).max() < 15.01
    assert abs((places > 0).mean() - 0.5) < 4 * 0.5 / IMAGES**0.5
    assert abs(np.abs(places).mean() - 10) < 4 * 10 / 12**0.5 / IMAGES**0.5


def test_a_probability_leaves_some_images(pixels: Pixels) -> None:
    _, _, coin_N = magnitudes_and_signs("test", 0)
    moved = shifted(pixels, np.arange(IMAGES), [Step(op="invert", probability=0.25)], "test")
    inverted = (moved == 255 - pixels).all((1, 2, 3))
    assert np.array_equal(inverted, coin_N < 0.25)
    assert np.array_equal(moved[~inverted], pixels[~inverted])


def test_an_image_has_its_shift_wherever_it_stands(pixels: Pixels) -> None:
    steps = [INVERT, ROTATE]
    every = shifted(pixels, np.arange(IMAGES), steps, "train")
    for indices in (np.arange(IMAGES)[::-1], np.array([699, 4, 4]), np.array([], dtype=np.int64)):
        assert np.array_equal(shifted(pixels, indices, steps, "train"), every[indices])
    more = np.concatenate([pixels, pixels])
    assert np.array_equal(shifted(more, np.arange(IMAGES), steps, "train"), every)
    assert not np.array_equal(shifted(pixels, np.arange(IMAGES), steps, "test"), every)
