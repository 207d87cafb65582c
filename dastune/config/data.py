"""The data set of a study and the sizes of its parts."""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from dastune.config.fields import Count, FieldError, Number, Strict, Switch, Whole, distinct
from dastune.config.space import OpRange, op_of_yaml
from dastune.data.table import DATASETS, SVHN_EXTRA_IMAGES, DatasetEntry, images_left
from dastune.errors import UserError
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
    removed_percent: Annotated[
        tuple[Annotated[Whole, Field(ge=0, le=99)], ...], Field(min_length=1), AfterValidator(distinct)
    ] = (0,)
    """Percent of the training images that are removed (supplement, Figure 10), drawn with the search seed, of each
    class alike. Search, validation and final training see what is left; the numbers of images above shrink with it,
    rounded down. The test set stays whole. What is left at 90 is part of what is left at 50. With several, every method
    is run at each, in place of noise levels."""
    shift: tuple[ShiftItem, ...] = ()
    """A planted problem: ops that a search's validation images and the test images go through, one after the other, and
    training images do not, so that it is known what a search should find. Written as in `space.ops`, with a probability
    if wanted: `[rotate: {degrees: 40}, invert: {probability: 0.5}]`. What is drawn for an image is the same in every
    study, whatever its seeds."""

    @field_validator("removed_percent")
    @classmethod
    def _leaves_some(cls, removed_percent: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        parts = {key: info.data.get(key) for key in ("train_images", "search_images", "validation_images")}
        for index, percent in enumerate(removed_percent):
            for key, images in parts.items():
                if images is not None and images_left(images, percent) < 1:
                    raise FieldError(
                        f"{percent} % leaves nothing of {key} {images:,}; remove less, or give more of them", index
                    )
        return removed_percent

    @field_validator("shift")
    @classmethod
    def _can_be_found(cls, shift: tuple[ShiftOp, ...]) -> tuple[ShiftOp, ...]:
        for index, item in enumerate(shift):
            if OPS[item.op].noise:
                raise FieldError(f"{item.op!r} is a noise op, which leaves nothing to learn; give another op", index)
        return shift

    @model_validator(mode="after")
    def _parts_fit(self) -> "_Data":
        total, key = self.images_there, "search_images" if self.search_images is not None else "train_images"
        if total is not None and self.train_images is not None and self.train_images > total:
            raise FieldError(f"must be at most {total:,}, the training images there are", "train_images")
        if self.search_images is None and self.train_images is None:
            raise FieldError("needs search_images beside it, or train_images for both", "validation_images")
        if total is not None and self.search_count + self.validation_images > total:
            raise FieldError(
                f"{self.validation_images:,} and {key} {self.search_count:,} together exceed the {total:,} training "
                "images; lower one",
                "validation_images",
            )
        return self

    @property
    def images_there(self) -> int | None:
        """Images of the whole training set; None: not known before the data set is read."""
        return self._entry.train_images

    @property
    def classes(self) -> int | None:
        """How many there are; None: not known before the data set is read."""
        return self._entry.classes

    @property
    def side_px(self) -> int:
        """Side of the images."""
        assert self._entry.side_px is not None
        return self._entry.side_px

    @property
    def pixel_bytes(self) -> int:
        """What the pixels take in memory."""
        assert self.images_there is not None
        assert self._entry.test_images is not None
        return (self.images_there + self._entry.test_images) * 3 * self.side_px**2

    def check_fits(self, images: int) -> None:
        """Raise UserError if the data set, now that it is read, has fewer training images than its parts take."""
        if self.train_images is not None and self.train_images > images:
            raise UserError(
                f"data.train_images: must be at most {images:,}, the training images there are, got "
                f"{self.train_images:,}"
            )
        if self.search_count + self.validation_images > images:
            validation = images // 5
            raise UserError(
                f"data.validation_images: {self.validation_images:,} and the {self.search_count:,} images that a "
                f"search trains on together exceed the {images:,} training images; lower them, for example "
                f"--set data.search_images={images - validation} --set data.validation_images={validation}"
            )

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


class _Fetched(_Data):
    """A data set that is downloaded to a folder."""

    root: str = "~/.cache/dastune"
    """Folder that holds the files of the data set, or will hold them after their download."""

    def load_options(self) -> dict[str, Any]:
        """What the loader is called with: where the files are."""
        return {"root": self.root}


class Cifar10Data(_Fetched):
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels. Its folder, cifar-10-batches-py, is
    downloaded to `root` (170 MB) where it is not there."""

    _entry = DATASETS["cifar10"]

    name: Literal["cifar10"]
    """Name of the data set."""


class Cifar100Data(_Fetched):
    """CIFAR-100 with its 100 fine classes: 50,000 training and 10,000 test images of 32 x 32 pixels. Its folder,
    cifar-100-python, is downloaded to `root` (170 MB) where it is not there."""

    _entry = DATASETS["cifar100"]

    name: Literal["cifar100"]
    """Name of the data set."""


class SvhnData(_Fetched):
    """Street View House Numbers, cropped digits of 32 x 32 pixels: 73,257 training images, the core set, and 26,032
    test images. train_32x32.mat and test_32x32.mat are downloaded to `root` (250 MB) where they are not there."""

    _entry = DATASETS["svhn"]

    name: Literal["svhn"]
    """Name of the data set."""
    root: str = "~/.cache/dastune/svhn"
    """Folder that holds the files of the data set, or will hold them after their download."""
    extra: Switch = False
    """Whether 531,131 simpler images follow the core set, together 604,388: extra_32x32.mat, 1.3 GB. RandAugment trains
    on them with `final: {epochs: 160, weight_decay: 1.0e-3}`."""

    @property
    def images_there(self) -> int | None:
        """Images of the whole training set."""
        assert self._entry.train_images is not None
        return self._entry.train_images + self.extra * SVHN_EXTRA_IMAGES

    def load_options(self) -> dict[str, Any]:
        """What the loader is called with: where the files are, and which."""
        return {"root": self.root, "extra": self.extra}


class _Files(_Data):
    """A data set of image files, which are decoded once."""

    root: str
    """Folder of the image files."""
    cache: str = "~/.cache/dastune"
    """Folder that keeps the decoded pixels, from which they are read again: 3 bytes a pixel, and no memory. On several
    nodes, one that all see under this path. It may be removed when no study runs; it is then made again."""

    @property
    def pixel_bytes(self) -> int:
        """What the pixels take in memory: nothing, they stay in their file."""
        return 0

    def load_options(self) -> dict[str, Any]:
        """What the loader is called with: where the files are, and where their pixels."""
        return {"root": self.root, "cache": self.cache}


class TinyImageNetData(_Files):
    """Tiny ImageNet: 200 classes, 100,000 training images of 64 x 64 pixels; the 10,000 validation images are the test
    set. Not downloaded: its folder must hold train/WNID/images/*.JPEG, and val/images/*.JPEG with
    val/val_annotations.txt, or val/WNID/*.JPEG. Its pixels take 1.4 GB of `cache`."""

    _entry = DATASETS["tiny_imagenet"]

    name: Literal["tiny_imagenet"]
    """Name of the data set."""
    root: str = "~/.cache/dastune/tiny-imagenet-200"
    """Folder of the image files."""


class ImageNetData(_Files):
    """ImageNet (ILSVRC 2012): 1,000 classes, 1,281,167 training images; the 50,000 validation images are the test set.
    The shorter side is resized to 224 pixels, bilinearly and antialiased, and the centre cut out; EXIF orientation is
    not looked at. Not downloaded: its folder must hold train/WNID/*.JPEG and val/WNID/*.JPEG. Its pixels take 200 GB of
    `cache`."""

    _entry = DATASETS["imagenet"]

    name: Literal["imagenet"]
    """Name of the data set."""
    root: str = "~/.cache/dastune/imagenet"
    """Folder of the image files."""


class FolderData(_Files):
    """Images of your own, any number of classes: a folder with train/CLASS/ and test/CLASS/ (or val/CLASS/) of png,
    jpg, jpeg, webp and bmp files. Each is turned as its EXIF orientation says, made RGB (transparency is dropped), its
    shorter side resized to `side`, bilinearly and antialiased, and its centre cut out. How many there are is not known
    before they are read; where the parts below are too large for them, `dastune run` says so."""

    _entry = DATASETS["folder"]

    name: Literal["folder"]
    """Name of the data set."""
    side: Annotated[Whole, Field(ge=8, le=1024)] = 64
    """Side of the images that networks get."""

    @property
    def side_px(self) -> int:
        """Side of the images."""
        return self.side

    def load_options(self) -> dict[str, Any]:
        """What the loader is called with: where the files are, where their pixels, and their size."""
        return {**super().load_options(), "side": self.side}


Data: TypeAlias = Annotated[
    DigitsData | Cifar10Data | Cifar100Data | SvhnData | TinyImageNetData | ImageNetData | FolderData,
    Field(discriminator="name"),
]
