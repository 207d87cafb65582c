"""Standard augmentation (crop, flip, cutout), per image and batched, and normalisation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.augment.steps import uniform_draws

Transform = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class StandardAugmentation:
    """What a training does to its images before and after its policy; as it stands, nothing.

    What happens to an image is decided by one row of numbers before the policy and one after it: two batches, one after
    the other, come out as one batch of both would, bit for bit.

    Attributes:
        crop_px: random crop after zero padding by so many pixels on each side; 0: none.
        flip: mirror left to right with probability 1/2.
        cutout_px: side of a mid-grey square around a random pixel, clipped at the border; 0: none.
    """

    crop_px: int = 0
    flip: bool = False
    cutout_px: int = 0

    def before_policy(self, images_BCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Crop and flip.

        Args:
            images_BCHW: in [0, 1].
            generator: on the CPU. An image takes three numbers; none if neither is asked for.
        """
        if not (self.crop_px or self.flip):
            return images_BCHW
        batch, channels, height, width = images_BCHW.shape
        device = images_BCHW.device
        offsets = 2 * self.crop_px + 1
        # Always all three, so that the crops are the same with flips and without.
        top_B, left_B, mirrored_B = _drawn((offsets, offsets, 2), batch, generator, device)
        if self.crop_px:
            padded = F.pad(images_BCHW, [self.crop_px] * 4)
            rows = (top_B[:, None] + torch.arange(height, device=device))[:, None, :, None]
            columns = (left_B[:, None] + torch.arange(width, device=device))[:, None, None, :]
            each = torch.arange(batch, device=device)[:, None, None, None]
            images_BCHW = padded[each, torch.arange(channels, device=device)[None, :, None, None], rows, columns]
        if self.flip:
            images_BCHW = torch.where(mirrored_B.bool()[:, None, None, None], images_BCHW.flip(3), images_BCHW)
        return images_BCHW

    def after_policy(self, images_BCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Cutout (arXiv 1708.04552), filled with mid-grey.

        Args:
            images_BCHW: in [0, 1].
            generator: on the CPU. An image takes two numbers; none if no cutout is asked for.
        """
        if not self.cutout_px:
            return images_BCHW
        batch, _, *size_HW = images_BCHW.shape
        half = self.cutout_px / 2
        inside = []
        for side, centre_B in zip(size_HW, _drawn(size_HW, batch, generator, images_BCHW.device), strict=True):
            offset = torch.arange(side, device=images_BCHW.device) - centre_B[:, None]
            inside.append((offset >= -half) & (offset < half))
        return images_BCHW.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.5)


def _drawn(
    below_D: Sequence[int], count: int, generator: torch.Generator, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Return `count` whole numbers in 0 .. below - 1 for each of `below_D`, drawn so that no device is waited for."""
    draws_BD = uniform_draws(count, len(below_D), generator)
    # The draws are at most 1 - 2^-53, and a float64 product of that and n is below n.
    return (draws_BD * torch.tensor(below_D)).long().to(device, non_blocking=True).unbind(1)


class Normalise:
    """(images - mean) / std per channel: the last thing before the network.

    A channel without spread is only centred.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.mean_C11 = torch.tensor(mean, device=device)[:, None, None]
        self.std_C11 = torch.tensor([s if s > 1e-6 else 1.0 for s in std], device=device)[:, None, None]

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return (images_BCHW - self.mean_C11) / self.std_C11
