"""Ops that move pixels by an affine map about the image centre: shears, translations, rotation, zoom.

The ops sample as dastune's own geometry says, `move` as any geometry does. `matrix` and `warp` are open to callers
that compose the maps of several ops and sample the images only once, or move masks along with images. Matrices
map the output's coordinates to the input's: to apply op 1 and then op 2 in one warp, take ``matrix_1 @ matrix_2``.
Coordinates are centred and normalised, (x, y, 1) with x = -1 and 1 at the left and right edge of the image and y = -1
and 1 at its top and bottom. Angles and slopes are those of pixels, so matrices of non-square images know the size.

Signs follow torchvision: a positive angle turns counter-clockwise, a positive translation moves right or down, a
positive slope moves the lower rows left (shear_x) or the right columns up (shear_y). Shears keep the centre where it
is; torchvision's AutoAugment keeps the top left corner (`Geometry.shear_about`), which adds a translation.
All are differentiable in the image and in the argument, and fill with black what comes from outside the image.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.functional import grid_sample

from dastune.ops.image_op import clamped, image_op
from dastune.ops.spaces import DASTUNE, Geometry
from dastune.ops.table import GEOMETRIC


def move(name: str, images_BCHW: torch.Tensor, argument_B: torch.Tensor, geometry: Geometry = DASTUNE) -> torch.Tensor:
    """Return the images after the geometric op `name`, sampled as `geometry` says."""
    matrix_B33 = matrix(name, argument_B, images_BCHW.shape[-2:], geometry)
    return warp(images_BCHW, matrix_B33, geometry.interpolation, geometry.fill)


def matrix(name: str, argument_B: torch.Tensor, size_HW: Sequence[int], geometry: Geometry = DASTUNE) -> torch.Tensor:
    """Return the maps (B, 3, 3), output to input, of the geometric op `name` on images of height and width `size_HW`.

    Raises:
        ValueError: `name` is no geometric op.
    """
    if name not in GEOMETRIC:
        raise ValueError(f"{name!r} is no geometric op; they are {', '.join(GEOMETRIC)}")
    none_B = torch.zeros_like(argument_B)
    arguments_6B = torch.stack([argument_B if op == name else none_B for op in GEOMETRIC])
    return matrices(arguments_6B, size_HW, geometry)


def matrices(arguments_6B: torch.Tensor, size_HW: Sequence[int], geometry: Geometry = DASTUNE) -> torch.Tensor:
    """Return the maps (B, 3, 3), output to input, of images of height and width `size_HW`, each with an op of its own.

    Args:
        arguments_6B: a row for each op of GEOMETRIC, 0 for the images that take another one.
        size_HW: of the images, in pixels.
        geometry: how they are sampled.
    """
    height, width = size_HW
    shear_x_B, shear_y_B, _, _, degrees_B, change_B = arguments_6B
    moved_2B = arguments_6B[2:4]
    if geometry.whole_pixels:
        moved_2B = _whole(moved_2B, arguments_6B.new_tensor([[width], [height]]))
    x_B, y_B = -2 * moved_2B
    angle_B = degrees_B.deg2rad()
    cosine_B, sine_B = angle_B.cos(), angle_B.sin()
    x_of_y_B, y_of_x_B = (shear_x_B - sine_B) * (height / width), (shear_y_B + sine_B) * (width / height)
    if geometry.shear_about == "corner":  # there, at (-1, -1), nothing moves
        x_B, y_B = x_B + shear_x_B * (height / width), y_B + shear_y_B * (width / height)
    none_B = torch.zeros_like(cosine_B)
    scale_B = cosine_B / (1 + change_B)  # one of the two is 1
    rows = (scale_B, x_of_y_B, x_B, y_of_x_B, scale_B, y_B, none_B, none_B, none_B + 1)
    return torch.stack(rows, 1).unflatten(1, (3, 3))  # type: ignore[no-untyped-call,no-any-return]


def _whole(fraction_2B: torch.Tensor, sides_21: torch.Tensor) -> torch.Tensor:
    """Return the fractions of the sides, in pixels, cut to whole pixels, towards 0; straight-through gradient."""
    pixels_2B = fraction_2B.detach() * sides_21
    # What is whole but for rounding is whole.
    whole_2B = pixels_2B.add_(2e-4 * pixels_2B.sign()).trunc_().div_(sides_21)
    return fraction_2B + (whole_2B - fraction_2B.detach())


def warp(
    images_BCHW: torch.Tensor,
    matrix_B33: torch.Tensor,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    fill: Sequence[float] = (0.0,),
) -> torch.Tensor:
    """Return the images sampled at the places to which `matrix_B33` maps each pixel centre.

    Args:
        images_BCHW: float.
        matrix_B33: output to input, in normalised coordinates.
        mode: "bilinear" is for images in [0, 1]; "nearest" keeps values (where there is a fill, but for the last bit),
            and so is for masks of class numbers, too. The matrix has the gradient of "bilinear" either way.
        fill: the value outside the images, one for all channels or one for each.

    Raises:
        ValueError: neither one fill value nor as many as there are channels.
    """
    return warps(images_BCHW, matrix_B33[:, None], mode, fill).squeeze(2)


def warps(
    images_BCHW: torch.Tensor,
    matrix_BM33: torch.Tensor,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    fill: Sequence[float] = (0.0,),
) -> torch.Tensor:
    """Return what `warp` makes of each image by each of its M maps, (B, C, M, H, W), sampled in one go."""
    if len(fill) not in (1, images_BCHW.shape[1]):
        raise ValueError(f"{len(fill)} fill values for images of {images_BCHW.shape[1]} channels")
    places_BNW2 = _places(images_BCHW, matrix_BM33.to(images_BCHW.dtype))
    if any(fill):
        fill_C11 = fill[0] if len(fill) == 1 else images_BCHW.new_tensor(fill)[:, None, None]
        warped_BCNW = _sampled(images_BCHW - fill_C11, places_BNW2, mode) + fill_C11
    else:
        warped_BCNW = _sampled(images_BCHW, places_BNW2, mode)
    warped_BCNW = clamped(warped_BCNW, "straight-through") if mode == "bilinear" else warped_BCNW
    return warped_BCNW.view(*images_BCHW.shape[:2], matrix_BM33.shape[1], *images_BCHW.shape[2:])


def shifted(image_1CHW: torch.Tensor, x_px: float, y_px: float, fill: Sequence[float] = (0.0,)) -> torch.Tensor:
    """Return one image moved right and down by so many pixels, bilinear: `warp` at a translation, without a sampler.

    On a CPU a large image takes a fifth of the time. Whole pixels are moved exactly.
    """
    fill_C11 = fill[0] if len(fill) == 1 else image_1CHW.new_tensor(fill)[:, None, None]
    image_1CHW = image_1CHW - fill_C11 if any(fill) else image_1CHW
    for dimension, pixels in ((2, y_px), (3, x_px)):
        whole = math.floor(pixels + 1e-4)
        part = max(pixels - whole, 0.0)
        if part > 1e-4:
            near_1CHW = _shifted_whole(image_1CHW, dimension, whole).mul_(1 - part)
            image_1CHW = near_1CHW.add_(_shifted_whole(image_1CHW, dimension, whole + 1), alpha=part)
        elif whole:
            image_1CHW = _shifted_whole(image_1CHW, dimension, whole)
    return image_1CHW + fill_C11 if any(fill) else image_1CHW


def _shifted_whole(image_1CHW: torch.Tensor, dimension: int, pixels: int) -> torch.Tensor:
    """Return the image moved along a dimension, 0 where nothing comes from."""
    side = image_1CHW.shape[dimension]
    left = max(side - abs(pixels), 0)
    moved_1CHW = torch.empty_like(image_1CHW)
    moved_1CHW.narrow(dimension, max(pixels, 0) if left else 0, left).copy_(
        image_1CHW.narrow(dimension, max(-pixels, 0) if left else 0, left)
    )
    moved_1CHW.narrow(dimension, 0 if pixels > 0 else left, side - left).zero_()
    return moved_1CHW


def _places(images_BCHW: torch.Tensor, matrix_BM33: torch.Tensor) -> torch.Tensor:
    """Return where in the input each output pixel's centre comes from, as (x, y): (B, M H, W, 2), map under map."""
    height, width = images_BCHW.shape[-2:]
    x_W = torch.linspace(1 / width - 1, 1 - 1 / width, width, dtype=matrix_BM33.dtype, device=matrix_BM33.device)
    y_H = torch.linspace(1 / height - 1, 1 - 1 / height, height, dtype=matrix_BM33.dtype, device=matrix_BM33.device)
    # The map is a sum of a part per column and a part per row: a tenth of the time that affine_grid takes on a CPU.
    matrix_B2M3 = matrix_BM33[:, :, :2].transpose(1, 2)
    column_B2M1W = matrix_B2M3[..., 0, None, None] * x_W
    row_B2MH1 = matrix_B2M3[..., 1, None, None] * y_H[:, None] + matrix_B2M3[..., 2, None, None]
    return (row_B2MH1 + column_B2M1W).flatten(2, 3).permute(0, 2, 3, 1)


def _sampled(images_BCHW: torch.Tensor, places_BNW2: torch.Tensor, mode: str) -> torch.Tensor:
    """Return the images at the given places, 0 outside; nearest sampling has bilinear sampling's gradient in them."""
    sampled_BCNW = grid_sample(images_BCHW, places_BNW2, mode=mode, padding_mode="zeros", align_corners=False)
    if mode == "nearest" and places_BNW2.requires_grad:
        smooth_BCNW = grid_sample(images_BCHW.detach(), places_BNW2, padding_mode="zeros", align_corners=False)
        return sampled_BCNW + (smooth_BCNW - smooth_BCNW.detach())
    return sampled_BCNW


@image_op(clamp="none")
def shear_x(images_BCHW: torch.Tensor, slope_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Shift each row by `slope_B` pixels per pixel of its distance from the centre row."""
    return move("shear_x", images_BCHW, slope_B)


@image_op(clamp="none")
def shear_y(images_BCHW: torch.Tensor, slope_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Shift each column by `slope_B` pixels per pixel of its distance from the centre column."""
    return move("shear_y", images_BCHW, slope_B)


@image_op(clamp="none")
def translate_x(images_BCHW: torch.Tensor, fraction_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Move the image right by `fraction_B` of its width."""
    return move("translate_x", images_BCHW, fraction_B)


@image_op(clamp="none")
def translate_y(images_BCHW: torch.Tensor, fraction_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Move the image down by `fraction_B` of its height."""
    return move("translate_y", images_BCHW, fraction_B)


@image_op(clamp="none")
def rotate(images_BCHW: torch.Tensor, degrees_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Turn the image about its centre, counter-clockwise by `degrees_B`."""
    return move("rotate", images_BCHW, degrees_B)


@image_op(clamp="none")
def zoom(images_BCHW: torch.Tensor, change_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Make the image 1 + `change_B` times as large, about its centre; smaller where that is below 1."""
    return move("zoom", images_BCHW, change_B)
