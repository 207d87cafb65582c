"""Pictures of policies: a few images of a data set over what a policy made of them, or their clips as film strips."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from dastune.augment.video import ClipTransform, transform_of
from dastune.data.dataset import Dataset
from dastune.orchestration.png import png
from dastune.policy.policy import Policy

DRAWS = 2  # rows of augmented images
MOST_STRIPS, MOST_TILES = 4, 32  # of film strips; of more frames than that there is one, of small tiles
LARGEST_PX = 64  # larger images are scaled down, after the policy
SMALLEST_PX = 32  # smaller ones are enlarged by a whole number, which leaves their pixels squares
GAP_PX = 2  # white, around each image
RULE_PX = 4  # more of it under the row of originals
STEP = 4  # between the values of a channel: nobody sees it, and files are a third smaller


def sample_images(dataset: Dataset, count: int = 10) -> torch.Tensor:
    """Return `count` training images (or all there are), of different classes as far as there are so many.

    They are the first of each class, then the second ones, always the same for a data set; classes ascend.

    Returns:
        images_BCHW: float32 in [0, 1], on the CPU.
    """
    labels = dataset.train_labels
    by_class = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(first, sizes)  # within its class
    chosen = by_class[np.argsort(place, kind="stable")[:count]]
    return torch.from_numpy(dataset.train_pixels[chosen]).to(torch.float32).div_(255)


def policy_picture(policy: Policy, images_BCHW: torch.Tensor, seed: int) -> bytes:
    """Return a PNG: the images in a row, and under each what `policy` made of it, DRAWS times anew.

    Of a policy that makes clips it is a film strip: a row for each of the first images, whose frames are its columns.
    Where they are in time, the middle frame, which is the image itself, stands on black.

    The global generators stay as they are; the same arguments give the same bytes.

    Args:
        images_BCHW: float32 in [0, 1], of 3 channels or 1. The policy sees them at this size.
        seed: of the policy's draws.

    Raises:
        ValueError: there are no images, or the policy cannot be applied to such.
    """
    if not len(images_BCHW):
        raise ValueError("a picture needs at least one image")
    images_BCHW = images_BCHW.cpu()
    transform = transform_of(policy, torch.Generator().manual_seed(seed))
    if isinstance(transform, ClipTransform) and transform.policy.order != "one":
        picture_CHW = _strips(transform, images_BCHW)
    else:
        tiles_BCHW = torch.cat([images_BCHW, transform(images_BCHW.repeat(DRAWS, 1, 1, 1))])
        pixels_BCHW = _pixels(tiles_BCHW, LARGEST_PX)
        picture_CHW = _on_white(pixels_BCHW.view(1 + DRAWS, -1, *pixels_BCHW.shape[1:]), RULE_PX)
    picture_HWC = picture_CHW.permute(1, 2, 0).numpy()
    grey = (picture_HWC == picture_HWC[..., :1]).all()
    return png(picture_HWC[..., :1] if grey else picture_HWC)


def _strips(transform: ClipTransform, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Return the film strips of the first images, (C, H, W)."""
    frames = transform.policy.frames
    clip_BTCHW = transform(images_BCHW[: max(1, min(MOST_STRIPS, MOST_TILES // frames))])
    pixels_BCHW = _pixels(clip_BTCHW.flatten(0, 1), LARGEST_PX if frames <= MOST_TILES else SMALLEST_PX)
    middle = frames // 2 if transform.policy.order == "time" else None
    return _on_white(pixels_BCHW.view(-1, frames, *pixels_BCHW.shape[1:]), 0, black=middle)


def _pixels(tiles_BCHW: torch.Tensor, largest_px: int) -> torch.Tensor:
    """Return the tiles as uint8, of at most so many pixels a side, with STEP between their values."""
    darkness_BCHW = (1 - _resized(tiles_BCHW, largest_px)).mul(255 / STEP).round().clamp(0, 255 // STEP)
    return 255 - darkness_BCHW.mul(STEP).to(torch.uint8)  # white stays white


def _resized(images_BCHW: torch.Tensor, largest_px: int) -> torch.Tensor:
    longest = max(images_BCHW.shape[-2:])
    if longest > largest_px:
        size = [max(1, round(side * largest_px / longest)) for side in images_BCHW.shape[-2:]]
        return interpolate(images_BCHW, size, mode="bilinear", antialias=True)
    return interpolate(images_BCHW, scale_factor=float(max(1, SMALLEST_PX // longest)), mode="nearest")


def _on_white(tiles_RBCHW: torch.Tensor, rule_px: int, black: int | None = None) -> torch.Tensor:
    """Return the rows of images on white, (C, H, W), with `rule_px` more under the first row; a column is on black."""
    rows, columns, channels, height, width = tiles_RBCHW.shape
    size = (channels, rows * (height + GAP_PX) + GAP_PX + rule_px, columns * (width + GAP_PX) + GAP_PX)
    picture_CHW = torch.full(size, 255, dtype=torch.uint8)
    if black is not None:
        picture_CHW[..., black * (width + GAP_PX) : (black + 1) * (width + GAP_PX) + GAP_PX] = 0
    for row, tiles_BCHW in enumerate(tiles_RBCHW):
        top = GAP_PX + row * (height + GAP_PX) + rule_px * (row > 0)
        for column, tile_CHW in enumerate(tiles_BCHW):
            left = GAP_PX + column * (width + GAP_PX)
            picture_CHW[:, top : top + height, left : left + width] = tile_CHW
    return picture_CHW
