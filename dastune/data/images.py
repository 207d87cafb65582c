"""Images: a part of a data set on a device."""

from typing import Any

import torch

from dastune.data.dataset import Indices, Pixels


class Images:
    """A part of a data set on a device: float batches by position.

    On a GPU the part's uint8 pixels are copied there once; on a CPU batches are gathered from the shared array.
    """

    def __init__(self, pixels: Pixels, labels: Indices, indices: Indices, device: torch.device) -> None:
        self.device = device
        self._indices = indices
        self._pixels: Any = pixels
        self._labels = torch.from_numpy(labels[indices]).to(device)
        if device.type != "cpu":
            self._pixels = torch.from_numpy(pixels[indices]).to(device)

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, positions_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (images_BCHW float32 in [0, 1], labels_B) at `positions_B` (int64 on the CPU, in 0 .. len - 1)."""
        if self.device.type == "cpu":
            pixels = torch.from_numpy(self._pixels[self._indices[positions_B.numpy()]])
        else:
            positions_B = positions_B.to(self.device, non_blocking=True)
            pixels = self._pixels[positions_B]
        return pixels.to(torch.float32).div_(255), self._labels[positions_B]
