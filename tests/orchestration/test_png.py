"""PNG files are what PIL reads them as."""

from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from dastune.orchestration.png import png

RANDOM = np.random.default_rng(0)


def read(file: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(file)) as image:
        image.load()
        return np.atleast_3d(np.asarray(image))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1, 1), (7, 5, 3), (5, 7, 1), (64, 1, 3), (1, 64, 1)])
def test_noise_is_read_back_as_it_was(shape: tuple[int, int, int]) -> None:
    pixels = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(read(png(pixels)), pixels)


def test_a_photograph_is_read_back_and_about_as_small_as_pil_writes_it() -> None:
    photo = load_sample_image("flower.jpg")[::3, ::3]
    file, of_pil = png(photo), BytesIO()
    assert np.array_equal(read(file), photo)
    Image.fromarray(photo).save(of_pil, "PNG", optimize=True)
    assert len(file) < 1.1 * len(of_pil.getvalue())


@pytest.mark.parametrize("kind", ["none", "left", "above", "average", "paeth"])
def test_each_filter_is_read_back(kind: str) -> None:
    """Pictures for which each filter of the format is the best one for some row."""
    ramp = np.add.outer(np.arange(40) * 3, np.arange(40) * 5)
    rows = {
        "none": RANDOM.integers(0, 2, (40, 40)) * 255,
        "left": np.cumsum(RANDOM.integers(0, 3, (40, 40)), axis=1) + RANDOM.integers(0, 256, (40, 1)),
        "above": np.tile(RANDOM.integers(0, 256, 40), (40, 1)),
        "average": ramp + RANDOM.integers(0, 4, (40, 40)),
        "paeth": np.kron(RANDOM.integers(0, 256, (5, 5)), np.ones((8, 8), dtype=int)),
    }
    pixels = (rows[kind] % 256).astype(np.uint8)[..., None]
    assert np.array_equal(read(png(pixels)), pixels)
