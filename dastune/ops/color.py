"""Ops that change pixel values in place: identity, tone and colour, and cutout.

Meanings are those of PIL's ImageOps and ImageEnhance as torchvision has them. Where PIL works on 8 bits (equalize,
posterize), the op computes the change of each pixel's grey level (0 to 255) and adds it to the pixel: the result is
PIL's on 8-bit images, what lies between two grey levels stays, and the gradient passes to the image unchanged.

`change` is the enhancement factor less 1: 0 leaves the image, -1 would leave only what the op blends with.
"""

import math

import torch

from dastune.ops.draws import uniform
from dastune.ops.image_op import image_op, per_image, straight_through

_HALF_LEVEL = 0.5 / 255


@image_op(clamp="none")
def identity(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Return the images themselves."""
    return images_BCHW


@image_op(clamp="straight-through")
def auto_contrast(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Stretch each channel of each image to [0, 1]; a channel of one grey level stays."""
    low_BC11 = images_BCHW.amin((2, 3), keepdim=True)
    span_BC11 = images_BCHW.amax((2, 3), keepdim=True) - low_BC11
    flat_BC11 = span_BC11 < _HALF_LEVEL
    scale_BC11 = 1 / span_BC11.masked_fill(flat_BC11, 1)
    return (images_BCHW * scale_BC11).sub_(low_BC11.masked_fill(flat_BC11, 0) * scale_BC11)


@image_op(clamp="none")
def invert(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Make the negative."""
    return 1 - images_BCHW


@image_op(clamp="straight-through")
def equalize(images_BCHW: torch.Tensor, _argument_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Equalise the histogram of each channel of each image; straight-through gradient.

    As in PIL, a channel stays as it is when fewer than 255 of its pixels lie below its maximum: so does every image
    of up to 15 x 16 pixels.
    """
    batch, channels = images_BCHW.shape[:2]
    # One histogram after the other, counted in one go: pixel by pixel which count it belongs to.
    first_BC1 = 256 * torch.arange(batch * channels, dtype=torch.int32, device=images_BCHW.device)
    first_BC1 = first_BC1.view(batch, channels, 1)
    place_BCN = (images_BCHW.detach().flatten(2) * 255 + 0.5).int().add_(first_BC1)
    counts_BCL = _counts(place_BCN.flatten(), 256 * batch * channels).view(batch, channels, 256)
    darker_BCL = counts_BCL.cumsum(2).sub_(counts_BCL)
    step_BC1 = darker_BCL.take(place_BCN.amax(2, keepdim=True).long()).div_(255).floor_()
    mapped_BCL = darker_BCL.add_((step_BC1 / 2).floor_()).div_(step_BC1.clamp(min=1)).floor_().clamp_(max=255)
    change_BCL = mapped_BCL.sub_(torch.arange(256, device=images_BCHW.device)).mul_((step_BC1 > 0) / 255)
    change_N = change_BCL.to(images_BCHW.dtype).flatten().index_select(0, place_BCN.flatten())
    return change_N.view_as(images_BCHW).add_(images_BCHW)


def _counts(place_N: torch.Tensor, size: int) -> torch.Tensor:
    """Return how often each number below `size` occurs, as float32, whose division is fast; exact up to 2^24."""
    if place_N.device.type == "cpu":
        return torch.bincount(place_N, minlength=size).float()
    # There bincount would wait for the device.
    return torch.zeros(size, device=place_N.device).index_add_(
        0, place_N, torch.ones(1, device=place_N.device).expand(len(place_N))
    )


@image_op(clamp="none")
def solarize(images_BCHW: torch.Tensor, threshold_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Invert the pixels at or above `threshold_B` in [0, 1].

    The gradient to the image is 1 below the threshold and -1 from it on: exact but at the threshold itself. The
    threshold has the gradient of a threshold with logistic noise of scale 1/20: straight-through.
    """
    threshold_B111 = per_image(threshold_B)
    # 1 or 0; casting a bool takes ten times as long.
    inverted_BCHW = torch.ge(images_BCHW.detach(), threshold_B111.detach(), out=torch.empty_like(images_BCHW))
    solarized_BCHW = (images_BCHW * (inverted_BCHW * -2).add_(1)).add_(inverted_BCHW)
    if not threshold_B.requires_grad:
        return solarized_BCHW
    density_BCHW = torch.sigmoid((images_BCHW.detach() - threshold_B111.detach()) * 20)
    density_BCHW = 20 * density_BCHW * (1 - density_BCHW)
    return straight_through(solarized_BCHW, threshold_B, density_BCHW * (2 * images_BCHW - 1))


@image_op(clamp="exact")
def solarize_add(images_BCHW: torch.Tensor, change_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Add `change_B` to the pixels below grey level 128 of 255 (RandAugment's public code, timm)."""
    dark_BCHW = torch.lt(images_BCHW.detach(), 127.5 / 255, out=torch.empty_like(images_BCHW))
    return images_BCHW + dark_BCHW * per_image(change_B)


@image_op(clamp="straight-through")
def posterize(images_BCHW: torch.Tensor, bits_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Keep the `bits_B` highest of each pixel's 8 bits, rounded to whole bits; straight-through gradient.

    What is cut off halves with each further bit; that is the derivative in the bits.
    """
    # Rounded once more because exp2 is not exact everywhere.
    step_B111 = per_image((8 - bits_B.detach().round()).exp2().round())
    levels_BCHW = (images_BCHW.detach() * 255).round_()
    lost_BCHW = levels_BCHW.sub_((levels_BCHW * (1 / step_B111)).floor_().mul_(step_B111))
    posterized_BCHW = images_BCHW.sub(lost_BCHW, alpha=1 / 255)
    return straight_through(posterized_BCHW, bits_B, lost_BCHW * (math.log(2) / 255))


@image_op(clamp="exact")
def color(images_BCHW: torch.Tensor, change_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Blend with the grey image, or away from it: saturation. Images of one channel stay."""
    return torch.lerp(images_BCHW, _grey(images_BCHW), _blend(images_BCHW, change_B))


@image_op(clamp="exact")
def contrast(images_BCHW: torch.Tensor, change_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Blend with the image's mean grey, or away from it."""
    mean_B111 = _grey(images_BCHW.mean((2, 3), keepdim=True))
    change_B111 = per_image(change_B)
    return (images_BCHW * (1 + change_B111)).sub_(mean_B111 * change_B111)  # a fourth of the time of torch.lerp


@image_op(clamp="exact")
def brightness(images_BCHW: torch.Tensor, change_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Blend with black, or away from it."""
    return images_BCHW * (1 + per_image(change_B))


@image_op(clamp="exact")
def sharpness(images_BCHW: torch.Tensor, change_B: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Blend with the image smoothed by [1 1 1; 1 5 1; 1 1 1] / 13, or away from it; border pixels stay."""
    rows_BChW = (images_BCHW[:, :, :-2] + images_BCHW[:, :, 1:-1]).add_(images_BCHW[:, :, 2:])
    sums_BChw = (rows_BChW[..., :-2] + rows_BChW[..., 1:-1]).add_(rows_BChW[..., 2:])
    # image - smoothed = image - (sum of 3 x 3 + 4 image) / 13. Sums of slices beat conv2d and avg_pool2d on a CPU.
    weight_B111 = per_image(change_B / 13)
    sharpened_BCHW = images_BCHW.clone()
    sharpened_BCHW[..., 1:-1, 1:-1].mul_(1 + 9 * weight_B111).sub_(sums_BChw * weight_B111)
    return sharpened_BCHW


@image_op(clamp="none")
def cutout(images_BCHW: torch.Tensor, side_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
    """Fill a square with mid-grey (0.5); `side_B` is a fraction of the image's shorter side.

    The centre is uniform over the image, so the border may clip the square. The side has the derivative of the mean
    over all places of the square, the border left aside: straight-through.
    """
    height, width = images_BCHW.shape[-2:]
    centre_B2 = uniform(seed_B, 2)
    half_B1 = side_B.detach()[:, None] * (min(height, width) / 2)
    y_H = torch.arange(height, device=images_BCHW.device) + 0.5
    x_W = torch.arange(width, device=images_BCHW.device) + 0.5
    inside_BH = (y_H - centre_B2[:, :1] * height).abs() < half_B1
    inside_BW = (x_W - centre_B2[:, 1:] * width).abs() < half_B1
    # Products of 0 and 1, since filling where a mask holds takes several times as long on a CPU.
    inside_BH, inside_BW = inside_BH.to(images_BCHW.dtype), inside_BW.to(images_BCHW.dtype)
    inside_B1HW = inside_BH[:, None, :, None] * inside_BW[:, None, None, :]
    cut_BCHW = (images_BCHW * (1 - inside_B1HW)).add_(inside_B1HW, alpha=0.5)
    if not side_B.requires_grad:
        return cut_BCHW
    density_B = 2 * side_B * (min(height, width) / max(height, width))
    return straight_through(cut_BCHW, side_B, per_image(density_B) * (0.5 - images_BCHW))


def _blend(images_BCHW: torch.Tensor, change_B: torch.Tensor) -> torch.Tensor:
    """Return the weight (B, 1, 1, 1) that lerp gives to what an image is blended with."""
    return per_image(-change_B).to(images_BCHW.dtype)


def _grey(images_BCHW: torch.Tensor) -> torch.Tensor:
    """Return the luma (B, 1, H, W), with torchvision's weights; images of one channel are grey already."""
    if images_BCHW.shape[1] == 1:
        return images_BCHW
    red_BHW, green_BHW, blue_BHW = images_BCHW.unbind(1)
    return (0.2989 * red_BHW).add(green_BHW, alpha=0.587).add(blue_BHW, alpha=0.114)[:, None]
