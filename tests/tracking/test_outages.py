"""What a study has logged is whole in the store, whatever happened to either of them meanwhile."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tracking.conftest import Gateway, Server, Study

pytestmark = [
    pytest.mark.cluster,
    # MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
]

SEARCHES, HALF, WHOLE = 4, range(30), range(30, 60)
LINES = 1 + SEARCHES * (1 + 60 + 3)  # the execution's; a begin, 60 points, a policy, a table and an end each


def test_a_server_killed_and_started_again(study: "Study", server: "Server") -> None:
    server.start()
    tracker = study.open(server.address)
    study.log_many(tracker, SEARCHES, HALF)
    _wait_for_rows(study, 1)  # it is being sent
    server.kill()
    study.log_many(tracker, SEARCHES, WHOLE)
    assert study.journal_lines() == LINES  # nobody waited for the server, which is down
    server.start()
    study.send_all(tracker)
    study.check_many(SEARCHES, server.artifacts)


def test_a_server_that_is_not_there_yet(study: "Study", server: "Server") -> None:
    warned = threading.Event()
    tracker = study.open(server.address, required=False, warn=lambda _: warned.set())
    study.log_many(tracker, SEARCHES, HALF)
    study.log_many(tracker, SEARCHES, WHOLE)
    assert study.journal_lines() == LINES
    assert warned.wait(60)
    server.start()
    study.send_all(tracker)
    study.check_many(SEARCHES, server.artifacts)


def test_a_server_that_answers_with_something_else(study: "Study", server: "Server", gateway: "Gateway") -> None:
    """Also a gateway's own 404 or 400, or its login page: they say nothing of the event."""
    warnings: list[str] = []
    tracker = study.open(gateway.address, warn=warnings.append)
    for part, answer in enumerate([500, 503, 429, 401, 403, 404, 400, 200]):
        steps = range(7 * part, 60 if part == 7 else 7 * part + 7)
        gateway.answer = answer
        gateway.came.clear()
        study.log_many(tracker, SEARCHES, steps)
        gateway.wait_for(2)  # it has tried, and tried again
        gateway.answer = None
        _wait_for_rows(study, SEARCHES * 2 * steps.stop)
    study.send_all(tracker)
    assert study.journal_lines() == LINES
    study.check_many(SEARCHES, server.artifacts)
    assert ["MLFLOW_TRACKING_TOKEN" in warning for warning in warnings] == [False, True]  # once each


def test_a_server_that_does_not_answer_until_later(
    study: "Study", server: "Server", gateway: "Gateway", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that were given up reach the server all the same, when their repetitions do."""
    tracker = study.open(gateway.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    gateway.came.clear()
    gateway.gate.clear()
    gateway.only = "runs/create"
    study.log_many(tracker, SEARCHES, HALF)
    study.log_many(tracker, SEARCHES, WHOLE)
    assert study.journal_lines() == LINES
    gateway.wait_for(3)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    gateway.gate.set()
    tracker.end(None)
    study.send_all(tracker)
    study.check_many(SEARCHES, server.artifacts)  # of which `runs` makes sure that no run is there twice
    with closing(sqlite3.connect(study.folder.mlflow_store)) as store:
        ((made,),) = store.execute("select count(*) from runs")
    assert made > 1 + SEARCHES, "the requests that were given up made no runs; this test shows nothing"


def test_answers_that_are_lost(study: "Study", server: "Server", gateway: "Gateway") -> None:
    """The server has done what it was asked, and nobody knows: so it goes with three requests in ten."""
    tracker = study.open(gateway.address)
    gateway.deaf_share = 0.3
    study.log_many(tracker, SEARCHES, HALF)
    study.log_many(tracker, SEARCHES, WHOLE)
    tracker.end(None)
    study.send_all(tracker)
    study.check_many(SEARCHES, server.artifacts)
    assert gateway.lost >= 10


def test_artifacts_that_cannot_be_stored_hold_up_nothing_else(
    study: "Study", server: "Server", gateway: "Gateway"
) -> None:
    warnings: list[str] = []
    tracker = study.open(gateway.address, warn=warnings.append)
    gateway.only, gateway.answer = "mlflow-artifacts", 500
    study.log_search(tracker)  # its policy cannot be sent
    study.log_many(tracker, SEARCHES, HALF)
    study.log_many(tracker, SEARCHES, WHOLE)
    _wait_for_rows(study, 2 * 5 + 1 + SEARCHES * 60 * 2)
    assert tracker.close(10.0) == 1 + 2 * SEARCHES  # the policies and tables
    assert len(warnings) == 1
    gateway.answer = None
    study.send_all(study.open(gateway.address))
    study.check_search()
    (policy,) = server.artifacts.rglob("das-n4-s0.json")
    assert policy.read_text() == '{"kind": "stages"}'
    study.client().delete_run(study.runs()["das-n4-s0"].info.run_id)
    study.client().delete_run(study.runs()["das-n4-s0/t0"].info.run_id)
    study.check_many(SEARCHES, server.artifacts)


def test_a_store_put_back_from_a_backup_under_a_running_study(study: "Study", server: "Server", tmp_path: Path) -> None:
    server.start()
    tracker = study.open(server.address)
    study.log_many(tracker, SEARCHES, HALF)
    _wait(lambda: study.delivered_bytes() == study.folder.tracking.stat().st_size)
    server.kill()
    shutil.copy(study.folder.mlflow_store, tmp_path / "backup.db")
    server.start()
    study.log_many(tracker, SEARCHES, range(30, 45))
    _wait_for_rows(study, SEARCHES * 45 * 2)
    server.kill()
    _replace(study.folder.mlflow_store, tmp_path / "backup.db")
    server.start()
    study.log_many(tracker, SEARCHES, range(45, 60))
    study.send_all(tracker)
    study.check_many(SEARCHES, server.artifacts)


def test_a_store_made_anew_under_a_running_study(study: "Study", server: "Server", migrated_store: Path) -> None:
    server.start()
    tracker = study.open(server.address)
    study.log_many(tracker, SEARCHES, HALF)
    _wait_for_rows(study, SEARCHES * 30 * 2)
    server.kill()
    _replace(study.folder.mlflow_store, migrated_store)
    server.start()
    study.log_many(tracker, SEARCHES, WHOLE)
    study.send_all(tracker)
    study.check_many(SEARCHES, server.artifacts)


def test_a_store_locked_for_longer_than_mlflow_waits(study: "Study") -> None:
    warned = threading.Event()
    tracker = study.open(warn=lambda _: warned.set())
    with closing(sqlite3.connect(study.folder.mlflow_store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        study.log_many(tracker, SEARCHES, HALF)
        study.log_many(tracker, SEARCHES, WHOLE)
        assert study.journal_lines() == LINES
        assert warned.wait(120)  # after 20 s, MLflow's busy timeout
        other.execute("ROLLBACK")
    study.send_all(tracker)
    study.check_many(SEARCHES)


def test_a_driver_killed_while_it_sends(study: "Study") -> None:
    """Killed as soon as the store has something more than the driver before had left, six times in a row."""
    script = f"""
import sys
from pathlib import Path
from tests.tracking.conftest import Study
study = Study(Path({str(study.folder.root)!r}))
tracker = study.open()
study.log_many(tracker, {SEARCHES}, range(int(sys.argv[1]), int(sys.argv[1]) + 10))
print("logged", flush=True)
sys.stdin.read()
"""
    repository = Path(__file__).parents[2]
    for start in range(0, 60, 10):
        before = study.rows()["metrics"]
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, str(start)],
            cwd=repository,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == b"logged\n"
            _wait_for_rows(study, before + 1)
            os.kill(driver.pid, signal.SIGKILL)
    study.send_all()
    study.check_many(SEARCHES)
    assert [run.info.status for key, run in study.runs().items() if "execution" in key] == ["KILLED"] * 6 + ["RUNNING"]


def _wait_for_rows(study: "Study", rows: int) -> None:
    """Wait until the store holds so many metric points."""
    _wait(lambda: study.rows()["metrics"] >= rows)


def _wait(until: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(1200):
        if until():
            return
        tick.wait(0.1)
    raise AssertionError("it has not come in two minutes")


def _replace(store: Path, by: Path) -> None:
    """Put another file in place of a sqlite store that nobody has open."""
    for leftover in store.parent.glob(f"{store.name}-*"):  # its journal or write-ahead log
        leftover.unlink()
    shutil.copy(by, store)
