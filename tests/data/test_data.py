"""Data sets in memory, the parts they are cut into, and batches of them."""

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from dastune.data import cifar
from dastune.data.dataset import Dataset, Indices, Parts, cut_parts
from dastune.data.images import Images
from dastune.data.table import DATASETS
from dastune.errors import UserError
from dastune.seeds import derive


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return DATASETS["digits"].load()


def labels_of(counts: list[int], seed: int = 0) -> Indices:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    return np.random.default_rng(seed).permutation(labels)


def shares(labels: Indices, classes: int) -> list[float]:
    return [float((labels == label).mean()) for label in range(classes)]


def equal(one: Parts, other: Parts) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))


@given(
    counts=st.lists(st.integers(20, 80), min_size=2, max_size=5),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20), st.none() | st.integers(1, 40)),
    seed=st.integers(0, 10),
)
def test_parts_of_a_search_never_overlap(counts: list[int], sizes: tuple[int, int, int | None], seed: int) -> None:
    labels = labels_of(counts)
    search, validation, train = sizes
    parts = cut_parts(labels, seed=seed, search_images=search, validation_images=validation, train_images=train)
    assert len(parts.search_train) == search
    assert len(parts.search_validation) == validation
    assert len(parts.final_train) == (len(labels) if train is None else train)
    assert not set(parts.search_train) & set(parts.search_validation)
    for part in vars(parts).values():
        assert len(set(part)) == len(part)
        assert set(part) <= set(range(len(labels)))


@given(counts=st.lists(st.integers(30, 90), min_size=2, max_size=5), seed=st.integers(0, 10))
def test_classes_have_equal_shares_in_every_part(counts: list[int], seed: int) -> None:
    labels = labels_of(counts)
    parts = cut_parts(labels, seed=seed, search_images=20, validation_images=25, train_images=30)
    for part in vars(parts).values():
        held = np.bincount(labels[part], minlength=len(counts))
        assert held == pytest.approx(np.array(counts) / len(labels) * len(part), abs=2)


def test_final_training_sees_the_search_images_first() -> None:
    labels = labels_of([50, 50])
    cut = {
        size: cut_parts(labels, seed=3, search_images=20, validation_images=30, train_images=size) for size in (10, 60)
    }
    assert np.array_equal(cut[60].final_train[:20], cut[60].search_train)
    assert np.array_equal(cut[60].final_train[:10], cut[10].final_train)


def test_more_search_images_are_the_fewer_and_others() -> None:
    labels = labels_of([50, 50])
    few, many = (
        cut_parts(labels, seed=3, search_images=size, validation_images=30, train_images=None) for size in (20, 40)
    )
    assert np.array_equal(many.search_train[:20], few.search_train)
    assert np.array_equal(many.search_validation, few.search_validation)


def test_the_seed_makes_the_parts() -> None:
    labels = labels_of([50, 50])
    one, again, other = (
        cut_parts(labels, seed=seed, search_images=20, validation_images=30, train_images=None) for seed in (1, 1, 2)
    )
    assert equal(one, again)
    assert not equal(one, other)


def test_no_validation_images_are_none() -> None:
    parts = cut_parts(labels_of([50, 50]), seed=1, search_images=100, validation_images=0, train_images=None)
    assert len(parts.search_validation) == 0


@pytest.mark.parametrize("sizes", [(60, 50, None), (10, 10, 101)])
def test_parts_that_exceed_the_data(sizes: tuple[int, int, int | None]) -> None:
    search, validation, train = sizes
    with pytest.raises(ValueError, match="must be at most the 100 images there are"):
        cut_parts(labels_of([50, 50]), seed=1, search_images=search, validation_images=validation, train_images=train)


def test_digits(digits: Dataset) -> None:
    entry = DATASETS["digits"]
    assert digits.train_pixels.shape == (entry.train_images, 3, entry.side_px, entry.side_px)
    assert digits.test_pixels.shape == (entry.test_images, 3, entry.side_px, entry.side_px)
    assert digits.train_pixels.dtype == np.uint8
    assert (digits.train_pixels.min(), digits.train_pixels.max()) == (0, 255)
    assert digits.train_labels.dtype == np.int64
    assert set(digits.train_labels) == set(digits.test_labels) == set(range(entry.classes))
    assert min(shares(digits.train_labels, 10)) > 0.08
    assert np.array_equal(digits.train_pixels[:, 0], digits.train_pixels[:, 2])


@pytest.mark.parametrize("side", [8, 16, 32])
def test_digits_are_enlarged_as_torch_does_it(side: int) -> None:
    grey = torch.from_numpy(load_digits().images / 16).float()[:, None]
    large = torch.nn.functional.interpolate(grey, size=(side, side), mode="bilinear", align_corners=False)
    expected = large.mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1).numpy()
    order = np.random.default_rng(derive(0, "digits")).permutation(len(expected))
    dataset = DATASETS["digits"].load(side=side)
    assert np.array_equal(np.concatenate([dataset.train_pixels, dataset.test_pixels]), expected[order])


def test_digits_are_the_same_every_time(digits: Dataset) -> None:
    assert digits.fingerprint == "d6d51fdb88df8852"  # studies are resumed, and compared, by it


def test_the_fingerprint_is_of_every_pixel_and_label(digits: Dataset) -> None:
    for name in ("train_pixels", "train_labels", "test_pixels", "test_labels"):
        other = getattr(digits, name).copy()
        other.ravel()[-1] ^= 1
        assert replace(digits, **{name: other}).fingerprint != digits.fingerprint


def test_no_image_is_in_training_and_test(digits: Dataset) -> None:
    train = {pixels.tobytes() for pixels in digits.train_pixels}
    assert not any(pixels.tobytes() in train for pixels in digits.test_pixels)


def test_mean_and_standard_deviation(digits: Dataset) -> None:
    pixels = digits.train_pixels / 255
    assert digits.mean == pytest.approx(pixels.mean((0, 2, 3)))
    assert digits.std == pytest.approx(pixels.std((0, 2, 3)))


def test_an_image_of_one_value_has_no_spread() -> None:
    pixels = np.full((3, 3, 2, 2), 77, dtype=np.uint8)
    labels = np.zeros(3, dtype=np.int64)
    dataset = Dataset("grey", pixels, labels, pixels, labels, classes=1, source="here")
    assert dataset.mean == pytest.approx([77 / 255] * 3)
    assert dataset.std == pytest.approx([0] * 3, abs=1e-6)


def test_batches_are_the_images_at_their_positions(digits: Dataset) -> None:
    indices = np.array([5, 900, 17, 3])
    pixels = digits.train_pixels.copy()
    pixels.flags.writeable = False  # as arrays in a shared store are
    images = Images(pixels, digits.train_labels, indices, torch.device("cpu"))
    images_BCHW, labels_B = images.batch(torch.tensor([2, 0, 2]))
    assert len(images) == 4
    assert images_BCHW.dtype == torch.float32
    assert images_BCHW.shape == (3, 3, 16, 16)
    assert labels_B.tolist() == digits.train_labels[[17, 5, 17]].tolist()
    assert torch.equal(images_BCHW[0], torch.from_numpy(digits.train_pixels[17].astype(np.float32)) / 255)
    images_BCHW.zero_()
    assert digits.train_pixels[17].any()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)


@pytest.mark.usefixtures("no_network")
def test_cifar10_that_is_neither_there_nor_to_be_had(tmp_path: Path) -> None:
    root = tmp_path / "new"
    with pytest.raises(UserError) as caught:
        DATASETS["cifar10"].load(root=str(root))
    assert str(caught.value) == (
        f"data.root: CIFAR-10 is not in {root} and cannot be downloaded there (no route to host). Put "
        f"cifar-10-python.tar.gz, unpacked to {root}/cifar-10-batches-py, there by hand, or name the folder that has "
        "it: --set data.root=FOLDER"
    )


def test_cifar10_in_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^data\.root: CIFAR-10 is not in .*/file/x and cannot be downloaded there"):
        cifar.cifar10(str(tmp_path / "file" / "x"))


@pytest.fixture
def ran(tmp_path: Path) -> "Ran":
    return Ran(tmp_path / "ran")


class Ran:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.usefixtures("no_network")
def test_files_that_are_not_those_of_cifar10_are_not_unpickled(tmp_path: Path, ran: Ran) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": ran}))
    with pytest.raises(UserError, match=r"^data\.root: CIFAR-10 is not in "):
        DATASETS["cifar10"].load(root=str(tmp_path))
    assert not ran.path.exists()


def test_a_pickle_calls_nothing_but_what_makes_arrays(
    tmp_path: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if a file had the right sum."""
    content = pickle.dumps({"data": ran})
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
    monkeypatch.setitem(cifar.CIFAR10.train, "data_batch_1", hashlib.md5(content).hexdigest())
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.mkdir is no part of an array"):
        DATASETS["cifar10"].load(root=str(tmp_path))
    assert not ran.path.exists()


@pytest.mark.usefixtures("no_network")
def test_the_real_cifar10(tmp_path: Path) -> None:
    folder = os.environ.get("DASTUNE_TEST_DATA")
    if not folder or not (Path(folder) / "write_cifar10.py").is_file():
        pytest.skip("DASTUNE_TEST_DATA names no folder with write_cifar10.py")
    subprocess.run([sys.executable, Path(folder) / "write_cifar10.py", tmp_path], check=True)
    dataset = DATASETS["cifar10"].load(root=str(tmp_path))
    for train, pixels, labels in (
        (True, dataset.train_pixels, dataset.train_labels),
        (False, dataset.test_pixels, dataset.test_labels),
    ):
        theirs = CIFAR10(tmp_path, train=train)
        assert np.array_equal(pixels, theirs.data.transpose(0, 3, 1, 2))
        assert labels.tolist() == theirs.targets
    entry = DATASETS["cifar10"]
    assert dataset.train_pixels.shape == (entry.train_images, 3, entry.side_px, entry.side_px) == (50_000, 3, 32, 32)
    assert dataset.test_pixels.shape == (entry.test_images, 3, 32, 32) == (10_000, 3, 32, 32)
    assert shares(dataset.train_labels, 10) == [0.1] * 10
    assert dataset.mean == pytest.approx((0.49140, 0.48216, 0.44653), abs=1e-4)
    assert dataset.std == pytest.approx((0.24703, 0.24349, 0.26159), abs=1e-4)
    assert dataset.train_pixels.flags.c_contiguous
