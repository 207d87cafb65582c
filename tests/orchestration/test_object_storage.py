"""A study whose checkpoints are in an object store, and whose head is lost with its disk."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dastune.config import StudyConfig
from dastune.folder import StudyFolder
from dastune.mirror import restore
from dastune.storage import open_storage

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(ray|mlflow|pydantic|google|moto|botocore|werkzeug)"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STORAGE = "s3://studies/ours"


def test_a_lost_head_costs_no_more_than_a_killed_driver(
    s3: Any,
    study_of: Callable[..., StudyConfig],
    survived: Callable[[StudyConfig, StudyFolder], None],
    tmp_path: Path,
) -> None:
    study = study_of(
        methods={"random": None, "none": None}, budget={"steps": 4000}, seeds={"search": [0], "final": [0]}
    )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    command = [sys.executable, "-m", "dastune", "run", "study.yaml", "--storage", STORAGE, "--resume"]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    storage = open_storage(f"{STORAGE}/{study.name}")
    with first:
        for line in first.stderr:
            if "final trainings 1/" in line:
                break
        # The row is in the folder; what of it is in the mirror by now is chance.
        while not storage.exists("checkpoints/random-n0-s0.a.pt"):
            assert first.poll() is None
        first.kill()
    copy = StudyFolder(tmp_path / "copy")
    restore(storage, copy)
    assert copy.study.is_file()
    shutil.rmtree(tmp_path / "runs")
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    survived(study, StudyFolder(tmp_path / "runs" / study.name))
    # Nothing but the mirror is left in the store.
    left = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert left.returncode == 0
    assert not storage.exists("checkpoints/random-n0-s0.a.pt")
    again = StudyFolder(tmp_path / "again")
    restore(storage, again)
    assert again.search_rows() == StudyFolder(tmp_path / "runs" / study.name).search_rows()
