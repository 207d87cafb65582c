"""A planted shift of images: ops that validation and test images go through, the same for an image in every study."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dastune.augment.steps import DRAWS, DrawnSteps, MaskedImages, StepTable, uniform_draws
from dastune.data.dataset import Indices, Pixels
from dastune.data.pixel_file import PixelArray
from dastune.ops.spaces import DASTUNE
from dastune.policy.policy import Step
from dastune.seeds import generator

_BLOCK_PIXELS = 2**19  # held as floats at once


def shifted(pixels: Pixels, indices: Indices, steps: Sequence[Step], part: str) -> PixelArray:
    """Return the images at `indices` after `steps`, one after the other, with dastune's own geometry.

    An image's magnitudes, signs and coins depend on `part`, its index and a step's place alone, not on `indices`.

    Args:
        pixels: N x 3 x H x W, uint8, all images of `part`.
        indices: M whole numbers in 0 .. N - 1.
        part: name of the set that `pixels` holds: "train" or "test".

    Returns:
        M x 3 x H x W, rounded to uint8, in memory.
    """
    table = StepTable(steps, DASTUNE)
    draws = [uniform_draws(len(pixels), DRAWS, generator("shift", part, place)).numpy() for place in range(len(steps))]
    moved = np.empty((len(indices), *pixels.shape[1:]), dtype=np.uint8)
    size = max(1, _BLOCK_PIXELS // (pixels.shape[2] * pixels.shape[3]))
    for start in range(0, len(indices), size):
        block = indices[start : start + size]
        sequence = [_drawn(table, place, each[block]) for place, each in enumerate(draws)]
        images_BCHW = torch.from_numpy(pixels[block]).to(torch.float32).div_(255)
        images_BCHW = table.run(MaskedImages(images_BCHW), sequence).images_BCHW
        moved[start : start + size] = images_BCHW.mul(255).round().to(torch.uint8).numpy()
    return moved


def _drawn(table: StepTable, place: int, draws_BD: NDArray[np.float64]) -> DrawnSteps:
    return table.drawn(np.full(len(draws_BD), place), draws_BD)
