"""Gate-Shift-Fuse (Sudhakaran, Escalera and Lanz, TPAMI 2023, arXiv 2203.08897): 2-D networks that read clips."""

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  the name everyone gives it
from torchvision.models.resnet import BasicBlock, Bottleneck

from dastune.models.wide_resnet import WideBlock


class GateShiftFuse(nn.Module):
    """Moves gated features to the neighbouring frames and fuses them with what stays; (B T, C, H, W) to the same.

    Of the first p channels, y = tanh(gate) x is shifted by one frame with zero fill, half of the channels from the next
    frame and half from the one before; r = x - y stays; both are added with weights w and 1 - w, and the channels of
    each half interleaved. Gates come from a 3 x 3 x 3 convolution of batch-normalised features, one for each half; w,
    one for each channel and frame, from a 3 x 3 convolution of the spatial means of both, channels by frames. The other
    channels pass.

    29 p + 40 parameters; some 54 p multiply-adds a pixel and frame, of which half are with zeros (`_gates`). The frames
    of a clip follow each other in the batch.

    Args:
        channels: C, at least 4.
        frames: T.
        fraction: p is this share of C, rounded up to a multiple of 4 as long as there are so many channels.

    Raises:
        ValueError: fewer than 4 channels.
    """

    def __init__(self, channels: int, frames: int, fraction: float = 0.25) -> None:
        super().__init__()
        if channels < 4:
            raise ValueError(f"Gate-Shift-Fuse needs at least 4 channels, got {channels}")
        self.frames = frames
        wanted = max(1, math.ceil(round(fraction * channels, 6)))
        self.shifted = min(-(-wanted // 4), channels // 4) * 4
        self.norm = nn.BatchNorm2d(self.shifted)
        # A 3-D convolution in two groups, as a 2-D one of its steps in time: for each gate its weights for the frame
        # before, the frame and the one after. Torch's own initialisation of the 3-D one.
        self.gate_weight = nn.Parameter(torch.empty(2, 3, self.shifted // 2, 3, 3).flatten(0, 1))
        self.gate_bias = nn.Parameter(torch.empty(2))
        bound = (27 * self.shifted / 2) ** -0.5
        nn.init.uniform_(self.gate_weight, -bound, bound)
        nn.init.uniform_(self.gate_bias, -bound, bound)
        self.fuse = nn.ModuleList([nn.Conv2d(2, 1, 3, padding=1) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of all frames, (B T, C, H, W), laid out in memory as `x` is."""
        layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        # A few of many channels lie in memory in short pieces, on which everything is slow.
        part_NpHW, rest_NcHW = x[:, : self.shifted].contiguous(), x[:, self.shifted :]
        gates_BT2HW = torch.unflatten(self._gates(part_NpHW), 0, (-1, self.frames))
        clips_BTpHW = torch.unflatten(part_NpHW, 0, (-1, self.frames))
        halves = zip(clips_BTpHW.chunk(2, 2), gates_BT2HW.chunk(2, 2), self.fuse, strict=True)
        fused = [_fused(half, gate, fuse, after=place == 0) for place, (half, gate, fuse) in enumerate(halves)]
        fused_NpHW = torch.cat(fused, 2).flatten(0, 1).contiguous(memory_format=layout)
        return torch.cat([fused_NpHW, rest_NcHW], 1) if rest_NcHW.shape[1] else fused_NpHW

    def _gates(self, part_NpHW: torch.Tensor) -> torch.Tensor:
        """Return both gates of each frame, (B T, 2, H, W), in (-1, 1)."""
        half = self.shifted // 2
        first, second = self.gate_weight.chunk(2)
        # Zeros in place of groups, which no CPU's library is fast at.
        weight_6p33 = torch.cat([F.pad(first, (0, 0, 0, 0, 0, half)), F.pad(second, (0, 0, 0, 0, half, 0))])
        taps_N6HW = F.conv2d(F.relu(self.norm(part_NpHW)), weight_6p33, padding=1)
        taps_BT23HW = torch.unflatten(torch.unflatten(taps_N6HW, 1, (2, 3)), 0, (-1, self.frames))
        before, now, after = taps_BT23HW.unbind(3)
        gates_BT2HW = now + _moved(before, after=False) + _moved(after, after=True)
        return torch.tanh(gates_BT2HW.flatten(0, 1) + self.gate_bias[:, None, None])


def _moved(clips_BTcHW: torch.Tensor, *, after: bool) -> torch.Tensor:
    """Return for each frame the one after it, or the one before it; zeros where there is none."""
    nothing = torch.zeros_like(clips_BTcHW[:, :1])
    return torch.cat([clips_BTcHW[:, 1:], nothing] if after else [nothing, clips_BTcHW[:, :-1]], 1)


def _fused(half_BTcHW: torch.Tensor, gate_BT1HW: torch.Tensor, fuse: nn.Module, *, after: bool) -> torch.Tensor:
    """Return a half of the channels fused with what came from the frame after, or before; channels interleaved."""
    gated_BTcHW = half_BTcHW * gate_BT1HW
    stays_BTcHW, came_BTcHW = half_BTcHW - gated_BTcHW, _moved(gated_BTcHW, after=after)
    means_B2cT = torch.stack([came_BTcHW.mean((3, 4)), stays_BTcHW.mean((3, 4))], 1).transpose(2, 3)
    weight_BTc = torch.sigmoid(fuse(means_B2cT)).squeeze(1).transpose(1, 2)
    fused_BTcHW = torch.lerp(stays_BTcHW, came_BTcHW, weight_BTc[..., None, None].to(came_BTcHW.dtype))
    return torch.unflatten(fused_BTcHW, 2, (2, -1)).transpose(2, 3).flatten(2, 3)


def insert_gate_shift_fuse(model: nn.Module, frames: int, fraction: float = 0.25) -> None:
    """Insert a module after the last convolution of each residual block of `model`, before all that follows it.

    That is how DAS' authors have it (Table 10's parameters are those of a quarter of the channels).

    Args:
        model: a ResNet of torchvision, or a `ResNet` or `WideResNet` of dastune; changed in place. It then maps
            (B T, C, H, W), the frames of a clip one after the other.
        frames: T.
        fraction: share of the channels, in (0, 1].

    Raises:
        ValueError: the model has no residual blocks.
    """
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck | WideBlock)]
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no residual blocks, into which Gate-Shift-Fuse could be inserted")
    for block in blocks:
        name = "conv3" if isinstance(block, Bottleneck) else "conv2"
        convolution: nn.Conv2d = getattr(block, name)
        module = GateShiftFuse(convolution.out_channels, frames, fraction).to(convolution.weight.device)
        setattr(block, name, nn.Sequential(convolution, module))
