"""Records: writes what trials report into the study's folder and to MLflow, each thing once."""

import json
import time
from base64 import b64decode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from dastune.budget import Ledger, event_from_row
from dastune.config import StudyConfig
from dastune.config.study import BlackBox, Das, Method, Published
from dastune.folder import ChildRow, FinalRow, SearchRow, StudyFolder, append_lines, read_lines, write_atomic
from dastune.orchestration.grid import Assignment, grid
from dastune.orchestration.models import Models
from dastune.orchestration.reports import Report, Start, report_from_json
from dastune.storage import FolderStorage, Storage
from dastune.tracking import EndStatus, Tracker
from dastune.tracking.views import over

# One name in all runs: MLflow's UI puts tables of one name beside each other.
CHILDREN_TABLE = "children.json"

STUDY_ARTIFACTS = "study"  # folder in the execution's run


class Records:
    """Hears reports in the driver; everything may be heard twice.

    A report with rows is put down whole before anything of it is written where it belongs, and is heard again by the
    next execution if this one dies in between: so a row, its policy and its metrics are there together or not at all.
    """

    def __init__(
        self, study: StudyConfig, folder: StudyFolder, tracker: Tracker, storage: Storage | None = None
    ) -> None:
        """Read what is there, and finish what an earlier execution died in the middle of.

        Args:
            storage: where trials leave their networks; None: in the folder.
        """
        self._study, self._folder, self._tracker = study, folder, tracker
        self._assignments = {assignment.id: assignment for assignment in grid(study)}
        self._open: set[str] = set()
        self._rows = {row.id: row for row in folder.search_rows() if row.status != "failed"}
        self._failed = {row.id: row for row in folder.search_rows() if row.status == "failed"}
        self._trained: dict[str, dict[int, float]] = {}  # test accuracy by train seed
        for final in folder.final_rows():
            self._trained.setdefault(final.search_id, {})[final.train_seed] = final.test_accuracy
        self._ledger = Ledger(event_from_row(row) for row in read_lines(folder.ledger))
        self._begun: dict[str, int] = {}  # attempts that this execution has begun
        pending = self._pending()
        # Without those that are heard again: what is to be removed for them may be there yet.
        heard = [row for row in folder.final_rows() if pending is None or row not in pending.finals]
        self._models = Models(study, folder, storage or FolderStorage(folder.root), heard)
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
        return search in self._rows and self._trained.get(search, {}).keys() >= set(self._study.seeds.final)

    def begin(self) -> None:
        """Add what the study is to the execution's run."""
        with self._tracker.together():
            for path in (self._folder.study, self._folder.env):
                self._tracker.artifact(None, path, STUDY_ARTIFACTS)

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
        if report.picture:
            write_atomic(self._folder.picture(report.search), b64decode(report.picture))
        for seed, text in report.receptive_fields.items():
            write_atomic(self._folder.receptive_field(report.search, seed), text)
        if report.traceback:
            write_atomic(self._folder.error(report.search), report.traceback)
        if report.row is not None and report.search not in self._rows and report.row != self._failed.get(report.search):
            self._folder.add_search(report.row)
            (self._failed if report.row.status == "failed" else self._rows)[report.search] = report.row
        for final in report.finals:
            trained = self._trained.setdefault(final.search_id, {})
            if final.train_seed not in trained:
                self._folder.add_final(final)
                trained[final.train_seed] = final.test_accuracy
            self._models.hear(final)
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
            if search not in self._rows:
                self._tracker.tags(search, {"status": "failed"})
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
        if report.row is not None:
            self._tracker.tags(report.search, _row_tags(report.row, report.row.status))
        if report.row is not None and report.row.status != "failed":
            if self._study.axis == "noise_level":
                self._track_over_level(report, "noise_mass", report.row.noise_mass)
            self._tracker.policy(report.search, self._folder.policy(report.search))
            if report.picture:
                self._tracker.policy(report.search, self._folder.picture(report.search))
            self._track_children(report.search)
        for final in report.finals:
            key = f"{report.search}/t{final.train_seed}"
            self._tracker.tags(key, _row_tags(final, "done"))
            if final.train_seed in report.receptive_fields:
                path = self._folder.receptive_field(report.search, final.train_seed)
                self._tracker.artifact(key, path, "receptive_field")
            if self._study.tracking.models == "all":
                self._track_model(final)
            self._end(key, "FINISHED")
        if report.finals and self.finished(report.search):
            self._track_accuracy(report)
            self._end(report.search, "FINISHED")
        if report.stage == "stopped":
            self._end_all(report.search)
        if report.error is not None:
            self._fail(report.search)

    def _track_accuracy(self, report: Report) -> None:
        """Add to a search's run what came of it, so that searches alone make the comparison."""
        row, accuracies = self._rows[report.search], self._trained[report.search]
        mean = fmean(accuracies[seed] for seed in self._study.seeds.final)
        self._tracker.metrics(report.search, int(row.charged_seconds), {"test_accuracy": mean}, _time_ms(report))
        self._track_over_level(report, "test_accuracy", mean)

    def _track_over_level(self, report: Report, name: str, value: float) -> None:
        """Add a metric whose step is the level: MLflow draws over steps, a line a method where it groups runs."""
        level = self._assignments[report.search].level
        self._tracker.metrics(report.search, level, {over(self._study.axis) + name: value}, _time_ms(report))

    def _track_model(self, final: FinalRow, register: str | None = None) -> None:
        """Have the network of a final training logged; one whose loss was not finite has left none."""
        if (file := self._models.file(final)) is not None:
            key = f"{final.search_id}/t{final.train_seed}"
            trainings = sum(map(len, self._trained.values()))
            description = "" if register is None else self._models.description(final, trainings)
            self._tracker.model(key, file, register=register, description=description)

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
        kind = options.pop("method")
        params = {
            # behind the others in the alphabet: MLflow's page that compares runs draws the first that differ
            **{f"settings.{kind}.{key}": json.dumps(value) for key, value in options.items()},
            **self._params(assignment),
        }
        self._tracker.search(search, search, params, self._tags(assignment))

    def _begin_final(self, search: str, key: str) -> None:
        if key in self._open:
            return
        self._open.add(key)
        assignment, seed = self._assignments[search], key.rpartition("/t")[2]
        params = {**self._params(assignment), "train_seed": seed, "epochs": str(self._study.final.epochs)}
        self._tracker.final(key, search, f"{search} final {seed}", params, self._tags(assignment))

    def _params(self, assignment: Assignment) -> dict[str, str]:
        """Return what searches and final trainings are grouped by."""
        return {
            "method": assignment.label,
            "noise_level": str(assignment.noise_level),
            **(
                {} if self._study.data.removed_percent == (0,) else {"removed_percent": str(assignment.removed_percent)}
            ),
            "search_seed": str(assignment.search_seed),
            "data": self._study.data.name,
            "model": self._study.model.label,
            "budget": str(self._study.budget),
        }

    def _tags(self, assignment: Assignment) -> dict[str, str]:
        return {"method": assignment.label, "cost": _cost(assignment.options(self._study))}

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
        best = self._models.best
        if status == "FINISHED" and best is not None and self._study.tracking.models != "none":
            self._track_model(best, self._study.tracking.register)
        self._tracker.artifact(None, page.parent)
        self._tracker.artifact(None, self._folder.ledger, STUDY_ARTIFACTS)
        self.end(status)
        return self._tracker.close(timeout_seconds)


def _cost(options: Method) -> str:
    """Return who pays for a search: the study, nobody, or somebody elsewhere."""
    if isinstance(options, Published):
        return "external"
    return "search" if isinstance(options, BlackBox | Das) else "none"


def _row_tags(row: SearchRow | FinalRow, status: str) -> dict[str, str]:
    """Return the tags of a run that has its row, of which the row can be made again."""
    return {"status": status, "dastune.row": json.dumps(asdict(row))}


def _time_ms(report: Report) -> int:
    """Return when a report was made, the same however often it is heard."""
    return max((point.timestamp_ms for point in report.points), default=0)


def _table_text(rows: Iterable[ChildRow]) -> str:
    """Return a table of children as `mlflow.log_table` writes one."""
    columns = ("child", "score", "seconds", "epochs", "status")
    data = [[*(getattr(row, column) for column in columns), json.dumps(row.policy)] for row in rows]
    return json.dumps({"columns": [*columns, "policy"], "data": data})
