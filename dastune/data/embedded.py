"""Digits: 1,797 real hand-written digits that come with scikit-learn; no download."""

import numpy as np
import torch

from dastune.data.classification import Dataset
from dastune.seeds import derive

DIGITS_TRAIN = 1000  # of 1,797; the other 797 are the test set of every study


def digits(side: int = 16) -> Dataset:
    """Return scikit-learn's digits as RGB images of `side` x `side` pixels, bilinearly enlarged from 8 x 8 grey ones.

    The 1,000 training and 797 test images are the same in every study.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images / 16).float()[:, None]
    large = torch.nn.functional.interpolate(grey, size=(side, side), mode="bilinear", align_corners=False)
    pixels = large.mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous().numpy()
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
