"""A study small enough for a test, with real digits and every method."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from dastune.budget import Ledger, event_from_row
from dastune.config import StudyConfig
from dastune.config.defaults import with_defaults
from dastune.data.dataset import Dataset
from dastune.data.embedded import digits
from dastune.folder import ChildRow, StudyFolder, read_lines
from dastune.orchestration.grid import Assignment, grid
from dastune.orchestration.reports import Report, Start
from dastune.orchestration.trial import trial
from dastune.policy.policy import Policy, load_policy, policy_file_from_text
from dastune.storage import FolderStorage


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    loaded = digits()
    _ = loaded.mean, loaded.std, loaded.fingerprint
    return loaded


# Every method of the table, and what a black-box search may be told about its children.
EVERY_METHOD: dict[str, dict[str, object] | None] = {
    "das": None,
    "auto_augment": None,
    "aa_tpe": {"method": "auto_augment", "search": "tpe"},
    "aa_random": {"method": "auto_augment", "search": "random", "halving": {"children": 3, "eta": 2}},
    "aa_parallel": {"method": "auto_augment", "children_in_parallel": 2},
    "rand_augment": None,
    "ra_tpe": {"method": "rand_augment", "search": "tpe", "scale": "torchvision"},
    "random": None,
    "uniform": None,
    "trivial": None,
    "trivial_wide": {"method": "trivial", "ops": "trivial-wide"},
    "standard": None,
    "none": None,
    "aa_svhn": {"method": "published", "policy": "aa-svhn"},
}


@pytest.fixture(scope="session")
def every_method() -> dict[str, dict[str, object] | None]:
    return EVERY_METHOD


def small_study(**changes: object) -> StudyConfig:
    raw = {
        "name": "small",
        "data": {"name": "digits", "train_images": 40, "validation_images": 40},
        "model": {"name": "small_cnn", "channels": 4},
        "space": {"ops": ["identity", "rotate", "invert"], "noise": {"levels": [0, 2]}},
        "methods": {"das": None, "auto_augment": None, "rand_augment": None, "random": None, "trivial": {}, "none": {}},
        "budget": {"steps": 12},
        "seeds": {"search": [0], "final": [0, 1]},
        "training": {"batch_size": 20, "child_epochs": 2},
        "final": {"epochs": 2},
        "tracking": {"models": "none"},  # making one takes seconds; some tests ask for it
    }
    return StudyConfig.model_validate(with_defaults({**raw, **changes}))


@pytest.fixture(scope="session")
def study_of() -> Callable[..., StudyConfig]:
    """Return what makes the small study with other sections."""
    return small_study


def new_folder(root: Path) -> StudyFolder:
    """A folder as a driver makes it before any trial."""
    folder = StudyFolder(root)
    folder.root.mkdir(parents=True)
    folder.study.touch()
    return folder


@pytest.fixture(scope="session")
def folder_at() -> Callable[[Path], StudyFolder]:
    return new_folder


@dataclass(frozen=True)
class Alone:
    """What a trial comes to in one process, undisturbed."""

    reports: list[Report]

    @property
    def policy(self) -> Policy:
        [text] = [report.policy for report in self.reports if report.policy]
        return policy_file_from_text(text, "policy").policy

    @property
    def accuracies(self) -> dict[int, float]:
        return {final.train_seed: final.test_accuracy for report in self.reports for final in report.finals}

    @property
    def children(self) -> list[ChildRow]:
        return [child for report in self.reports for child in report.children]

    @property
    def steps(self) -> int:
        return self.reports[-1].steps


@pytest.fixture
def alone(dataset: Dataset, tmp_path: Path) -> Callable[[StudyConfig, Assignment], Alone]:
    """Return what runs an assignment's trial in this process."""

    def run(study: StudyConfig, assignment: Assignment) -> Alone:
        folder = new_folder(tmp_path / "alone" / assignment.id)
        return Alone(list(trial(study, assignment, dataset, FolderStorage(folder.root), Start())))

    return run


@pytest.fixture
def survived(alone: Callable[[StudyConfig, Assignment], Alone]) -> Callable[[StudyConfig, StudyFolder], None]:
    """Return what holds the folder of a finished study, budgeted in steps, against undisturbed trials."""

    def check(study: StudyConfig, folder: StudyFolder) -> None:
        here = {assignment.id: alone(study, assignment) for assignment in grid(study)}
        _check_rows(folder, here)
        _check_ledger(study, folder)
        _check_mlflow(study, folder, here)
        left = {"lock", "stop", "pending.json", "ray", "checkpoints"} & {path.name for path in folder.root.iterdir()}
        assert left <= {"lock"}, f"left behind: {left}"
        assert not list(folder.root.rglob("*.tmp"))
        assert not list(folder.root.glob("probe*"))

    return check


def _check_rows(folder: StudyFolder, here: Mapping[str, Alone]) -> None:
    """Each search and final training has one line, and came to what it comes to undisturbed."""
    lines = list(read_lines(folder.searches))
    searched = [line["id"] for line in lines if line["status"] != "failed"]
    assert sorted(searched) == sorted(here)
    assert len(folder.searches.read_text().splitlines()) == len(lines)
    trained = {(line["search_id"], line["train_seed"]): line["test_accuracy"] for line in read_lines(folder.finals)}
    assert len(list(read_lines(folder.finals))) == len(trained)
    assert trained == {(search, seed): value for search, one in here.items() for seed, value in one.accuracies.items()}
    for row in folder.search_rows():
        assert load_policy(folder.policy(row.id)) == here[row.id].policy
        assert row.steps == here[row.id].steps
        children = [replace(child, seconds=0.0) for child in folder.child_rows(row.id)]
        undisturbed = sorted((replace(child, seconds=0.0) for child in here[row.id].children), key=lambda c: c.child)
        assert children == undisturbed


def _check_ledger(study: StudyConfig, folder: StudyFolder) -> None:
    """What is held is the sum of the accounts of all attempts; what is charged and lost are parts of it."""
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for line in read_lines(folder.ledger):
        key = (line["search"], line["attempt"])
        if line["meter"] == "search" and line["sequence"] >= last.get(key, {"sequence": 0})["sequence"]:
            last[key] = line
    ledger = Ledger(event_from_row(line) for line in read_lines(folder.ledger))
    for row in folder.search_rows():
        charge = ledger.charge(row.id)
        held = sum(sum(line["accounts"].values()) for (search, _), line in last.items() if search == row.id)
        assert charge.held == pytest.approx(held)
        assert row.held_seconds <= charge.held + 1e-6
        assert charge.charged + charge.lost <= charge.held + 1e-6
        assert row.charged_seconds == pytest.approx(charge.charged)
        if row.status == "budget":
            assert row.steps == study.budget.steps


def _check_mlflow(study: StudyConfig, folder: StudyFolder, here: Mapping[str, Alone]) -> None:
    """Each search and each final training is one run that has ended, with each value that it is to have, once."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.mlflow_store}")
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    by_key = {run.data.tags["dastune.key"]: run for run in runs if run.data.tags["dastune.stage"] != "execution"}
    executions = [run for run in runs if run.data.tags["dastune.stage"] == "execution"]
    assert len(by_key) == len(runs) - len(executions)
    expected = {key for search, one in here.items() for key in (search, *(f"{search}/t{s}" for s in one.accuracies))}
    assert set(by_key) == expected
    assert {run.info.status for run in by_key.values()} == {"FINISHED"}
    rows = {row.id: row for row in folder.search_rows()}
    for key, run in by_key.items():
        run_id, (search, _, seed) = run.info.run_id, key.partition("/t")
        over = ["over_noise_level/test_accuracy", "over_noise_level/noise_mass"]
        of_search = ["charged_seconds", "held_seconds", "noise_mass", *over]
        for name in ("test_accuracy", *(("test_loss", "seconds") if seed else of_search)):
            assert len(client.get_metric_history(run_id, name)) == 1, f"{name} of {key}"
        if seed:
            assert run.data.metrics["test_accuracy"] == here[search].accuracies[int(seed)]
            told = [p.step for r in here[search].reports for p in r.points if p.key == key and "train_loss" in p.values]
            assert [point.step for point in client.get_metric_history(run_id, "train_loss")] == told
            continue
        assert run.data.metrics["test_accuracy"] == fmean(here[search].accuracies.values())
        assert json.loads(run.data.tags["dastune.row"]) == asdict(rows[search])
        assert run.data.metrics["charged_seconds"] == rows[search].charged_seconds
        files = {file.path for file in client.list_artifacts(run_id, "policy")}
        assert files == {f"policy/{search}.json", f"policy/{search}.png"}
        # What a black-box search tells of each child, in the order of their ends.
        scores = [
            p.values["child_accuracy"] for r in here[search].reports for p in r.points if "child_accuracy" in p.values
        ]
        history = client.get_metric_history(run_id, "child_accuracy") if scores else []
        assert sorted(point.value for point in history) == sorted(scores)


@pytest.fixture
def study() -> StudyConfig:
    return small_study()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "small"
