"""Gate-Shift-Fuse against its formulae written out in loops, its limits, its size, and where it is inserted."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.models.gate_shift_fuse import GateShiftFuse, insert_gate_shift_fuse
from dastune.models.resnet import ResNet
from dastune.models.small_cnn import SmallCNN
from dastune.models.wide_resnet import WideResNet

FRAMES = 3
Features = torch.Tensor


def module_of(channels: int, frames: int = FRAMES, fraction: float = 0.5, seed: int = 0) -> GateShiftFuse:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = GateShiftFuse(channels, frames, fraction).double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.5)
    return module


def features(channels: int, clips: int = 2, frames: int = FRAMES, height: int = 4, width: int = 5) -> Features:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(clips * frames, channels, height, width, generator=generator, dtype=torch.float64)


def plain(module: GateShiftFuse, x: Features) -> Features:
    """The formulae, one number at a time as far as it goes: gate, shift, fuse, interleave."""
    p, frames = module.shifted, module.frames
    clips = len(x) // frames
    x5 = x.unflatten(0, (clips, frames)).transpose(1, 2)  # B, C, T, H, W
    part = x5[:, :p]
    mean = part.mean((0, 2, 3, 4), keepdim=True)
    variance = ((part - mean) ** 2).mean((0, 2, 3, 4), keepdim=True)
    shape = (1, p, 1, 1, 1)
    normal = (part - mean) / (variance + 1e-5).sqrt() * module.norm.weight.view(shape) + module.norm.bias.view(shape)
    weight_ = module.gate_weight.unflatten(0, (2, 3)).transpose(1, 2)  # 2, p / 2, 3, 3, 3
    gate = torch.tanh(F.conv3d(normal.clamp(min=0), weight_, module.gate_bias, padding=1, groups=2))
    halves = []
    for g in range(2):
        own = part[:, g * p // 2 : (g + 1) * p // 2]
        y = gate[:, g : g + 1] * own
        r = own - y
        shifted = torch.zeros_like(y)
        for t in range(frames):
            source = t + 1 if g == 0 else t - 1
            if 0 <= source < frames:
                shifted[:, :, t] = y[:, :, source]
        both = torch.stack([shifted.mean((3, 4)), r.mean((3, 4))], 1)  # B, 2, p / 2, T
        w = torch.sigmoid(module.fuse[g](both))[:, 0, :, :, None, None]
        fused = w * shifted + (1 - w) * r
        order = [b + a * (p // 4) for b in range(p // 4) for a in range(2)]
        halves.append(fused[:, order])
    whole = torch.cat([*halves, x5[:, p:]], 1)
    return whole.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize(("channels", "fraction"), [(8, 1.0), (12, 0.6), (16, 0.25), (7, 0.5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_formulae_forward_and_back(channels: int, fraction: float, layout: torch.memory_format) -> None:
    module, x = module_of(channels, fraction=fraction), features(channels).contiguous(memory_format=layout)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for function in (module, lambda at: plain(module, at)):
        at = x.clone().requires_grad_()
        out = function(at)
        wanted = [at, *module.parameters()]
        results.append((out, torch.autograd.grad((out * weights).sum(), wanted)))
    (out, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=layout)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def interleaved(p: int) -> list[int]:
    half = [b + a * (p // 4) for b in range(p // 4) for a in range(2)]
    return [*half, *(p // 2 + c for c in half)]


def with_constant_fusion(module: GateShiftFuse, bias: float) -> None:
    with torch.no_grad():
        for fuse in module.fuse:
            fuse.weight.zero_()
            fuse.bias.fill_(bias)


def test_a_closed_gate_is_the_2d_network() -> None:
    module, x = module_of(16), features(16)
    with torch.no_grad():
        module.gate_weight.zero_()
        module.gate_bias.zero_()
    with_constant_fusion(module, -math.inf)
    expected = x.clone()
    expected[:, : module.shifted] = x[:, interleaved(module.shifted)]
    torch.testing.assert_close(module(x), expected)


def test_an_open_gate_is_a_temporal_shift_with_zeros_at_the_ends() -> None:
    module, x = module_of(8, frames=4, fraction=1.0), features(8, clips=3, frames=4)
    with torch.no_grad():
        module.gate_weight.zero_()
        module.gate_bias.fill_(50.0)
    with_constant_fusion(module, math.inf)
    out = module(x).unflatten(0, (3, 4))
    clips = x[:, interleaved(8)].unflatten(0, (3, 4))
    for t in range(4):
        ahead = clips[:, t + 1, :4] if t < 3 else torch.zeros_like(clips[:, 0, :4])
        behind = clips[:, t - 1, 4:] if t > 0 else torch.zeros_like(clips[:, 0, 4:])
        torch.testing.assert_close(out[:, t, :4], ahead)
        torch.testing.assert_close(out[:, t, 4:], behind)


def test_no_clip_sees_another() -> None:
    module, x = module_of(8).eval(), features(8, clips=2)
    together = module(x)
    torch.testing.assert_close(together[:FRAMES], module(x[:FRAMES]))


@pytest.mark.parametrize("shifted", [4, 8, 16, 64])
def test_parameters_are_29_p_and_40(shifted: int) -> None:
    module = GateShiftFuse(4 * shifted, 8, 0.25)
    assert module.shifted == shifted
    assert sum(parameter.numel() for parameter in module.parameters()) == 29 * shifted + 40


@pytest.mark.parametrize(
    ("channels", "fraction", "shifted"), [(16, 0.25, 4), (20, 0.25, 8), (64, 1.0, 64), (6, 1.0, 4), (160, 0.1, 16)]
)
def test_channels_are_rounded_up_to_fours(channels: int, fraction: float, shifted: int) -> None:
    assert GateShiftFuse(channels, 8, fraction).shifted == shifted


def test_fewer_than_four_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 channels, got 3"):
        GateShiftFuse(3, 8)


# Table 10 of the DAS paper: 11.18 M and 11.20 M for ResNet-18 with 10 classes, + 0.11 M for PSPNet with ResNet-50.
def test_parameters_of_the_paper_s_networks() -> None:
    def count(network: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    eighteen, fifty = ResNet(10, 18), ResNet(10, 50)
    assert count(eighteen) == 11_181_642
    before = count(fifty)
    for network in (eighteen, fifty):
        insert_gate_shift_fuse(network, 8, 0.25)
    assert count(eighteen) == 11_195_882
    assert count(fifty) - before == 110_144


@pytest.mark.parametrize(
    ("make", "modules"),
    [
        (lambda: torchvision.models.resnet18(num_classes=10), 8),
        (lambda: torchvision.models.resnet50(num_classes=10), 16),
        (lambda: ResNet(10, 34, stem="small"), 16),
        (lambda: WideResNet(10, 16, 1), 6),
    ],
)
def test_it_stands_after_the_last_convolution_of_every_block(make: Callable[[], torch.nn.Module], modules: int) -> None:
    network = make()
    insert_gate_shift_fuse(network, 4)
    found = [module for module in network.modules() if isinstance(module, GateShiftFuse)]
    assert len(found) == modules
    for name, module in network.named_modules():
        if isinstance(module, GateShiftFuse):
            block, convolution = name.split(".")[:-2], name.split(".")[-2]
            bottleneck = isinstance(network.get_submodule(".".join(block)), torchvision.models.resnet.Bottleneck)
            assert convolution == ("conv3" if bottleneck else "conv2")
    assert network(torch.rand(8, 3, 32, 32)).shape == (8, 10)


@pytest.mark.parametrize("make", [lambda: ResNet(10), lambda: WideResNet(10, 10, 1)])
def test_closed_gates_everywhere_leave_the_network_as_it_is(make: Callable[[], torch.nn.Module]) -> None:
    torch.manual_seed(3)
    network = make().double().eval()
    images = torch.rand(8, 3, 32, 32, dtype=torch.float64)
    expected = network(images)
    insert_gate_shift_fuse(network, 4)
    network.double().eval()
    for module in network.modules():
        if isinstance(module, GateShiftFuse):
            with torch.no_grad():
                module.gate_weight.zero_()
                module.gate_bias.zero_()
            with_constant_fusion(module, -math.inf)
            # What is interleaved is put back, by hand.
            module.register_forward_hook(
                lambda module, _, out: torch.cat(
                    [
                        out[:, torch.tensor(interleaved(module.shifted)).argsort()],
                        out[:, module.shifted :],
                    ],
                    1,
                )
            )
    torch.testing.assert_close(network(images), expected)


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="SmallCNN has no residual blocks"):
        insert_gate_shift_fuse(SmallCNN(10), 8)


def test_second_derivatives() -> None:
    module, x = module_of(8, frames=2, fraction=1.0), features(8, clips=1, frames=2, height=2, width=2)
    assert torch.autograd.gradgradcheck(module, [x.requires_grad_()], atol=1e-4)


def test_a_whole_step_on_another_device() -> None:
    with torch.device("meta"):
        network = ResNet(10)
        insert_gate_shift_fuse(network, 4)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        network(torch.zeros(8, 3, 32, 32)).square().mean().backward()
        optimiser.step()
    with FakeTensorMode():
        with torch.device("cuda"):
            network = WideResNet(10, 10, 1)
            block = network.get_submodule("features.1")
            block.conv2 = torch.nn.Sequential(block.conv2, GateShiftFuse(16, 4))
        assert network(torch.zeros(8, 3, 32, 32, device="cuda")).device.type == "cuda"
