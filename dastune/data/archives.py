"""Data sets whose files torchvision downloads where they are not there: what is common to reading them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dastune.errors import UserError

_Read = TypeVar("_Read")


class DamagedError(RuntimeError):
    """A file is not that of the data set."""


def check_md5(path: Path, md5: str) -> None:
    """Raise DamagedError if a file has not this sum, OSError if it cannot be read."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() != md5:
            raise DamagedError(f"{path.name} is damaged")


def read_or_fetched(
    title: str, folder: Path, read: Callable[[Path], _Read], fetch: Callable[[Path], object], by_hand: str
) -> _Read:
    """Return what `read` finds in a folder; where it finds nothing whole, `fetch` puts it there first.

    Args:
        read: raises OSError or DamagedError.
        fetch: brings torch into the process, for which it takes some 500 MB more.
        by_hand: what to put there without a network.

    Raises:
        UserError: it is not there and cannot be fetched.
    """
    try:
        try:
            return read(folder)
        except (FileNotFoundError, DamagedError):
            folder.mkdir(parents=True, exist_ok=True)
            fetch(folder)
            return read(folder)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise UserError(
            f"data.root: {title} is not in {folder} and cannot be downloaded there ({reason}). Put {by_hand} there by "
            "hand, or name the folder that has it: --set data.root=FOLDER"
        ) from error
