"""TrainedNetwork: a network as a final training leaves it, from pixels to logits; as bytes that hold data only."""

import io
from typing import Any

import torch
from torch import nn

from dastune.models.network import Network
from dastune.models.table import MODELS
from dastune.training.loop import Task

_FORMAT = 1


class TrainedNetwork(nn.Module):
    """Maps images_BCHW, float32 in [0, 1], to logits_BK: normalised as in training, then all in float32.

    Attributes:
        image_CHW: the size of the images that it was tested on.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Network, mean_C11: torch.Tensor, std_C11: torch.Tensor, image_CHW: torch.Size) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean_C11)
        self.register_buffer("std", std_C11)
        self.image_CHW = image_CHW
        self.eval()

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits_BK."""
        logits_BK: torch.Tensor = self.network((images_BCHW - self.mean) / self.std)
        return logits_BK


def trained_to_bytes(task: Task, network: Network) -> bytes:
    """Return a trained network of `task`: weights, and what it takes to build it again."""
    content = {
        "format": _FORMAT,
        "network": task.network,
        "options": dict(task.network_options),
        "classes": task.classes,
        "weights": {name: value.cpu() for name, value in network.state_dict().items()},
        "mean_C11": task.normalise.mean_C11.cpu(),
        "std_C11": task.normalise.std_C11.cpu(),
        "image_CHW": list(task.held_out.batch(torch.zeros(1, dtype=torch.int64))[0][0].shape),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def trained_from_bytes(content: bytes) -> TrainedNetwork:
    """Return the network of `trained_to_bytes`, on the CPU. Raises ValueError if it is of another version."""
    saved: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if saved["format"] != _FORMAT:
        raise ValueError("a trained network of another version of dastune")
    network = MODELS[saved["network"]].build(saved["classes"], **saved["options"])
    network.load_state_dict(saved["weights"])
    return TrainedNetwork(network, saved["mean_C11"], saved["std_C11"], torch.Size(saved["image_CHW"]))
