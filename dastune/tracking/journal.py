"""What is tracked, as events: one JSON object a line of the study's journal, each with its run's key."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
Event = dict[str, Any]


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
            try:
                yield start, dict(json.loads(line))
            except (TypeError, ValueError):
                yield start, {}


def merged(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events with the metrics of each run between two others of it as one, in the order that a run needs."""
    waiting: dict[str, Event] = {}
    for event in events:
        key = event.get("key", "")
        if event.get("event") == "metrics":
            waiting.setdefault(key, {"event": "metrics", "key": key, "points": []})["points"].append(event)
        else:
            if key in waiting:
                yield waiting.pop(key)
            yield event
    yield from waiting.values()
