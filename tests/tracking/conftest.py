"""Real sqlite stores, a study that logs into one, and what of it has arrived."""

import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dastune.folder import StudyFolder
from dastune.tracking import DatasetInfo, Tracker, store_uri
from dastune.tracking.journal import read

LONG_ENOUGH_SECONDS = 60.0


class Study:
    """One study's folder with its own store, and the checks that tests of different files share."""

    dataset = DatasetInfo("digits", "0123456789abcdef0123456789abcdef", "sklearn.datasets.load_digits", 1797, 10)

    def __init__(self, root: Path) -> None:
        self.folder = StudyFolder(root)

    def open(self, uri: str | None = None, **options: object) -> Tracker:
        return Tracker.open(
            self.folder,
            uri=uri,
            experiment="digits_noise",
            study_params={"data": "digits", "budget": "10 cpu-seconds"},
            dataset=self.dataset,
            tags={"dastune.version": "0.1.0"},
            **options,  # type: ignore[arg-type]
        )

    def send_all(self, tracker: Tracker | None = None) -> None:
        """Close a tracker, by default one of an execution that logs nothing itself, with everything sent."""
        assert (tracker or self.open()).close(LONG_ENOUGH_SECONDS) == 0

    def log_search(self, tracker: Tracker, points: int = 5) -> None:
        """Log a search with a policy, and its final training; `check_search` is the other side."""
        key = "das-n4-s0"
        policy = self.folder.policy(key)
        policy.parent.mkdir(exist_ok=True)
        policy.write_text('{"kind": "stages"}')
        tracker.search(key, key, {"method": "das", "noise_level": 4}, {"dastune.cost": "search"})
        for step in range(points):
            tracker.metrics(key, step, {"val_accuracy": step / 7, "held_seconds": step + 0.1}, 1000 + step)
        tracker.policy(key, policy)
        tracker.end(key)
        tracker.final(f"{key}/t0", key, f"{key} final 0", {"train_seed": 0}, {})
        tracker.metrics(f"{key}/t0", 3, {"test_accuracy": 0.9}, 2000)
        tracker.end(f"{key}/t0", "FAILED")

    def check_search(self, count: int = 5) -> None:
        """Assert that all of `log_search` is there, once."""
        search, final = self.runs()["das-n4-s0"], self.runs()["das-n4-s0/t0"]
        assert self.points(search, "val_accuracy") == [(i, 1000 + i, i / 7) for i in range(count)]
        assert self.points(search, "held_seconds") == [(i, 1000 + i, i + 0.1) for i in range(count)]
        assert self.points(final, "test_accuracy") == [(3, 2000, 0.9)]
        assert (search.info.status, final.info.status) == ("FINISHED", "FAILED")

    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=store_uri(self.folder, None))

    def runs(self) -> dict[str, Run]:
        """All runs of the store by key; executions, whose keys are random, as execution-0, -1 ... in order."""
        ids = [experiment.experiment_id for experiment in self.client().search_experiments()]
        found = self.client().search_runs(ids, order_by=["start_time ASC"])
        executions = [run for run in found if run.data.tags["dastune.stage"] == "execution"]
        named = {f"execution-{i}": run for i, run in enumerate(executions)}
        others = {run.data.tags["dastune.key"]: run for run in found if run not in executions}
        assert len(named | others) == len(found), "a key has two runs"
        return named | others

    def points(self, run: Run, metric: str) -> list[tuple[int, int, float]]:
        """(step, time, value) of each stored row, in the order of arrival."""
        return [(p.step, p.timestamp, p.value) for p in self.client().get_metric_history(run.info.run_id, metric)]

    def rows(self) -> dict[str, int]:
        """Row counts of the tables that a repeated delivery could swell."""
        tables = ["runs", "metrics", "params", "tags", "inputs", "datasets", "experiments"]
        with closing(sqlite3.connect(self.folder.mlflow_store)) as store:
            return {table: store.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}

    def rewind(self, lines: int) -> None:
        """Put the position back to the end of a line, as a crash before the store took the later one leaves it."""
        client = self.client()
        experiment = client.get_experiment_by_name("digits_noise")
        assert experiment is not None
        (tag,) = (name for name in experiment.tags if name.startswith("dastune.delivered"))
        ends = [0, *(end for end, _ in read(self.folder.tracking, 0))]
        assert int(experiment.tags[tag]) == ends[-1]
        client.set_experiment_tag(experiment.experiment_id, tag, ends[lines])


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store with all of MLflow's tables: making one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def study(tmp_path: Path, migrated_store: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = Study(tmp_path / "study")
    study.folder.root.mkdir()
    shutil.copy(migrated_store, study.folder.mlflow_store)
    return study


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A loopback port that refuses connections: bound, so that nobody else takes it, and not listening."""
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
