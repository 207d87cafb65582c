"""CIFAR-10, through torchvision; downloaded on first use."""

from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10

from dastune.data.classification import Dataset
from dastune.errors import UserError


def cifar10(root: str = "~/.cache/dastune") -> Dataset:
    """Return CIFAR-10 from `root`, downloading it there (170 MB) if it is absent.

    Raises:
        UserError: it is not there and cannot be fetched; says how to put it there by hand.
    """
    folder = Path(root).expanduser()
    try:
        train, test = (_open(folder, train=part) for part in (True, False))
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise UserError(
            f"data.root: CIFAR-10 is not in {folder} and cannot be downloaded there ({reason}). Put "
            f"cifar-10-python.tar.gz, unpacked to {folder}/cifar-10-batches-py, there by hand, or name the folder that "
            "has it: --set data.root=FOLDER"
        ) from error
    return Dataset(
        name="cifar10",
        train_pixels=np.ascontiguousarray(train.data.transpose(0, 3, 1, 2)),
        train_labels=np.asarray(train.targets, dtype=np.int64),
        test_pixels=np.ascontiguousarray(test.data.transpose(0, 3, 1, 2)),
        test_labels=np.asarray(test.targets, dtype=np.int64),
        classes=10,
        source=str(folder),
    )


def _open(folder: Path, *, train: bool) -> CIFAR10:
    """Open one part where it is; torchvision checks the files' md5 sums. Fetch it only if that fails."""
    try:
        return CIFAR10(folder, train=train, download=False)
    except RuntimeError:
        folder.mkdir(parents=True, exist_ok=True)
        return CIFAR10(folder, train=train, download=True)
