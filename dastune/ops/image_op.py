"""What all ops share: their inputs are checked and their output is cut to [0, 1] here, once, around the op."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from dastune.ops.table import OpFunction

Clamp = Literal["none", "exact", "straight-through"]


def image_op(clamp: Clamp) -> "Callable[[OpFunction], OpFunction]":
    """Return the decorator that makes an op of a function, whose results it cuts to [0, 1] as `clamp` says.

    "none" is for ops that cannot leave [0, 1], and "straight-through" for those that leave it by rounding only: a white
    pixel must not lose its gradient for being at 1.0000001. The op raises ValueError unless images are (B, C, H, W),
    arguments (B,) and seeds (B,).
    """

    def decorate(function: "OpFunction") -> "OpFunction":
        @wraps(function)
        def op(images_BCHW: torch.Tensor, argument_B: torch.Tensor, seed_B: torch.Tensor) -> torch.Tensor:
            if images_BCHW.ndim != 4 or not argument_B.shape == seed_B.shape == images_BCHW.shape[:1]:
                raise ValueError(
                    f"{function.__name__} needs images of shape (B, C, H, W), and arguments and seeds of shape (B,), "
                    f"one per image; it got images {tuple(images_BCHW.shape)}, arguments {tuple(argument_B.shape)} and "
                    f"seeds {tuple(seed_B.shape)}"
                )
            return clamped(function(images_BCHW, argument_B, seed_B), clamp)

        return op

    return decorate


def clamped(images_BCHW: torch.Tensor, clamp: Clamp) -> torch.Tensor:
    """Return the images, in place where that keeps the gradient, cut to [0, 1].

    "straight-through" passes the gradient of all pixels, "exact" of those inside only, the ends included.
    """
    if clamp == "exact" and images_BCHW.requires_grad:
        # On the way back torch.clamp takes a CPU several times as long; and some versions leave the ends out.
        kept_BCHW = images_BCHW.detach().clamp(0, 1)
        inside_BCHW = torch.eq(images_BCHW.detach(), kept_BCHW, out=torch.empty_like(kept_BCHW))
        return (images_BCHW * inside_BCHW).add_(kept_BCHW.sub_(kept_BCHW * inside_BCHW))
    if clamp != "none":
        images_BCHW.detach().clamp_(0, 1)
    return images_BCHW


def straight_through(
    images_BCHW: torch.Tensor, argument_B: torch.Tensor, derivative_BCHW: torch.Tensor
) -> torch.Tensor:
    """Return the images with `derivative_BCHW` as their derivative in the argument, whose own has been lost."""
    if not argument_B.requires_grad:
        return images_BCHW
    return images_BCHW + per_image(argument_B - argument_B.detach()) * derivative_BCHW.detach()


def per_image(argument_B: torch.Tensor) -> torch.Tensor:
    """Return `argument_B` as (B, 1, 1, 1), to meet images (B, C, H, W)."""
    return argument_B[:, None, None, None]
