"""ResNets against torchvision's own, and their arithmetic against torch's counter."""

from typing import Any, Literal

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from dastune.models import arithmetic
from dastune.models.gate_shift_fuse import insert_gate_shift_fuse
from dastune.models.resnet import ResNet
from dastune.training.metrics import forward_flops


@pytest.mark.parametrize("depth", [18, 50])
def test_it_is_torchvision_s(depth: int) -> None:
    torch.manual_seed(0)
    network, reference = ResNet(7, depth).eval(), getattr(torchvision.models, f"resnet{depth}")(num_classes=7).eval()
    values = list(network.state_dict().values())
    reference.load_state_dict(dict(zip(reference.state_dict(), values, strict=True)))
    images = torch.rand(2, 3, 48, 40)
    torch.testing.assert_close(network(images), reference(images))


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("side", [32, 49])
def test_arithmetic_is_torch_s_count(depth: int, stem: Literal["imagenet", "small"], side: int) -> None:
    with torch.device("meta"):
        network = ResNet(10, depth, stem).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, side, side))
    assert arithmetic.resnet(10, side, depth, stem).flops == counter.get_total_flops()


def test_the_small_stem_keeps_the_size() -> None:
    network = ResNet(10, stem="small", dropout=0.5)
    sizes: list[Any] = []
    network.features[3].register_forward_hook(lambda *at: sizes.append(at[2].shape))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == [torch.Size([2, 64, 32, 32])]


def test_flops_of_table_10_s_row() -> None:
    """The printed 37.12 MFLOPs are multiply-adds of one frame; see docs/video.md."""
    network, image_CHW = ResNet(10), torch.rand(3, 32, 32)
    plain = forward_flops(network, image_CHW)
    assert plain == 2 * 37_016_576
    # Batch norm's two operations a value, as some counters add: the printed number, to its last digit.
    seen = 0

    def count(_: Any, __: Any, out: torch.Tensor) -> None:
        nonlocal seen
        seen += out.numel()

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(count)
    network.eval()(image_CHW[None])
    assert seen == 50_688
    assert f"{(37_016_576 + 2 * seen) / 1e6:.2f}" == "37.12"
    insert_gate_shift_fuse(network, 8)
    video = forward_flops(network, image_CHW, 8)
    sides = {64: 8, 128: 4, 256: 2, 512: 1}  # channels -> pixels, in two blocks each
    gates = sum(2 * 54 * (channels // 4) * side**2 for channels, side in sides.items())
    fusions = sum(2 * 2 * 18 * (channels // 8) for channels in sides)  # of two halves; a weight a channel and frame
    assert video == 2 * 8 * (37_016_576 + gates + fusions)
