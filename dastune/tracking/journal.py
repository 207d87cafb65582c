"""What is tracked, as events: one JSON object a line of the study's journal, each with its run's key."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
Event = dict[str, Any]

# What the events of each kind must have. A line without it is damaged, or of another version: it cannot be sent.
_FIELDS = {
    "begin": {"key", "time", "stage", "parent", "name", "params", "tags", "dataset"},
    "metrics": {"key", "time", "step", "values"},
    "tags": {"key", "tags"},
    "artifact": {"key", "path", "folder"},
    "table": {"key", "path", "name"},
    "model": {"key", "path", "register", "description"},
    "end": {"key", "time", "status"},
}


@dataclass(frozen=True)
class DatasetInfo:
    """The data set of a study, logged as an input of each run.

    `digest`: at most 36 characters; `source`: a URL, or where the data comes from in words.
    """

    name: str
    digest: str
    source: str
    images: int
    classes: int


class Place(NamedTuple):
    """How far a store is, by its own word.

    Attributes:
        experiment_id: where its runs are.
        made_ms: when the experiment was made; in a store that was made anew it may have the same id.
        delivered_bytes: how much of the journal it has had.
        batch: counts what it was sent since, before it is sent: no two states of a store have the same.
    """

    experiment_id: str
    made_ms: int
    delivered_bytes: int
    batch: int


# Events of files, which may be put off.
FILES = ("artifact", "table", "model")

NOWHERE = Place("", 0, 0, 0)


class RefusedError(Exception):
    """The store will never take this event; `args` are the run's key and why."""


def read(journal: Path, start: int) -> Iterator[tuple[int, Event]]:
    """Yield (byte offset of its end, event) of each whole line from `start`; an unreadable line is empty.

    From the beginning if no line ends at `start`: it was noted of another journal, or of a longer one.
    """
    if not journal.exists():
        return
    with journal.open("rb") as file:
        file.seek(max(start - 1, 0))
        if start > 0 and file.read(1) != b"\n":
            start = file.seek(0)
        for line in file:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield start, _event(line)


def _event(line: bytes) -> Event:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    whole = isinstance(row, dict) and isinstance(row.get("key"), str) and isinstance(row.get("event"), str)
    return row if whole and row["event"] in _FIELDS and row.keys() >= _FIELDS[row["event"]] else {}


def merged(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events with the metrics and tags of each run between two others of it as one batch.

    Their order is one that a run needs.
    """
    waiting: dict[str, Event] = {}
    for event in events:
        key = event.get("key", "")
        kind = event.get("event")
        if kind in ("metrics", "tags"):
            batch = waiting.setdefault(key, {"event": "batch", "key": key, "metrics": [], "tags": []})
            batch[kind].append(event)
            continue
        if key in waiting and kind not in ("artifact", "table"):  # which may come before what was told before them
            yield waiting.pop(key)
        yield event
    yield from waiting.values()
