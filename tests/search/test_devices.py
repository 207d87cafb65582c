"""Devices that are not there: whole steps on `meta`, and on a GPU without values, where only rewards are waited for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any

from dastune.augment.cell import Cell
from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.data.dataset import Dataset
from dastune.data.images import Images
from dastune.policy.space import SearchSpace
from dastune.policy.topology import chain, dag
from dastune.search.alignment import alignment, calibration, observe, standardised
from dastune.search.outer_gradient import Alignment, FirstOrder, ForwardAlignment, LookAhead, Outer
from dastune.search.supernet import Relaxation, Supernet
from dastune.training.loop import Task

MakeTask = Callable[..., Task]
SpaceOf = Callable[..., SearchSpace]
KINDS = (FirstOrder, LookAhead, Alignment, ForwardAlignment)
OPS = ("identity", "rotate", "equalize")  # all others are in the tests of ops and cells
RATE = 0.1


class _PretendCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside a FakeTensorMode: real tensors on the CPU, and on "cuda" fake ones, which raise when they are read.

    Except for whole tensors that are copied to the CPU: those arrive as zeros, and are counted in `waits`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        to = torch.device(kwargs.get("device") or "cpu").type
        fake = tree_any(lambda leaf: isinstance(leaf, FakeTensor), (args, kwargs))
        if func is torch.ops.aten._to_copy.default and fake and kwargs.get("device") is not None and to == "cpu":
            self.waits += 1
            with unset_fake_temporarily():
                return torch.zeros(args[0].shape, dtype=args[0].dtype)
        if to == "cuda" and func is torch.ops.aten._to_copy.default:
            with unset_fake_temporarily():
                args = (args[0].detach(), *args[1:])  # fake tensors are not made of parts of a graph
        if to == "cuda" or fake:
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)


@pytest.fixture
def pretend_cuda() -> Iterator[_PretendCuda]:
    with FakeTensorMode(allow_non_fake_inputs=True), _PretendCuda() as mode:  # type: ignore[no-untyped-call]
        yield mode


def moved(task: Task, dataset: Dataset, device: torch.device) -> Task:
    """The same task, of a few images, on another device."""
    part = Images(dataset.train_pixels, dataset.train_labels, torch.arange(40).numpy(), device)
    normalise = Normalise(dataset.mean, dataset.std, device)
    return replace(task, train=part, held_out=part, normalise=normalise, device=device)


def put_on_cuda(network: nn.Module) -> None:
    """Put the weights on a device that Module.to does not know how to reach."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(torch.empty(weight.shape, device="cuda"))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")


def without_values(outputs: Any, inputs: Sequence[torch.Tensor], **_: Any) -> Outer:
    """Stand in for autograd, which has no thread for a device that is not there."""
    return tuple(torch.empty_like(each) for each in inputs)


@pytest.mark.parametrize("validation", ["clean", "augmented"])
@pytest.mark.parametrize("relaxation", ["sample", "blend"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_for_nothing_but_the_rewards_of_sampled_ops(
    kind: type,
    relaxation: Relaxation,
    validation: str,
    pretend_cuda: _PretendCuda,
    make_task: MakeTask,
    space_of: SpaceOf,
    digits_16: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = torch.device("cuda")
    task = make_task(standard=StandardAugmentation(1, True, 4))
    cell = Cell(space_of(*OPS), chain(2), torch.Generator(), torch.device("cpu") if relaxation == "sample" else cuda)
    supernet = Supernet(task, cell, relaxation, 0)
    put_on_cuda(supernet.network)
    supernet.task = moved(task, digits_16, cuda)
    supernet._optimiser = task.recipe.optimiser(supernet.network)
    monkeypatch.setattr(torch.autograd, "grad", without_values)
    found: list[Outer] = []
    outer = kind(supernet.task.held_out, 8, validation, 0)
    for _ in range(2):
        accuracy = outer.step(supernet, found.append, RATE)
    assert accuracy.device.type == "cuda"
    assert [part.device.type for part in found[-1]] == (["cpu"] * 2 if relaxation == "sample" else ["cuda"] * 2)
    waits = {"blend": 0, "sample": 2}[relaxation]  # one a step: values weighted by scores
    if kind is LookAhead and relaxation == "sample":
        waits = 4 if validation == "augmented" else 2
    if kind is FirstOrder and validation == "clean":
        waits = 0
    assert pretend_cuda.waits == waits


@pytest.mark.parametrize("network", ["small_cnn", "wide_resnet"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_step_of_a_blend_on_the_meta_device(
    kind: type, network: str, make_task: MakeTask, space_of: SpaceOf, digits_16: Dataset
) -> None:
    meta = torch.device("meta")
    task = moved(make_task(network=network, standard=StandardAugmentation(1, True, 4)), digits_16, meta)
    cell = Cell(space_of(*OPS), dag(1, 2), torch.Generator(), meta)
    supernet = Supernet(task, cell, "blend", 0)
    outer = kind(task.held_out, 8, "augmented", 0)
    found: list[Outer] = []
    assert outer.step(supernet, found.append, RATE).device == meta
    assert [part.shape for part in found[-1]] == [cell.tau_EK.shape, cell.order_P.shape]
    assert {part.device for part in found[-1]} == {meta}
    supernet.load_state_dict(supernet.state_dict())
    outer.load_state_dict(outer.state_dict())


def test_the_weights_step_behind_sampled_ops_on_the_meta_device(
    make_task: MakeTask, space_of: SpaceOf, digits_16: Dataset
) -> None:
    meta = torch.device("meta")
    task = moved(make_task(standard=StandardAugmentation(1, True, 4)), digits_16, meta)
    cell = Cell(space_of(*OPS), chain(2), torch.Generator(), torch.device("cpu"))
    supernet = Supernet(task, cell, "sample", 0)
    supernet.train(RATE, forced=(1, 2))
    relaxed, labels_B = supernet.training_batch()
    features_BF, logits_BK = supernet.outputs(relaxed.images_BCHW, dict(supernet.weights()))
    assert {features_BF.device, logits_BK.device, labels_B.device} == {meta}
    assert relaxed.score_B is not None
    assert relaxed.score_B.device.type == "cpu"
    assert supernet.fork(1).outputs(relaxed.images_BCHW)[1].shape == (20, 10)


def test_nothing_in_the_closed_form_waits_for_the_device() -> None:
    # Fake CUDA tensors have no values: a read of one raises.
    with FakeTensorMode():
        features, logits = torch.empty(8, 5, device="cuda"), torch.empty(8, 4, device="cuda")
        labels = torch.empty(8, dtype=torch.int64, device="cuda")
        view = observe(observe(None, features, logits, labels), features, logits, labels)
        rewards = standardised(alignment(features, logits, labels, view), torch.empty(8, device="cuda"))
        assert {rewards.device.type, calibration(logits, labels).device.type} == {"cuda"}
