"""Data sets that are folders of image files: Tiny ImageNet, ImageNet, and a user's own. Nothing is downloaded."""

from collections.abc import Callable
from pathlib import Path

from dastune.data.cache import cached, list_files
from dastune.data.dataset import Dataset
from dastune.data.listing import LayoutError, Source, annotated_split, test_split, training_split
from dastune.data.table import DATASETS
from dastune.errors import UserError

CACHE = "~/.cache/dastune"
TINY_IMAGENET_PX, IMAGENET_PX = 64, 224  # sides

_OWN = "it must hold train/CLASS/ and test/CLASS/ (or val/CLASS/) with png, jpg, jpeg, webp or bmp files"
_TINY = (
    "fetch https://cs231n.stanford.edu/tiny-imagenet-200.zip (250 MB) and unpack it; the folder must hold "
    "train/WNID/images/*.JPEG, and val/images/*.JPEG with val/val_annotations.txt, or val/WNID/*.JPEG"
)
_IMAGENET = (
    "get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org and unpack them; the folder "
    "must hold train/WNID/*.JPEG and val/WNID/*.JPEG; the archive of validation images has no folders, so move each "
    "image into that of its class"
)


def folder(root: str | None = None, side: int = 64, cache: str = CACHE) -> Dataset:
    """Return the images of a user's folder: root/train/CLASS/ and root/test/CLASS/ or root/val/CLASS/.

    Images are turned as their EXIF orientation says; see `decoded` for the rest of what is done to them.

    Args:
        side: of the images, in pixels.
        cache: folder that keeps the decoded pixels.

    Raises:
        UserError: the folder is laid out in another way, files are no images, or pixels cannot be kept.
    """
    if root is None:
        raise UserError(f"data.root: is not given; it is the folder of the images: {_OWN}")

    def source(root: Path) -> Source:
        train = training_split(root)
        return Source("folder", root, train, test_split(root, ("test", "val"), train.classes), side, upright=True)

    return _loaded(source, root, cache, _OWN)


def tiny_imagenet(root: str = f"{CACHE}/tiny-imagenet-200", cache: str = CACHE) -> Dataset:
    """Return Tiny ImageNet from its folder; its validation images are the test set, for it has no other with labels.

    Args:
        cache: as of `folder`.

    Raises:
        UserError: it is not there, or not whole; says where it comes from.
    """

    def source(root: Path) -> Source:
        train, annotations = training_split(root, "images"), root / "val" / "val_annotations.txt"
        if annotations.is_file():
            test = annotated_split(root / "val" / "images", annotations, train.classes)
        else:
            test = test_split(root, ("val",), train.classes)
        return Source("tiny_imagenet", root, train, test, TINY_IMAGENET_PX, upright=False)

    return _loaded(source, root, cache, _TINY)


def imagenet(root: str = f"{CACHE}/imagenet", cache: str = CACHE) -> Dataset:
    """Return ImageNet (ILSVRC 2012) from its folder; its validation images are the test set.

    Args:
        cache: as of `folder`; ImageNet takes 200 GB of it.

    Raises:
        UserError: it is not there, or not whole; says where it comes from.
    """

    def source(root: Path) -> Source:
        train = training_split(root)
        return Source("imagenet", root, train, test_split(root, ("val",), train.classes), IMAGENET_PX, upright=False)

    return _loaded(source, root, cache, _IMAGENET)


def _loaded(source_of: Callable[[Path], Source], root: str, cache: str, advice: str) -> Dataset:
    try:
        source = source_of(Path(root).expanduser().absolute())
        found = list_files(source)
        _check_whole(source, len(source.train.classes), *(sum(found.images[split]) for split in ("train", "test")))
        return cached(source, found, Path(cache).expanduser().absolute())
    except LayoutError as error:
        raise UserError(f"data.root: {error}; {advice}") from error


def _check_whole(source: Source, classes: int, train_images: int, test_images: int) -> None:
    """Raise LayoutError if a source has not the sizes of its data set."""
    entry = DATASETS[source.name]
    if test_images == 0:
        raise LayoutError(f"{source.root} has no test images")
    if entry.classes is not None and (classes, train_images, test_images) != (
        entry.classes,
        entry.train_images,
        entry.test_images,
    ):
        raise LayoutError(
            f"{source.root} has {classes:,} classes, {train_images:,} training and {test_images:,} test images, and "
            f"{source.name} has {entry.classes:,}, {entry.train_images:,} and {entry.test_images:,}; for a part of it "
            "there is data.name folder, for the whole"
        )
