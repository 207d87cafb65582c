"""DATASETS: the one list of data sets, with their sizes, so that a study can be planned without loading one."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dastune.data.dataset import Dataset


@dataclass(frozen=True)
class DatasetEntry:
    """One data set: the module and function that load it, and its sizes; None: not known before it is read."""

    module: str
    function: str
    train_images: int | None
    test_images: int | None
    classes: int | None
    side_px: int | None

    def load(self, **options: Any) -> "Dataset":
        """Load it. Raises UserError where it can neither be found nor fetched."""
        dataset: Dataset = getattr(import_module(f"dastune.data.{self.module}"), self.function)(**options)
        return dataset


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry("embedded", "digits", train_images=1000, test_images=797, classes=10, side_px=16),
    "cifar10": DatasetEntry("cifar", "cifar10", train_images=50_000, test_images=10_000, classes=10, side_px=32),
    "cifar100": DatasetEntry("cifar", "cifar100", train_images=50_000, test_images=10_000, classes=100, side_px=32),
    "svhn": DatasetEntry("svhn", "svhn", train_images=73_257, test_images=26_032, classes=10, side_px=32),
    "tiny_imagenet": DatasetEntry(
        "folders", "tiny_imagenet", train_images=100_000, test_images=10_000, classes=200, side_px=64
    ),
    "imagenet": DatasetEntry(
        "folders", "imagenet", train_images=1_281_167, test_images=50_000, classes=1000, side_px=224
    ),
    "folder": DatasetEntry("folders", "folder", train_images=None, test_images=None, classes=None, side_px=None),
}
SVHN_EXTRA_IMAGES = 531_131  # simpler ones, which may be added to the training set


def images_left(images: int, removed_percent: int) -> int:
    """Return how many of so many training images are left when a percentage of them is removed, rounded down."""
    return images * (100 - removed_percent) // 100
