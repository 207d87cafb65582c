"""CIFAR-10 from the files of its archive, read without torch; torchvision downloads it on first use."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dastune.data.dataset import Dataset, Indices, Pixels
from dastune.errors import UserError

_FOLDER = "cifar-10-batches-py"
_TRAIN_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
_TEST_MD5 = {"test_batch": "40351d587109b95175f43aff81a1287e"}
_IMAGES = 10_000  # in a file


def cifar10(root: str = "~/.cache/dastune") -> Dataset:
    """Return CIFAR-10 from `root`, downloading it there (170 MB) if it is absent.

    Raises:
        UserError: it is not there and cannot be fetched; says how to put it there by hand.
    """
    folder = Path(root).expanduser()
    try:
        try:
            train, test = _read(folder)
        except (FileNotFoundError, _DamagedError):
            _download(folder)
            train, test = _read(folder)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise UserError(
            f"data.root: CIFAR-10 is not in {folder} and cannot be downloaded there ({reason}). Put "
            f"cifar-10-python.tar.gz, unpacked to {folder}/{_FOLDER}, there by hand, or name the folder that has it: "
            "--set data.root=FOLDER"
        ) from error
    return Dataset("cifar10", *train, *test, classes=10, source=str(folder))


def _download(folder: Path) -> None:
    """Fetch and unpack the archive. This brings torch into the process, for which it takes some 500 MB more."""
    from torchvision.datasets import CIFAR10

    folder.mkdir(parents=True, exist_ok=True)
    CIFAR10(folder, download=True)


def _read(folder: Path) -> tuple[tuple[Pixels, Indices], tuple[Pixels, Indices]]:
    """Return pixels and labels of the training and of the test set. Raises OSError or _DamagedError."""
    return _joined(folder, _TRAIN_MD5), _joined(folder, _TEST_MD5)


def _joined(folder: Path, sums: Mapping[str, str]) -> tuple[Pixels, Indices]:
    pixels = np.empty((_IMAGES * len(sums), 3, 32, 32), dtype=np.uint8)
    labels = np.empty(len(pixels), dtype=np.int64)
    for place, (name, md5) in enumerate(sums.items()):
        content = (folder / _FOLDER / name).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise _DamagedError(f"{name} is damaged")
        batch = _Arrays(io.BytesIO(content), encoding="latin1").load()
        here = slice(place * _IMAGES, (place + 1) * _IMAGES)
        pixels[here] = batch["data"].reshape(-1, 3, 32, 32)
        labels[here] = batch["labels"]
    return pixels, labels


class _DamagedError(RuntimeError):
    """A file is not that of the archive."""


class _Arrays(pickle.Unpickler):
    """Unpickles plain data and numpy arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
