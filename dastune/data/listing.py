"""Which image files a folder holds, class by class: never all of them in memory, for there may be millions."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dastune.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")  # of image files, in any case
_MOST_NAMED = 3  # files or folders in a message


class LayoutError(UserError):
    """A folder does not hold what it should; who knows what it is for adds how it should be laid out."""


@dataclass(frozen=True)
class Split:
    """The training or the test images of a folder.

    Attributes:
        classes: names, in the order of the labels.
        files_of: leads from a class to the folder of its files and their names, in the order in which they stand in the
            data set; raises LayoutError.
    """

    classes: tuple[str, ...]
    files_of: Callable[[str], tuple[Path, Sequence[str]]]


@dataclass(frozen=True)
class Source:
    """What the pixels of a data set are made of.

    Attributes:
        name: of the data set.
        root: folder of the files, absolute.
        train, test: which files.
        side_px, upright: as `decoded` takes them.
    """

    name: str
    root: Path
    train: Split
    test: Split
    side_px: int
    upright: bool

    @property
    def splits(self) -> Mapping[str, Split]:
        """Both, by name."""
        return {"train": self.train, "test": self.test}

    def files(self, split: str) -> Iterator[str]:
        """Yield the paths of the files of a split, in the order of the data set. Raises LayoutError."""
        for name in self.train.classes:
            folder, names = self.splits[split].files_of(name)
            yield from (os.path.join(folder, each) for each in names)  # noqa: PTH118  quicker by far, for millions


@dataclass(frozen=True)
class Listed:
    """What the files of a source are by their names, sizes and times of change; none of them has been read.

    Attributes:
        key: 16 hex digits; others where any file, or what is made of it, is another.
        images: how many of each class, by split.
    """

    key: str
    images: Mapping[str, Sequence[int]]


def listed(source: Source, version: int) -> Listed:
    """Go through the files of a source.

    Args:
        version: of what is made of them.

    Raises:
        LayoutError: there is something that does not belong there.
    """
    digest = hashlib.sha256(repr((version, str(source.root), source.side_px, source.upright)).encode())
    images: dict[str, list[int]] = {}
    for split, files in source.splits.items():
        for name in files.classes:
            folder, names = files.files_of(name)
            images.setdefault(split, []).append(len(names))
            digest.update(repr((split, name, str(folder), len(names))).encode())
            for each in names:
                found = os.stat(os.path.join(folder, each))  # noqa: PTH116, PTH118
                digest.update(repr((each, found.st_size, found.st_mtime_ns)).encode())
    return Listed(digest.hexdigest()[:16], images)


def training_split(root: Path, inner: str = "") -> Split:
    """Return the images of root/train/CLASS/, or of root/train/CLASS/inner/.

    Raises:
        LayoutError: there is no such folder, or it has no two classes.
    """
    if not root.is_dir():
        raise LayoutError(f"there is no folder {root}")
    folder = _first_there(root, ("train",))
    classes = _classes(folder)
    if len(classes) < 2:
        held = f"one class, {classes[0]}" if classes else "no folders of classes"
        raise LayoutError(f"{folder} has {held}; two classes at least are needed")
    return Split(classes, lambda name: _files(folder / name / inner))


def test_split(root: Path, names: Sequence[str], classes: tuple[str, ...]) -> Split:
    """Return the images of root/NAME/CLASS/, with the first of `names` that is there; a class may have no folder.

    Args:
        classes: those of the training images.

    Raises:
        LayoutError: there is no such folder, or it has classes that `classes` lacks.
    """
    folder = _first_there(root, names)
    held = set(_classes(folder))
    if unknown := sorted(held - set(classes)):
        raise LayoutError(f"{folder} has classes that {root / 'train'} lacks: {named(unknown)}")
    return Split(classes, lambda name: _files(folder / name) if name in held else (folder, ()))


def annotated_split(folder: Path, annotations: Path, classes: tuple[str, ...]) -> Split:
    """Return the images of a folder whose classes a table has: lines of a file's name, a tab, its class, and more.

    Raises:
        LayoutError: the table and the folder do not fit each other, or it has classes that `classes` lacks.
    """
    lines = [line.split("\t") for line in annotations.read_text(encoding="utf-8").splitlines()]
    class_of = {line[0]: line[1] for line in lines if len(line) > 1}
    names = _files(folder)[1]
    if unknown := sorted(set(class_of.values()) - set(classes)):
        raise LayoutError(f"{annotations} has classes that there are no training images of: {named(unknown)}")
    if others := sorted(class_of.keys() ^ set(names)):
        raise LayoutError(f"{annotations} and {folder} are not of the same files: {named(others)}")
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(class_of[name], []).append(name)
    return Split(classes, lambda name: (folder, members.get(name, ())))


def named(names: Sequence[str], count: int | None = None) -> str:
    """Return the first of `names` in words, and how many more there are, of `count` if these are not all.

    >>> named(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    shown = ", ".join(names[:_MOST_NAMED])
    more = (len(names) if count is None else count) - min(len(names), _MOST_NAMED)
    return f"{shown} and {more:,} more" if more else shown


def _first_there(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    held = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    raise LayoutError(f"{root} has no folder {' or '.join(names)}; it has {named(held) or 'nothing'}")


def _classes(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted. Raises LayoutError where images lie beside them."""
    with os.scandir(folder) as entries:
        seen = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    if loose := [name for name, is_folder in seen if not is_folder and name.lower().endswith(SUFFIXES)]:
        raise LayoutError(f"{folder} has images outside its folders of classes: {named(loose)}")
    return tuple(name for name, is_folder in seen if is_folder)


def _files(folder: Path) -> tuple[Path, Sequence[str]]:
    """Return a folder and the names of its files, sorted, without hidden ones.

    Raises:
        LayoutError: it has none, or something that is no image by its name.
    """
    try:
        with os.scandir(folder) as entries:
            seen = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise LayoutError(f"{folder} cannot be read ({error.strerror})") from error
    if not seen:
        raise LayoutError(f"{folder} is a class without images")
    if others := [name for name, is_folder in seen if is_folder or not name.lower().endswith(SUFFIXES)]:
        raise LayoutError(
            f"{folder} has {len(others):,} of {len(seen):,} entries that are no image files by their names "
            f"({', '.join(SUFFIXES)}): {named(others)}"
        )
    return folder, [name for name, _ in seen]
