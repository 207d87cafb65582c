"""That nobody waits for the store, and that what it could not take arrives later."""

import resource
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dastune.errors import UserError
from dastune.folder import append_lines
from dastune.tracking import Tracker
from dastune.tracking.journal import read

if TYPE_CHECKING:
    from tests.tracking.conftest import Study

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


def test_a_locked_store_blocks_nobody_and_loses_nothing(study: "Study") -> None:
    tracker = study.open()
    with closing(sqlite3.connect(study.folder.mlflow_store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        study.log_search(tracker, points=200)
        left = tracker.close(0.0)  # while the lock is held: no call has waited for it
        other.execute("ROLLBACK")
    assert left >= 200
    study.send_all()
    study.check_search(count=200)
    assert len(study.runs()) == 4


def test_an_unreachable_store_gets_everything_later(study: "Study", closed_port: int) -> None:
    warnings: list[str] = []
    uri = f"http://someone:secret@127.0.0.1:{closed_port}"
    tracker = study.open(uri, required=False, warn=warnings.append)
    study.log_search(tracker)
    assert tracker.close(1.0) == 12  # the execution's run, and 11 events of the search
    assert len(warnings) == 1
    assert "secret" not in study.folder.tracking.read_text() + warnings[0]

    study.send_all()
    study.check_search()
    assert {key: run.info.status for key, run in study.runs().items() if "execution" in key} == {
        "execution-0": "KILLED",
        "execution-1": "RUNNING",
    }


def test_a_store_that_comes_back_is_noticed(tmp_path: Path, study: "Study") -> None:
    warned = threading.Event()
    home = tmp_path / "elsewhere"
    home.write_text("a file where the store's folder should be")
    tracker = study.open(f"sqlite:///{home}/mlflow.db", required=False, warn=lambda _: warned.set())
    study.log_search(tracker)
    assert warned.wait(60.0)
    home.unlink()
    home.mkdir()
    study.folder.mlflow_store.rename(home / "mlflow.db")
    study.send_all(tracker)
    assert list((home / "mlartifacts").rglob("das-n4-s0.json")), "artifacts belong beside their store"
    (home / "mlflow.db").rename(study.folder.mlflow_store)
    study.check_search()


def test_calls_together_are_one_append(study: "Study", monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, appended = study.open(), []

    def append(path: Path, rows: Sequence[object]) -> None:
        appended.append(len(rows))
        append_lines(path, rows)  # type: ignore[arg-type]

    monkeypatch.setattr("dastune.tracking.tracker.append_lines", append)
    with tracker.together():
        study.log_search(tracker)
    with pytest.raises(TypeError), tracker.together():
        _interrupted(tracker)
    tracker.end(None)
    assert appended == [11, 1]
    study.send_all(tracker)
    study.check_search()
    assert "never" not in study.runs()["execution-0"].data.metrics


def _interrupted(tracker: Tracker) -> None:
    tracker.metrics(None, 1, {"never": 1.0}, 1)
    raise TypeError


@pytest.mark.parametrize("bytes_left", [0, 5, 400, 900])
def test_a_full_disk_is_the_callers_to_wait_for(study: "Study", bytes_left: int) -> None:
    """Whatever part of the lines was written, the same calls again make them whole."""
    tracker = study.open()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    # A file of this process cannot grow beyond the limit: neither the journal nor the store.
    resource.setrlimit(resource.RLIMIT_FSIZE, (study.folder.tracking.stat().st_size + bytes_left, hard))
    try:
        with pytest.raises(OSError, match="File too large"), tracker.together():
            study.log_search(tracker)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    with tracker.together():
        study.log_search(tracker)
    study.send_all(tracker)
    study.check_search()
    assert len(study.runs()) == 3


@pytest.mark.parametrize("lines", [1, 5])
def test_a_truncated_journal_sends_what_comes_after(study: "Study", lines: int) -> None:
    tracker = study.open()
    tracker.metrics(None, 1, {"x": 1.0}, 1)
    tracker.search("lost", "lost", {}, {})
    for step in range(10):
        tracker.metrics("lost", step, {"x": 1.0}, step)
    study.send_all(tracker)
    kept = study.folder.tracking.read_bytes().splitlines(keepends=True)[:lines]
    study.folder.tracking.write_bytes(b"".join(kept) + b'{"event": "metr')
    tracker = study.open()
    study.log_search(tracker)
    study.send_all(tracker)
    study.check_search()
    found = study.runs()
    assert len(found) == 5
    assert study.points(found["lost"], "x") == [(step, step, 1.0) for step in range(10)]


def test_the_sender_outlives_what_it_does_not_expect(study: "Study", monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be read for a while, and a person who cannot be told."""
    told: list[str] = []
    again = threading.Event()

    def warn(message: str) -> None:
        told.append(message)
        again.set()
        raise BrokenPipeError

    def unreadable(*_: object) -> Iterator[object]:
        raise OSError("Input/output error")

    tracker = study.open(warn=warn)
    monkeypatch.setattr("dastune.tracking.sender.read", unreadable)
    study.log_search(tracker)
    assert again.wait(60)
    monkeypatch.setattr("dastune.tracking.sender.read", read)
    study.send_all(tracker)
    study.check_search()
    assert len(told) == 1
    assert "Input/output error" in told[0]


def test_no_secret_is_written(
    tmp_path: Path, study: "Study", monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither of the URI nor of the environment: not into the folder, the store, the warnings or the output."""
    secret = "pass" + "word-7142"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", secret)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    warnings: list[str] = []
    with HTTPServer(("127.0.0.1", 0), _Refusal) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"http://someone:{secret}@127.0.0.1:{server.server_address[1]}"
        with pytest.raises(UserError, match="MLFLOW_TRACKING_TOKEN") as caught:
            study.open(uri)
        tracker = study.open(uri, required=False, warn=warnings.append)
        study.log_search(tracker)
        assert tracker.close(1.0) == 12
        server.shutdown()
        thread.join()
    assert len(warnings) == 1
    assert "MLFLOW_TRACKING_TOKEN" in warnings[0]
    study.send_all()
    study.check_search()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    shown = [*warnings, *capfd.readouterr(), *traceback.format_exception(caught.value)]
    assert not any(secret.encode() in text for text in [*written, *(text.encode() for text in shown)])


class _Refusal(BaseHTTPRequestHandler):
    """Refuses whoever asks, and says the token that it was given."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(f"not you: {self.headers['Authorization']}".encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_torn_last_line_does_not_swallow_the_next(study: "Study") -> None:
    study.send_all()
    with study.folder.tracking.open("a") as journal:
        journal.write('{"event": "metr')
    tracker = study.open()
    study.log_search(tracker)
    study.send_all(tracker)
    study.check_search()
    assert len(study.runs()) == 4


@pytest.mark.parametrize(
    "uri", ["nonsense", "ftp://host/x", "./mlruns", "http://user:secret@127.0.0.1:{port}/x?k=secret"]
)
def test_a_bad_uri_is_the_users_to_mend(study: "Study", uri: str, closed_port: int) -> None:
    with pytest.raises(UserError, match=r"tracking\.uri: .* cannot be used .*sqlite:") as caught:
        study.open(uri.format(port=closed_port))
    assert "secret" not in str(caught.value)
    assert not study.folder.tracking.exists()


def test_importing_tracking_does_not_import_mlflow() -> None:
    code = "import sys, dastune.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
