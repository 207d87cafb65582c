"""A study small enough for a test, with real digits and every method."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dastune.config import StudyConfig
from dastune.config.defaults import with_defaults
from dastune.data.classification import Dataset
from dastune.data.embedded import digits
from dastune.folder import StudyFolder


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    loaded = digits()
    _ = loaded.mean, loaded.std, loaded.fingerprint
    return loaded


# Every method of the table, and what a black-box search may be told about its children.
EVERY_METHOD: dict[str, dict[str, object] | None] = {
    "das": None,
    "auto_augment": None,
    "aa_tpe": {"method": "auto_augment", "search": "tpe"},
    "aa_random": {"method": "auto_augment", "search": "random", "halving": {"children": 3, "eta": 2}},
    "aa_parallel": {"method": "auto_augment", "children_in_parallel": 2},
    "rand_augment": None,
    "ra_tpe": {"method": "rand_augment", "search": "tpe", "scale": "torchvision"},
    "random": None,
    "uniform": None,
    "trivial": None,
    "trivial_wide": {"method": "trivial", "ops": "trivial-wide"},
    "standard": None,
    "none": None,
    "aa_svhn": {"method": "published", "policy": "aa-svhn"},
}


@pytest.fixture(scope="session")
def every_method() -> dict[str, dict[str, object] | None]:
    return EVERY_METHOD


def small_study(**changes: object) -> StudyConfig:
    raw = {
        "name": "small",
        "data": {"name": "digits", "train_images": 40, "validation_images": 40},
        "model": {"name": "small_cnn", "channels": 4},
        "space": {"ops": ["identity", "rotate", "invert"], "noise": {"levels": [0, 2]}},
        "methods": {"das": None, "auto_augment": None, "rand_augment": None, "random": None, "trivial": {}, "none": {}},
        "budget": {"steps": 12},
        "seeds": {"search": [0], "final": [0, 1]},
        "training": {"batch_size": 20, "child_epochs": 2},
        "final": {"epochs": 2},
    }
    return StudyConfig.model_validate(with_defaults({**raw, **changes}))


@pytest.fixture(scope="session")
def study_of() -> Callable[..., StudyConfig]:
    """Return what makes the small study with other sections."""
    return small_study


def new_folder(root: Path) -> StudyFolder:
    """A folder as a driver makes it before any trial."""
    folder = StudyFolder(root)
    folder.root.mkdir(parents=True)
    folder.study.touch()
    return folder


@pytest.fixture(scope="session")
def folder_at() -> Callable[[Path], StudyFolder]:
    return new_folder


@pytest.fixture
def study() -> StudyConfig:
    return small_study()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "small"
