"""Data sets of image files, decoded once: two pixel files in a folder of the cache, and an index of what they hold."""

import errno
import fcntl
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dastune.data.build import build, pixels_in
from dastune.data.dataset import Dataset
from dastune.data.listing import Listed, Source, listed
from dastune.data.pixel_file import PixelFile
from dastune.errors import UserError
from dastune.folder import write_atomic

_VERSION = 1  # of how files become pixels, and of the index
_INDEX = "index.json"


def cached(source: Source, found: Listed, cache: Path) -> Dataset:
    """Return the data set of `source`, whose pixels are read from the cache; where they are not, they are put there.

    What is there is whole: it gets its name when it is. Several processes may ask for the same at once.

    Args:
        found: what `list_files` says of the source.
        cache: folder; made where it is not.

    Raises:
        UserError: files cannot be decoded, or the cache cannot be written.
    """
    home = cache / f"{source.name}-{source.side_px}-{found.key}"
    try:
        dataset = _opened(home, source)
        if dataset is None:
            cache.mkdir(parents=True, exist_ok=True)
            with _alone(home) as locked:
                dataset = _opened(home, source)  # another process has made it meanwhile
                if dataset is None:
                    _make(home, source, found, locked)
                    dataset = _opened(home, source)
    except OSError as error:
        raise UserError(
            f"data.cache: pixels cannot be kept in {home} ({error.strerror or error}); name another folder, on storage "
            "that all nodes share: --set data.cache=FOLDER"
        ) from error
    if dataset is None:
        raise UserError(f"data.cache: {home} has been made and cannot be read; remove it, and run again")
    return dataset


def list_files(source: Source) -> Listed:
    """Return what the files of a source are, without reading them. Raises LayoutError."""
    return listed(source, _VERSION)


def _opened(home: Path, source: Source) -> Dataset | None:
    """Return what a folder of the cache holds; None if it is not there, or not whole."""
    try:
        index = json.loads((home / _INDEX).read_bytes())
        train, test = (_split(home, split, source.side_px, index[split]) for split in ("train", "test"))
        labels = [np.repeat(np.arange(len(index["classes"])), index[split]["images"]) for split in ("train", "test")]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    return Dataset(
        name=source.name,
        train_pixels=train,
        train_labels=labels[0].astype(np.int64),
        test_pixels=test,
        test_labels=labels[1].astype(np.int64),
        classes=len(index["classes"]),
        source=str(source.root),
    )


def _split(home: Path, split: str, side_px: int, said: dict[str, Any]) -> PixelFile:
    """Return the pixels of a split. Raises ValueError, KeyError or TypeError where they are not what the index says."""
    path, counts = pixels_in(home, split), tuple(map(tuple, said["counts"]))
    pixels = PixelFile(str(path), sum(said["images"]), side_px, counts, str(said["digest"]))
    if path.stat().st_size != len(pixels) * pixels.image_bytes:
        raise ValueError("it is not whole")
    return pixels


def _make(home: Path, source: Source, found: Listed, locked: bool) -> None:
    """Decode a source's files, and give them the name `home`.

    Args:
        locked: whether no other process of this node does the same.
    """
    unfinished = f"{home.name}.{platform.node()}."
    if locked:
        for left in home.parent.glob(f"{unfinished}*"):  # of a process that died
            shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)  # damaged
    needed = 3 * source.side_px**2 * sum(map(sum, found.images.values()))
    if (free := shutil.disk_usage(home.parent).free) < needed:
        raise UserError(
            f"data.cache: the pixels take {needed / 1e9:,.1f} GB, and {home.parent} has {free / 1e9:,.1f} GB left; "
            "make room, or name another folder: --set data.cache=FOLDER"
        )
    beside = home.with_name(f"{unfinished}{os.getpid()}")
    beside.mkdir()
    try:
        made = build(source, found, beside)
        if list_files(source).key != found.key:
            raise UserError(f"data.root: files in {source.root} changed while they were decoded; run it again")
        said = {
            split: {"images": found.images[split], "counts": pixels.counts, "digest": pixels.digest}
            for split, pixels in made.items()
        }
        index = {"source": str(source.root), "side_px": source.side_px, "classes": source.train.classes, **said}
        write_atomic(beside / _INDEX, json.dumps(index))
        beside.rename(home)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another node was quicker
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _alone(home: Path) -> Iterator[bool]:
    """Keep other processes from making `home`; yields whether they are kept, for not all storage knows locks."""
    with home.with_name(f"{home.name}.lock").open("ab") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process decodes the same images, into {home}: waits", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
