"""Standard augmentation (crop, flip, cutout), per image and batched, and normalisation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

Transform = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class StandardAugmentation:
    """What every training of a study applies, whatever its policy.

    Attributes:
        crop_px: random crop after zero padding by so many pixels on each side; 0: none.
        flip: mirror left to right with probability 1/2.
        cutout_px: side of a mid-grey square around a random pixel, clipped at the border; 0: none.
    """

    crop_px: int = 0
    flip: bool = False
    cutout_px: int = 0

    def before_policy(self, images_BCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Crop and flip. Images are in [0, 1]; `generator` is on the CPU."""
        batch, _, height, width = images_BCHW.shape
        if self.crop_px:
            padded = F.pad(images_BCHW, [self.crop_px] * 4)
            top, left = (_draw(2 * self.crop_px + 1, batch, generator, images_BCHW.device) for _ in range(2))
            rows = (top[:, None] + torch.arange(height, device=images_BCHW.device))[:, None, :, None]
            columns = (left[:, None] + torch.arange(width, device=images_BCHW.device))[:, None, None, :]
            each = torch.arange(batch, device=images_BCHW.device)[:, None, None, None]
            channels = torch.arange(images_BCHW.shape[1], device=images_BCHW.device)[None, :, None, None]
            images_BCHW = padded[each, channels, rows, columns]
        if self.flip:
            mirrored = _draw(2, batch, generator, images_BCHW.device).bool()[:, None, None, None]
            images_BCHW = torch.where(mirrored, images_BCHW.flip(3), images_BCHW)
        return images_BCHW

    def after_policy(self, images_BCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Cutout (arXiv 1708.04552), filled with mid-grey. `generator` is on the CPU."""
        if not self.cutout_px:
            return images_BCHW
        batch, _, height, width = images_BCHW.shape
        half = self.cutout_px / 2
        inside = []
        for side in (height, width):
            centre = _draw(side, batch, generator, images_BCHW.device)[:, None]
            offset = torch.arange(side, device=images_BCHW.device) - centre
            inside.append((offset >= -half) & (offset < half))
        return images_BCHW.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.5)


def _draw(below: int, count: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Return `count` whole numbers in 0 .. below - 1, drawn on the CPU so that no device is waited for."""
    return torch.randint(below, (count,), generator=generator).to(device, non_blocking=True)


class Normalise:
    """(images - mean) / std per channel: the last thing before the network.

    A channel without spread is only centred.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self._mean = torch.tensor(mean, device=device)[:, None, None]
        self._std = torch.tensor([s if s > 1e-6 else 1.0 for s in std], device=device)[:, None, None]

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return (images_BCHW - self._mean) / self._std
