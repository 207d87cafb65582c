"""Records: writes what trials report into the study's folder and to MLflow, each thing once."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from dastune.config import StudyConfig
from dastune.folder import StudyFolder, append_line
from dastune.orchestration.grid import grid
from dastune.orchestration.trial import Report
from dastune.tracking import EndStatus, Tracker


class Records:
    """Hears reports in the driver; everything may be heard twice."""

    def __init__(self, study: StudyConfig, folder: StudyFolder, tracker: Tracker) -> None:
        self._study, self._folder, self._tracker = study, folder, tracker
        self._assignments = {assignment.id: assignment for assignment in grid(study)}
        self._begun: set[str] = set()

    def hear(self, report: Report) -> None:
        """Write one report: the ledger first, then rows, then tracking."""
        for event in report.ledger:
            append_line(self._folder.ledger, asdict(event))
        if report.row is not None:
            self._folder.add_search(report.row)
        for final in report.finals:
            self._folder.add_final(final)
        self._track(report)

    def _track(self, report: Report) -> None:
        self._begin_search(report.search)
        for point in report.points:
            if "/" in point.key:
                self._begin_final(report.search, point.key)
            self._tracker.metrics(point.key, point.step, point.values, point.timestamp_ms)
        if report.row is not None and report.row.status != "failed":
            self._tracker.policy(report.search, self._folder.policy(report.search))
        for final in report.finals:
            self._tracker.end(f"{report.search}/t{final.train_seed}")
            if final.train_seed == self._study.seeds.final[-1]:
                self._tracker.end(report.search)
        if report.error is not None:
            self._tracker.artifact(report.search, self._folder.errors / f"{report.search}.txt")
            self._tracker.end(report.search, "FAILED")

    def _begin_search(self, search: str) -> None:
        if search in self._begun:
            return
        self._begun.add(search)
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
        self._tracker.search(search, search, params, {"method": assignment.label})

    def _begin_final(self, search: str, key: str) -> None:
        if key in self._begun:
            return
        self._begun.add(key)
        assignment, seed = self._assignments[search], key.rpartition("/t")[2]
        params = {
            "method": assignment.label,
            "noise_level": str(assignment.noise_level),
            "search_seed": str(assignment.search_seed),
            "train_seed": seed,
            "epochs": str(self._study.final.epochs),
        }
        self._tracker.final(key, search, f"{search} final {seed}", params, {"method": assignment.label})

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
        self._tracker.artifact(None, page.parent, "report")
        self._tracker.end(None, status)
        return self._tracker.close(timeout_seconds)
