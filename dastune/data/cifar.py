"""CIFAR-10 and CIFAR-100 from their archives' files, read without torch; torchvision downloads them on first use."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dastune.data.archives import DamagedError, read_or_fetched
from dastune.data.dataset import Dataset, Indices
from dastune.data.pixel_file import PixelArray


@dataclass(frozen=True)
class _Archive:
    """What an archive holds.

    Attributes:
        title: of the data set; without the hyphen, torchvision's name for it.
        file, folder: the archive, and what it unpacks to.
        labels: key of the labels in each file.
        classes: how many.
        train, test: the MD5 sum of each file, in their order.
    """

    title: str
    file: str
    folder: str
    labels: str
    classes: int
    train: Mapping[str, str]
    test: Mapping[str, str]


CIFAR10 = _Archive(
    title="CIFAR-10",
    file="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    labels="labels",
    classes=10,
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
)
CIFAR100 = _Archive(
    title="CIFAR-100",
    file="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    labels="fine_labels",
    classes=100,
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
)


def cifar10(root: str = "~/.cache/dastune") -> Dataset:
    """Return CIFAR-10 from `root`, downloading it there (170 MB) if it is absent.

    Raises:
        UserError: it is not there and cannot be fetched; says how to put it there by hand.
    """
    return _loaded("cifar10", CIFAR10, root)


def cifar100(root: str = "~/.cache/dastune") -> Dataset:
    """Return CIFAR-100 with its 100 fine labels from `root`, downloading it there (170 MB) if it is absent.

    Raises:
        UserError: it is not there and cannot be fetched; says how to put it there by hand.
    """
    return _loaded("cifar100", CIFAR100, root)


def _loaded(name: str, archive: _Archive, root: str) -> Dataset:
    def read(folder: Path) -> tuple[tuple[PixelArray, Indices], tuple[PixelArray, Indices]]:
        return _joined(folder, archive, archive.train), _joined(folder, archive, archive.test)

    def fetch(folder: Path) -> None:
        from torchvision import datasets

        getattr(datasets, archive.title.replace("-", ""))(folder, download=True)

    folder = Path(root).expanduser()
    by_hand = f"{archive.file}, unpacked to {folder}/{archive.folder},"
    train, test = read_or_fetched(archive.title, folder, read, fetch, by_hand)
    return Dataset(name, *train, *test, classes=archive.classes, source=str(folder))


def _joined(folder: Path, archive: _Archive, sums: Mapping[str, str]) -> tuple[PixelArray, Indices]:
    """Return pixels and labels of some files of one size, one after the other. Raises OSError or DamagedError."""
    pixels = np.empty((0, 3, 32, 32), dtype=np.uint8)
    labels: list[int] = []
    for name, md5 in sums.items():
        content = (folder / archive.folder / name).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise DamagedError(f"{name} is damaged")
        batch = _Arrays(io.BytesIO(content), encoding="latin1").load()
        block = batch["data"].reshape(-1, 3, 32, 32)
        if not labels:
            pixels = np.empty((len(block) * len(sums), *block.shape[1:]), dtype=np.uint8)
        pixels[len(labels) : len(labels) + len(block)] = block
        labels.extend(batch[archive.labels])
    return pixels, np.asarray(labels, dtype=np.int64)


class _Arrays(pickle.Unpickler):
    """Unpickles plain data and numpy arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
