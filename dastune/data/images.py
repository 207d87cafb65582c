"""Images: a part of a data set on a device."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from dastune.data.dataset import Indices, Pixels
from dastune.data.pixel_file import PixelFile

RESIDENT_BYTES = 2 * 2**30  # a part up to this size is copied to a GPU whole: all of SVHN, a hundredth of ImageNet
_BLOCK_BYTES = 64 * 2**20  # of such a copy, at once


class Images:
    """A part of a data set on a device: float batches by position.

    On a GPU a part of at most RESIDENT_BYTES is copied there once. Of a larger one, and on a CPU of one in a file,
    batches are gathered as they are asked for, or ahead, by a thread, where `expect` says so. On a CPU all others are
    gathered from the shared array.
    """

    def __init__(self, pixels: Pixels, labels: Indices, indices: Indices, device: torch.device) -> None:
        self.device = device
        self._indices = indices
        self._pixels: Any = pixels
        self._labels = torch.from_numpy(labels[indices]).to(device)
        self._reader: ThreadPoolExecutor | None = None
        self._ahead: tuple[torch.Tensor, Future[torch.Tensor]] | None = None
        if device.type != "cpu" and len(indices) * int(np.prod(pixels.shape[1:])) <= RESIDENT_BYTES:
            self._pixels = _on(device, pixels, indices)
        elif device.type != "cpu" or isinstance(pixels, PixelFile):
            self._reader = ThreadPoolExecutor(1, "batches")

    def __len__(self) -> int:
        return len(self._indices)

    def expect(self, positions_B: torch.Tensor) -> None:
        """Begin to gather what `batch` will be asked for next, if that takes long; changes no image.

        Where another batch is asked for, it was for nothing.

        Args:
            positions_B: as of `batch`; may be empty, and must not be changed afterwards.
        """
        if self._reader is not None and len(positions_B):
            self._ahead = positions_B, self._reader.submit(self._gathered, positions_B)

    def batch(self, positions_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (images_BCHW float32 in [0, 1], labels_B) at `positions_B` (int64 on the CPU, in 0 .. len - 1)."""
        if self._reader is not None:
            pixels = self._expected(positions_B).to(self.device, non_blocking=True)
            positions_B = positions_B.to(self.device, non_blocking=True)
        elif self.device.type == "cpu":
            pixels = torch.from_numpy(self._pixels[self._indices[positions_B.numpy()]])
        else:
            positions_B = positions_B.to(self.device, non_blocking=True)
            pixels = self._pixels[positions_B]
        return pixels.to(torch.float32).div_(255), self._labels[positions_B]

    def _expected(self, positions_B: torch.Tensor) -> torch.Tensor:
        """Return uint8 pixels_BCHW on the CPU, gathered ahead if they were."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and torch.equal(ahead[0], positions_B):
            return ahead[1].result()
        return self._gathered(positions_B)

    def _gathered(self, positions_B: torch.Tensor) -> torch.Tensor:
        """Return uint8 pixels_BCHW on the CPU, in memory from which a GPU copies while the process goes on."""
        indices = self._indices[positions_B.numpy()]
        shape = (len(indices), *self._pixels.shape[1:])
        pixels_BCHW = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        if isinstance(self._pixels, PixelFile):
            self._pixels.read(indices, pixels_BCHW.numpy())
        else:
            np.take(self._pixels, indices, axis=0, out=pixels_BCHW.numpy(), mode="clip")  # else a copy is made
        return pixels_BCHW


def _on(device: torch.device, pixels: Pixels, indices: Indices) -> torch.Tensor:
    """Return the pixels at `indices` on a device, through few of them in memory."""
    there = torch.empty((len(indices), *pixels.shape[1:]), dtype=torch.uint8, device=device)
    size = max(1, _BLOCK_BYTES // max(1, there[:1].numel()))
    for start in range(0, len(indices), size):
        there[start : start + size] = torch.from_numpy(pixels[indices[start : start + size]])
    return there
