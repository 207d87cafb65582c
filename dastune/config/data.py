"""The data set of a study and the sizes of its parts."""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from dastune.config.fields import Count, FieldError, Number, Strict
from dastune.config.space import OpRange, op_of_yaml
from dastune.data.table import DATASETS, DatasetEntry
from dastune.ops.table import OPS
from dastune.policy.policy import Step


class ShiftOp(OpRange):
    """An op that validation and test images go through, with its range, and the share of images it is applied to."""

    probability: Annotated[Number, Field(ge=0, le=1)] = 1.0
    """Chance that an image goes through the op."""

    @property
    def step(self) -> Step:
        """The op over its range."""
        low, high = sorted((self.low, self.high))
        return Step(op=self.op, low=low, high=high, probability=self.probability, signed=self.signed)


def _shift_of_yaml(item: Any) -> Any:
    """Turn an op as `space.ops` takes it, or `invert: {probability: 0.5}`, into the fields of ShiftOp."""
    if not isinstance(item, dict) or "op" in item or len(item) != 1:
        return op_of_yaml(item)
    [(name, arguments)] = item.items()
    if not isinstance(arguments, dict) or "probability" not in arguments:
        return op_of_yaml(item)
    fields = op_of_yaml({name: {key: value for key, value in arguments.items() if key != "probability"}})
    probability = arguments["probability"]
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise FieldError("must be a number from 0 to 1", name, "probability")
    return {**fields, "probability": probability}


ShiftItem: TypeAlias = Annotated[ShiftOp, BeforeValidator(_shift_of_yaml)]


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
    shift: tuple[ShiftItem, ...] = ()
    """A planted problem: ops that a search's validation images and the test images go through, one after the other, and
    training images do not, so that it is known what a search should find. Written as in `space.ops`, with a probability
    if wanted: `[rotate: {degrees: 40}, invert: {probability: 0.5}]`. What is drawn for an image is the same in every
    study, whatever its seeds."""

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

    @field_validator("shift")
    @classmethod
    def _can_be_found(cls, shift: tuple[ShiftOp, ...]) -> tuple[ShiftOp, ...]:
        for index, item in enumerate(shift):
            if OPS[item.op].noise:
                raise FieldError(f"{item.op!r} is a noise op, which leaves nothing to learn; give another op", index)
        return shift

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
