"""Records: writes what trials report into the study's folder and to MLflow, each thing once."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from dastune.config import StudyConfig
from dastune.config.study import Published
from dastune.folder import ChildRow, StudyFolder, append_line, write_atomic
from dastune.orchestration.grid import Assignment, grid
from dastune.orchestration.reports import Report
from dastune.tracking import EndStatus, Tracker

# One name in all runs: MLflow's UI puts tables of one name beside each other.
CHILDREN_TABLE = "children.json"


class Records:
    """Hears reports in the driver; everything may be heard twice."""

    def __init__(self, study: StudyConfig, folder: StudyFolder, tracker: Tracker) -> None:
        self._study, self._folder, self._tracker = study, folder, tracker
        self._assignments = {assignment.id: assignment for assignment in grid(study)}
        self._open: set[str] = set()
        self._children = {(row.search_id, row.child): row for row in folder.child_rows()}

    def hear(self, report: Report) -> None:
        """Write one report: rows first (a search without its row is done again), then the ledger, then tracking."""
        self._add_children(report.children)  # before the row: who sees that has them all
        if report.row is not None:
            self._folder.add_search(report.row)
        for final in report.finals:
            self._folder.add_final(final)
        for event in report.ledger:
            append_line(self._folder.ledger, asdict(event))
        self._track(report)

    def _add_children(self, rows: Iterable[ChildRow]) -> None:
        """Write the rows that are not there as they are: a resumed search tells again of what its checkpoint holds."""
        new = [row for row in rows if self._children.get((row.search_id, row.child)) != row]
        self._folder.add_children(new)
        self._children.update(((row.search_id, row.child), row) for row in new)

    def _track(self, report: Report) -> None:
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
        if report.stage == "ended":
            self._end(report.search, "FINISHED")
        if report.stage == "stopped":
            for key in [key for key in self._open if key.partition("/")[0] == report.search]:
                self._end(key, "KILLED")
        if report.error is not None:
            self._tracker.artifact(report.search, self._folder.errors / f"{report.search}.txt")
            self._end(report.search, "FAILED")

    def _track_children(self, search: str) -> None:
        """Log the children of a search that has ended as one table, if it had any."""
        rows = sorted((row for row in self._children.values() if row.search_id == search), key=lambda row: row.child)
        if rows:
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

    def close(self, page: Path, status: EndStatus, timeout_seconds: float) -> int:
        """Add the report and totals to the execution's run, end it, and return how many events are undelivered."""
        rows = [row for row in self._folder.search_rows() if row.status != "failed"]
        totals = {
            "charged_seconds": sum(row.charged_seconds for row in rows),
            "held_seconds": sum(row.held_seconds for row in rows),
            "final_seconds": sum(row.seconds for row in self._folder.final_rows()),
            "searches": float(len(rows)),
        }
        self._tracker.metrics(None, 0, totals, int(time.time() * 1000))
        self._tracker.artifact(None, page.parent)
        self._tracker.end(None, status)
        return self._tracker.close(timeout_seconds)


def _table_text(rows: Iterable[ChildRow]) -> str:
    """Return a table of children as `mlflow.log_table` writes one."""
    columns = ("child", "score", "seconds", "epochs", "status")
    data = [[*(getattr(row, column) for column in columns), json.dumps(row.policy)] for row in rows]
    return json.dumps({"columns": [*columns, "policy"], "data": data})
