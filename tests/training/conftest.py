"""One torch thread, and small tasks on real digits."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.data.dataset import Dataset, cut_parts
from dastune.data.embedded import digits
from dastune.data.images import Images
from dastune.training.loop import Task
from dastune.training.optim import Recipe
from dastune.training.precision import Precision


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return digits(8)


@pytest.fixture(scope="session")
def make_task(dataset: Dataset) -> Callable[..., Task]:
    """Return the maker of tasks: 60 images to train on and 130 held out, a tiny network, batches of 20."""
    cpu = torch.device("cpu")

    def make(
        *,
        network: str = "small_cnn",
        options: dict[str, Any] | None = None,
        train: int = 60,
        learning_rate: float = 0.05,
        gradient_clip: float | None = None,
        standard: StandardAugmentation | None = None,
        precision: Precision = "float32",
    ) -> Task:
        labels = dataset.train_labels
        parts = cut_parts(labels, seed=0, search_images=train, validation_images=130, train_images=None)
        return Task(
            train=Images(dataset.train_pixels, labels, parts.search_train, cpu),
            held_out=Images(dataset.train_pixels, labels, parts.search_validation, cpu),
            classes=10,
            network=network,
            network_options={"channels": 4} if options is None else options,
            recipe=Recipe(20, learning_rate, 0.9, 1e-4, "cosine", gradient_clip),
            standard=standard or StandardAugmentation(crop_px=1, flip=True, cutout_px=2),
            normalise=Normalise(dataset.mean, dataset.std, cpu),
            device=cpu,
            precision=precision,
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
