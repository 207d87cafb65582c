"""One torch thread, spaces, tasks on real digits, and exact ones: float64, smooth, image by image."""

import io
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.data.dataset import Dataset, cut_parts
from dastune.data.embedded import digits
from dastune.data.images import Images
from dastune.models.network import Dropout, Network
from dastune.models.table import MODELS
from dastune.ops.table import OPS
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.training.loop import Task
from dastune.training.optim import Recipe
from dastune.training.precision import Precision


@pytest.fixture(scope="session")
def space_of() -> Callable[..., SearchSpace]:
    """Return what makes a space of named ops over their whole ranges."""
    return lambda *names: SearchSpace(
        tuple(SpaceOp(name, OPS[name].low, OPS[name].high, OPS[name].signed) for name in names)
    )


@pytest.fixture(scope="session")
def digits_16() -> Dataset:
    return digits(16)


@pytest.fixture(scope="session")
def make_task(digits_16: Dataset) -> Callable[..., Task]:
    """Return the maker of tasks; by default 60 images to train on, 70 to validate on, a tiny network, batches of 20."""
    cpu = torch.device("cpu")

    def make(
        *,
        train: int = 60,
        validation: int = 70,
        batch_size: int = 20,
        learning_rate: float = 0.05,
        channels: int = 4,
        seed: int = 0,
        network: str = "small_cnn",
        dropout: float = 0.0,
        standard: StandardAugmentation | None = None,
        precision: Precision = "float32",
    ) -> Task:
        pixels, labels = digits_16.train_pixels, digits_16.train_labels
        parts = cut_parts(labels, seed=seed, search_images=train, validation_images=validation, train_images=None)
        wide = {"depth": 10, "width": 1, "dropout": dropout}
        return Task(
            train=Images(pixels, labels, parts.search_train, cpu),
            held_out=Images(pixels, labels, parts.search_validation, cpu),
            classes=10,
            network=network,
            network_options={"channels": channels} if network == "small_cnn" else wide,
            recipe=Recipe(batch_size, learning_rate, 0.9, 1e-4, "cosine"),
            standard=standard or StandardAugmentation(),
            normalise=Normalise(digits_16.mean, digits_16.std, cpu),
            device=cpu,
            precision=precision,
        )

    return make


class ExactNetwork(Network):
    """Float64, smooth, and without batch norm: what becomes of an image depends on no other."""

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 4, 3, 2), nn.Tanh(), Dropout(dropout), nn.Conv2d(4, 4, 3, 2), nn.Tanh(), nn.Flatten()]
        self.features = nn.Sequential(*layers, nn.Linear(36, 6), nn.Tanh())
        self.head = nn.Linear(6, classes)
        self.double()


class ExactImages(Images):
    """Float64 batches, all of which are kept in `seen`."""

    def __init__(self, images: Images) -> None:
        self.__dict__.update(images.__dict__)
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def batch(self, positions_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images_BCHW, labels_B = super().batch(positions_B)
        self.seen.append((images_BCHW.double(), labels_B))
        return self.seen[-1]


@pytest.fixture
def exact_task(make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Task]:
    """Return the maker of tasks that are float64 throughout, of few images."""
    monkeypatch.setitem(MODELS, "exact", SimpleNamespace(build=ExactNetwork))  # type: ignore[misc]

    def make(dropout: float = 0.0, **options: Any) -> Task:
        task = make_task(**{"train": 24, "validation": 20, "batch_size": 8, **options})
        return replace(
            task,
            train=ExactImages(task.train),
            held_out=ExactImages(task.held_out),
            network="exact",
            network_options={"dropout": dropout},
            normalise=lambda images_BCHW: (images_BCHW - 0.3) / 0.4,
        )

    return make


@pytest.fixture(scope="session")
def through_a_file() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what writes a state and reads it again, without trusting the file."""

    def write_and_read(state: dict[str, Any]) -> dict[str, Any]:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        loaded: dict[str, Any] = torch.load(file, weights_only=True)
        return loaded

    return write_and_read


@pytest.fixture(scope="session")
def differences() -> Callable[[Any, Any], list[str]]:
    """Return what tells where two states are not equal bit for bit."""

    def find(first: Any, second: Any, where: str = "") -> list[str]:
        if type(first) is not type(second):
            return [where]
        if isinstance(first, torch.Tensor):
            return [] if first.dtype == second.dtype and torch.equal(first, second) else [where]
        if isinstance(first, dict):
            if first.keys() != second.keys():
                return [where]
            return [d for key in first for d in find(first[key], second[key], f"{where}/{key}")]
        if isinstance(first, (list, tuple)):
            if len(first) != len(second):
                return [where]
            return [d for i, pair in enumerate(zip(first, second, strict=True)) for d in find(*pair, f"{where}/{i}")]
        return [] if first == second or (first != first and second != second) else [where]

    return find


@pytest.fixture(scope="session")
def slope() -> Callable[[Callable[[torch.Tensor], float], torch.Tensor], torch.Tensor]:
    """Return what takes the gradient of a function of a float64 tensor by central differences."""

    def take(function: Callable[[torch.Tensor], float], at: torch.Tensor, step: float = 1e-5) -> torch.Tensor:
        gradient = torch.empty_like(at)
        for place in np.ndindex(*at.shape):
            ends = []
            for sign in (1, -1):
                moved = at.detach().clone()
                moved[place] += sign * step
                ends.append(function(moved))
            gradient[place] = (ends[0] - ends[1]) / (2 * step)
        return gradient

    return take
