"""Size and cost of a network."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from dastune.models.network import Network


def parameter_count(network: Network) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def forward_flops(network: Network, image_CHW: torch.Tensor, frames: int = 1) -> int:
    """Return the floating point operations of one forward pass of one image, as a clip of so many frames.

    Those of convolutions and linear layers; a multiply-add counts as two.
    """
    was_training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(image_CHW.expand(frames, -1, -1, -1))
    network.train(was_training)
    return int(counter.get_total_flops())
