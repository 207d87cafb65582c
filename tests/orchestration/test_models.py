"""Which trained networks are kept, against the best row of all."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dastune.config import StudyConfig
from dastune.folder import FinalRow, StudyFolder, model_name
from dastune.orchestration.models import Models
from dastune.storage import FolderStorage

StudyOf = Callable[..., StudyConfig]


def rows(count: int) -> list[FinalRow]:
    """Final trainings, many of them equally accurate."""
    draw = random.Random(count)
    return [
        FinalRow(f"das-n0-s{n}", "das", 0, n, 7, draw.randrange(4) / 4, draw.randrange(2) / 2, 1, 1.0, 1.0, 1, 1)
        for n in range(count)
    ]


def best_of(told: list[FinalRow]) -> FinalRow:
    """The best one, found in another way than by keeping it."""
    return sorted(told, key=lambda row: (row.test_accuracy, -row.test_loss, row.search_id))[-1]


def blobs(folder: StudyFolder) -> set[str]:
    return {path.name for path in folder.models.iterdir()}


@pytest.mark.parametrize("restart", [False, True])
def test_the_best_network_is_kept_and_no_other(study_of: StudyOf, root: Path, restart: bool) -> None:
    study, folder, storage, told = study_of(tracking={"models": "best"}), StudyFolder(root), FolderStorage(root), []
    models = Models(study, folder, storage, [])
    for row in rows(60):
        storage.write(model_name(row.search_id, 7), row.search_id.encode())  # by its trial
        assert len(blobs(folder)) <= 2
        if restart:  # the driver died after it had written the row, and hears of it again
            models = Models(study, folder, storage, random.Random(0).sample(told, len(told)))
        models.hear(row)
        models.hear(row)
        told.append(row)
        best = best_of(told)
        assert models.best == best
        assert blobs(folder) == {f"{best.search_id}-t7.pt"}
    file = models.file(best_of(told))
    assert file is not None
    assert file.read_text() == best_of(told).search_id


@pytest.mark.parametrize("which", ["all", "none"])
def test_all_are_kept_where_all_are_wanted(study_of: StudyOf, root: Path, which: str) -> None:
    study, folder, storage = study_of(tracking={"models": which}), StudyFolder(root), FolderStorage(root)
    models = Models(study, folder, storage, [])
    for row in rows(9):
        storage.write(model_name(row.search_id, 7), b"")
        models.hear(row)
    assert len(blobs(folder)) == 9
    assert models.best == best_of(rows(9))


def test_a_network_in_an_object_store_comes_into_the_folder(study_of: StudyOf, tmp_path: Path) -> None:
    folder, storage = StudyFolder(tmp_path / "study"), FolderStorage(tmp_path / "elsewhere")
    models = Models(study_of(tracking={"models": "best"}), folder, storage, [])
    better = best_of(rows(2))
    [worse] = [row for row in rows(2) if row != better]
    storage.write(model_name(better.search_id, 7), b"weights")
    for row in (worse, better):
        models.hear(row)
    file = models.file(better)
    assert file == folder.root / model_name(better.search_id, 7)
    assert file.read_bytes() == b"weights"
    assert models.file(worse) is None


def test_people_are_told_that_the_best_of_many_is_flattered(study_of: StudyOf, root: Path) -> None:
    models = Models(study_of(), StudyFolder(root), FolderStorage(root), [])
    text = models.description(rows(1)[0], 1234)
    assert "flattered" in text
    assert "best of 1,234 final trainings" in text
