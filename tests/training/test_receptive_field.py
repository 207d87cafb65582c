"""Receptive fields against closed forms, finite differences and brute force; what they leave alone; their file."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import convolve2d
from torch import nn

from dastune.augment.standard import Normalise
from dastune.augment.video import ClipTransform
from dastune.models.network import Network
from dastune.policy.policy import Clip, Edge, Step
from dastune.training import receptive_field as module
from dastune.training.loop import Task
from dastune.training.receptive_field import measured, receptive_field
from dastune.training.receptive_map import ReceptiveField, averaged, receptive_field_from_text

MakeTask = Callable[..., Task]
CELL = Clip(
    frames=4,
    inputs=2,
    nodes=(
        (Edge(source=0, step=Step(op="translate_x", low=0.1, high=0.1, signed=False)),),
        (
            Edge(source=1, step=Step(op="identity")),
            Edge(source=2, step=Step(op="rotate", low=12, high=12, signed=False)),
        ),
    ),
)


class Plain(Network):
    """Layers, then their mean over pixels; all weights 1."""

    def __init__(self, *layers: nn.Module, pool: bool = True) -> None:
        super().__init__()
        after: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)] if pool else []
        self.features = nn.Sequential(*layers, *after, nn.Flatten())
        for parameter in self.parameters():
            nn.init.ones_(parameter)


def pixels(*shape: int, **options: Any) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), **options)


def conv(inputs: int, outputs: int, side: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


def placed(kernel: NDArray[Any], height: int, width: int, centre: tuple[int, int]) -> NDArray[Any]:
    """Return a map with `kernel` in it, its middle at `centre`, cut at the borders."""
    big = np.zeros((height + 2 * len(kernel), width + 2 * len(kernel)))
    top, left = (at + len(kernel) - len(kernel) // 2 for at in centre)
    big[top : top + len(kernel), left : left + len(kernel)] = kernel
    return big[len(kernel) : -len(kernel), len(kernel) : -len(kernel)]


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_stack_of_3x3_convolutions_is_a_binomial_like_kernel(make_task: MakeTask, layers: int) -> None:
    network = Plain(conv(3, 2), *(conv(2, 2) for _ in range(layers - 1)))
    kernel = np.ones((1, 1))
    for _ in range(layers):
        kernel = convolve2d(kernel, np.ones((3, 3)))
    expected = placed(kernel / kernel.max(), 15, 18, (7, 9))
    map_HW = receptive_field(make_task(), network, pixels(2, 3, 15, 18))
    assert map_HW.dtype == np.float32
    np.testing.assert_allclose(map_HW, expected, atol=1e-6)
    field = ReceptiveField.of(map_HW, 2, "plain", 1)
    for measured_share, of_peak in ((field.half, 0.5), (field.tenth, 0.1)):
        count = sum(expected[row, column] >= of_peak - 1e-9 for row in range(15) for column in range(18))
        assert measured_share == pytest.approx(count / (15 * 18))


def test_the_unit_is_the_centre_of_what_is_averaged_last(make_task: MakeTask) -> None:
    # 16 px in strides of 2 are units at 0, 2, ...: the centre one, (4, 4) of 8 x 8, is at pixel (8, 8).
    map_HW = receptive_field(make_task(), Plain(conv(3, 1, stride=2)), pixels(1, 3, 16, 16))
    np.testing.assert_allclose(map_HW, placed(np.ones((3, 3)), 16, 16, (8, 8)))
    # Of two pools the last one counts: here it averages what the first has made one unit of, the mean of all pixels.
    pooled = Plain(conv(3, 1, side=1), nn.AdaptiveAvgPool2d(1))
    np.testing.assert_allclose(receptive_field(make_task(), pooled, pixels(1, 3, 6, 5)), np.ones((6, 5)))


def units(task: Task, network: Network, frames_NCHW: torch.Tensor) -> torch.Tensor:
    """Return, of each image's frames, the centre unit of what the network's last pool averages."""
    layers = list(network.features)  # type: ignore[call-overload]
    last = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.AdaptiveAvgPool2d))
    maps_NFHW = nn.Sequential(*layers[:last])(task.normalise(frames_NCHW))
    centre_N = maps_NFHW[:, :, maps_NFHW.shape[2] // 2, maps_NFHW.shape[3] // 2].sum(1)
    return centre_N.view(-1, task.frames).mean(1)


def differences(function: Callable[[torch.Tensor], torch.Tensor], images_BCHW: torch.Tensor) -> NDArray[Any]:
    """Return the map by central differences, each pixel of each image by itself."""
    total_CHW, step = torch.zeros(images_BCHW.shape[1:], dtype=torch.float64), 1e-6
    count = total_CHW.numel()
    steps_PCHW = step * torch.eye(count, dtype=torch.float64).view(count, *total_CHW.shape)
    with torch.no_grad():
        for image_CHW in images_BCHW:
            slopes_P = function(image_CHW + steps_PCHW) - function(image_CHW - steps_PCHW)
            total_CHW += slopes_P.abs().view(total_CHW.shape)
    total_HW = total_CHW.sum(0).numpy()
    return np.asarray(total_HW / total_HW.max())


def in_float64(task: Task, dataset: Any) -> tuple[Task, Network]:
    """Return the task in float64 and a network of it whose running statistics are not those it began with."""
    cpu = torch.device("cpu")
    normalise = Normalise(dataset.mean, dataset.std, cpu)
    normalise.mean_C11, normalise.std_C11 = normalise.mean_C11.double(), normalise.std_C11.double()
    task = replace(task, normalise=normalise)
    network = task.new_network(3).double()
    for _ in range(2):
        task.features(network, pixels(8, 3, 8, 8, dtype=torch.float64))
    return task, network


@pytest.mark.parametrize(
    ("name", "options"), [("small_cnn", {"channels": 4}), ("wide_resnet", {"depth": 10, "width": 1})]
)
def test_it_is_what_finite_differences_say(
    make_task: MakeTask, dataset: Any, name: str, options: dict[str, Any]
) -> None:
    task, network = in_float64(make_task(network=name, options=options), dataset)
    images_BCHW = pixels(2, 3, 8, 8, dtype=torch.float64)
    map_HW = receptive_field(task, network, images_BCHW)
    network.eval()
    expected = differences(lambda shown_BCHW: units(task, network, shown_BCHW), images_BCHW)
    np.testing.assert_allclose(map_HW, expected, atol=1e-4)


def test_of_a_clip_it_is_through_the_cell_back_to_the_image(make_task: MakeTask, dataset: Any) -> None:
    options = {"depth": 10, "width": 1}
    task = replace(make_task(network="wide_resnet", options=options), frames=CELL.frames, fusion=0.5)
    task, network = in_float64(task, dataset)
    with torch.no_grad():
        for parameter in network.parameters():  # gates that are open
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    clip = ClipTransform(CELL, torch.Generator())
    images_BCHW = pixels(2, 3, 8, 8, dtype=torch.float64)
    map_HW = receptive_field(task, network, images_BCHW, clip)
    network.eval()
    expected = differences(lambda shown_BCHW: units(task, network, clip(shown_BCHW).flatten(0, 1)), images_BCHW)
    np.testing.assert_allclose(map_HW, expected, atol=1e-4)
    assert np.abs(map_HW - receptive_field(task, network, images_BCHW)).max() > 0.01  # of copies


def test_frames_that_are_shifted_widen_it_to_the_union_of_the_shifts(make_task: MakeTask) -> None:
    shifts = (-3, 0, 2, 2)  # px to the right: a pixel is seen as often as frames bring it to the centre

    def shifted(images_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.stack([images_BCHW.roll(shift, 3) for shift in shifts], 1)

    task = replace(make_task(), frames=len(shifts))
    map_HW = receptive_field(task, Plain(conv(3, 5, side=1)), pixels(3, 3, 9, 11), shifted)
    expected = np.zeros((9, 11))
    for shift in shifts:
        expected[4, 5 - shift] += 0.5
    np.testing.assert_allclose(map_HW, expected, atol=1e-6)
    # An image by itself is shown as copies, which all see the same pixel.
    copies = receptive_field(task, Plain(conv(3, 5, side=1)), pixels(3, 3, 9, 11))
    np.testing.assert_allclose(copies, placed(np.ones((1, 1)), 9, 11, (4, 5)))


def test_slopes_of_frames_add_up_before_their_size_is_taken(make_task: MakeTask) -> None:
    """A frame and its negative cancel: it is how the unit moves with the image, not with its frames."""

    def opposed(images_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.stack([images_BCHW, 1 - images_BCHW, images_BCHW.roll(1, 2)], 1)

    map_HW = receptive_field(replace(make_task(), frames=3), Plain(conv(3, 1, side=1)), pixels(1, 3, 7, 7), opposed)
    np.testing.assert_allclose(map_HW, placed(np.ones((1, 1)), 7, 7, (2, 3)), atol=1e-6)


def test_images_count_alike_however_they_are_batched(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    network, (images_BCHW, _) = task.new_network(0), task.held_out.batch(torch.arange(5))
    whole = receptive_field(task, network, images_BCHW)
    seen = []
    monkeypatch.setattr(module, "BATCH_PIXELS", 2 * 8 * 8)

    def noted(part_BCHW: torch.Tensor) -> torch.Tensor:
        seen.append(len(part_BCHW))
        return part_BCHW

    np.testing.assert_allclose(receptive_field(task, network, images_BCHW, noted), whole, atol=1e-6)
    assert seen == [2, 2, 1]


def test_nothing_is_left_of_it(make_task: MakeTask) -> None:
    task = make_task(network="wide_resnet", options={"depth": 10, "width": 1, "dropout": 0.3})
    network, images_BCHW = task.new_network(0), pixels(2, 3, 8, 8)
    task.logits(network, images_BCHW).sum().backward()  # type: ignore[no-untyped-call]
    before = {name: value.clone() for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    grads = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    with torch.no_grad():
        map_HW = receptive_field(task, network, images_BCHW)
    assert network.training
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value), name
    for parameter, grad in zip(network.parameters(), grads, strict=True):
        assert grad is None if parameter.grad is None else torch.equal(parameter.grad, grad)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[2] == numpy_state[2]  # noqa: NPY002
    assert not any(layer._forward_pre_hooks for layer in network.modules())
    assert images_BCHW.grad is None
    assert not images_BCHW.requires_grad
    # What a network computes in makes no difference: it is always float32.
    np.testing.assert_array_equal(receptive_field(replace(task, precision="bfloat16"), network, images_BCHW), map_HW)


def test_all_of_it_is_on_one_device(make_task: MakeTask, dataset: Any) -> None:
    meta = torch.device("meta")
    task = replace(make_task(), device=meta, normalise=Normalise(dataset.mean, dataset.std, meta))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # to the sum, on the CPU
        receptive_field(task, task.new_network(0), torch.empty(2, 3, 8, 8, device=meta))


@pytest.mark.parametrize(("weight", "peak"), [(0.0, "peak 0"), (float("nan"), "peak nan"), (3e38, "peak inf")])
def test_a_network_that_sees_nothing_has_none(make_task: MakeTask, weight: float, peak: str) -> None:
    network = Plain(conv(3, 2), conv(2, 2))
    for parameter in network.parameters():
        nn.init.constant_(parameter, weight)
    with pytest.raises(ValueError, match=peak):
        receptive_field(make_task(), network, pixels(1, 3, 9, 9))
    assert network.training


def test_what_cannot_be_measured(make_task: MakeTask) -> None:
    with pytest.raises(ValueError, match="AdaptiveAvgPool2d"):
        receptive_field(make_task(), Plain(conv(3, 2), pool=False), pixels(1, 3, 9, 9))
    with pytest.raises(ValueError, match="an image"):
        receptive_field(make_task(), Plain(conv(3, 2)), pixels(0, 3, 9, 9))


def test_a_few_images_from_all_of_the_test_set(make_task: MakeTask) -> None:
    task = make_task()
    network = task.new_network(0)
    field = measured(task, network, lambda images_BCHW: images_BCHW, "small_cnn-4")
    images_BCHW, _ = task.held_out.batch(torch.tensor([k * 130 // 32 for k in range(32)]))
    assert (field.images, field.frames, field.network, field.image_px) == (32, 1, "small_cnn-4", (8, 8))
    np.testing.assert_array_equal(field.map_HW, receptive_field(task, network, images_BCHW))
    clips = replace(task, frames=CELL.frames)
    assert measured(clips, network, ClipTransform(CELL, torch.Generator()), "x").frames == 4


# The file.


def field_of(height: int, width: int) -> ReceptiveField:
    map_HW = np.random.default_rng(0).random((height, width)).astype(np.float32) ** 4
    return ReceptiveField.of(map_HW / map_HW.max(), 8, "resnet-18", 8)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 33), (224, 224), (100, 37)])
def test_a_file_holds_a_small_map_and_the_areas_of_the_large_one(height: int, width: int) -> None:
    field = field_of(height, width)
    map_HW = np.random.default_rng(0).random((height, width)).astype(np.float32) ** 4
    map_HW /= map_HW.max()
    assert field.half == sum(value >= 0.5 for value in map_HW.ravel()) / map_HW.size
    assert field.tenth == sum(value >= np.float32(0.1) for value in map_HW.ravel()) / map_HW.size
    assert max(field.map_HW.shape) == min(64, max(height, width))
    again = receptive_field_from_text(field.text())
    np.testing.assert_allclose(again.map_HW, field.map_HW, atol=0.5001e-3)
    assert replace(again, map_HW=field.map_HW) == field
    assert again.text() == field.text()
    assert len(field.text()) < 30_000


@pytest.mark.parametrize(("height", "width"), [(224, 3), (72, 96), (65, 5)])
def test_a_smaller_map_has_the_means_of_what_its_pixels_cover(height: int, width: int) -> None:
    map_HW = np.random.default_rng(1).random((height, width)).astype(np.float32)
    small_HW = averaged(map_HW)
    rows, columns = small_HW.shape
    # Each pixel cut into as many as the small map has: then all windows are whole.
    fine = map_HW.astype(np.float64).repeat(rows, 0).repeat(columns, 1)
    expected = fine.reshape(rows, height, columns, width).mean((1, 3))
    np.testing.assert_allclose(small_HW, expected, atol=1e-6)
    assert (max(rows, columns), rows * width - columns * height < max(height, width)) == (64, True)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"half": 1.5},
        {"tenth": "0.1"},
        {"half": True},
        {"frames": 0},
        {"images": 2.0},
        {"image_px": [32]},
        {"image_px": 32},
        {"map_HW": []},
        {"map_HW": [[]]},
        {"map_HW": [[0.1, 0.2], [0.3]]},
        {"map_HW": [[0.1, float("nan")]]},
        {"map_HW": [[-0.1]]},
        {"map_HW": [["x"]]},
        {"map_HW": 3},
        {"map_HW": [[0.5]] * 65},
        {"map_HW": [[0.5] * 65]},
    ],
)
def test_a_file_of_somebody_elses_is_refused(change: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(field_of(4, 4).text()), **change})
    with pytest.raises(ValueError):  # noqa: PT011  whichever of its parts says it
        receptive_field_from_text(text)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "{}", "[" * 100_000])
def test_a_file_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        receptive_field_from_text(text)
