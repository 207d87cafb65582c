"""What is shown while a study runs."""

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from dastune.config import StudyConfig
from dastune.data.classification import Dataset
from dastune.folder import StudyFolder
from dastune.orchestration.grid import Assignment
from dastune.orchestration.progress import Progress
from dastune.orchestration.trial import trial


def test_lines_count_what_earlier_executions_finished(
    study_of: Callable[..., StudyConfig], dataset: Dataset, root: Path
) -> None:
    folder, assignment = StudyFolder(root), Assignment("das", 0, 0)
    root.mkdir()
    folder.study.touch()
    one = study_of(seeds={"search": [0], "final": [0]}, methods={"das": {}})
    for report in trial(one, assignment, dataset, folder):
        if report.row is not None:
            folder.add_search(report.row)
        for final in report.finals:
            folder.add_final(final)
    two = study_of(seeds={"search": [0], "final": [0, 1]}, methods={"das": {}})
    text = io.StringIO()
    rows, finals = folder.search_rows(), folder.final_rows()
    with Progress(two, [assignment], 2, Console(file=text), rows=rows, finals=finals) as progress:
        for report in trial(two, assignment, dataset, folder):
            progress.hear(report)
        assert not progress.running
    assert "final trainings 2/2: das-n0-s0 seed 1" in text.getvalue()
