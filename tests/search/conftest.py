"""One torch thread, spaces, and tasks on real digits."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.data.classification import Dataset, Images, cut_parts
from dastune.data.embedded import digits
from dastune.ops.table import OPS
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.training.loop import Task
from dastune.training.optim import Recipe


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
        standard: StandardAugmentation | None = None,
    ) -> Task:
        pixels, labels = digits_16.train_pixels, digits_16.train_labels
        parts = cut_parts(labels, seed=seed, search_images=train, validation_images=validation, train_images=None)
        return Task(
            train=Images(pixels, labels, parts.search_train, cpu),
            held_out=Images(pixels, labels, parts.search_validation, cpu),
            classes=10,
            network=network,
            network_options={"channels": channels} if network == "small_cnn" else {"depth": 10, "width": 1},
            recipe=Recipe(batch_size, learning_rate, 0.9, 1e-4, "cosine"),
            standard=standard or StandardAugmentation(),
            normalise=Normalise(digits_16.mean, digits_16.std, cpu),
            device=cpu,
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
