"""TrainedNetwork: a network as a final training leaves it, from pixels to logits; as bytes that hold data only."""

import io
from typing import Any

import torch
from torch import nn

from dastune.augment.video import ClipTransform
from dastune.models.gate_shift_fuse import insert_gate_shift_fuse
from dastune.models.network import Network
from dastune.models.table import MODELS
from dastune.policy.policy import Clip, policy_to_json
from dastune.training.loop import Task, clips_of

_FORMAT = 2  # 1 had no clips


class TrainedNetwork(nn.Module):
    """Maps images_BCHW, float32 in [0, 1], to logits_BK: normalised as in training, then all in float32.

    A network that reads clips is given those that it was tested on: made by the found cell, with frames in time, or
    copies of the image. Its logits are the mean over frames.

    Attributes:
        image_CHW: the size of the images that it was tested on.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: Network,
        mean_C11: torch.Tensor,
        std_C11: torch.Tensor,
        image_CHW: torch.Size,
        frames: int = 1,
        clip: Clip | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._frames = frames
        self._clips = None if clip is None else ClipTransform(clip, torch.Generator())
        self.register_buffer("mean", mean_C11)
        self.register_buffer("std", std_C11)
        self.image_CHW = image_CHW
        self.eval()

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits_BK."""
        if self._frames == 1:
            logits_BK: torch.Tensor = self.network((images_BCHW - self.mean) / self.std)
            return logits_BK
        clip_BTCHW = clips_of(images_BCHW if self._clips is None else self._clips(images_BCHW), self._frames)
        logits_NK: torch.Tensor = self.network((clip_BTCHW.flatten(0, 1) - self.mean) / self.std)
        return logits_NK.view(-1, self._frames, logits_NK.shape[1]).mean(1)


def trained_to_bytes(task: Task, network: Network, clip: Clip | None = None) -> bytes:
    """Return a trained network of `task`: weights, and what it takes to build it again.

    Args:
        clip: what the network was tested on, where that was clips of a cell.
    """
    content = {
        "format": _FORMAT,
        "network": task.network,
        "options": dict(task.network_options),
        "classes": task.classes,
        "weights": {name: value.cpu() for name, value in network.state_dict().items()},
        "mean_C11": task.normalise.mean_C11.cpu(),
        "std_C11": task.normalise.std_C11.cpu(),
        "frames": task.frames,
        "fusion": task.fusion,
        "clip": None if clip is None else policy_to_json(clip.model_copy(update={"order": "time"})),
        "image_CHW": list(task.held_out.batch(torch.zeros(1, dtype=torch.int64))[0][0].shape),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def trained_from_bytes(content: bytes) -> TrainedNetwork:
    """Return the network of `trained_to_bytes`, on the CPU. Raises ValueError if it is of another version."""
    saved: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if saved["format"] not in (1, _FORMAT):
        raise ValueError("a trained network of another version of dastune")
    network = MODELS[saved["network"]].build(saved["classes"], **saved["options"])
    if (frames := saved.get("frames", 1)) > 1:
        insert_gate_shift_fuse(network, frames, saved["fusion"])
    network.load_state_dict(saved["weights"])
    clip = Clip.model_validate(saved["clip"]) if saved.get("clip") else None
    image_CHW = torch.Size(saved["image_CHW"])
    return TrainedNetwork(network, saved["mean_C11"], saved["std_C11"], image_CHW, frames, clip)
