"""Networks: their size by hand, their shapes, where the last layer is, and where their random numbers come from."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from dastune.models.network import Dropout, Network
from dastune.models.small_cnn import SmallCNN
from dastune.models.table import MODELS
from dastune.models.wide_resnet import WideBlock, WideResNet
from dastune.training.metrics import forward_flops, parameter_count

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("wide_resnet", {"depth": 10, "width": 1, "dropout": 0.3}),
    ("small_cnn", {"channels": 4}),
]
every_network = pytest.mark.parametrize(("name", "options"), NETWORKS, ids=[name for name, _ in NETWORKS])


def built(name: str, options: dict[str, Any], seed: int = 0, classes: int = 7) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name].build(classes, **options)


def counted(depth: int, width: int, classes: int) -> int:
    """Parameters of a Wide ResNet, layer by layer as its paper's Table 1 has them."""
    total, channels = 3 * 16 * 9, 16
    for outputs in (16 * width, 32 * width, 64 * width):
        for block in range((depth - 4) // 6):
            total += 2 * channels + 9 * channels * outputs + 2 * outputs + 9 * outputs**2
            if block == 0 and channels != outputs:
                total += channels * outputs
            channels = outputs
    return total + 2 * channels + classes * (channels + 1)


@pytest.mark.parametrize(
    ("depth", "width", "published"), [(28, 10, 36_479_194), (28, 2, 1_467_610), (40, 2, 2_243_546), (10, 1, 77_850)]
)
def test_wide_resnets_have_their_published_size(depth: int, width: int, published: int) -> None:
    with torch.device("meta"):
        network = WideResNet(10, depth, width)
    assert parameter_count(network) == counted(depth, width, 10) == published


@pytest.mark.parametrize("depth", [4, 9, 12])
def test_a_depth_that_no_wide_resnet_has_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 4 with n >= 1.*; got {depth}"):
        WideResNet(10, depth)


@every_network
@pytest.mark.parametrize("size", [(16, 16), (32, 32), (9, 14)])
def test_logits_are_the_head_of_the_features(name: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    network = built(name, options).eval()
    images = torch.rand(5, 3, *size)
    logits = network(images)
    features = network.features(images)
    assert logits.shape == (5, 7)
    assert features.shape == (5, network.head.in_features)
    assert torch.equal(network.head(features), logits)


@every_network
def test_the_seed_decides_the_weights(name: str, options: dict[str, Any]) -> None:
    first, again, other = (torch.cat([p.flatten() for p in built(name, options, s).parameters()]) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@every_network
def test_the_initial_weights_are_he_s(name: str, options: dict[str, Any]) -> None:
    network = built(name, {**options, **({"channels": 64} if name == "small_cnn" else {"width": 4})})
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.weight.numel() > 5000]
    assert convolutions
    for convolution in convolutions:
        fan_out = convolution.out_channels * convolution.weight[0, 0].numel()
        assert float(convolution.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert not network.head.bias.any()


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 1), (4, 8, 2)])
def test_a_block_is_what_its_paper_says(inputs: int, outputs: int, stride: int) -> None:
    block = WideBlock(inputs, outputs, stride, dropout=0).eval()
    for norm in (block.norm1, block.norm2):
        torch.nn.init.uniform_(norm.weight)
        torch.nn.init.uniform_(norm.bias)
    x = torch.randn(2, inputs, 8, 8)

    def normed(norm: torch.nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = x / (1 + norm.eps) ** 0.5 * norm.weight[:, None, None]
        return scaled + norm.bias[:, None, None]

    active = normed(block.norm1, x).clamp(min=0)
    inner = normed(block.norm2, F.conv2d(active, block.conv1.weight, stride=stride, padding=1)).clamp(min=0)
    residual = F.conv2d(inner, block.conv2.weight, padding=1)
    through = x if block.shortcut is None else F.conv2d(active, block.shortcut.weight, stride=stride)
    torch.testing.assert_close(block(x), through + residual)


def test_flops_of_a_small_net_by_hand() -> None:
    network = SmallCNN(5, channels=2)
    multiply_adds = 8 * 8 * 9 * 3 * 2 + 4 * 4 * 9 * 2 * 4 + 2 * 2 * 9 * 4 * 8 + 8 * 5
    assert forward_flops(network, torch.rand(3, 8, 8)) == 2 * multiply_adds
    assert network.training
    assert not network.eval().training
    forward_flops(network, torch.rand(3, 8, 8))
    assert not network.training


@pytest.mark.parametrize("side", [8, 16, 32, 33])
@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        ("small_cnn", {}, 4),
        ("small_cnn", {"channels": 5}, 4),
        ("wide_resnet", {}, 26),
        ("wide_resnet", {"depth": 10, "width": 1}, 8),
        ("wide_resnet", {"depth": 16, "width": 4, "dropout": 0.3}, 14),
    ],
)
def test_the_closed_form_of_a_network_s_flops_is_what_torch_counts(
    name: str, options: dict[str, Any], layers: int, side: int
) -> None:
    network = built(name, options)
    arithmetic = MODELS[name].arithmetic(7, side, **options)
    assert arithmetic.flops == forward_flops(network, torch.rand(3, side, side))
    # Shortcuts lie beside the others.
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    in_a_row = [
        module for key, module in network.named_modules() if isinstance(module, kinds) and "shortcut" not in key
    ]
    assert arithmetic.layers == len(in_a_row) == layers


def test_dropout_keeps_the_mean_and_nothing_drops_in_evaluation() -> None:
    dropout = Dropout(0.3)
    ones = torch.ones(100, 400)
    dropped = dropout(ones)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / ones.numel()) ** 0.5)
    assert not torch.equal(dropout(ones), dropped)
    assert torch.equal(dropout.eval()(ones), ones)


def test_dropout_leaves_torch_s_own_generator_alone_and_resumes() -> None:
    first, second = built(*NETWORKS[0], seed=0), built(*NETWORKS[0], seed=1)
    images = torch.rand(4, 3, 8, 8)
    before = torch.get_rng_state()
    first(images)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images), second(images))
    assert torch.equal(torch.get_rng_state(), before)
