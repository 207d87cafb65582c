"""Which store a study has, and how its UI is started."""

import sys
import traceback
from pathlib import Path

import pytest

from dastune.errors import UserError
from dastune.folder import StudyFolder
from dastune.tracking import DatasetInfo, Tracker, store_uri, ui_command, ui_environment
from dastune.tracking.address import public

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


def test_the_store_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StudyFolder(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host:5000/x?k=secret does not answer\nsecret", "http://host:5000/x does not answer"),
        ("postgresql://user:sec/ret@host/x is not there", "postgresql://host/x is not there"),
        (f"{'x' * 490} http://user:secret@host", f"{'x' * 490} http://ho"),
        ("error code 401: 'hf-123456 is no token of ours'", "error code 401: '*** is no token of ours'"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hf-123456")
    assert public(text) == shown


def test_what_a_person_has_to_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PostgreSQL's driver; test_outages.py has what a server says that refuses a user."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        UserError, match=r"postgresql://db/x cannot .*psycopg.*pip install 'dastune\[postgres\]'"
    ) as caught:
        Tracker.open(
            StudyFolder(tmp_path / "study"),
            uri="postgresql://u:secret@db/x",
            experiment="x",
            study_params={},
            dataset=DatasetInfo("x", "0", "x", 1, 1),
            tags={},
        )
    assert "secret" not in "".join(traceback.format_exception(caught.value))
