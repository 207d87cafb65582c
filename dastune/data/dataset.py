"""Dataset and Parts: labelled images, and who may see which of them. Without torch: a driver loads them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dastune.data.pixel_file import PixelArray, PixelFile
from dastune.data.table import images_left
from dastune.seeds import derive

Pixels: TypeAlias = PixelArray | PixelFile
"""In memory, or in a file of which only what is asked for comes into memory."""
Indices = npt.NDArray[np.int64]

_VALUES = np.arange(256) / 255  # of a pixel
_BLOCK = 1000  # images counted at once


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images: a training set, from which searches cut their parts, and a test set that no search sees.

    Attributes:
        train_pixels, test_pixels: N x 3 x H x W, uint8, RGB.
        train_labels, test_labels: N, int64, in 0 .. classes - 1.
        mean, std: per channel, of the training pixels in [0, 1].
        source: where the images came from, for people.
    """

    name: str
    train_pixels: Pixels
    train_labels: Indices
    test_pixels: Pixels
    test_labels: Indices
    classes: int
    source: str

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training pixels per channel, in [0, 1]."""
        return tuple(float(mean) for mean in self._shares_CV @ _VALUES)

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training pixels per channel, in [0, 1]."""
        squares_C = self._shares_CV @ _VALUES**2
        return tuple(float(std) for std in np.sqrt(np.maximum(squares_C - np.square(self.mean), 0)))

    @cached_property
    def _shares_CV(self) -> npt.NDArray[np.float64]:  # noqa: N802  shapes are part of names
        """How often each channel of the training pixels has each value: exact, and without a copy as floats."""
        counts_CV = np.zeros((3, 256), dtype=np.int64)
        if isinstance(self.train_pixels, PixelFile):
            counts_CV += np.array(self.train_pixels.counts)
        else:
            for start in range(0, len(self.train_pixels), _BLOCK):
                block = self.train_pixels[start : start + _BLOCK]
                for channel in range(3):
                    counts_CV[channel] += np.bincount(block[:, channel].ravel(), minlength=256)
        shares_CV: npt.NDArray[np.float64] = counts_CV / counts_CV[0].sum()
        return shares_CV

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hex digits of a SHA-256 over all pixels and labels."""
        digest = hashlib.sha256()
        for array in (self.train_pixels, self.train_labels, self.test_pixels, self.test_labels):
            digest.update(str(array.shape).encode())
            digest.update(array.digest.encode() if isinstance(array, PixelFile) else np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Parts:
    """Indices into the training set: what a search trains on, what it validates on, what the final training sees."""

    search_train: Indices
    search_validation: Indices
    final_train: Indices


def cut_parts(
    labels: Indices,
    *,
    seed: int,
    search_images: int,
    validation_images: int,
    train_images: int | None,
    removed_percent: int = 0,
) -> Parts:
    """Cut the training set with the search seed, every class in equal share as far as it goes.

    Search-train and search-validation never overlap. The final training sees the first `train_images` of the same
    order (so that its images are those of the search, then more), or the whole training set if None.

    Args:
        labels: N labels of the training set.
        search_images, validation_images, train_images: sizes; the first two sum to N at most.
        removed_percent: of the training set, left out: each part keeps its first images, so that what is left of it at
            a higher percentage is part of what is left at a lower one. Sizes are rounded down; where the final training
            shares images with validation, they are rounded by themselves.

    Raises:
        ValueError: there are not so many images.
    """
    if search_images + validation_images > len(labels) or (train_images or 0) > len(labels):
        raise ValueError(
            f"search_images {search_images} + validation_images {validation_images}, and train_images {train_images}, "
            f"must be at most the {len(labels)} images there are"
        )
    order, begin = _class_balanced_order(labels, seed), len(labels) - validation_images
    until = len(labels) if train_images is None else train_images

    def first(start: int, images: int) -> Indices:
        return order[start : start + images_left(images, removed_percent)]

    # Of what the final training sees, what it shares with validation shrinks by itself.
    final = np.concatenate([first(0, min(until, begin)), first(begin, max(0, until - begin))])
    return Parts(first(0, search_images), first(begin, validation_images), final)


def _class_balanced_order(labels: Indices, seed: int) -> Indices:
    """Return a seeded permutation of 0 .. N-1 whose every prefix and suffix holds the classes in nearly equal share."""
    random = np.random.default_rng(derive(seed, "parts"))
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    # The k-th image of a class of n stands at (k + jitter) / n of the order, so classes interleave evenly.
    place = np.arange(len(labels)) - np.repeat(first, sizes)
    rank = np.empty(len(labels))
    rank[by_class] = (place + random.random(len(labels))) / np.repeat(sizes, sizes)
    return np.argsort(rank, kind="stable")
