"""What the driver makes of reports, which searches there are, and that the report counts the same ones."""

import errno
import fcntl
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from dastune.budget import Charge, Ledger, LedgerEvent, event_from_row
from dastune.config import StudyConfig
from dastune.folder import ChildRow, FinalRow, SearchRow, StudyFolder, read_lines, write_atomic
from dastune.orchestration.grid import grid, unfinished
from dastune.orchestration.records import Records
from dastune.orchestration.reports import Point, Report
from dastune.report.plan import read_plan
from dastune.tracking import DatasetInfo, Tracker
from dastune.tracking.journal import read

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

StudyOf = Callable[..., StudyConfig]

METHODS = {"random": {}, "theirs": {"method": "published", "policy": "aa-cifar10"}}
POLICY = {"kind": "stages", "stages": []}
PICTURE = b64encode(bytes(range(256))).decode()
FIELD = '{"half":0.25}'


@pytest.fixture
def study(study_of: StudyOf) -> StudyConfig:
    space = {"ops": ["identity", "rotate", "invert"], "noise": {"levels": [2, 0]}}
    return study_of(methods=METHODS, space=space, seeds={"search": [3, 5], "final": [0]})


@pytest.fixture
def folder(study: StudyConfig, root: Path) -> StudyFolder:
    folder = StudyFolder(root)
    write_atomic(folder.study, yaml.safe_dump(study.model_dump(mode="json")))
    return folder


def row_of(search: str) -> SearchRow:
    method, level, seed = search.split("-")
    return SearchRow(
        *(search, method, int(level[1:]), int(seed[1:]), None, 2.0, 1.0, 9, 3, 0.0, 0.4, 0.0),
        *(f"policies/{search}.json", "done"),
    )


def child_of(search: str, child: int, score: float | None = 0.5) -> ChildRow:
    row = row_of(search)
    return ChildRow(search, row.method, row.noise_level, row.search_seed, child, score, 1.5, 2.0, "scored", POLICY)


def test_published_policies_are_at_the_first_level_only(study: StudyConfig, folder: StudyFolder) -> None:
    ids = [assignment.id for assignment in grid(study)]
    assert ids == [
        *("random-n2-s3", "theirs-n2-s3", "random-n0-s3"),
        *("random-n2-s5", "theirs-n2-s5", "random-n0-s5"),
    ]
    assert [assignment.id for assignment in unfinished(study, folder)] == ids
    plan = read_plan(folder.study)
    assert plan is not None
    assert sorted(plan.searches) == sorted(ids)
    assert plan.methods == {"random": "random", "theirs": "published"}
    assert plan.published == {"theirs": "aa-cifar10"}


def test_children_are_one_table_of_their_searchs_run(
    study: StudyConfig, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports heard twice, and children trained again after a crash: each child is one row, of what came last."""
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker.open(
        folder,
        uri=None,
        experiment="small",
        study_params={},
        dataset=DatasetInfo("digits", "0" * 32, "sklearn.datasets.load_digits", 1797, 10),
        tags={},
    )
    records = Records(study, folder, tracker)
    lost = Report("random-n2-s3", "search", 1.0, 3, children=[child_of("random-n2-s3", child) for child in range(2)])
    again = replace(child_of("random-n2-s3", 1, score=None), epochs=0.25, status="cut")
    ended = replace(lost, stage="searched", children=[again], row=row_of("random-n2-s3"))
    elsewhere = Report("theirs-n2-s3", "searched", 0.0, 0, row=row_of("theirs-n2-s3"))
    other = Report("random-n2-s5", "search", 1.0, 3, children=[child_of("random-n2-s5", 0)])
    for report in (lost, other, ended, elsewhere):
        write_atomic(folder.policy(report.search), "{}")
        records.hear(report)
    records.hear(ended)
    final = Point("theirs-n2-s3/t0", 1, {"train_loss": 1.0}, 5)
    records.hear(Report("theirs-n2-s3", "final", 0.0, 0, points=[final]))
    assert tracker.close(60.0) == 0

    assert folder.child_rows("random-n2-s3") == [child_of("random-n2-s3", 0), again]
    # What was heard again as it was is no second line; not by the records of another execution either.
    Records(study, folder, tracker).hear(Report("random-n2-s3", "search", 1.0, 3, children=[again]))
    assert len(folder.children.read_text().splitlines()) == 4
    uri = f"sqlite:///{folder.mlflow_store}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # load_table asks for it
    table = client.load_table(experiment.experiment_id, "children.json", extra_columns=["run_id"])
    assert set(table["run_id"]) == {runs["random-n2-s3"].info.run_id}
    assert list(table.columns) == ["child", "score", "seconds", "epochs", "status", "policy", "run_id"]
    assert table["child"].tolist() == [0, 1]
    assert table["score"].isna().tolist() == [False, True]
    assert table["epochs"].tolist() == [2.0, 0.25]
    assert table["status"].tolist() == ["scored", "cut"]
    assert [json.loads(text) for text in table["policy"]] == [POLICY, POLICY]
    costs = {name: run.data.tags["cost"] for name, run in runs.items() if "cost" in run.data.tags}
    assert costs == {
        **dict.fromkeys(("random-n2-s3", "random-n2-s5"), "search"),
        **dict.fromkeys(("theirs-n2-s3", "theirs-n2-s3 final 0"), "external"),
    }


class Killed(BaseException):
    """What a `kill -9` of the driver is to the test."""


class Fault:
    """Fails at the n-th of the calls that make something durable.

    Args:
        kind: "before" or "after" the call the process is killed, so to speak; "full": the disk is, once.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int, kind: str) -> None:
        self._left, self._kind = at, kind
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, self._faulty(getattr(owner, name)))

    def _faulty(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(what: Any, *arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left != 0:
                return call(what, *arguments, **options)
            if self._kind == "after":
                call(what, *arguments, **options)
            elif isinstance(what, int) and fcntl.fcntl(what, fcntl.F_GETFL) & os.O_APPEND:
                os.ftruncate(what, os.fstat(what).st_size - 5)  # the end of what was appended did not reach the disk
            raise OSError(errno.ENOSPC, "No space left on device") if self._kind == "full" else Killed

        return faulty

    @property
    def came(self) -> bool:
        return self._left <= 0


def told(search: str) -> list[Report]:
    """What the driver hears of one search: it begins, has its row and children, then a final training, then ends."""
    row = row_of(search)
    events = [LedgerEvent(search, 0, n, "search", {"search": 1.0 * n}, n, durable=True, closed=n == 2) for n in (1, 2)]
    final = LedgerEvent(search, 0, 1, "final", {"train": 3.0}, 7, durable=True, closed=True)
    trained = FinalRow(search, row.method, row.noise_level, row.search_seed, 0, 0.5, 1.0, 2, 3.0, 9.0, 10, 11)
    children = [child_of(search, child) for child in range(3)]
    scores = [Point(search, step, {"child_accuracy": 0.5, "tau": step / 8}, 1000 + step) for step in (1, 2)]
    tested = [Point(f"{search}/t0", 2, {"test_accuracy": 0.5}, 2000)]
    return [
        Report(search, "search", 0.0, 0),
        Report(search, "searched", 1.0, 9, events, scores, row, '{"found": 1}', PICTURE, children=children),
        Report(search, "finished", 1.0, 9, [final], tested, finals=[trained], receptive_fields={0: FIELD}),
        Report(search, "ended", 1.0, 9),
    ]


def failure(search: str) -> list[Report]:
    """What the driver hears of a search that fails."""
    held = LedgerEvent(search, 0, 1, "search", {"failed": 2.0}, 1, durable=False, closed=True)
    row = replace(row_of(search), status="failed", policy="")
    return [
        Report(search, "search", 0.0, 0),
        Report(search, "failed", 1.0, 9, [held], row=row, error="ValueError: no", traceback="Traceback: ..."),
    ]


def unsent(folder: StudyFolder) -> Tracker:
    """A tracker whose journal nobody sends."""
    info = DatasetInfo("digits", "0" * 32, "sklearn.datasets.load_digits", 1797, 10)
    return Tracker(folder, cast(Any, None), info, warn=pytest.fail)


def hear_all(study: StudyConfig, folder: StudyFolder, reports: list[Report]) -> None:
    """Have records hear reports, again if the folder cannot be written.

    Where a fault ends them, have others go on with what is not there yet.
    """
    records, left = Records(study, folder, unsent(folder)), list(reports)
    while left:
        try:
            records.hear(left[0])
        except OSError:
            continue
        except Killed:
            records = Records(study, folder, unsent(folder))
            if left[0].row in folder.search_rows() or any(row in folder.final_rows() for row in left[0].finals):
                del left[0]  # the trial knows that from its Start
        else:
            del left[0]


@pytest.mark.parametrize("kind", ["before", "after", "full"])
@pytest.mark.parametrize("story", [told, failure])
def test_a_fault_at_any_write_leaves_each_thing_once(
    study: StudyConfig, root: Path, story: Callable[[str], list[Report]], kind: str
) -> None:
    search, came, at = "random-n2-s3", True, 0
    reports = story(search)
    while came:
        at += 1
        folder = StudyFolder(root.with_name(f"{at}"))
        write_atomic(folder.study, yaml.safe_dump(study.model_dump(mode="json")))
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, at, kind)
            hear_all(study, folder, reports)
        came = fault.came
        check_heard(folder, search, reports)
    assert at > 10


def check_heard(folder: StudyFolder, search: str, reports: list[Report]) -> None:
    """Everything that the reports hold is there, once."""
    row = next(report.row for report in reports if report.row is not None)
    assert list(read_lines(folder.searches)) == [asdict(row)]
    finals = [final for report in reports for final in report.finals]
    assert list(read_lines(folder.finals)) == [asdict(final) for final in finals]
    assert folder.child_rows() == [child for report in reports for child in report.children]
    for text, path in ((reports[1].policy, folder.policy(search)), (reports[1].traceback, folder.error(search))):
        assert (path.read_text() if path.exists() else "") == text
    events = [event for report in reports for event in report.ledger]
    there = Ledger(event_from_row(line) for line in read_lines(folder.ledger))
    expected = Ledger(events)
    assert there.charge(search) == expected.charge(search) != Charge()
    assert there.charge(search, "final") == expected.charge(search, "final")
    assert not folder.pending.exists()
    assert not list(folder.root.rglob("*.tmp"))
    # MLflow takes a point that comes again as the same one.
    journal = [event for _, event in read(folder.tracking, 0)]
    points = {
        (event["key"], event["step"], event["time"], json.dumps(event["values"]))
        for event in journal
        if event.get("event") == "metrics"
    }
    expected_points = [point for report in reports for point in report.points]
    if finals:  # the search's run has what the comparison is made of, too
        expected_points += [
            Point(search, 1, {"test_accuracy": 0.5}, 2000),
            Point(search, 2, {"over_noise_level/noise_mass": 0.0}, 1002),
            Point(search, 2, {"over_noise_level/test_accuracy": 0.5}, 2000),
        ]
    assert points == {
        (point.key, point.step, point.timestamp_ms, json.dumps({k: repr(v) for k, v in point.values.items()}))
        for point in expected_points
    }
    for key, told_row in [(search, row), *((f"{search}/t{final.train_seed}", final) for final in finals)]:
        rows = [event["tags"] for event in journal if event.get("event") == "tags" and event["key"] == key]
        status = told_row.status if isinstance(told_row, SearchRow) else "done"
        assert [(tags["status"], json.loads(tags["dastune.row"])) for tags in rows[-1:]] == [(status, asdict(told_row))]
    picture = folder.picture(search)
    assert (picture.read_bytes() if picture.exists() else b"") == b64decode(reports[1].picture)
    for final in finals:
        path = folder.receptive_field(search, final.train_seed)
        assert path.read_text() == FIELD
        artifacts = [event["path"] for event in journal if event.get("folder") == "receptive_field"]
        assert set(artifacts) == {str(path.relative_to(folder.root))}
    status = "FINISHED" if finals else "FAILED"
    for key in {search, *(f"{search}/t{final.train_seed}" for final in finals)}:
        mine = [event for event in journal if event.get("key") == key]
        assert (mine[0]["event"], mine[-1]["event"], mine[-1].get("status")) == ("begin", "end", status)
