"""DATASETS: the one list of data sets, with their sizes, so that a study can be planned without loading one."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dastune.data.dataset import Dataset


@dataclass(frozen=True)
class DatasetEntry:
    """One data set: the module and function that load it, and its sizes."""

    module: str
    function: str
    train_images: int
    test_images: int
    classes: int
    side_px: int

    def load(self, **options: Any) -> "Dataset":
        """Load it. Raises UserError where it can neither be found nor fetched."""
        dataset: Dataset = getattr(import_module(f"dastune.data.{self.module}"), self.function)(**options)
        return dataset


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry("embedded", "digits", train_images=1000, test_images=797, classes=10, side_px=16),
    "cifar10": DatasetEntry("cifar", "cifar10", train_images=50_000, test_images=10_000, classes=10, side_px=32),
}
