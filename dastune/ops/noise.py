"""Noise ops: each destroys information over its whole range, so that a search has something to avoid.

None is neutral at its low end. What an op destroys is said in its row of OPS. Draws are per image, from its seed. The
gradient to the image is exact: 0 where nothing of the image is left.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from dastune.ops.draws import normal, uniform
from dastune.ops.geometric import warp
from dastune.ops.image_op import image_op, per_image, straight_through

_CELLS = 4  # random_mask and patch_shuffle cut an image into 4 x 4 patches


@image_op(clamp="exact")
def gaussian_replace(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Replace the image by independent N(0.5, 0.25^2) values."""
    replaced_BCHW = normal(seed_B, *images_BCHW.shape[1:]).mul_(0.25).add_(0.5).to(images_BCHW.dtype)
    return replaced_BCHW + 0 * images_BCHW if images_BCHW.requires_grad else replaced_BCHW


@image_op(clamp="none")
def pixel_shuffle(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Put the pixels in random order; the channels of a pixel stay together.

    The order is one of (H W)^3, drawn uniformly: random keys per image would take ten times as long to sort.
    """
    pixels = images_BCHW.shape[-2] * images_BCHW.shape[-1]
    # Three fixed permutations with a shift of the image's own after each; the same on every device.
    shift_B3 = (uniform(seed_B, 3) * pixels).long()
    place_BN = torch.arange(pixels, device=images_BCHW.device).expand(len(seed_B), -1)
    for number in range(3):
        permutation_N = torch.as_tensor(_permutation(pixels, number), device=images_BCHW.device)
        place_BN = (permutation_N[place_BN] + shift_B3[:, number, None]) % pixels
    return _gathered(images_BCHW, place_BN)


@cache
def _permutation(count: int, number: int) -> NDArray[np.int64]:
    return np.random.PCG64(number).random_raw(count).argsort(kind="stable")  # raw numbers are NumPy's for all versions


@image_op(clamp="none")
def constant(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Replace the image by one random colour."""
    colour_BC11 = uniform(seed_B, images_BCHW.shape[1], 1, 1).to(images_BCHW.dtype)
    return colour_BC11 + 0 * images_BCHW


@image_op(clamp="exact")
def phase_scramble(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Add random phases to the image's Fourier coefficients; all channels get the same, and the mean stays."""
    height, width = images_BCHW.shape[-2:]
    # The phases of real noise have the symmetry that a real image needs; those of positive noise leave the mean alone.
    noise_B1HW = uniform(seed_B, 1, height, width)
    phases_B1Hw = torch.fft.rfft2(noise_B1HW).sgn()
    scrambled_BCHW: torch.Tensor = torch.fft.irfft2(torch.fft.rfft2(images_BCHW) * phases_B1Hw, s=(height, width))
    return scrambled_BCHW


@image_op(clamp="none")
def salt_and_pepper(images_BCHW: torch.Tensor, share_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Turn each pixel black or white with probability `share_B`, half of them each.

    The share has the derivative of the mean over all draws: straight-through.
    """
    draw_B1HW = uniform(seed_B, 1, *images_BCHW.shape[-2:]).to(images_BCHW.dtype)
    half_B111 = per_image(share_B.detach() / 2)
    # 1 or 0; casting a bool, or filling where it holds, takes several times as long on a CPU.
    white_B1HW = torch.gt(draw_B1HW, 1 - half_B111, out=torch.empty_like(draw_B1HW))
    left_B1HW = torch.ge(draw_B1HW, half_B111, out=torch.empty_like(draw_B1HW)).sub_(white_B1HW)
    salted_BCHW = (images_BCHW * left_B1HW).add_(white_B1HW)
    return straight_through(salted_BCHW, share_B, 0.5 - images_BCHW)


@image_op(clamp="none")
def patch_shuffle(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Cut the image into 4 x 4 patches and put them in random order.

    Where 4 does not divide a side, the last patches are larger, and a patch put there takes pixels of its neighbour.
    """
    height, width = images_BCHW.shape[-2:]
    y_H, x_W = (torch.arange(side, device=images_BCHW.device) for side in (height, width))
    row_H, column_W = ((xs // (len(xs) // _CELLS)).clamp(max=_CELLS - 1) for xs in (y_H, x_W))
    first_row_H, first_column_W = row_H * (height // _CELLS), column_W * (width // _CELLS)
    offset_HW = (y_H - first_row_H)[:, None] * width + (x_W - first_column_W)
    order_BP = uniform(seed_B, _CELLS**2).argsort(1)
    corner_BP = (order_BP // _CELLS) * (height // _CELLS * width) + (order_BP % _CELLS) * (width // _CELLS)
    patch_N = (row_H[:, None] * _CELLS + column_W).flatten()
    return _gathered(images_BCHW, corner_BP.gather(1, patch_N.expand(len(corner_BP), -1)) + offset_HW.flatten())


@image_op(clamp="straight-through")
def heavy_blur(images_BCHW: torch.Tensor, sd_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Blur by a Gaussian whose standard deviation is `sd_B` of the side; weights are normalised at the border.

    Below 1/1000 of the side the image stays.
    """
    batch, channels, height, width = images_BCHW.shape
    across_BcHW = images_BCHW.flatten(1, 2) @ _blur(width, sd_B, images_BCHW).mT
    return _blur(height, sd_B, images_BCHW)[:, None] @ across_BcHW.view(batch, channels, height, width)


@image_op(clamp="exact")
def additive_gaussian(images_BCHW: torch.Tensor, sd_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Add independent N(0, sd^2) values."""
    return images_BCHW + normal(seed_B, *images_BCHW.shape[1:]).to(images_BCHW.dtype) * per_image(sd_B)


@image_op(clamp="none")
def row_shuffle(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Put the rows in random order."""
    height, width = images_BCHW.shape[-2:]
    order_BH = uniform(seed_B, height).argsort(1)
    x_W = torch.arange(width, device=images_BCHW.device)
    return _gathered(images_BCHW, (order_BH[:, :, None] * width + x_W).flatten(1))


@image_op(clamp="none")
def random_mask(images_BCHW: torch.Tensor, share_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Blacken each of 4 x 4 patches with probability `share_B`.

    The share has the derivative of the mean over all draws: straight-through.
    """
    height, width = images_BCHW.shape[-2:]
    row_H, column_W = (torch.arange(side, device=images_BCHW.device) * _CELLS // side for side in (height, width))
    left_B144 = (uniform(seed_B, 1, _CELLS, _CELLS) >= per_image(share_B)).to(images_BCHW.dtype)
    left_BCHW = images_BCHW * left_B144.index_select(2, row_H).index_select(3, column_W)
    return straight_through(left_BCHW, share_B, -images_BCHW)


@image_op(clamp="exact")
def channel_noise(images_BCHW: torch.Tensor, sd_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Multiply each channel by a random 1 + N(0, sd^2) and add a random N(0, sd^2)."""
    draws_BC12 = normal(seed_B, images_BCHW.shape[1], 1, 2).to(images_BCHW.dtype) * per_image(sd_B)
    return images_BCHW * (1 + draws_BC12[..., :1]) + draws_BC12[..., 1:]


@image_op(clamp="none")
def tiny_crop(images_BCHW: torch.Tensor, side_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Enlarge a window at a random place, `side_B` of each side, to the whole image."""
    matrix_B33 = torch.eye(3, dtype=side_B.dtype, device=side_B.device).repeat(len(side_B), 1, 1)
    centre_B2 = 2 * uniform(seed_B, 2) - 1
    matrix_B33[:, 0, 0] = side_B
    matrix_B33[:, 1, 1] = side_B
    # From the first pixel's centre to the last one's: beyond, the image would fade to black.
    last_2 = torch.tensor([1 - 1 / images_BCHW.shape[-1], 1 - 1 / images_BCHW.shape[-2]], device=side_B.device)
    matrix_B33[:, :2, 2] = centre_B2 * (1 - side_B[:, None]) * last_2
    return warp(images_BCHW, matrix_B33)


def _gathered(images_BCHW: torch.Tensor, source_BN: torch.Tensor) -> torch.Tensor:
    """Return the images whose pixel n, counted row by row, is pixel `source_BN` of the input."""
    source_BCN = source_BN[:, None].expand(-1, images_BCHW.shape[1], -1)
    return images_BCHW.flatten(2).gather(2, source_BCN).view_as(images_BCHW)


def _blur(side: int, sd_B: torch.Tensor, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Return the matrices (B, side, side) that blur along one axis."""
    x_S = torch.arange(side, device=images_BCHW.device) / side
    distance_SS = x_S[:, None] - x_S
    return (-0.5 * (distance_SS / sd_B.clamp(min=1e-3)[:, None, None]) ** 2).softmax(-1).to(images_BCHW.dtype)
