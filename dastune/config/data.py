"""The data set of a study and the sizes of its parts."""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from dastune.config.fields import Count, FieldError, Strict
from dastune.data.table import DATASETS, DatasetEntry


class _Data(Strict):
    _entry: ClassVar[DatasetEntry]

    name: str
    """Name of the data set."""
    train_images: Count | None = None
    """Images the final training sees; null: the whole training set."""
    search_images: Count | None = None
    """Images a search trains on, drawn with the search seed; null: as many as `train_images`."""
    validation_images: Count
    """Images a search validates on, drawn with the search seed, never among its training images."""

    @field_validator("train_images")
    @classmethod
    def _fits(cls, train_images: int | None) -> int | None:
        if train_images is not None and train_images > cls._entry.train_images:
            raise FieldError(f"must be at most {cls._entry.train_images:,}, the training images there are")
        return train_images

    @field_validator("validation_images")
    @classmethod
    def _parts_fit(cls, validation_images: int, info: ValidationInfo) -> int:
        if not {"train_images", "search_images"} <= info.data.keys():
            return validation_images  # they have faults of their own
        key = "search_images" if info.data["search_images"] is not None else "train_images"
        search_images = info.data[key]
        total = cls._entry.train_images
        if search_images is None:
            raise FieldError("needs search_images beside it, or train_images for both")
        if search_images + validation_images > total:
            raise FieldError(
                f"{validation_images:,} and {key} {search_images:,} together exceed the {total:,} training images; "
                "lower one"
            )
        return validation_images

    @property
    def search_count(self) -> int:
        """Images a search trains on."""
        count = self.search_images or self.train_images
        assert count is not None
        return count

    def load_options(self) -> dict[str, Any]:
        """What the loader of this data set is called with."""
        return {}


class DigitsData(_Data):
    """scikit-learn's 1,797 digits, 16 x 16 pixels; 1,000 for training, 797 for the test. No download."""

    _entry = DATASETS["digits"]

    name: Literal["digits"]
    """Name of the data set."""


class Cifar10Data(_Data):
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels."""

    _entry = DATASETS["cifar10"]

    name: Literal["cifar10"]
    """Name of the data set."""
    root: str = "~/.cache/dastune"
    """Folder that holds (or will hold, after a download of 170 MB) cifar-10-batches-py."""

    def load_options(self) -> dict[str, Any]:
        """What the loader is called with: where the files are."""
        return {"root": self.root}


Data: TypeAlias = Annotated[DigitsData | Cifar10Data, Field(discriminator="name")]
