"""A copy of a study's folder in its storage, so that a study whose head node is lost goes on elsewhere.

The copy changes as a whole, when its table of contents (`mirror.json`) is written: that names only what is already
there. Files are blobs of their own names. Journals, which only grow, are in parts: a part is written anew while it
grows and never touched once it is full, and the table says how much of it counts. Each mirror names its parts after
itself, so two that write at the same time cannot harm what the other's table names.
"""

import hashlib
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dastune.errors import UserError, shortened
from dastune.folder import SAFE_NAME, StudyFolder, write_atomic
from dastune.storage import Storage

TABLE = "mirror.json"
VERSION = 1

PART_BYTES = 512 * 1024  # what is sent again at most, of each journal, when it has grown
SYNC_SECONDS = 5.0
RETRY_SECONDS = 0.5  # while somebody waits for the end

_BLOB = re.compile(r"parts/[a-z]+\.jsonl\.[0-9a-f]{8}\.[0-9]{6,9}")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """The first `size` bytes of a blob, and their digest."""

    blob: str
    size: int
    digest: str


@dataclass(frozen=True)
class Contents:
    """What is in a mirror.

    Attributes:
        writer: which mirror wrote it.
        files: digest by path, relative to the folder.
        journals: parts by path.
        pending: content of the driver's note of the report it was writing, "" if there was none.
    """

    writer: str
    files: dict[str, str] = field(default_factory=dict)
    journals: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    pending: str = ""


class Mirror:
    """Copies one study's folder into a storage, again and again; MLflow's store, Ray's state and checkpoints are not
    copied. Only the driver that holds the folder's lock may have one.

    Args:
        warn: told once when the storage takes nothing; default: the log.
    """

    def __init__(self, folder: StudyFolder, storage: Storage, warn: Callable[[str], None] | None = None) -> None:
        self._folder, self._storage, self._warn = folder, storage, warn or _LOG.warning
        self._writer = secrets.token_hex(4)
        self._adopted: bytes | None = None  # the table that was there at first
        self._there: Contents | None = None  # what the storage holds for certain; None: not asked yet
        self._parts: dict[str, tuple[Part, ...]] = {}  # of the table to come
        self._begun_parts = 0
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}  # of local files, by how they looked
        self._warned = False
        self._turn = threading.Lock()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._keep, name="dastune-mirror", daemon=True)

    def start(self) -> None:
        """Begin to copy, every few seconds.

        Raises UserError if the storage holds another study, or a later state of this one, than the folder.
        """
        try:
            with self._turn:
                self._adopt()
        except OSError as error:
            self._warn_once(error)
        self._thread.start()

    def sync(self) -> None:
        """Copy what has changed. Raises OSError if the storage fails, UserError if it became another's."""
        with self._turn:
            there = self._adopt()
            lengths, pending = self._still()
            files = self._local_files()
            changed = [name for name, digest in files.items() if there.files.get(name) != digest]
            grown = [name for name, length in lengths.items() if _length(there.journals.get(name, ())) != length]
            if not changed and not grown and files.keys() == there.files.keys() and pending == there.pending:
                return
            self._check_owner()
            for name in changed:
                self._copy_file(name, files)
            for name in grown:
                self._copy_journal(name, lengths[name])
            contents = Contents(self._writer, files, dict(self._parts), pending)
            self._storage.write(TABLE, json.dumps(asdict(contents) | {"version": VERSION}).encode())
            self._there = contents

    def close(self, timeout_seconds: float) -> int:
        """Copy what `timeout_seconds` allow, and return how many of the folder's files are not in the storage yet."""
        self._deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        there = self._there or Contents(self._writer)
        lengths, _ = self._still()
        files = self._local_files()
        return sum(there.files.get(name) != digest for name, digest in files.items()) + sum(
            _length(there.journals.get(name, ())) != length for name, length in lengths.items()
        )

    def _keep(self) -> None:
        """Copy until closed; the body of the thread."""
        closing = False
        while not closing:
            closing = self._closing.wait(SYNC_SECONDS)  # known before the last look, which then sees everything
            try:
                while not self._tried() and closing and time.monotonic() < self._deadline:
                    time.sleep(RETRY_SECONDS)
            except UserError as error:
                self._warn(f"the study goes on without its copy: {error}")
                return

    def _tried(self) -> bool:
        try:
            self.sync()
        except OSError as error:
            self._warn_once(error)
            return False
        return True

    def _warn_once(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            self._warn(f"the study's storage takes no copy; it is tried again, the study goes on: {_first_line(error)}")

    def _adopt(self) -> Contents:
        """Return what the storage holds; the first time look whether the folder continues that."""
        if self._there is None:
            self._adopted = self._storage.read(TABLE)
            there = Contents(self._writer) if self._adopted is None else _contents(self._adopted, self._folder)
            for name, parts in there.journals.items():
                if not _begins_with(self._folder.root / name, parts):
                    raise UserError(
                        f"the storage holds another study than {self._folder.root}, or a later state of it ({name} "
                        "differs); take another storage, or move this folder away to go on from the storage"
                    )
            self._parts, self._there = dict(there.journals), there
        return self._there

    def _check_owner(self) -> None:
        """Raise UserError if another mirror has written since `_adopt`."""
        table = self._storage.read(TABLE)
        if table != self._adopted and (table is None or _contents(table, self._folder).writer != self._writer):
            raise UserError("another dastune has gone on with this study in the same storage; stop one of the two")

    def _still(self) -> tuple[dict[str, int], str]:
        """Return how long the journals are, and the pending report, at one instant of the folder.

        The driver writes a report into several journals while it is pending. If no journal grew while the pending
        report was read, all of this belongs together.
        """
        lengths = self._lengths()
        while True:
            pending = _content(self._folder.pending)
            now = self._lengths()
            if now == lengths:
                return lengths, "" if pending is None else pending.decode(errors="replace")
            lengths = now

    def _lengths(self) -> dict[str, int]:
        lengths = {}
        for path in _journals(self._folder):
            if path.exists():
                lengths[path.name] = path.stat().st_size
        return lengths

    def _local_files(self) -> dict[str, str]:
        """Return the digests of the files that are copied as they are, in the order in which they are copied."""
        files = {}
        for path in _files(self._folder):
            name = path.relative_to(self._folder.root).as_posix()
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            look = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if self._digests.get(name, (None, ""))[0] != look:
                content = _content(path)
                if content is None:
                    continue
                self._digests[name] = look, _digest(content)
            files[name] = self._digests[name][1]
        return files

    def _copy_file(self, name: str, files: dict[str, str]) -> None:
        content = _content(self._folder.root / name)
        if content is None:
            del files[name]  # removed in the meantime
            return
        self._storage.write(name, content)
        files[name] = _digest(content)

    def _copy_journal(self, name: str, length: int) -> None:
        parts = self._parts.get(name, ())
        if length < _length(parts):  # not the file it was
            parts = ()
        with (self._folder.root / name).open("rb") as file:
            while (done := _length(parts)) < length:
                # Never into the last part of another mirror, or of a file that is no more.
                growing = parts[-1:] if parts and self._own(parts[-1]) and parts[-1].size < PART_BYTES else ()
                start = done - _length(growing)
                file.seek(start)
                content = file.read(min(PART_BYTES, length - start))
                blob = growing[0].blob if growing else self._new_blob(name)
                self._storage.write(blob, content)
                parts = (*parts[: len(parts) - len(growing)], Part(blob, len(content), _digest(content)))
                self._parts[name] = parts

    def _own(self, part: Part) -> bool:
        return part.blob.split(".")[-2] == self._writer

    def _new_blob(self, name: str) -> str:
        self._begun_parts += 1
        return f"parts/{name}.{self._writer}.{self._begun_parts:06}"


def holds_study(storage: Storage) -> bool:
    """Return whether a study was mirrored into the storage. Raises OSError."""
    return storage.exists(TABLE)


def restore(storage: Storage, folder: StudyFolder) -> None:
    """Make a study's folder from its mirror, as it was at the last copy. A try that failed may be repeated.

    Raises:
        UserError: no study is in the storage, or not all of it; or one is in the folder.
        OSError: the storage does not answer, or the folder cannot be written.
    """
    if folder.study.exists():
        raise UserError(f"{folder.root}: holds a study already; move it away to have the storage's")
    table = storage.read(TABLE)
    if table is None:
        raise UserError(f"the storage holds no study (no {TABLE}); give the --storage that `dastune run` had")
    contents = _contents(table, folder)
    for name, parts in contents.journals.items():
        write_atomic(folder.root / name, b"".join(_joined(storage, parts)))
    if contents.pending:
        write_atomic(folder.pending, contents.pending)
    # The file that makes it a study comes last: a restore cut short is none.
    for name in sorted(contents.files, key=lambda name: name == folder.study.name):
        content = storage.read(name)
        if content is None:
            raise _damaged(name)
        write_atomic(folder.root / name, content)


def _journals(folder: StudyFolder) -> tuple[Path, ...]:
    return folder.searches, folder.finals, folder.children, folder.tracking, folder.ledger


def _folders(folder: StudyFolder) -> tuple[Path, ...]:
    made = (folder.policies, folder.pictures, folder.receptive_fields, folder.children_tables)
    return *made, folder.errors, folder.report


def _files(folder: StudyFolder) -> Iterator[Path]:
    """Yield the files that are copied as they are; no links, which may lead out of the folder."""
    paths = [folder.study, folder.env]
    for inner in _folders(folder):
        paths += sorted(path for path in inner.glob("*") if SAFE_NAME.fullmatch(path.name))
    yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _contents(table: bytes, folder: StudyFolder) -> Contents:
    """Return a table of contents, which may come from anybody. Raises UserError if no mirror can have written it."""
    try:
        read: dict[str, Any] = json.loads(table)
        if read["version"] != VERSION:
            raise UserError(f"the storage's {TABLE} is of version {shortened(read['version'])}; use a newer dastune")
        contents = Contents(
            writer=str(read["writer"]),
            files={name: str(digest) for name, digest in read["files"].items()},
            journals={
                name: tuple(Part(str(part["blob"]), int(part["size"]), str(part["digest"])) for part in parts)
                for name, parts in read["journals"].items()
            },
            pending=str(read["pending"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(TABLE) from error
    if not (
        all(_is_file(name, folder) for name in contents.files)
        and contents.journals.keys() <= {path.name for path in _journals(folder)}
        and all(_BLOB.fullmatch(part.blob) and part.size >= 0 for parts in contents.journals.values() for part in parts)
    ):
        raise _damaged(TABLE)
    return contents


def _is_file(name: str, folder: StudyFolder) -> bool:
    """Return whether `name` is of a file that is copied as it is: in the folder, and not a journal."""
    inner, slash, last = name.rpartition("/")
    if not slash:
        return name in (folder.study.name, folder.env.name)
    return inner in {path.name for path in _folders(folder)} and SAFE_NAME.fullmatch(last) is not None


def _joined(storage: Storage, parts: Iterable[Part]) -> Iterator[bytes]:
    for part in parts:
        content = (storage.read(part.blob) or b"")[: part.size]
        if _digest(content) != part.digest:
            raise _damaged(part.blob)
        yield content


def _damaged(name: str) -> UserError:
    return UserError(
        f"the study in the storage is damaged: {shortened(name)} is missing or not as it was written; "
        "put back an older version of the storage, if it keeps any"
    )


def _begins_with(path: Path, parts: Iterable[Part]) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return all(_digest(file.read(part.size)) == part.digest for part in parts)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _length(parts: Iterable[Part]) -> int:
    return sum(part.size for part in parts)


def _first_line(error: OSError) -> str:
    return shortened(str(error).partition("\n")[0], 300)
