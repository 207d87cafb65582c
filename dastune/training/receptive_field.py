"""Effective receptive fields of trained networks, by input gradients (Luo et al., NeurIPS 2016; DAS, Figure 8)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dastune.models.network import Network
from dastune.training.loop import Task
from dastune.training.receptive_map import ReceptiveField

IMAGES, LARGE_IMAGES = 32, 8  # that a field is the mean of; LARGE_IMAGES of those above LARGE_PX
LARGE_PX = 64
BATCH_PIXELS = 2**15  # of images at a time, with all their frames: a third of a training batch of the paper's


def measured(
    task: Task, network: Network, tested: Callable[[torch.Tensor], torch.Tensor], label: str
) -> ReceptiveField:
    """Return the receptive field of a trained network, on a few of the task's held-out images, evenly taken from all.

    Args:
        tested: maps images_BCHW in [0, 1] to what the network is tested on: themselves, or clip_BTCHW.
        label: the network in a word.

    Raises:
        ValueError: as `receptive_field`.
    """
    held_out = len(task.held_out)
    height, width = task.held_out.batch(torch.zeros(1, dtype=torch.int64))[0].shape[-2:]
    wanted = min(held_out, IMAGES if max(height, width) <= LARGE_PX else LARGE_IMAGES)
    images_BCHW, _ = task.held_out.batch(torch.arange(wanted) * held_out // wanted)
    map_HW = receptive_field(task, network, images_BCHW, tested)
    return ReceptiveField.of(map_HW, wanted, label, task.frames)


def receptive_field(
    task: Task,
    network: Network,
    images_BCHW: torch.Tensor,
    make_clip: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> NDArray[np.float32]:
    """Return how much each pixel of an image moves the centre unit of a network's last feature map.

    The unit is that at (height // 2, width // 2) of what the last AdaptiveAvgPool2d averages, summed over channels, and
    where the network reads clips its mean over frames. The map is the absolute value of its derivative with respect to
    the image's pixels, summed over colours: through the clip, too, so that what moves with the frames is seen where it
    is in the image. It is the mean over the images, scaled to a peak of 1.

    The network computes in float32, as it is tested: with its running statistics, which stay as they are, as do its
    weights, their gradients, its mode, and all generators but what `make_clip` draws from. Memory is that of
    BATCH_PIXELS of images, or of one.

    Args:
        images_BCHW: in [0, 1], on the task's device.
        make_clip: maps images_BCHW to clip_BTCHW, differentiably; None: the network is shown the images, or as many
            copies of each as it reads.

    Returns:
        map_HW: in [0, 1].

    Raises:
        ValueError: there is no image, no such pool, or no pixel that moves the unit; or it moves without bounds.
    """
    pools = [module for module in network.features.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if not pools or not len(images_BCHW):
        raise ValueError("a receptive field needs an image, and a network with an AdaptiveAvgPool2d")
    task = replace(task, precision="float32")
    maps: list[torch.Tensor] = []
    hook = pools[-1].register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    was_training = network.training
    network.eval()
    total_HW = torch.zeros(images_BCHW.shape[-2:], dtype=torch.float64)
    try:
        size = max(1, BATCH_PIXELS // images_BCHW[0, 0].numel())
        for part_BCHW in torch.split(images_BCHW, size):
            with torch.enable_grad():
                pixels_BCHW = part_BCHW.detach().requires_grad_()
                seen = pixels_BCHW if make_clip is None else make_clip(pixels_BCHW)
                task.features(network, seen)
                features_NFHW = maps.pop()  # N: images, or frames of all images
                height, width = features_NFHW.shape[-2:]
                unit = features_NFHW[:, :, height // 2, width // 2].sum() * len(part_BCHW) / len(features_NFHW)
                (slope_BCHW,) = torch.autograd.grad(unit, pixels_BCHW)
            total_HW += slope_BCHW.abs().sum((0, 1)).double().cpu()
    finally:
        hook.remove()
        network.train(was_training)
    peak = float(total_HW.max())
    if not 0 < peak < float("inf"):
        raise ValueError(f"no pixel moves the centre unit by a finite amount above 0 (peak {peak:g})")
    map_HW: NDArray[np.float32] = (total_HW / peak).numpy().astype(np.float32)
    return map_HW
