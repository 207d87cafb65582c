"""A report made of what MLflow has of a study is the one made of the study's folder, byte for byte."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from dastune.cli import app
from dastune.config import StudyConfig
from dastune.data.dataset import Dataset
from dastune.folder import StudyFolder, write_atomic
from dastune.orchestration.grid import grid
from dastune.orchestration.records import Records
from dastune.orchestration.reports import Report, Start
from dastune.orchestration.trial import trial
from dastune.report.page import write_report
from dastune.storage import FolderStorage
from dastune.tracking import DatasetInfo, Tracker
from dastune.tracking.recall import recall

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.slow,
]

METHODS = {"das": None, "random": None, "theirs": {"method": "published", "policy": "aa-svhn"}}


def heard(study: StudyConfig, dataset: Dataset, root: Path, folder_at: Callable[[Path], StudyFolder]) -> list[Report]:
    """Return the reports of all trials as a driver hears them: side by side, those of one in their order."""
    draws, waiting = random.Random(0), []
    for assignment in grid(study):
        storage = FolderStorage(folder_at(root / assignment.id).root)
        waiting.append(list(trial(study, assignment, dataset, storage, Start())))
    reports = []
    while waiting:
        search = draws.choice(waiting)
        reports.append(search.pop(0))
        waiting = [rest for rest in waiting if rest]
    return reports


def failing(report: Report) -> Report:
    """Return the report of a search that fails where it would have ended."""
    assert report.row is not None
    row = replace(report.row, status="failed")
    return replace(report, row=row, policy="", picture="", error="it fails", traceback="it fails", stage="failed")


def run(study: StudyConfig, reports: list[Report], folder: StudyFolder) -> None:
    """Do what a driver does with the reports."""
    write_atomic(folder.study, yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    write_atomic(folder.env, json.dumps({"python": "3.11", "versions": {"numpy": "2"}, "devices": ["cpu"]}))
    tracker = Tracker.open(
        folder,
        uri=None,
        experiment="small",
        study_params={"study": study.name},
        dataset=DatasetInfo("digits", "0" * 32, "sklearn.datasets.load_digits", 1797, 10),
        tags={},
    )
    records = Records(study, folder, tracker)
    records.begin()
    for report in reports:
        records.hear(report)
    assert records.close(write_report(folder), "FINISHED", 60.0) == 0


def test_a_report_from_mlflow_is_the_one_from_the_folder(
    study_of: Callable[..., StudyConfig],
    dataset: Dataset,
    folder_at: Callable[[Path], StudyFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = study_of(methods=METHODS, seeds={"search": [0, 1], "final": [0, 1]})
    reports, failed = [], "random-n2-s1"
    for report in heard(study, dataset, tmp_path / "trials", folder_at):
        if report.search != failed or not any(earlier.error for earlier in reports if earlier.search == failed):
            reports.append(failing(report) if report.search == failed and report.row else report)
    folder = StudyFolder(tmp_path / "runs" / "small")
    run(study, reports, folder)

    told: list[str] = []
    uri = f"sqlite:///{folder.mlflow_store}"
    recalled = recall(uri, "small", tmp_path / "recalled", tell=told.append)
    assert told == []
    assert recalled.root == tmp_path / "recalled" / "small"
    assert sorted(recalled.search_rows(), key=str) == sorted(folder.search_rows(), key=str)
    assert sorted(recalled.final_rows(), key=str) == sorted(folder.final_rows(), key=str)
    for name in ("study.yaml", "env.json", "ledger.jsonl"):
        assert (recalled.root / name).read_bytes() == (folder.root / name).read_bytes()
    assert files_of(recalled.policies) == files_of(folder.policies)
    assert len(files_of(folder.policies)) == 9
    assert files_of(recalled.pictures) == files_of(folder.pictures)

    made, out = files_of(folder.report), tmp_path / "out"
    called = CliRunner().invoke(app, ["report", "--from-mlflow", uri, "--experiment", "small", "--output", str(out)])
    assert (called.exit_code, called.stderr) == (0, "")
    assert {"index.html", "tables/accuracy.csv", "tables/accuracy.md", "tables/accuracy.tex"} <= made.keys()
    again = files_of(out)
    assert again.keys() == made.keys()
    assert [name for name in made if again[name] != made[name]] == []


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_receptive_fields_and_table_10_come_back(
    study_of: Callable[..., StudyConfig],
    dataset: Dataset,
    folder_at: Callable[[Path], StudyFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    clips = {"method": "das_video", "frames": 3, "topology": "chain-1", "tuning_epochs": 1}
    study = study_of(
        methods={"standard": {}, "ours": clips},
        model={"name": "wide_resnet", "depth": 10, "width": 1},
        space={"ops": "das-video"},
        seeds={"search": [0], "final": [0, 1]},
        final={"epochs": 1},
    )
    folder = StudyFolder(tmp_path / "runs" / "small")
    run(study, heard(study, dataset, tmp_path / "trials", folder_at), folder)
    fields = files_of(folder.receptive_fields)
    assert sorted(fields) == [f"{label}-n0-s0-t{seed}.json" for label in ("ours", "standard") for seed in (0, 1)]
    uri = f"sqlite:///{folder.mlflow_store}"
    recalled = recall(uri, "small", tmp_path / "recalled")
    assert files_of(recalled.receptive_fields) == fields
    client = MlflowClient(uri)
    [experiment] = [item.experiment_id for item in client.search_experiments() if item.name == "small"]
    logged = {item.info.run_name: item.data.metrics for item in client.search_runs([experiment])}
    for name, content in fields.items():
        field, final = json.loads(content), name.removesuffix(".json").replace("-t", " final ")
        assert logged[final]["receptive_field_half"] == field["half"]
        assert logged[final]["receptive_field_tenth"] == field["tenth"]
    write_report(recalled)
    again = files_of(recalled.report)
    assert {"figure8.svg", "tables/table10.csv", "tables/receptive_fields.csv"} <= again.keys()
    made = files_of(folder.report)
    assert [name for name in made | again if made.get(name) != again.get(name)] == []
