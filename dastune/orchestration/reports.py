"""What the driver and a trial tell each other."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from dastune.budget import Charge, LedgerEvent, event_from_row
from dastune.folder import ChildRow, FinalRow, SearchRow


@dataclass(frozen=True)
class Start:
    """What the driver knows of a search when it has a process begin, or go on with, it.

    Attributes:
        attempt: 0, 1, ... for the first, second ... process that works on the search.
        charge: what earlier attempts have used.
        row, policy: the row and the policy file's text of a search that has ended; only final trainings are left.
        trained: seeds of the final trainings that have ended.
    """

    attempt: int = 0
    charge: Charge = field(default_factory=Charge)
    row: SearchRow | None = None
    policy: str = ""
    trained: tuple[int, ...] = ()


@dataclass(frozen=True)
class Point:
    """Metrics of a run at one moment; `key` is the search id, or SEARCH_ID/tSEED for a final training.

    `step` is whole charged device-seconds for searches, epochs for final trainings.
    """

    key: str
    step: int
    values: Mapping[str, float]
    timestamp_ms: int


@dataclass
class Report:
    """What a trial tells the driver, all of it safe to hear twice.

    Attributes:
        search: search id.
        charged, steps: of the search so far, in device-seconds and optimiser steps.
        stage: what the trial is at: search, searched (its row is here), final, finished (a final row is here),
            ended, stopped, failed, unfit (nothing can run on this node).
        ledger, points: new ledger events and metric points.
        row, policy, picture: the search's row when it has ended, the text of its policy file, and a PNG of what the
            policy does to images, in base64; no picture if none could be made.
        finals: rows of final trainings that have ended.
        receptive_fields: by training seed, the texts of files of what their networks' receptive fields are; only in a
            study that makes clips of images, and not of a network whose field could not be measured.
        children: rows of children that have ended.
        notes: lines for people, such as that a child diverged.
        error, traceback: what a failed trial died of, in one line and in full.
    """

    search: str
    stage: str
    charged: float
    steps: int
    ledger: list[LedgerEvent] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    row: SearchRow | None = None
    policy: str = ""
    picture: str = ""
    finals: list[FinalRow] = field(default_factory=list)
    receptive_fields: dict[int, str] = field(default_factory=dict)
    children: list[ChildRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    traceback: str = ""

    def to_json(self) -> str:
        """Return the report as text; values that are no numbers are written as Python's json does."""
        return json.dumps(self, default=vars)  # all that is in it are such dataclasses; asdict would copy each point


def report_from_json(text: str) -> Report:
    """Return the report of `Report.to_json`. Raises ValueError, TypeError or KeyError for any other text."""
    raw = json.loads(text)
    raw["ledger"] = [event_from_row(row) for row in raw["ledger"]]
    raw["points"] = [Point(**point) for point in raw["points"]]
    raw["row"] = SearchRow(**raw["row"]) if raw["row"] is not None else None
    raw["finals"] = [FinalRow(**row) for row in raw["finals"]]
    raw["receptive_fields"] = {int(seed): text for seed, text in raw.get("receptive_fields", {}).items()}
    raw["children"] = [ChildRow(**row) for row in raw["children"]]
    return Report(**raw)
