"""What a trial tells the driver while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dastune.budget import LedgerEvent
from dastune.folder import ChildRow, FinalRow, SearchRow


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
        row: the search's row when it has ended.
        finals: rows of final trainings that have ended.
        children: rows of children that have ended.
        notes: lines for people, such as that a child diverged.
        error: what a failed trial died of, one line.
    """

    search: str
    stage: str
    charged: float
    steps: int
    ledger: list[LedgerEvent] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    row: SearchRow | None = None
    finals: list[FinalRow] = field(default_factory=list)
    children: list[ChildRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
