"""Precision: what auto means where, what is computed in bfloat16 and what is not, and that derivatives go through."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from dastune.augment.standard import Normalise
from dastune.data.dataset import Dataset
from dastune.data.images import Images
from dastune.models.network import Network
from dastune.models.table import MODELS
from dastune.policy.policy import NO_AUGMENTATION
from dastune.training.loop import Evaluation, Task, Training
from dastune.training.precision import Precision, resolved

MakeTask = Callable[..., Task]
CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")
NETWORKS: dict[str, dict[str, Any]] = {
    "small_cnn": {"channels": 4},
    "wide_resnet": {"depth": 10, "width": 1},
    "resnet": {"depth": 18, "stem": "small"},  # the tests' images are too small for the other
}
every_network = pytest.mark.parametrize("network", NETWORKS)
every_precision = pytest.mark.parametrize("precision", get_args(Precision))


def test_every_network_is_tried() -> None:
    assert NETWORKS.keys() == MODELS.keys()


# What auto means.


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"neon": True}, "float32"),
    ],
)
def test_auto_is_bfloat16_on_a_cpu_that_has_it(
    capabilities: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolved("auto", CPU) == precision


def test_auto_is_float32_where_torch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # torch 2.9 has none
    assert resolved("auto", CPU) == "float32"
    assert resolved("auto", META) == "float32"


@pytest.mark.parametrize(("emulated", "precision"), [(False, "bfloat16"), (True, "float32")])
def test_auto_is_bfloat16_on_a_gpu_that_need_not_emulate_it(
    emulated: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation >= emulated)
    assert resolved("auto", CUDA) == precision


@every_precision
def test_what_is_asked_for_is_done(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert resolved(precision, CPU) == precision


# What is computed in it.


@contextmanager
def convolved(network: nn.Module) -> Iterator[set[torch.dtype]]:
    """Collect the types of all convolutions' results."""
    seen: set[torch.dtype] = set()
    handles = [
        module.register_forward_hook(lambda _module, _images, result: seen.add(result.dtype))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    yield seen
    for handle in handles:
        handle.remove()


@every_precision
@every_network
def test_only_the_network_s_inside_is_in_the_precision(network: str, precision: Precision, make_task: MakeTask) -> None:
    task = make_task(network=network, options=NETWORKS[network], precision=precision)
    training = Training(task, NO_AUGMENTATION, 1, seed=0)
    with convolved(training.network) as seen:
        assert training.step().dtype == torch.float32
    assert seen == {getattr(torch, precision)}
    with convolved(training.network) as seen:
        Evaluation(task, training.network).step()
    assert seen == {getattr(torch, precision)}
    state = training.state_dict()
    floats = [tensor for tensor in tensors(state["network"] | state["optimiser"]) if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert len(floats) > 2 * len(list(training.network.parameters()))  # momentum and statistics too


def tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    for item in state.values() if isinstance(state, dict) else state if isinstance(state, list) else ():
        yield from tensors(item)


@every_network
def test_the_seed_decides_the_weights_whatever_the_precision(network: str, make_task: MakeTask) -> None:
    first, second = (
        make_task(network=network, options=NETWORKS[network], precision=precision).new_network(3).state_dict()
        for precision in get_args(Precision)
    )
    assert all(torch.equal(first[key], second[key]) for key in first | second)


@pytest.mark.parametrize(("precision", "bound"), [("float32", 2e-5), ("bfloat16", 0.08)])
@every_network
def test_logits_are_those_of_float64_to_the_precision(
    network: str, precision: Precision, bound: float, make_task: MakeTask
) -> None:
    task = make_task(network=network, options=NETWORKS[network], precision=precision)
    images = task.train.batch(torch.arange(60))[0]
    found = task.logits(task.new_network(0), images).detach()
    exact = task.new_network(0).to(torch.float64, memory_format=torch.contiguous_format)
    expected = exact(task.normalise(images.double())).detach()
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max() / expected.abs().max()) < bound


@every_precision
@every_network
def test_logits_are_the_head_of_the_features(network: str, precision: Precision, make_task: MakeTask) -> None:
    task = make_task(network=network, options=NETWORKS[network], precision=precision)
    classifier = task.new_network(0).eval()
    images = task.train.batch(torch.arange(20))[0]
    features = task.features(classifier, images)
    assert features.dtype == torch.float32
    assert features.shape == (20, classifier.head.in_features)
    assert torch.equal(task.logits(classifier, images), classifier.head(features))
    # Nothing else is asked of a network.
    parts = SimpleNamespace(features=classifier.features, head=classifier.head)
    assert torch.equal(task.logits(parts, images), classifier.head(features))


# Derivatives.


class Logits(nn.Module):
    """What torch.func.functional_call can call: a task's logits of a network."""

    def __init__(self, task: Task, network: Network) -> None:
        super().__init__()
        self.task = task
        self.network = network

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.task.logits(self.network, images_BCHW)


@every_precision
@every_network
def test_weights_may_come_from_a_functional_call(network: str, precision: Precision, make_task: MakeTask) -> None:
    task = make_task(network=network, options=NETWORKS[network], precision=precision)
    first, second = (Logits(task, task.new_network(seed)) for seed in (0, 1))
    images, labels = task.train.batch(torch.arange(20))
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in second.named_parameters()}
    called = functional_call(first, weights, (images,))
    assert torch.equal(called, second(images))
    called_gradients = torch.autograd.grad(F.cross_entropy(called, labels), list(weights.values()))
    gradients = torch.autograd.grad(F.cross_entropy(second(images), labels), list(second.parameters()))
    assert all(torch.equal(*pair) for pair in zip(called_gradients, gradients, strict=True))


# ResNet-18's layers are torchvision's; its differences take minutes, and cross kinks of its ReLUs.
@pytest.mark.parametrize("network", ["small_cnn", "wide_resnet"])
def test_first_and_second_derivatives_are_finite_differences(network: str, make_task: MakeTask) -> None:
    options = {"channels": 1} if network == "small_cnn" else NETWORKS[network]
    task = make_task(network=network, options=options)
    task = replace(task, normalise=Normalise([0.0] * 3, [1.0] * 3, CPU))
    classifier = task.new_network(0).double()
    images = torch.rand(3, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def called(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional_call(Logits(task, classifier), {"network.features.0.weight": weight}, (images,))

    weight = next(classifier.parameters()).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(called, (images, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(called, (images, weight), fast_mode=True)


@every_network
def test_second_derivatives_in_bfloat16_are_about_those_in_float32(network: str, make_task: MakeTask) -> None:
    found = []
    for precision in get_args(Precision):
        task = make_task(network=network, options=NETWORKS[network], precision=precision)
        classifier = task.new_network(0)
        images, labels = task.train.batch(torch.arange(60))
        images.requires_grad_()
        loss = F.cross_entropy(task.logits(classifier, images), labels)
        gradients = torch.autograd.grad(loss, list(classifier.parameters()), create_graph=True)
        length = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
        twice = torch.autograd.grad(length, [images, *classifier.parameters()])
        assert {gradient.dtype for gradient in (*gradients, *twice)} == {torch.float32}
        found.append((twice[0].flatten(), torch.cat([gradient.flatten() for gradient in twice[1:]])))
    for pair in zip(*found, strict=True):
        assert float(F.cosine_similarity(*pair, dim=0)) > 0.8  # 0.9 in ResNet-18, more in the small ones


# Devices.


def faked(task: Task, device: torch.device) -> tuple[Task, Network, torch.Tensor]:
    """Return the task on a device that is not there, its network and images; call it in a FakeTensorMode."""
    task = replace(task, normalise=Normalise([0.5] * 3, [0.2] * 3, device), device=device)
    with device:
        network = MODELS[task.network].build(task.classes, **task.network_options)
        return task, network, torch.empty(4, 3, 12, 12)


@every_precision
@every_network
def test_nothing_waits_for_a_gpu(
    network: str, precision: Precision, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Autocast asks whether there is a GPU that can do it. Fake CUDA tensors have no values: a read of one raises.
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    task = make_task(network=network, options=NETWORKS[network], precision=precision)
    with FakeTensorMode():
        task, classifier, images = faked(task, CUDA)
        with convolved(classifier) as seen:
            logits = task.logits(classifier, images)
    assert seen == {getattr(torch, precision)}
    assert (logits.dtype, logits.device.type) == (torch.float32, "cuda")
    assert task.memory_format == {"float32": torch.contiguous_format, "bfloat16": torch.channels_last}[precision]


@every_precision
@every_network
def test_a_whole_step_needs_no_values(network: str, precision: Precision, make_task: MakeTask) -> None:
    task = make_task(network=network, options=NETWORKS[network], precision=precision, gradient_clip=1.0)
    with FakeTensorMode():
        task, classifier, images = faked(task, CPU)
        optimiser = task.recipe.optimiser(classifier)
        for _ in range(2):
            loss = F.cross_entropy(task.logits(classifier, images), torch.zeros(4, dtype=torch.int64))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            task.recipe.step(optimiser, classifier)
    assert {parameter.grad.dtype for parameter in classifier.parameters()} == {torch.float32}


@every_network
def test_training_and_evaluation_on_the_meta_device(network: str, make_task: MakeTask, dataset: Dataset) -> None:
    # Autocast knows no meta device, so that this is float32's.
    task = make_task(network=network, options=NETWORKS[network], gradient_clip=1.0)
    images = Images(dataset.train_pixels, dataset.train_labels, np.arange(40), META)
    task = replace(task, train=images, held_out=images, normalise=Normalise([0.5] * 3, [0.2] * 3, META), device=META)
    training = Training(task, NO_AUGMENTATION, 1, seed=0)
    evaluation = Evaluation(task, training.network)
    while not training.done:
        assert training.step().device == META
    evaluation.step()
    assert evaluation.done
