"""Ops that move pixels by an affine map about the image centre: shears, translations, rotation.

`matrix` and `warp` are open to callers that compose the maps of several ops and sample the images only once. Matrices
map the output's coordinates to the input's: to apply op 1 and then op 2 in one warp, take ``matrix_1 @ matrix_2``.
Coordinates are centred and normalised, (x, y, 1) with x = -1 and 1 at the left and right edge of the image and y = -1
and 1 at its top and bottom. Angles and slopes are those of pixels, so matrices of non-square images know the size.

Signs follow torchvision: a positive angle turns counter-clockwise, a positive translation moves right or down, a
positive slope moves the lower rows left (shear_x) or the right columns up (shear_y). Shears keep the centre where it
is; torchvision's AutoAugment keeps the top left corner, which adds a translation that the translate ops offer already.
All five are differentiable in the image and in the argument, and fill with black what comes from outside the image.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.functional import grid_sample

from dastune.ops.image_op import clamped, image_op


def matrix(name: str, argument_B: torch.Tensor, size_HW: Sequence[int]) -> torch.Tensor:
    """Return the maps (B, 3, 3), output to input, of the geometric op `name` on images of height and width `size_HW`.

    Raises:
        ValueError: `name` is no geometric op.
    """
    height, width = size_HW
    matrix_B33 = torch.eye(3, dtype=argument_B.dtype, device=argument_B.device).repeat(len(argument_B), 1, 1)
    match name:
        case "shear_x":
            matrix_B33[:, 0, 1] = argument_B * (height / width)
        case "shear_y":
            matrix_B33[:, 1, 0] = argument_B * (width / height)
        case "translate_x":
            matrix_B33[:, 0, 2] = -2 * argument_B
        case "translate_y":
            matrix_B33[:, 1, 2] = -2 * argument_B
        case "rotate":
            angle_B = argument_B.deg2rad()
            cosine_B, sine_B = angle_B.cos(), angle_B.sin()
            matrix_B33[:, 0, 0] = cosine_B
            matrix_B33[:, 0, 1] = sine_B * (-height / width)
            matrix_B33[:, 1, 0] = sine_B * (width / height)
            matrix_B33[:, 1, 1] = cosine_B
        case _:
            raise ValueError(
                f"{name!r} is no geometric op; they are shear_x, shear_y, translate_x, translate_y, rotate"
            )
    return matrix_B33


def warp(
    images_BCHW: torch.Tensor, matrix_B33: torch.Tensor, mode: Literal["bilinear", "nearest"] = "bilinear"
) -> torch.Tensor:
    """Return the images sampled at the places to which `matrix_B33` maps each pixel centre; 0 outside the image.

    "bilinear" is for images in [0, 1]; "nearest" keeps values as they are, for masks of class numbers.
    """
    height, width = images_BCHW.shape[-2:]
    matrix_B33 = matrix_B33.to(images_BCHW.dtype)
    x_W = torch.linspace(1 / width - 1, 1 - 1 / width, width, dtype=matrix_B33.dtype, device=matrix_B33.device)
    y_H = torch.linspace(1 / height - 1, 1 - 1 / height, height, dtype=matrix_B33.dtype, device=matrix_B33.device)
    # The map is a sum of a part per column and a part per row: a tenth of the time that affine_grid takes on a CPU.
    column_B21W = matrix_B33[:, :2, 0, None, None] * x_W
    row_B2H1 = matrix_B33[:, :2, 1, None, None] * y_H[:, None] + matrix_B33[:, :2, 2, None, None]
    places_BHW2 = (row_B2H1 + column_B21W).permute(0, 2, 3, 1)
    warped_BCHW = grid_sample(images_BCHW, places_BHW2, mode=mode, padding_mode="zeros", align_corners=False)
    return clamped(warped_BCHW, "straight-through") if mode == "bilinear" else warped_BCHW


@image_op(clamp="none")
def shear_x(images_BCHW: torch.Tensor, slope_B: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    """Shift each row by `slope_B` pixels per pixel of its distance from the centre row."""
    return warp(images_BCHW, matrix("shear_x", slope_B, images_BCHW.shape[-2:]))


@image_op(clamp="none")
def shear_y(images_BCHW: torch.Tensor, slope_B: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    """Shift each column by `slope_B` pixels per pixel of its distance from the centre column."""
    return warp(images_BCHW, matrix("shear_y", slope_B, images_BCHW.shape[-2:]))


@image_op(clamp="none")
def translate_x(images_BCHW: torch.Tensor, fraction_B: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    """Move the image right by `fraction_B` of its width."""
    return warp(images_BCHW, matrix("translate_x", fraction_B, images_BCHW.shape[-2:]))


@image_op(clamp="none")
def translate_y(images_BCHW: torch.Tensor, fraction_B: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    """Move the image down by `fraction_B` of its height."""
    return warp(images_BCHW, matrix("translate_y", fraction_B, images_BCHW.shape[-2:]))


@image_op(clamp="none")
def rotate(images_BCHW: torch.Tensor, degrees_B: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    """Turn the image about its centre, counter-clockwise by `degrees_B`."""
    return warp(images_BCHW, matrix("rotate", degrees_B, images_BCHW.shape[-2:]))
