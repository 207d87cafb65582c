"""Reads how a study stands while others work on it, from its folder alone: what `dastune status` shows.

Nothing here waits for the driver or keeps it waiting, and nothing is written. A folder that is being written, or comes
from someone else, is data: lines that are no rows are passed over.
"""

import fcntl
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from dastune.budget import Charge, Ledger, LedgerEvent, device_share
from dastune.config import StudyConfig, load_study
from dastune.config.study import BlackBox, Das
from dastune.errors import UserError, printable, shortened
from dastune.folder import FinalRow, SearchRow, StudyFolder, method_of
from dastune.report.heard import MOST, Heard, hear
from dastune.report.plan import Plan, read_plan
from dastune.report.standing import (
    SILENT_SECONDS,
    Failure,
    MethodStatus,
    RunningSearch,
    State,
    Status,
    Throughput,
)

WINDOW_SECONDS = 3600.0  # of the throughput, at most
ERROR_BYTES = 2**16  # of an error file are read at most
MOST_REASON = 200  # characters of a reason

_Row = TypeVar("_Row", SearchRow, FinalRow)


def read_status(root: str | Path, *, now: float | None = None) -> Status:
    """Read how the study in the folder `root` stands.

    Args:
        now: unix time; None: this machine's.

    Raises:
        UserError: no study is there, or its folder cannot be read.
    """
    try:
        return _Reading(StudyFolder.existing(root), time.time() if now is None else now).status(str(root))
    except OSError as error:
        raise UserError(f"{printable(str(root))}: cannot be read ({error.strerror or error})") from error


def device_seconds_left(
    searches: Mapping[str, str],
    finals: int,
    *,
    rows: Iterable[SearchRow],
    trained: Sequence[FinalRow],
    charged: Mapping[str, float],
    budget: float | None,
) -> float | None:
    """Return what is left to do by what ended searches and final trainings took, or None before any of the latter has.

    Args:
        searches: id -> method of those that have not ended; one takes what those of its method held on average.
        finals: how many final trainings are to come.
        rows, trained: what has ended.
        charged: id -> device-seconds up to now, of searches that run.
        budget: device-seconds that a search of a method takes of which none has ended; None: they are left out.
    """
    if not trained:
        return None
    held: dict[str, list[float]] = {}
    for row in rows:
        held.setdefault(row.method, []).append(row.held_seconds)
    left = finals * sum(row.seconds for row in trained) / len(trained)
    for search, method in searches.items():
        known = held.get(method)
        expected = sum(known) / len(known) if known else (budget or 0.0)
        left += max(0.0, expected - charged.get(search, 0.0))
    return left


@dataclass(frozen=True)
class _Search:
    """One search: its row, if it has one that counts, how many final trainings are in, and what was heard of it."""

    id: str
    method: str
    row: SearchRow | None
    trained: int
    events: tuple[LedgerEvent, ...]
    error: Path

    @property
    def searched(self) -> bool:
        return self.row is not None and self.row.status != "failed"

    @property
    def last(self) -> LedgerEvent | None:
        """The newest event."""
        return max(self.events, key=lambda event: (event.attempt, event.meter == "final", event.sequence), default=None)

    @property
    def failed_at(self) -> float | None:
        """When it failed, in unix time, if it ever did."""
        try:
            return self.error.stat().st_mtime
        except OSError:
            failed = self.row is not None and not self.searched
            return (self.last.unix_time if self.last is not None else 0.0) if failed else None

    def charge(self, *, failed: bool, running: bool) -> Charge:
        """Return what the search has used up to now; what runs is charged also for work since its last checkpoint."""
        row, last = self.row, self.last
        if row is not None and (self.searched or failed):
            return Charge(held=row.held_seconds, charged=row.charged_seconds, steps=row.steps)
        now = [replace(last, durable=True)] if running and last is not None and last.meter == "search" else []
        return Ledger([*self.events, *now]).charge(self.id)


class _Reading:
    """One look at a folder."""

    def __init__(self, folder: StudyFolder, now: float) -> None:
        self._folder, self._now = folder, now
        self._study: StudyConfig = load_study(folder.study)
        plan = read_plan(folder.study)
        if plan is None:
            raise UserError(f"{printable(str(folder.study))}: is no study file as `dastune run` writes it")
        self._plan: Plan = plan
        self._seeds = len(plan.train_seeds)
        held, begun = _driver(folder.lock)
        self._held, self._begun = held, begun
        self._stop = folder.stop.exists()
        # Rows before the ledger: what ends in between is heard of as closed, without a row.
        ids, keys = set(plan.searches), set(plan.finals)
        rows = {row.id: row for row in _rows(folder.searches, TypeAdapter(SearchRow)) if row.id in ids}
        finals = {(row.search_id, row.train_seed): row for row in _rows(folder.finals, TypeAdapter(FinalRow))}
        self._finals = {key: row for key, row in finals.items() if key in keys}
        trained = dict.fromkeys(plan.searches, 0)
        for search, _ in self._finals:
            trained[search] += 1
        done = {search for search in rows if rows[search].status != "failed" and trained[search] == self._seeds}
        self._since = math.inf if held is False else max(now - WINDOW_SECONDS, begun or 0.0)
        self._heard: Heard = hear(folder.ledger, ids - done, self._since)
        self._searches = [
            _Search(
                id=search,
                method=method_of(search),
                row=rows.get(search),
                trained=trained[search],
                events=self._heard.events.get(search, ()),
                error=folder.errors / f"{search}.txt",
            )
            for search in plan.searches
        ]
        self._open = [search for search in self._searches if search.id not in done]
        recent = any(last is not None and not last.closed and not self._silent(last) for last in self._lasts())
        self._works = recent if held is None else held
        self._unheld = recent and held is False
        self._failed = {search.id for search in self._open if self._has_failed(search)}
        self._running = {search.id: search for search in self._open if self._is_running(search)}

    def _lasts(self) -> list[LedgerEvent | None]:
        return [search.last for search in self._open]

    def _silent(self, event: LedgerEvent) -> bool:
        return self._now - event.unix_time > SILENT_SECONDS

    def _has_failed(self, search: _Search) -> bool:
        """Whether a search has failed, and has not been tried again since."""
        at, last = search.failed_at, search.last
        if at is None or (self._works and at < (self._begun or 0.0)):  # a driver tries again what failed before it
            return False
        return last is None or last.unix_time <= at + SILENT_SECONDS

    def _is_running(self, search: _Search) -> bool:
        last = search.last
        if not self._works or last is None or last.unix_time < (self._begun or 0.0) or search.id in self._failed:
            return False
        if not last.closed:
            return True
        # Between its search and its final trainings a process is silent for a moment, unless it ends with its search.
        goes_on = not search.searched or self._processes(search) == 1
        return goes_on and not self._stop and not self._silent(last)

    def _processes(self, search: _Search) -> int:
        options = self._study.methods[search.method]
        return options.children_in_parallel if isinstance(options, BlackBox) else 1

    def _budgeted(self, method: str) -> bool:
        return isinstance(self._study.methods[method], Das | BlackBox)

    def _charge(self, search: _Search) -> Charge:
        return search.charge(failed=search.id in self._failed, running=search.id in self._running)

    def status(self, shown: str) -> Status:
        """Return what was read; `shown` is the folder as the user calls it."""
        running = tuple(self._running_search(search) for search in self._running.values())
        slots = sum(search.slots for search in running)
        left = self._device_seconds_left()
        share = device_share(self._study.resources.cpus, self._study.resources.gpus)
        seconds = _finite(left / share / slots) if left is not None and slots and self._state() == "running" else None
        return Status(
            name=self._study.name,
            folder=shown,
            state=self._state(),
            driver=self._held,
            begun_unix_time=self._begun if self._works else None,
            unheld=self._unheld,
            methods=tuple(self._method(method) for method in self._plan.methods),
            running=running,
            failures=tuple(
                Failure(search.id, "final" if search.searched else "search", _reason(search.error))
                for search in self._open
                if search.id in self._failed
            ),
            slots_in_use=slots,
            throughput=self._throughput() if self._works else None,
            device_seconds_left=left,
            seconds_left=seconds,
            estimated_end=None if seconds is None else _local_time(self._now + seconds),
        )

    def _state(self) -> State:
        if self._works:
            return "stopping" if self._stop else "running"
        if len(self._failed) == len(self._open):
            return "finished"
        begun = self._finals or any(search.row is not None or search.events for search in self._searches)
        return "stopped" if begun else "not begun"

    def _method(self, method: str) -> MethodStatus:
        mine = [search for search in self._searches if search.method == method]
        done = sum(search.searched for search in mine)
        running = sum(search.id in self._running and not search.searched for search in mine)
        failed = sum(search.id in self._failed and not search.searched for search in mine)
        charges = [self._charge(search) for search in mine]
        rows = [search.row for search in mine if search.row is not None and search.searched]
        budget = self._study.budget.per_search()
        seconds, steps = (budget.seconds, budget.steps) if self._budgeted(method) else (None, None)
        return MethodStatus(
            method=method,
            done=done,
            running=running,
            failed=failed,
            waiting=len(mine) - done - running - failed,
            finals_done=sum(search.trained for search in mine),
            finals_expected=len(mine) * self._seeds,
            charged_seconds=sum(charge.charged for charge in charges),
            held_seconds=sum(charge.held for charge in charges),
            steps=sum(charge.steps for charge in charges),
            budget_seconds=None if seconds is None else _finite(len(mine) * seconds),
            budget_steps=None if steps is None else len(mine) * steps,
            best_val_accuracy=max((row.val_accuracy for row in rows if row.val_accuracy is not None), default=None),
        )

    def _running_search(self, search: _Search) -> RunningSearch:
        last, charge = search.last, self._charge(search)
        assert last is not None
        spends = self._budgeted(search.method) and not search.searched
        spent = self._study.budget.per_search().spent(charge.charged, charge.steps)
        return RunningSearch(
            search=search.id,
            stage="final" if search.searched else "search",
            spent=min(spent, 1.0) if spends else None,
            charged_seconds=charge.charged,
            steps=charge.steps,
            slots=1 if search.searched else self._processes(search),
            heard_seconds_ago=max(0.0, self._now - last.unix_time),
            silent=self._silent(last),
        )

    def _throughput(self) -> Throughput:
        over, heard = max(self._now - self._since, 1.0), self._heard
        hours = over / 3600
        return Throughput(
            over_seconds=over,
            searches_per_hour=heard.searches / hours,
            finals_per_hour=heard.finals / hours,
            charged_seconds_per_hour=heard.charged_seconds / hours,
            final_seconds_per_hour=heard.final_seconds / hours,
        )

    def _device_seconds_left(self) -> float | None:
        todo = [search for search in self._open if search.id not in self._failed]
        left = device_seconds_left(
            {search.id: search.method for search in todo if not search.searched},
            sum(self._seeds - search.trained for search in todo),
            rows=(search.row for search in self._searches if search.row is not None and search.searched),
            trained=list(self._finals.values()),
            charged={search: self._charge(of).charged for search, of in self._running.items()},
            budget=self._study.budget.per_search().seconds,
        )
        return None if left is None else _finite(left)


def _driver(lock: Path) -> tuple[bool | None, float | None]:
    """Return whether a driver holds the study, None if that cannot be told, and when one last took hold of it.

    A shared lock is asked for and given back at once; it keeps no driver from working, and changes nothing.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False, None
    except OSError:
        return None, None
    try:
        begun = os.fstat(descriptor).st_mtime
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True, begun
    except OSError:  # a file system without locks
        return None, begun
    finally:
        os.close(descriptor)
    return False, begun


def _rows(path: Path, kind: TypeAdapter[_Row]) -> list[_Row]:
    """Return the rows of a line file, those with the fields of this version and numbers that can be."""
    if not path.is_file():
        return []
    rows = []
    with path.open("rb") as file:
        for line in file:
            try:
                row = kind.validate_json(line)
            except ValidationError:
                continue
            numbers = [value for value in vars(row).values() if isinstance(value, int | float)]
            if all(abs(number) < MOST for number in numbers):
                rows.append(row)
    return rows


def _reason(path: Path) -> str:
    """Return the line of an error file that says what happened."""
    lines: list[str] = []
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                lines = file.read(ERROR_BYTES).decode(errors="replace").splitlines()
    tracebacks = [place for place, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    after = lines[tracebacks[-1] + 1 :] if tracebacks else lines
    told = next((line for line in after if line.strip() and not line.startswith(" ")), None)
    return shortened(told, MOST_REASON) if told else "there is no error file that says why"


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _local_time(unix_time: float) -> str | None:
    """Return a moment in local time, ISO 8601, or None if the calendar does not reach so far."""
    try:
        return datetime.fromtimestamp(unix_time).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None
