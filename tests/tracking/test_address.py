"""Which store a study has, and how its UI is started."""

from pathlib import Path

import pytest

from dastune.errors import UserError
from dastune.folder import StudyFolder
from dastune.tracking import store_uri, ui_command, ui_environment
from dastune.tracking.address import public


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


def test_secrets_are_not_shown() -> None:
    shown = public("http://user:secret@host:5000/x?k=secret does not answer\nsecret")
    assert shown == "http://host:5000/x does not answer"
