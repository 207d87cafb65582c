"""Pixel files of arrays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dastune.data.pixel_file import PixelArray, PixelFile


@pytest.fixture
def pixel_file(tmp_path: Path) -> Callable[[PixelArray], PixelFile]:
    """Return what writes an array into a pixel file."""

    def write(pixels: PixelArray) -> PixelFile:
        path = tmp_path / "some.pixels"
        path.write_bytes(pixels.tobytes())
        counts = tuple(tuple(int((pixels[:, channel] == value).sum()) for value in range(256)) for channel in range(3))
        return PixelFile(str(path), len(pixels), pixels.shape[-1], counts, "digest")

    return write


@pytest.fixture
def random_pixels() -> Callable[[int, int], PixelArray]:
    """Return what makes random images, so many of such a side."""

    def make(images: int, side_px: int) -> PixelArray:
        return np.random.default_rng(images).integers(256, size=(images, 3, side_px, side_px), dtype=np.uint8)

    return make
