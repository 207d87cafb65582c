"""Records: writes what trials report into the study's folder and to MLflow, each thing once."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from dastune.budget import Ledger, event_from_row
from dastune.config import StudyConfig
from dastune.config.study import Published
from dastune.folder import ChildRow, StudyFolder, append_lines, read_lines, write_atomic
from dastune.orchestration.grid import Assignment, grid
from dastune.orchestration.reports import Report, Start, report_from_json
from dastune.tracking import EndStatus, Tracker

# One name in all runs: MLflow's UI puts tables of one name beside each other.
CHILDREN_TABLE = "children.json"


class Records:
    """Hears reports in the driver; everything may be heard twice.

    A report with rows is put down whole before anything of it is written where it belongs, and is heard again by the
    next execution if this one dies in between: so a row, its policy and its metrics are there together or not at all.
    """

    def __init__(self, study: StudyConfig, folder: StudyFolder, tracker: Tracker) -> None:
        self._study, self._folder, self._tracker = study, folder, tracker
        self._assignments = {assignment.id: assignment for assignment in grid(study)}
        self._open: set[str] = set()
        self._rows = {row.id: row for row in folder.search_rows() if row.status != "failed"}
        self._failed = {row.id: row for row in folder.search_rows() if row.status == "failed"}
        self._trained: dict[str, set[int]] = {}
        for final in folder.final_rows():
            self._trained.setdefault(final.search_id, set()).add(final.train_seed)
        self._ledger = Ledger(event_from_row(row) for row in read_lines(folder.ledger))
        self._begun: dict[str, int] = {}  # attempts that this execution has begun
        pending = self._pending()
        # By number, of the searches that have not ended: a search's children are nobody's any more then.
        self._children: dict[str, dict[int, ChildRow]] = {}
        for row in folder.child_rows():
            if row.search_id not in self._rows or (pending is not None and pending.search == row.search_id):
                self._children.setdefault(row.search_id, {})[row.child] = row
        if folder.pending.exists():
            if pending is not None:
                self._write(pending)
            folder.pending.unlink()

    def _pending(self) -> Report | None:
        """Return the report that an earlier execution died in the middle of writing, if one did."""
        with suppress(OSError, ValueError, TypeError, KeyError):  # none, or of another version
            return report_from_json(self._folder.pending.read_text(encoding="utf-8"))
        return None

    def start(self, search: str) -> Start:
        """Return what a process that begins now with `search`, or goes on with it, is to know; count the attempt."""
        charge = self._ledger.charge(search)
        finals = self._ledger.charge(search, "final")
        # An attempt that died before its first report is in no ledger.
        attempt = max(charge.attempts, finals.attempts, self._begun.get(search, -1) + 1)
        self._begun[search] = attempt
        row = self._rows.get(search)
        return Start(
            attempt=attempt,
            charge=charge,
            row=row,
            policy="" if row is None else self._folder.policy(search).read_text(encoding="utf-8"),
            trained=tuple(sorted(self._trained.get(search, ()))),
        )

    def searched(self, search: str) -> bool:
        """Return whether `search` has its row."""
        return search in self._rows

    def finished(self, search: str) -> bool:
        """Return whether `search` has its row and all its final trainings."""
        return search in self._rows and self._trained.get(search, set()).issuperset(self._study.seeds.final)

    def hear(self, report: Report) -> None:
        """Write one report. Raises OSError if the folder cannot be written; it may then be heard again."""
        if report.row is None and not report.finals and report.error is None:
            self._write(report)
            return
        write_atomic(self._folder.pending, report.to_json())
        self._write(report)
        self._folder.pending.unlink()

    def _write(self, report: Report) -> None:
        self._add_children(report)  # before the row: who sees that has them all
        if report.policy:
            write_atomic(self._folder.policy(report.search), report.policy)
        if report.traceback:
            write_atomic(self._folder.error(report.search), report.traceback)
        if report.row is not None and report.search not in self._rows and report.row != self._failed.get(report.search):
            self._folder.add_search(report.row)
            (self._failed if report.row.status == "failed" else self._rows)[report.search] = report.row
        for final in report.finals:
            trained = self._trained.setdefault(final.search_id, set())
            if final.train_seed not in trained:
                self._folder.add_final(final)
                trained.add(final.train_seed)
        append_lines(self._folder.ledger, (asdict(event) for event in report.ledger))
        for event in report.ledger:
            self._ledger.add(event)
        opened = set(self._open)
        try:
            with self._tracker.together():
                self._track(report)
        except OSError:
            self._open = opened  # nothing of it is in the journal
            raise
        if report.search in self._rows:
            self._children.pop(report.search, None)

    def lose(self, search: str, reason: str) -> None:
        """Note that `search` is given up for now, and why; nothing of it is lost."""
        write_atomic(self._folder.error(search), reason)
        with self._tracker.together():
            self._begin_search(search)
            self._fail(search)

    def _add_children(self, report: Report) -> None:
        """Write the rows that are not there as they are: a resumed search tells again of what its checkpoint holds."""
        if report.search in self._rows and report.search not in self._children:
            return  # it has ended, with all of them
        known = self._children.setdefault(report.search, {})
        new = [row for row in report.children if known.get(row.child) != row]
        self._folder.add_children(new)
        known.update((row.child, row) for row in new)

    def _track(self, report: Report) -> None:
        if report.stage == "ended" and self.finished(report.search):
            return  # its runs have ended with its rows
        self._begin_search(report.search)
        for point in report.points:
            if "/" in point.key:
                self._begin_final(report.search, point.key)
            self._tracker.metrics(point.key, point.step, point.values, point.timestamp_ms)
        if report.row is not None and report.row.status != "failed":
            self._tracker.policy(report.search, self._folder.policy(report.search))
            self._track_children(report.search)
        for final in report.finals:
            self._end(f"{report.search}/t{final.train_seed}", "FINISHED")
        if report.finals and self.finished(report.search):
            self._end(report.search, "FINISHED")
        if report.stage == "stopped":
            self._end_all(report.search)
        if report.error is not None:
            self._fail(report.search)

    def _fail(self, search: str) -> None:
        self._tracker.artifact(search, self._folder.error(search))
        self._end(search, "FAILED")
        self._end_all(search)

    def _end_all(self, search: str) -> None:
        """End the runs of a search, and of its final trainings, that nobody works on any more."""
        for key in sorted(key for key in self._open if key.partition("/")[0] == search):
            self._end(key, "KILLED")

    def _track_children(self, search: str) -> None:
        """Log the children of a search that has ended as one table, if it had any."""
        known = self._children.get(search, {})
        if rows := [known[child] for child in sorted(known)]:
            path = self._folder.children_table(search)
            write_atomic(path, _table_text(rows))
            self._tracker.table(search, path, CHILDREN_TABLE)

    def _end(self, key: str, status: EndStatus) -> None:
        self._tracker.end(key, status)
        self._open.discard(key)

    def _begin_search(self, search: str) -> None:
        if search in self._open:
            return
        self._open.add(search)
        study, assignment = self._study, self._assignments[search]
        options = assignment.options(study).model_dump(mode="json")
        params = {
            **{f"{options['method']}.{key}": json.dumps(value) for key, value in options.items() if key != "method"},
            "method": assignment.label,
            "noise_level": str(assignment.noise_level),
            "search_seed": str(assignment.search_seed),
            "data": study.data.name,
            "model": study.model.name,
            "budget": json.dumps(study.budget.model_dump(exclude_none=True)),
        }
        self._tracker.search(search, search, params, self._tags(assignment))

    def _begin_final(self, search: str, key: str) -> None:
        if key in self._open:
            return
        self._open.add(key)
        assignment, seed = self._assignments[search], key.rpartition("/t")[2]
        params = {
            "method": assignment.label,
            "noise_level": str(assignment.noise_level),
            "search_seed": str(assignment.search_seed),
            "train_seed": seed,
            "epochs": str(self._study.final.epochs),
        }
        self._tracker.final(key, search, f"{search} final {seed}", params, self._tags(assignment))

    def _tags(self, assignment: Assignment) -> dict[str, str]:
        """Return the tags of a run; of a policy found elsewhere, also that it is none of the study's own."""
        external = isinstance(assignment.options(self._study), Published)
        return {"method": assignment.label} | ({"external": "true"} if external else {})

    def end(self, status: EndStatus) -> None:
        """End the execution's run, and the runs of trials whose processes had no time for a last word."""
        for search in sorted({key.partition("/")[0] for key in self._open}):
            self._end_all(search)
        self._tracker.end(None, status)

    def close(self, page: Path, status: EndStatus, timeout_seconds: float) -> int:
        """Add the report and totals to the execution's run, end it, and return how many events are undelivered."""
        rows = self._rows.values()
        totals = {
            "charged_seconds": sum(row.charged_seconds for row in rows),
            "held_seconds": sum(row.held_seconds for row in rows),
            "final_seconds": sum(row.seconds for row in self._folder.final_rows()),
            "searches": float(len(rows)),
        }
        self._tracker.metrics(None, 0, totals, int(time.time() * 1000))
        self._tracker.artifact(None, page.parent)
        self.end(status)
        return self._tracker.close(timeout_seconds)


def _table_text(rows: Iterable[ChildRow]) -> str:
    """Return a table of children as `mlflow.log_table` writes one."""
    columns = ("child", "score", "seconds", "epochs", "status")
    data = [[*(getattr(row, column) for column in columns), json.dumps(row.policy)] for row in rows]
    return json.dumps({"columns": [*columns, "policy"], "data": data})
