"""That nobody waits for the store, and that what it could not take arrives later."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dastune.errors import UserError

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
