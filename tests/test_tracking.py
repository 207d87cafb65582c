"""Tracking on real sqlite stores: what arrives, that nobody waits for it, and that nothing arrives twice."""

import json
import math
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dastune.errors import UserError
from dastune.folder import StudyFolder
from dastune.tracking import DatasetInfo, Tracker, store_uri, ui_command, ui_environment

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

DIGITS = DatasetInfo("digits", "0123456789abcdef0123456789abcdef", "sklearn.datasets.load_digits", 1797, 10)
LONG_ENOUGH_SECONDS = 60.0


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store with all of MLflow's tables: making one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(tmp_path: Path, migrated_store: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = StudyFolder(tmp_path / "study")
    folder.root.mkdir()
    shutil.copy(migrated_store, folder.mlflow_store)
    return folder


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A loopback port that refuses connections: bound, so that nobody else takes it, and not listening."""
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def open_tracker(folder: StudyFolder, uri: str | None = None, **options: object) -> Tracker:
    return Tracker.open(
        folder,
        uri=uri,
        experiment="digits_noise",
        study_params={"data": "digits", "budget": "10 cpu-seconds"},
        dataset=DIGITS,
        tags={"dastune.version": "0.1.0"},
        **options,  # type: ignore[arg-type]
    )


def log_search(tracker: Tracker, folder: StudyFolder, search_id: str = "das-n4-s0", points: int = 5) -> None:
    policy = folder.policy(search_id)
    policy.parent.mkdir(exist_ok=True)
    policy.write_text('{"kind": "stages"}')
    tracker.search(search_id, search_id, {"method": "das", "noise_level": 4}, {"dastune.cost": "search"})
    for step in range(points):
        tracker.metrics(search_id, step, {"val_accuracy": step / 7, "held_seconds": step + 0.1}, 1000 + step)
    tracker.policy(search_id, policy)
    tracker.end(search_id)
    tracker.final(f"{search_id}/t0", search_id, f"{search_id} final 0", {"train_seed": 0}, {})
    tracker.metrics(f"{search_id}/t0", 3, {"test_accuracy": 0.9}, 2000)
    tracker.end(f"{search_id}/t0", "FAILED")


def client(folder: StudyFolder) -> MlflowClient:
    return MlflowClient(tracking_uri=store_uri(folder, None))


def runs(folder: StudyFolder) -> dict[str, Run]:
    """All runs of the store by key; executions, whose keys are random, as execution-0, -1 ... in order."""
    store = client(folder)
    found = store.search_runs([e.experiment_id for e in store.search_experiments()], order_by=["start_time ASC"])
    executions = [run for run in found if run.data.tags["dastune.stage"] == "execution"]
    named = {f"execution-{i}": run for i, run in enumerate(executions)}
    others = {run.data.tags["dastune.key"]: run for run in found if run not in executions}
    assert len(named | others) == len(found), "a key has two runs"
    return named | others


def points(folder: StudyFolder, run: Run, metric: str) -> list[tuple[int, int, float]]:
    """(step, time, value) of each stored row, in the order of arrival."""
    return [(p.step, p.timestamp, p.value) for p in client(folder).get_metric_history(run.info.run_id, metric)]


def rows(folder: StudyFolder) -> dict[str, int]:
    """Row counts of the tables that a repeated delivery could swell."""
    tables = ["runs", "metrics", "params", "tags", "inputs", "datasets", "experiments"]
    with closing(sqlite3.connect(folder.mlflow_store)) as store:
        return {table: store.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}


def rewind(folder: StudyFolder, delivered_bytes: int = 0) -> None:
    """Put the position back, as a crash between the store's commit and ours leaves it."""
    position = folder.tracking.with_name(f"{folder.tracking.name}.position")
    position.write_text(json.dumps(json.loads(position.read_text()) | {"bytes": delivered_bytes}))


def check_search(folder: StudyFolder, search_id: str = "das-n4-s0", count: int = 5) -> None:
    """Assert that all of `log_search` is there, once."""
    search, final = runs(folder)[search_id], runs(folder)[f"{search_id}/t0"]
    assert points(folder, search, "val_accuracy") == [(i, 1000 + i, i / 7) for i in range(count)]
    assert points(folder, search, "held_seconds") == [(i, 1000 + i, i + 0.1) for i in range(count)]
    assert points(folder, final, "test_accuracy") == [(3, 2000, 0.9)]
    assert (search.info.status, final.info.status) == ("FINISHED", "FAILED")


def test_what_is_logged_arrives(tmp_path: Path, folder: StudyFolder) -> None:
    tracker = open_tracker(folder)
    log_search(tracker, folder)
    report = folder.report / "index.html"
    report.parent.mkdir()
    report.write_text("<html>")
    tracker.artifact(None, folder.report)
    tracker.end(None)
    assert tracker.close(LONG_ENOUGH_SECONDS) == 0

    found = runs(folder)
    parent, search, final = found["execution-0"], found["das-n4-s0"], found["das-n4-s0/t0"]
    assert len(found) == 3
    assert "mlflow.parentRunId" not in parent.data.tags
    assert search.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert final.data.tags["mlflow.parentRunId"] == search.info.run_id
    assert [run.data.tags["dastune.stage"] for run in (parent, search, final)] == ["execution", "search", "final"]
    assert len({run.data.tags["dastune.study_id"] for run in found.values()}) == 1
    assert parent.data.tags["dastune.version"] == "0.1.0"
    assert search.data.tags["dastune.cost"] == "search"
    assert parent.data.params == {"data": "digits", "budget": "10 cpu-seconds"}
    assert search.data.params == {"method": "das", "noise_level": "4"}
    assert search.info.run_name == "das-n4-s0"
    assert parent.info.status == "FINISHED"
    check_search(folder)
    for run in found.values():
        assert run.inputs is not None
        (entry,) = run.inputs.dataset_inputs
        assert (entry.dataset.name, entry.dataset.digest) == (DIGITS.name, DIGITS.digest)
        assert json.loads(entry.dataset.profile or "") == {"images": 1797, "classes": 10}
    assert list(folder.mlflow_artifacts.rglob("das-n4-s0.json"))
    for run, path, text in [
        (search, "policy/das-n4-s0.json", '{"kind": "stages"}'),
        (parent, "report/index.html", "<html>"),
    ]:
        assert Path(client(folder).download_artifacts(run.info.run_id, path, str(tmp_path))).read_text() == text


def test_interleaved_runs_keep_their_order(folder: StudyFolder) -> None:
    """The sender puts the waiting points of one run into one request; each run still sees its own events in order."""
    tracker = open_tracker(folder)
    for step in range(450):  # more than the sender takes at once
        key = "ab"[step % 2]
        if step in (0, 1, 300):
            tracker.search(key, key, {}, {})
        tracker.metrics(key, step, {"loss": float(-step)}, 5000 - step)
        if step in (100, 449):
            tracker.end(key)
    assert tracker.close(LONG_ENOUGH_SECONDS) == 0
    found = runs(folder)
    for first, key in enumerate("ab"):
        expected = [(step, 5000 - step, float(-step)) for step in range(first, 450, 2)]
        assert sorted(points(folder, found[key], "loss")) == expected
    assert [found[key].info.status for key in "ab"] == ["RUNNING", "FINISHED"]


def test_values_beyond_mlflows_limits(folder: StudyFolder) -> None:
    tracker = open_tracker(folder)
    tracker.search("a", "a", {f"p{i}": "x" * 7000 for i in range(120)}, {"long": "y" * 9000})
    tracker.metrics("a", 1, {f"m{i}": float(i) for i in range(1100)} | {"nan": math.nan, "minus": -math.inf}, 1)
    assert tracker.close(LONG_ENOUGH_SECONDS) == 0
    run = runs(folder)["a"]
    assert len(run.data.params) == 120
    assert len(run.data.params["p119"]) == 6000
    assert len(run.data.tags["long"]) == 8000
    assert len(run.data.metrics) == 1102
    assert math.isnan(run.data.metrics["nan"])


def test_a_locked_store_blocks_nobody_and_loses_nothing(folder: StudyFolder) -> None:
    tracker = open_tracker(folder)
    with closing(sqlite3.connect(folder.mlflow_store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        log_search(tracker, folder, points=200)
        left = tracker.close(0.0)  # while the lock is held: no call has waited for it
        other.execute("ROLLBACK")
    assert left >= 200
    assert open_tracker(folder).close(LONG_ENOUGH_SECONDS) == 0
    check_search(folder, count=200)
    assert len(runs(folder)) == 4


def test_an_unreachable_store_gets_everything_later(folder: StudyFolder, closed_port: int) -> None:
    warnings: list[str] = []
    uri = f"http://someone:secret@127.0.0.1:{closed_port}"
    tracker = open_tracker(folder, uri, required=False, warn=warnings.append)
    log_search(tracker, folder)
    assert tracker.close(1.0) == 12  # the execution's run, and 11 events of the search
    assert len(warnings) == 1
    written = folder.tracking.read_text() + "".join(p.read_text() for p in folder.root.glob("*.position"))
    assert "secret" not in written + warnings[0]

    second = open_tracker(folder)
    assert second.close(LONG_ENOUGH_SECONDS) == 0
    check_search(folder)
    assert {key: run.info.status for key, run in runs(folder).items() if "execution" in key} == {
        "execution-0": "KILLED",
        "execution-1": "RUNNING",
    }


def test_a_store_that_comes_back_is_noticed(tmp_path: Path, folder: StudyFolder) -> None:
    warned = threading.Event()
    home = tmp_path / "elsewhere"
    home.write_text("a file where the store's folder should be")
    tracker = open_tracker(folder, f"sqlite:///{home}/mlflow.db", required=False, warn=lambda _: warned.set())
    log_search(tracker, folder)
    assert warned.wait(LONG_ENOUGH_SECONDS)
    home.unlink()
    home.mkdir()
    folder.mlflow_store.rename(home / "mlflow.db")
    assert tracker.close(LONG_ENOUGH_SECONDS) == 0
    assert list((home / "mlartifacts").rglob("das-n4-s0.json")), "artifacts belong beside their store"
    (home / "mlflow.db").rename(folder.mlflow_store)
    check_search(folder)


@pytest.mark.parametrize("back_to_line", [0, 1, 4, 9])
def test_sending_again_makes_nothing_twice(folder: StudyFolder, back_to_line: int) -> None:
    tracker = open_tracker(folder)
    log_search(tracker, folder)
    tracker.end(None)
    assert tracker.close(LONG_ENOUGH_SECONDS) == 0
    # The second execution's own run is made here, so that only the repetition is left to differ.
    assert open_tracker(folder).close(LONG_ENOUGH_SECONDS) == 0
    before = rows(folder)

    lines = folder.tracking.read_bytes().splitlines(keepends=True)
    rewind(folder, sum(map(len, lines[:back_to_line])))
    third = open_tracker(folder)
    assert third.close(LONG_ENOUGH_SECONDS) == 0
    after = rows(folder)
    assert after["runs"] == before["runs"] + 1  # the third execution's
    assert {t: after[t] for t in ("metrics", "datasets", "experiments")} == {
        t: before[t] for t in ("metrics", "datasets", "experiments")
    }
    assert after["inputs"] == before["inputs"] + 1
    check_search(folder)
    assert runs(folder)["execution-0"].info.status == "FINISHED"


def test_a_second_execution_continues_the_searchs_run(folder: StudyFolder) -> None:
    first = open_tracker(folder)
    first.search("a", "a", {"method": "das"}, {})
    first.metrics("a", 1, {"val_accuracy": 0.5}, 1)
    assert first.close(LONG_ENOUGH_SECONDS) == 0  # as after Ctrl-C: nobody has ended the runs
    second = open_tracker(folder)
    second.search("a", "a", {"method": "changed", "added": 1}, {"dastune.resumed": "1"})
    second.metrics("a", 2, {"val_accuracy": 0.6}, 2)
    second.end("a")
    second.end(None)
    assert second.close(LONG_ENOUGH_SECONDS) == 0

    found = runs(folder)
    assert set(found) == {"execution-0", "execution-1", "a"}
    assert found["a"].data.tags["mlflow.parentRunId"] == found["execution-0"].info.run_id
    assert found["a"].data.tags["dastune.resumed"] == "1"
    assert found["a"].data.params == {"method": "das", "added": "1"}
    assert points(folder, found["a"], "val_accuracy") == [(1, 1, 0.5), (2, 2, 0.6)]
    assert [found[key].info.status for key in ("execution-0", "execution-1", "a")] == ["KILLED", "FINISHED", "FINISHED"]


def test_two_studies_of_one_name_in_one_store_stay_apart(tmp_path: Path, folder: StudyFolder) -> None:
    for root in (folder.root, tmp_path / "twin"):
        tracker = open_tracker(StudyFolder(root), store_uri(folder, None))
        tracker.search("a", "a", {}, {})
        assert tracker.close(LONG_ENOUGH_SECONDS) == 0
    assert rows(folder)["runs"] == 4


def test_an_event_that_the_store_refuses_holds_up_nothing(folder: StudyFolder) -> None:
    warnings: list[str] = []
    tracker = open_tracker(folder, warn=warnings.append)
    for step in range(3):
        tracker.metrics("never-begun", step, {"loss": 1.0}, 1)
    tracker.artifact(None, folder.root / "gone.png")
    with folder.tracking.open("a") as journal:
        journal.write('{"event": "metr\n')  # torn by a crash
    log_search(tracker, folder)
    assert tracker.close(LONG_ENOUGH_SECONDS) == 0
    check_search(folder)
    assert ["never-begun" in w or "gone.png" in w for w in warnings] == [True, True]


def test_a_torn_last_line_does_not_swallow_the_next(folder: StudyFolder) -> None:
    assert open_tracker(folder).close(LONG_ENOUGH_SECONDS) == 0
    with folder.tracking.open("a") as journal:
        journal.write('{"event": "metr')
    tracker = open_tracker(folder)
    log_search(tracker, folder)
    assert tracker.close(LONG_ENOUGH_SECONDS) == 0
    check_search(folder)
    assert len(runs(folder)) == 4


@pytest.mark.parametrize(
    "uri", ["nonsense", "ftp://host/x", "./mlruns", "http://user:secret@127.0.0.1:{port}/x?k=secret"]
)
def test_a_bad_uri_is_the_users_to_mend(folder: StudyFolder, uri: str, closed_port: int) -> None:
    with pytest.raises(UserError, match=r"tracking\.uri: .* cannot be used .*sqlite:") as caught:
        open_tracker(folder, uri.format(port=closed_port))
    assert "secret" not in str(caught.value)
    assert not folder.tracking.exists()


def test_a_deleted_experiment_is_said(folder: StudyFolder) -> None:
    client(folder).delete_experiment(client(folder).create_experiment("digits_noise"))
    with pytest.raises(UserError, match="'digits_noise' is deleted"):
        open_tracker(folder)


def test_the_store_is_chosen(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_uri(folder, None) == f"sqlite:///{folder.mlflow_store}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert store_uri(folder, None) == "http://tracking:5000"
    assert store_uri(folder, "sqlite:////x.db") == "sqlite:////x.db"
    with pytest.raises(UserError, match="http://tracking:5000 is a server"):
        ui_command(folder, None)
    assert ui_command(folder, "postgresql://u:secret@db/x", 5001)[-6:] == [
        *("--host", "127.0.0.1", "--port", "5001"),
        *("--workers", "1"),
    ]
    assert ui_environment(folder, "postgresql://u:secret@db/x")["MLFLOW_BACKEND_STORE_URI"].endswith("secret@db/x")


def test_importing_tracking_does_not_import_mlflow() -> None:
    code = "import sys, dastune.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
