"""A report's files: all of them replaced at once, those of an earlier report gone, and nobody else's touched."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path, PurePosixPath

from dastune.errors import UserError
from dastune.folder import SAFE_NAME

PAGE = "index.html"
NEW = ".new-"  # begins the name of a report that is being written, or was when its process was killed
SUMS = "SHA256SUMS"  # as `sha256sum -c` reads it

MOST_SUMS_BYTES = 10_000_000
DEEPEST = 3  # NAME/tables/FILE

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@contextmanager
def remade(output: Path) -> Iterator[Path]:
    """Yield an empty folder; its files take their places in `output` at the end, pages last.

    If an exception comes first, `output` is as it was. A file of the report before that belongs no more is removed,
    unless somebody has changed it since; files that no report made are left alone. SUMS is the list of what was made.

    Raises:
        UserError: `output` cannot be written, or what is there is in the way.
    """
    new = output / f"{NEW}{os.getpid()}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed, and had this one's number
        new.mkdir()
        try:
            yield new
            _take_over(new, output)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{output}: the report cannot be written ({error})") from error


def is_report(folder: Path) -> bool:
    """Return whether a report was written to `folder`."""
    return (folder / SUMS).is_file()


def _take_over(new: Path, output: Path) -> None:
    names = [PurePosixPath(path.relative_to(new)) for path in sorted(new.rglob("*")) if path.is_file()]
    sums = {name: _digest(new / name) for name in names}
    before = _listed(output)
    # whoever sees a page finds all that it leads to
    for name in sorted(names, key=lambda name: (name.name == PAGE, -len(name.parts))):
        _folder_of(output, name)
        (new / name).replace(output / name)
    for name, digest in before.items():
        if name not in sums:
            _remove(output, name, digest)
    listed = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (new / SUMS).write_text(listed, encoding="utf-8")
    (new / SUMS).replace(output / SUMS)


def _folder_of(output: Path, name: PurePosixPath) -> None:
    """Make the folders that `name` is in; none of them may lead elsewhere."""
    for parent in reversed(name.parents[:-1]):
        if (output / parent).is_symlink():
            raise UserError(f"{output / parent}: is a link; put a folder in its place, or take it away")
        (output / parent).mkdir(exist_ok=True)


def _listed(output: Path) -> dict[PurePosixPath, str]:
    """Return what the report before says it made; the list may come from anybody."""
    path = output / SUMS
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_SUMS_BYTES:
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if matched := _LINE.fullmatch(line):
            name = PurePosixPath(matched[2])
            if len(name.parts) <= DEEPEST and all(map(SAFE_NAME.fullmatch, name.parts)):
                found[name] = matched[1]
    return found


def _remove(output: Path, name: PurePosixPath, digest: str) -> None:
    """Remove a file that is as it was written, and the folders that this leaves empty."""
    if any((output / parent).is_symlink() for parent in (name, *name.parents[:-1])):
        return
    if not (output / name).is_file() or _digest(output / name) != digest:
        return
    (output / name).unlink()
    for parent in name.parents[:-1]:
        with suppress(OSError):  # something is left in it
            (output / parent).rmdir()


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
