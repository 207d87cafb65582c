"""How a study stands while it runs: as numbers, as text, as JSON."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from dastune.errors import printable

SILENT_SECONDS = 60.0  # a search tells of itself every few seconds, between two of its steps
MOST_LISTED = 20  # running searches, and failed ones; JSON has them all

State = Literal["not begun", "running", "stopping", "stopped", "finished"]


@dataclass(frozen=True)
class MethodStatus:
    """One method of a study; each of its searches is in one of the first four counts.

    Attributes:
        done: searches that have ended, and did not fail. Their final trainings may be to come.
        waiting: searches that no process works on, and that did not fail.
        finals_done, finals_expected: final trainings; a failed search's are expected too.
        charged_seconds, held_seconds, steps: of all searches up to now; see `dastune.budget`.
        budget_seconds, budget_steps: of all searches together; None where the budget is in the other, or the method
            searches nothing.
        best_val_accuracy: in [0, 1]; None where no search has one.
    """

    method: str
    done: int
    running: int
    failed: int
    waiting: int
    finals_done: int
    finals_expected: int
    charged_seconds: float
    held_seconds: float
    steps: int
    budget_seconds: float | None
    budget_steps: int | None
    best_val_accuracy: float | None


@dataclass(frozen=True)
class RunningSearch:
    """A search that a process works on.

    Attributes:
        stage: "final" when its final trainings are at work.
        spent: the share of the search's budget that is used, in [0, 1]; None in its final trainings, and for a method
            that searches nothing.
        slots: processes, each on devices of its own.
        heard_seconds_ago: since its last sign of life, by the clocks of its host and of this one.
        silent: that is more than SILENT_SECONDS: it may hang, or its machine be gone.
    """

    search: str
    stage: Literal["search", "final"]
    spent: float | None
    charged_seconds: float
    steps: int
    slots: int
    heard_seconds_ago: float
    silent: bool


@dataclass(frozen=True)
class Failure:
    """A search that failed, or whose final trainings did; `reason` is a line of its error file."""

    search: str
    stage: Literal["search", "final"]
    reason: str


@dataclass(frozen=True)
class Throughput:
    """What the last `over_seconds` brought, an hour; charged device-seconds before lost work is taken off."""

    over_seconds: float
    searches_per_hour: float
    finals_per_hour: float
    charged_seconds_per_hour: float
    final_seconds_per_hour: float


@dataclass(frozen=True)
class Status:
    """How a study stands.

    Attributes:
        state: "stopped" where something is left to do and no driver is there to do it; "finished" where nothing is
            left but what failed.
        driver: whether a process holds the study; None where the folder's file system does not tell.
        begun_unix_time: when that process took hold of it.
        unheld: running searches are heard of although no driver is to be seen: it may be on another machine.
        device_seconds_left: for what is left, failed searches aside; None before any final training has ended.
        seconds_left, estimated_end: of the clock, with the slots in use now; the end is local time, ISO 8601. None
            where no driver works.
    """

    name: str
    folder: str
    state: State
    driver: bool | None
    begun_unix_time: float | None
    unheld: bool
    methods: tuple[MethodStatus, ...]
    running: tuple[RunningSearch, ...]
    failures: tuple[Failure, ...]
    slots_in_use: int
    throughput: Throughput | None
    device_seconds_left: float | None
    seconds_left: float | None
    estimated_end: str | None

    def to_json(self) -> str:
        """Return all of it as one JSON object, with the totals of the methods."""
        counts = ("done", "running", "failed", "waiting", "finals_done", "finals_expected")
        totals = {count: sum(getattr(method, count) for method in self.methods) for count in counts}
        return json.dumps({**asdict(self), "totals": totals}, allow_nan=False)

    @property
    def lines(self) -> list[str]:
        """The same for people, safe for a terminal."""
        return [*_head(self), "", *_methods(self.methods), *_running(self), *_pace(self), *_failures(self)]


def _head(status: Status) -> Iterator[str]:
    def total(count: str) -> int:
        return sum(getattr(method, count) for method in status.methods)

    searches = sum(total(count) for count in ("done", "running", "failed", "waiting"))
    failed = f"; {len(status.failures)} failed" if status.failures else ""
    yield (
        f"{status.name}: {status.state}; {total('done')} of {searches} searches and {total('finals_done')} of "
        f"{total('finals_expected')} final trainings done{failed}"
    )
    resume = f"dastune resume {printable(shlex.quote(status.folder))}"
    if status.state == "stopping":
        yield "a driver works on it; it is to stop: what runs writes its checkpoints and ends"
    elif status.state == "running":
        yield "a driver works on it" + ("" if status.driver else ", it seems: its file system does not tell of locks")
    elif status.state == "finished":
        yield f"no driver works on it; try again what failed: {resume}" if status.failures else "nothing is left to do"
    else:
        yield f"no driver works on it; go on with {resume}"
    if status.unheld:
        yield (
            f"but a search was heard of less than {SILENT_SECONDS:.0f} s ago: a driver has just died, or works on "
            "another machine whose locks are not seen here"
        )


def _methods(methods: Sequence[MethodStatus]) -> list[str]:
    """Return a table, methods in rows."""
    titles = ("method", "done", "running", "failed", "waiting", "final trainings", "charged", "held", "best validation")
    rows = [list(titles)]
    for method in methods:
        best = method.best_val_accuracy
        rows.append(
            [
                method.method,
                *(str(count) for count in (method.done, method.running, method.failed, method.waiting)),
                f"{method.finals_done}/{method.finals_expected}",
                _charged(method),
                _time(method.held_seconds),
                "-" if best is None else f"{100 * best:.1f} %",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _charged(method: MethodStatus) -> str:
    if method.budget_steps is not None:
        return f"{_time(method.charged_seconds)}, {method.steps:,} of {method.budget_steps:,} steps"
    of = "" if method.budget_seconds is None else f" of {_time(method.budget_seconds)}"
    return _time(method.charged_seconds) + of


def _running(status: Status) -> Iterator[str]:
    """Yield a line for each running search, the silent ones first: they are what one looks for."""
    if not status.running:
        return
    yield from ("", f"running: {len(status.running)}, on {_slots(status)}")
    listed = sorted(status.running, key=lambda search: not search.silent)[:MOST_LISTED]
    width = max(len(search.search) for search in listed)
    for search in listed:
        spent = "searching" if search.spent is None else f"{100 * search.spent:3.0f} % of its budget"
        what = "final training" if search.stage == "final" else spent
        mark = f"  SILENT: nothing for more than {SILENT_SECONDS:.0f} s" if search.silent else ""
        yield f"  {search.search:<{width}}  {what:<19}  heard of {_time(search.heard_seconds_ago)} ago{mark}"
    yield from _more(len(status.running))


def _slots(status: Status) -> str:
    return "1 slot" if status.slots_in_use == 1 else f"{status.slots_in_use} slots"


def _pace(status: Status) -> Iterator[str]:
    """Yield throughput and time left, as far as they are known."""
    pace, left = status.throughput, status.device_seconds_left
    if pace is None and not left:
        return
    yield ""
    if pace is not None:
        charged = pace.charged_seconds_per_hour + pace.final_seconds_per_hour
        yield (
            f"an hour: {_count(pace.searches_per_hour)} searches, {_count(pace.finals_per_hour)} final trainings, "
            f"{_time(charged)} of device time charged ({_time(pace.charged_seconds_per_hour)} for searches); "
            f"over the last {_time(pace.over_seconds)}"
        )
    if left is None:
        yield "left: not to be told before a final training has ended"
    elif status.seconds_left is None:
        yield f"left: about {_time(left)} of device time"
    else:
        end = status.estimated_end
        until = f", until {datetime.fromisoformat(end):%Y-%m-%d %H:%M} local time" if end is not None else ""
        yield f"left: about {_time(status.seconds_left)} on {_slots(status)}{until}"


def _failures(status: Status) -> Iterator[str]:
    if not status.failures:
        return
    yield from ("", f"failed: {len(status.failures)}; tracebacks in {printable(status.folder)}/errors")
    for failure in status.failures[:MOST_LISTED]:
        what = " (final training)" if failure.stage == "final" else ""
        yield f"  {failure.search}{what}: {failure.reason}"
    yield from _more(len(status.failures))


def _more(count: int) -> Iterator[str]:
    if count > MOST_LISTED:
        yield f"  and {count - MOST_LISTED} more, all in --json"


def _count(rate: float) -> str:
    return f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}"


def _time(seconds: float) -> str:
    """Return seconds in a unit that reads well, days included."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.1f} days"
