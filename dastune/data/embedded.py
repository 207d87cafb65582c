"""Digits: 1,797 real hand-written digits that come with scikit-learn; no download."""

import numpy as np

from dastune.data.dataset import Dataset
from dastune.seeds import derive

DIGITS_TRAIN = 1000  # of 1,797; the other 797 are the test set of every study
_GREY_SIDE = 8


def digits(side: int = 16) -> Dataset:
    """Return scikit-learn's digits as RGB images of `side` x `side` pixels, bilinearly enlarged from 8 x 8 grey ones.

    The 1,000 training and 797 test images are the same in every study.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # A pixel counts by how near its centre is; beyond the outermost centres, images go on as they are there. Grey
    # values are sixteenths and, for 16 pixels, weights quarters: all is exact until it is rounded, whatever adds it up.
    centres = np.clip((np.arange(side) + 0.5) * _GREY_SIDE / side - 0.5, 0, _GREY_SIDE - 1)
    weights = np.maximum(1 - np.abs(centres[:, None] - np.arange(_GREY_SIDE)), 0)
    grey = np.rint(weights @ (bunch.images / 16) @ weights.T * 255).astype(np.uint8)
    pixels = np.repeat(grey[:, None], 3, axis=1)
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(derive(0, "digits")).permutation(len(labels))
    train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
    return Dataset(
        name="digits",
        train_pixels=pixels[train],
        train_labels=labels[train],
        test_pixels=pixels[test],
        test_labels=labels[test],
        classes=10,
        source="sklearn.datasets.load_digits",
    )
