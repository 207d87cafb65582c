"""Models: which trained networks a study keeps."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dastune.config import StudyConfig
from dastune.folder import FinalRow, StudyFolder, model_name, write_atomic
from dastune.storage import Storage


class Models:
    """Keeps the networks that final trainings leave in a study's storage: the best one, all, or none.

    The best one is that of the highest test accuracy, then of the lowest test loss. There are never more than it and
    those that trials are about to tell of.

    Args:
        rows: the final trainings that have ended.
    """

    def __init__(self, study: StudyConfig, folder: StudyFolder, storage: Storage, rows: Iterable[FinalRow]) -> None:
        self._study, self._folder, self._storage = study, folder, storage
        self.best: FinalRow | None = None
        for row in rows:
            if _is_better(row, self.best):
                self.best = row

    def hear(self, row: FinalRow) -> None:
        """Take in a final training, perhaps again, and remove a network that is not to be kept."""
        worse: FinalRow | None = row
        if _is_better(row, self.best):
            worse, self.best = self.best, row
        if self._study.tracking.models == "best" and worse is not None and worse != self.best:
            with suppress(OSError):  # it is in nobody's way
                self._storage.remove(model_name(worse.search_id, worse.train_seed))

    def file(self, row: FinalRow) -> Path | None:
        """Return the file of a network in the study's folder, or None if it is not to be had."""
        name = model_name(row.search_id, row.train_seed)
        path = self._folder.root / name
        with suppress(OSError):
            if not path.exists() and (content := self._storage.read(name)) is not None:
                write_atomic(path, content)  # from an object store
        return path if path.exists() else None

    def description(self, row: FinalRow, trainings: int) -> str:
        """Return what people are told of a network that was the best of `trainings`."""
        return (
            f"Study {self._study.name}, search {row.search_id}, training seed {row.train_seed}: test accuracy "
            f"{row.test_accuracy:.4f}. That is flattered: it was chosen by it, as the best of {trainings:,} final "
            "trainings. It takes images of shape (N, 3, height, width), float32 in [0, 1], and gives logits."
        )


def _is_better(row: FinalRow, than: FinalRow | None) -> bool:
    """Say whether `row` is better, whatever order rows come in."""
    return than is None or _rank(row) > _rank(than)


def _rank(row: FinalRow) -> tuple[float, float, str, int]:
    return row.test_accuracy, -row.test_loss, row.search_id, -row.train_seed
