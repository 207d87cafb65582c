"""What is shown while a study runs."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from dastune.budget import Charge
from dastune.config import StudyConfig
from dastune.data.dataset import Dataset
from dastune.orchestration.grid import Assignment
from dastune.orchestration.progress import Progress
from dastune.orchestration.reports import Start
from dastune.orchestration.trial import trial
from dastune.storage import FolderStorage


def test_lines_count_what_earlier_executions_finished(
    study_of: Callable[..., StudyConfig], dataset: Dataset, tmp_path: Path, alone: Callable[..., Any]
) -> None:
    assignment = Assignment("das", 0, 0)
    one = study_of(seeds={"search": [0], "final": [0]}, methods={"das": {}})
    earlier = alone(one, assignment).reports
    [row] = [report.row for report in earlier if report.row is not None]
    [policy] = [report.policy for report in earlier if report.policy]
    finals = [final for report in earlier for final in report.finals]
    two = study_of(seeds={"search": [0], "final": [0, 1]}, methods={"das": {}})
    text = io.StringIO()
    (tmp_path / "study.yaml").touch()
    start = Start(1, Charge(), row, policy, (0,))
    with Progress(two, [assignment], 2, Console(file=text), rows=[row], finals=finals) as progress:
        for report in trial(two, assignment, dataset, FolderStorage(tmp_path), start):
            progress.hear(report)
        assert not progress.running
    assert "final trainings 2/2: das-n0-s0 seed 1" in text.getvalue()
