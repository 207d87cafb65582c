"""CIFAR-100 and SVHN from files in their layouts, against torchvision's own loaders."""

import hashlib
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import CIFAR100, SVHN

from dastune.data import cifar, svhn
from dastune.data.pixel_file import PixelArray
from dastune.data.table import DATASETS
from dastune.errors import UserError

RANDOM = np.random.default_rng(0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", refuse)


def as_published(content: dict[str, Any]) -> bytes:
    """Pickle as Python 2 did, with the module that numpy's arrays came from then."""
    return pickle.dumps(content, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture
def cifar100_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with few images in CIFAR-100's files, which is what theirs and ours take for whole."""
    (tmp_path / "cifar-100-python").mkdir()
    sums = {}
    for name, images in (("train", 230), ("test", 120)):
        pixels = RANDOM.integers(256, size=(images, 3072), dtype=np.uint8)
        fine = RANDOM.permutation(np.arange(images) % 100).tolist()
        content = as_published({"data": pixels, "fine_labels": fine, "coarse_labels": [0] * images, "filenames": []})
        (tmp_path / "cifar-100-python" / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"fine_label_names": [f"{label:03}" for label in range(100)]})
    (tmp_path / "cifar-100-python" / "meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": hashlib.md5(meta).hexdigest()})
    monkeypatch.setitem(cifar.CIFAR100.train, "train", sums["train"])  # type: ignore[index]
    monkeypatch.setitem(cifar.CIFAR100.test, "test", sums["test"])  # type: ignore[index]
    return tmp_path


def test_cifar100_is_torchvisions(cifar100_root: Path) -> None:
    dataset = DATASETS["cifar100"].load(root=str(cifar100_root))
    for train, pixels, labels in (
        (True, dataset.train_pixels, dataset.train_labels),
        (False, dataset.test_pixels, dataset.test_labels),
    ):
        theirs = CIFAR100(cifar100_root, train=train)
        assert np.array_equal(pixels, theirs.data.transpose(0, 3, 1, 2))
        assert labels.tolist() == theirs.targets
        assert (pixels.dtype, labels.dtype) == (np.uint8, np.int64)
    assert (dataset.name, dataset.classes) == ("cifar100", 100)


def test_the_sums_of_cifar_are_torchvisions() -> None:
    from torchvision.datasets import CIFAR10

    for ours, theirs in ((cifar.CIFAR10, CIFAR10), (cifar.CIFAR100, CIFAR100)):
        assert list(ours.train.items()) == [tuple(item) for item in theirs.train_list]
        assert list(ours.test.items()) == [tuple(item) for item in theirs.test_list]
        assert (ours.file, ours.folder) == (theirs.filename, theirs.base_folder)


@pytest.mark.usefixtures("no_network")
def test_a_damaged_cifar100_is_fetched_again(cifar100_root: Path) -> None:
    file = cifar100_root / "cifar-100-python" / "test"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        DATASETS["cifar100"].load(root=str(cifar100_root))
    assert str(caught.value) == (
        f"data.root: CIFAR-100 is not in {cifar100_root} and cannot be downloaded there (no route to host). Put "
        f"cifar-100-python.tar.gz, unpacked to {cifar100_root}/cifar-100-python, there by hand, or name the folder "
        "that has it: --set data.root=FOLDER"
    )


SPLITS = {"train": 21, "test": 12, "extra": 2017}


@pytest.fixture
def svhn_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with few images in SVHN's files, which is what theirs and ours take for whole."""
    listed = {}
    for split, images in SPLITS.items():
        path = tmp_path / f"{split}_32x32.mat"
        labels = RANDOM.permutation(np.arange(images) % 10 + 1).astype(np.uint8)
        pixels = RANDOM.integers(256, size=(32, 32, 3, images), dtype=np.uint8)
        savemat(path, {"X": pixels, "y": labels[:, None]}, do_compression=split != "extra")
        sum_of_file = hashlib.md5(path.read_bytes()).hexdigest()
        listed[split] = [f"http://nowhere/{path.name}", path.name, sum_of_file]
        monkeypatch.setitem(svhn.MD5, path.name, sum_of_file)
    monkeypatch.setattr(SVHN, "split_list", listed)
    return tmp_path


@pytest.mark.parametrize("extra", [False, True])
def test_svhn_is_torchvisions(extra: bool, svhn_root: Path) -> None:
    dataset = DATASETS["svhn"].load(root=str(svhn_root), extra=extra)
    train, test, more = (SVHN(svhn_root, split=split) for split in ("train", "test", "extra"))
    assert equal(dataset.test_pixels, test.data)
    assert dataset.test_labels.tolist() == test.labels.tolist()
    wanted = [train, more] if extra else [train]
    assert equal(dataset.train_pixels, np.concatenate([each.data for each in wanted]))
    assert dataset.train_labels.tolist() == np.concatenate([each.labels for each in wanted]).tolist()
    assert set(dataset.train_labels.tolist()) == set(range(10))
    assert dataset.train_labels.dtype == np.int64
    assert dataset.train_pixels.flags.c_contiguous  # type: ignore[union-attr]


def equal(pixels: Any, theirs: PixelArray) -> bool:
    return bool(pixels.dtype == np.uint8 and np.array_equal(pixels, theirs))


def test_the_sums_of_svhn_are_torchvisions() -> None:
    assert {name: md5 for _, name, md5 in SVHN.split_list.values()} == svhn.MD5


@pytest.mark.usefixtures("no_network")
def test_svhn_without_its_extra_images(svhn_root: Path) -> None:
    (svhn_root / "extra_32x32.mat").unlink()
    DATASETS["svhn"].load(root=str(svhn_root))
    with pytest.raises(UserError) as caught:
        DATASETS["svhn"].load(root=str(svhn_root), extra=True)
    assert str(caught.value) == (
        f"data.root: SVHN is not in {svhn_root} and cannot be downloaded there (no route to host). Put "
        "train_32x32.mat, extra_32x32.mat, test_32x32.mat of http://ufldl.stanford.edu/housenumbers there by hand, or "
        "name the folder that has it: --set data.root=FOLDER"
    )


def test_what_is_missing_is_fetched(svhn_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else; where it was put in its place, it is read."""
    content = (svhn_root / "test_32x32.mat").read_bytes()
    (svhn_root / "test_32x32.mat").unlink()
    asked = []

    def fetch(url: str, root: Path, name: str, md5: str) -> None:
        asked.append(name)
        if not (root / name).exists():
            (root / name).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", fetch)
    assert len(DATASETS["svhn"].load(root=str(svhn_root)).test_labels) == SPLITS["test"]
    assert asked == ["train_32x32.mat", "test_32x32.mat"]
