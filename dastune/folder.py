"""A study's folder: every path in it, its rows, and how they are written. A public contract."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dastune.errors import UserError, shortened

SAFE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")

STOP_NAME = "stop"  # of the file, or blob, that asks a study to stop

# What rows may hold; a row may come from anybody.
_Text = Annotated[str, Field(strict=True, max_length=200)]
_Whole = Annotated[int, Field(strict=True, ge=0, le=10**15)]
_Level = Annotated[int, Field(strict=True, ge=0, le=1000)]
_Number = Annotated[float, Field(strict=True, ge=-1e15, le=1e15)]
_Amount = Annotated[float, Field(strict=True, ge=0, le=1e15)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1)]
_Percent = Annotated[int, Field(strict=True, ge=0, le=99)]

_FINITE = ConfigDict(allow_inf_nan=False)

MOST_FAULTS = 3  # of a row in a message

_Row = TypeVar("_Row", "SearchRow", "FinalRow", "ChildRow")
Status = Literal["done", "budget", "held", "failed"]
Evaluation = Literal["image", "cell", "copies"]
ChildEnd = Literal["scored", "stopped", "diverged", "cut"]

AxisField = Literal["noise_level", "removed_percent"]
"""The field of all rows that a study varies: its levels tell the searches of a method and seed apart."""
LETTERS: Mapping[AxisField, str] = {"noise_level": "n", "removed_percent": "r"}
_SEARCH_ID = re.compile(rf"(.+)-[{''.join(LETTERS.values())}][0-9]+-s[0-9]+")


@dataclass(frozen=True)
class SearchRow:
    """One finished search, a line of `searches.jsonl`.

    Attributes:
        id: the key of the row: `METHOD-nLEVEL-sSEED`, or `METHOD-rPERCENT-sSEED` where the study varies that.
        method: the method's label in the study.
        val_accuracy: what the search knows of its result on validation images, in [0, 1]: the best child's accuracy
            (black-box searches), a running mean over batches of its network (das), the best masked candidate of the
            last decision (das with selection perturbation, once one is made). Not to be compared across methods. None
            where there is none.
        held_seconds, charged_seconds: device-seconds, see `dastune.budget`.
        steps: optimiser steps over all children.
        children: trainings that ended inside a black-box search, also early; those cut by the budget not. 0 for the
            others.
        noise_mass: expected share of noise ops among the ops that the found policy applies, 0 if it applies none;
            `uniform_noise_share`: the same if all ops were equally likely.
        space_size_log10: log10 of the number of policies the search chose from; 0 for controls without a choice.
        policy: path of the policy file, relative to the folder.
        status: "done" (nothing left to search, or no search needed), "budget" (charged reached it), "held" (ended by
            infrastructure at 1.25 x budget), "failed".
        summary: all that the search says of itself as a whole, by name (`Search.summary`), such as "tau_entropy" in
            nats; numbers that are not finite are left out. Empty in rows of versions that did not write it.
        removed_percent: of the training images, left out at random.
    """

    id: _Text
    method: _Text
    noise_level: _Level
    search_seed: _Whole
    val_accuracy: _Share | None
    held_seconds: _Amount
    charged_seconds: _Amount
    steps: _Whole
    children: _Whole
    noise_mass: _Share
    uniform_noise_share: _Share
    space_size_log10: _Amount
    policy: _Text
    status: Status
    summary: Mapping[_Text, _Number] = field(default_factory=dict, hash=False)
    removed_percent: _Percent = 0

    __pydantic_config__ = _FINITE


@dataclass(frozen=True)
class FinalRow:
    """One finished final training, a line of `finals.jsonl`; its key is (search_id, train_seed).

    Attributes:
        test_accuracy: in [0, 1].
        test_loss: in nats.
        seconds: device-seconds of the final meter.
        flops: of one image's forward pass, of all frames where it is a clip.
        frames: of the clip that the network reads; 1: it reads images.
        evaluation: what was tested: "image", clean images; "cell", clips that the found cell makes of them; "copies",
            clips of so many copies of the clean image.
        removed_percent: of the training images, left out at random of search and final training.
    """

    search_id: _Text
    method: _Text
    noise_level: _Level
    search_seed: _Whole
    train_seed: _Whole
    test_accuracy: _Share
    test_loss: _Amount
    epochs: _Whole
    seconds: _Amount
    images_per_second: _Amount
    parameters: _Whole
    flops: _Whole
    frames: _Whole = 1
    evaluation: Evaluation = "image"
    removed_percent: _Percent = 0

    __pydantic_config__ = _FINITE


@dataclass(frozen=True)
class ChildRow:
    """One child of a black-box search, a line of `children.jsonl`; its key is (search_id, child).

    Attributes:
        child: 0, 1, ... in the order in which the search asked for policies.
        score: validation accuracy when it was last measured, in [0, 1]; None if it never was.
        seconds: device-seconds that it was charged; children trained at the same time share a step's equally.
        epochs: how long it was trained.
        status: "scored" (trained and validated whole), "stopped" (successive halving ended it early), "diverged" (its
            loss was not finite; it scores 0), "cut" (in training when the budget ended; a score it has by then, of its
            last rung of successive halving, counts for the search's result).
        policy: what it was trained with, as `dastune.policy` writes it.
    """

    search_id: _Text
    method: _Text
    noise_level: _Level
    search_seed: _Whole
    child: _Whole
    score: _Share | None
    seconds: _Amount
    epochs: _Amount
    status: ChildEnd
    policy: Mapping[str, Any] = field(hash=False)
    removed_percent: _Percent = 0

    __pydantic_config__ = _FINITE


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write `path` so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.unlink(missing_ok=True)
        with beside.open("xb") as file:  # x: a link that somebody has put there is not followed
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:  # a full disk, Ctrl-C: leave nothing half-written behind
        beside.unlink(missing_ok=True)
        raise
    _sync_entry(path)


def _sync_entry(path: Path) -> None:
    """Make the folder's entry of `path` durable: a file's own fsync does not (POSIX)."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON object as a whole line, durably. A torn last line, left by a crash, is closed first."""
    append_lines(path, [row])


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON objects as `append_line` does, all at once: what it takes to be durable, it takes once.

    Raises OSError if they cannot be written; the file is then as it was.
    """
    lines = b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
    if not lines:
        return
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                lines = b"\n" + lines
        try:
            while lines:  # a disk that is all but full takes a part
                lines = lines[file.write(lines) :]
            os.fsync(file.fileno())
            if size == 0:
                _sync_entry(path)
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a line file; a torn line (a crash while writing) is passed over."""
    if not path.is_file():  # not there; or what has no end, such as a pipe
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def _rows(path: Path, kind: type[_Row]) -> Iterator[_Row]:
    """Yield the rows of a line file. Raises UserError at one that is none of this version's."""
    adapter, names = TypeAdapter(kind), {field.name for field in fields(kind)}
    for row in read_lines(path):
        faults = [f"{shortened(name)} is not known" for name in row if name not in names]
        try:
            read = adapter.validate_python(row)
        except ValidationError as error:
            faults += [f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_url=False)]
        if faults:
            raise UserError(
                f"{path}: a row does not have this version's fields ({', '.join(faults[:MOST_FAULTS])}); it is "
                "damaged, or of another version of dastune: use the one that ran the study (see env.json)"
            )
        yield read


class StudyFolder:
    """All paths of one study's folder, and the rows in it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.study = self.root / "study.yaml"
        self.env = self.root / "env.json"
        self.ledger = self.root / "ledger.jsonl"
        self.searches = self.root / "searches.jsonl"
        self.finals = self.root / "finals.jsonl"
        self.children = self.root / "children.jsonl"
        self.children_tables = self.root / "children"
        self.tracking = self.root / "tracking.jsonl"
        self.policies = self.root / "policies"
        self.pictures = self.root / "pictures"
        self.receptive_fields = self.root / "receptive_fields"
        self.models = self.root / "models"
        self.checkpoints = self.root / "checkpoints"
        self.errors = self.root / "errors"
        self.lock = self.root / "lock"
        self.stop = self.root / STOP_NAME  # while it is there, trials checkpoint and end
        self.pending = self.root / "pending.json"  # a report with rows, while it is being written
        self.report = self.root / "report"
        self.mlflow_store = self.root / "mlflow.db"
        self.mlflow_artifacts = self.root / "mlartifacts"
        self.ray = self.root / "ray"

    @classmethod
    def existing(cls, root: str | Path) -> "StudyFolder":
        """Return the folder at `root`.

        Raises:
            UserError: no study is there, or something in it is a link: a study's folder may come from anybody, and what
                is elsewhere is neither read nor written for it.
        """
        folder = cls(root)
        if not folder.study.is_file():
            raise UserError(
                f"{root}: holds no study (no study.yaml); give the folder that `dastune run` made, such as runs/NAME"
            )
        for path in vars(folder).values():
            if path != folder.root and path.is_symlink():
                raise UserError(f"{path}: is a link; a study's folder holds its own files: put a copy in its place")
        return folder

    def policy(self, search_id: str) -> Path:
        """Return the path of a search's policy file. `search_id` must be a safe name."""
        return self.root / policy_name(search_id)

    def picture(self, search_id: str) -> Path:
        """Return the path of a picture of what a search found (PNG). `search_id` must be a safe name."""
        return self.pictures / f"{safe_name(search_id)}.png"

    def receptive_field(self, search_id: str, train_seed: int) -> Path:
        """Return the path of the receptive field of a final training's network. `search_id` must be a safe name."""
        return self.receptive_fields / f"{safe_name(search_id)}-t{train_seed}.json"

    def error(self, search_id: str) -> Path:
        """Return the path of a failed search's traceback. `search_id` must be a safe name."""
        return self.errors / f"{safe_name(search_id)}.txt"

    def children_table(self, search_id: str) -> Path:
        """Return the path of the table of a search's children, made for tracking. `search_id` must be a safe name."""
        return self.children_tables / f"{safe_name(search_id)}.json"

    def search_rows(self) -> list[SearchRow]:
        """Return the finished searches, in order of finishing, each once (the last line of a key counts).

        Raises:
            UserError: a row does not have the fields of this version, or impossible values.
        """
        return list({row.id: row for row in _rows(self.searches, SearchRow)}.values())

    def final_rows(self) -> list[FinalRow]:
        """Return the finished final trainings, each once. Raises as `search_rows`."""
        return list({(row.search_id, row.train_seed): row for row in _rows(self.finals, FinalRow)}.values())

    def child_rows(self, search_id: str | None = None) -> list[ChildRow]:
        """Return the children of a search, or of all, each once (the last line of a key counts), in the order asked.

        Raises as `search_rows`.
        """
        rows = {
            (row.search_id, row.child): row
            for row in _rows(self.children, ChildRow)
            if search_id in (None, row.search_id)
        }
        return [rows[key] for key in sorted(rows)]

    def add_search(self, row: SearchRow) -> None:
        """Append a row without a look at what is there: of a key that comes again the last line counts."""
        append_line(self.searches, asdict(row))

    def add_final(self, row: FinalRow) -> None:
        """Append a row, as `add_search` does."""
        append_line(self.finals, asdict(row))

    def add_children(self, rows: Iterable[ChildRow]) -> None:
        """Append rows, as `add_search` does, all at once."""
        append_lines(self.children, (asdict(row) for row in rows))


def search_id(method: str, field: AxisField, level: int, search_seed: int) -> str:
    """Return the key of a search's rows, files and runs."""
    return f"{method}-{LETTERS[field]}{level}-s{search_seed}"


def method_of(search_id: str) -> str:
    """Return the method's label in a search's key; "" where it is none."""
    found = _SEARCH_ID.fullmatch(search_id)
    return found[1] if found else ""


def checkpoint_names(search_id: str) -> tuple[str, ...]:
    """Return the names of a search's two checkpoints in a study's storage, each a safe name in "checkpoints/"."""
    return tuple(f"checkpoints/{safe_name(search_id)}.{slot}.pt" for slot in ("a", "b"))


def claim_name(search_id: str) -> str:
    """Return the name of what says, in a study's storage, which attempt works on a search."""
    return f"checkpoints/{safe_name(search_id)}.attempt"


def policy_name(search_id: str) -> str:
    """Return the path of a search's policy file, relative to the folder. `search_id` must be a safe name."""
    return f"policies/{safe_name(search_id)}.json"


def model_name(search_id: str, train_seed: int) -> str:
    """Return the name, in a study's storage, of the network that a final training leaves."""
    return f"models/{safe_name(search_id)}-t{train_seed}.pt"


def safe_name(name: str) -> str:
    """Return `name` if it can be a file or folder name. Raises UserError otherwise."""
    if not SAFE_NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no safe folder name; use 1 to 100 letters, digits, '-', '_' and '.', with a letter or "
            "digit first and no '.' last"
        )
    return name
