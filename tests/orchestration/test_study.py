"""A whole study on a real Ray and a real MLflow store."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from dastune.config import StudyConfig
from dastune.config.methods import DasVideo
from dastune.data.dataset import Dataset
from dastune.data.embedded import digits
from dastune.data.table import DatasetEntry
from dastune.errors import UserError
from dastune.folder import StudyFolder
from dastune.orchestration.grid import Assignment, grid
from dastune.orchestration.study import StudyResult, resume, run
from dastune.policy.policy import load_policy
from dastune.search.table import SEARCHES

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(ray|mlflow|pydantic|google)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

StudyOf = Callable[..., StudyConfig]


@pytest.fixture(scope="module")
def finished(
    study_of: StudyOf, every_method: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> tuple[StudyConfig, StudyResult]:
    tracking = {"models": "best", "register": "small-best"}
    study = study_of(seeds={"search": [0], "final": [0]}, methods=every_method, tracking=tracking)
    # das_video has another space and network: test_video.
    assert {type(options) for options in study.methods.values()} == set(SEARCHES) - {DasVideo}
    return study, run(study, output=tmp_path_factory.mktemp("runs"))


def test_every_search_and_final_training_is_there_once(finished: tuple[StudyConfig, StudyResult]) -> None:
    study, result = finished
    assert not result.missing
    assert not result.interrupted
    ids = {assignment.id for assignment in grid(study)}
    assert len(ids) == 2 * 13 + 1  # published policies have one noise level
    for path, key in ((result.folder.searches, "id"), (result.folder.finals, "search_id")):
        keys = [json.loads(line)[key] for line in path.read_text().splitlines()]
        assert sorted(keys) == sorted(ids)
    assert set(result.finals()["search_id"]) == ids
    for written in (result.folder.policies, result.folder.pictures):
        assert {path.stem for path in written.iterdir()} == ids


def test_ray_changes_nothing(
    finished: tuple[StudyConfig, StudyResult], alone: Callable[[StudyConfig, Assignment], Any]
) -> None:
    """The same searches in a plain loop in this process find the same policies and train to the same accuracy."""
    study, result = finished
    tested = {row.search_id: row.test_accuracy for row in result.final_rows}
    for assignment in grid(study):
        here = alone(study, assignment)
        assert here.policy == load_policy(result.folder.policy(assignment.id))
        assert here.accuracies == {0: tested[assignment.id]}
        recorded = [replace(child, seconds=0.0) for child in result.folder.child_rows(assignment.id)]
        assert recorded == sorted((replace(child, seconds=0.0) for child in here.children), key=attrgetter("child"))


def test_children_are_on_record(finished: tuple[StudyConfig, StudyResult]) -> None:
    study, result = finished
    rows = {row.id: row for row in result.search_rows}
    for assignment in grid(study):
        row, children = rows[assignment.id], result.folder.child_rows(assignment.id)
        assert [child.child for child in sorted(children, key=lambda child: child.child)] == list(range(len(children)))
        assert sum(child.status != "cut" for child in children) == row.children
        # One that is cut amid a round of successive halving counts with its score at the last rung.
        scores = [child.score for child in children if child.score is not None and child.status != "diverged"]
        assert max(scores, default=None) == (row.val_accuracy if scores else None)
        assert sum(child.seconds for child in children) <= row.charged_seconds
    assert any(child.status == "cut" for child in result.folder.child_rows())
    assert any(child.status == "stopped" for child in result.folder.child_rows())


def test_the_folder_and_report_are_complete(finished: tuple[StudyConfig, StudyResult]) -> None:
    study, result = finished
    folder = result.folder
    assert StudyConfig.model_validate(yaml.safe_load(folder.study.read_text())) == study
    assert json.loads(folder.env.read_text())["versions"]["torch"]
    for name in ("index.html", "figure9.png", "figure9.svg", "figure9.pdf", "tables.csv", "tables.md"):
        assert (folder.report / name).stat().st_size > 0
    assert not list(folder.checkpoints.glob("*.pt"))
    assert not folder.errors.exists()


def test_mlflow_holds_the_execution_its_searches_and_their_final_trainings(
    finished: tuple[StudyConfig, StudyResult],
) -> None:
    from mlflow import MlflowClient

    study, result = finished
    assert result.undelivered == 0
    client = MlflowClient(f"sqlite:///{result.folder.mlflow_store}")
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    [execution] = [run for run, parent in parents.items() if parent is None]
    searches = [run for run in runs if parents[run.info.run_id] == execution]
    finals = [run for run in runs if parents[run.info.run_id] in {search.info.run_id for search in searches}]
    count = len(grid(study))
    assert len(searches) == len(finals) == count
    assert len(runs) == 1 + 2 * count
    assert {run.info.status for run in runs} == {"FINISHED"}
    tested = {row.search_id: row.test_accuracy for row in result.final_rows}
    names = {search.info.run_id: search.info.run_name for search in searches}
    for final in finals:
        search = names[parents[final.info.run_id]]
        assert final.data.metrics["test_accuracy"] == pytest.approx(tested[search])
        assert final.inputs.dataset_inputs[0].dataset.name == "digits"
    none = {"uniform", "trivial", "trivial_wide", "standard", "none"}
    for search in searches:
        method = search.data.params["method"]
        cost = "none" if method in none else "search"
        assert search.data.tags["cost"] == ("external" if method == "aa_svhn" else cost)
        name = search.info.run_name
        assert {artifact.path for artifact in client.list_artifacts(search.info.run_id, "policy")} == {
            f"policy/{name}.json",
            f"policy/{name}.png",
        }
    assert "report/index.html" in {artifact.path for artifact in client.list_artifacts(execution, "report")}
    assert {artifact.path for artifact in client.list_artifacts(execution, "study")} == {
        *("study/study.yaml", "study/env.json", "study/ledger.jsonl"),
    }


def test_runs_of_mlflow_hold_the_rows_and_what_they_are_compared_by(finished: tuple[StudyConfig, StudyResult]) -> None:
    from mlflow import MlflowClient

    study, result = finished
    client = MlflowClient(f"sqlite:///{result.folder.mlflow_store}")
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None

    def runs(stage: str) -> list[Any]:
        return list(client.search_runs([experiment.experiment_id], f"tags.stage = '{stage}'", max_results=1000))

    searches, finals = (
        [json.loads(one.data.tags["dastune.row"]) for one in runs(stage)] for stage in ("search", "final")
    )
    assert sorted(searches, key=itemgetter("id")) == sorted(map(asdict, result.search_rows), key=itemgetter("id"))
    by_id = itemgetter("search_id")
    assert sorted(finals, key=by_id) == sorted(map(asdict, result.final_rows), key=by_id)
    tested = {row.search_id: row.test_accuracy for row in result.final_rows}
    for one in runs("search"):
        row = json.loads(one.data.tags["dastune.row"])
        assert one.data.tags["status"] == row["status"]
        assert one.data.metrics["test_accuracy"] == tested[row["id"]]
        for name, value in (("noise_mass", row["noise_mass"]), ("test_accuracy", tested[row["id"]])):
            [point] = client.get_metric_history(one.info.run_id, f"over_noise_level/{name}")
            assert (point.step, point.value) == (row["noise_level"], value)
    for one in runs("search") + runs("final"):
        params = one.data.params
        told = {name: params.get(name) for name in ("data", "model", "budget", "search_seed")}
        assert told == {"data": "digits", "model": "small_cnn-4", "budget": "12 steps", "search_seed": "0"}
        assert one.data.tags["dastune.key"].startswith(f"{params['method']}-n{params['noise_level']}-s0")
    for one in runs("final"):
        assert one.data.tags["status"] == "done"
        curve = client.get_metric_history(one.info.run_id, "train_loss")
        assert [point.step for point in curve] == [1, 2]


def test_the_best_network_is_a_registered_model(finished: tuple[StudyConfig, StudyResult]) -> None:
    from mlflow import MlflowClient

    study, result = finished
    best = max(result.final_rows, key=lambda row: (row.test_accuracy, -row.test_loss))
    client = MlflowClient(f"sqlite:///{result.folder.mlflow_store}")
    version = client.get_model_version_by_alias("small-best", "best")
    assert version.run_id is not None
    assert client.get_run(version.run_id).data.tags["dastune.key"] == f"{best.search_id}/t0"
    assert f"best of {len(grid(study))} final trainings" in version.description
    assert [path.name for path in (result.folder.root / "models").iterdir()] == [f"{best.search_id}-t0.pt"]
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    [model] = client.search_logged_models([experiment.experiment_id])
    assert (model.source_run_id, str(model.status)) == (version.run_id, "READY")


def test_resuming_a_finished_study_repeats_nothing(finished: tuple[StudyConfig, StudyResult]) -> None:
    _, result = finished
    before = {path: path.read_bytes() for path in (result.folder.searches, result.folder.finals, result.folder.ledger)}
    again = resume(result.folder.root)
    assert not again.missing
    assert {path: path.read_bytes() for path in before} == before


def test_a_second_driver_is_refused(finished: tuple[StudyConfig, StudyResult]) -> None:
    _, result = finished
    with result.folder.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another dastune"):
            resume(result.folder.root)


def test_a_folder_that_another_run_has_just_made_is_left_alone(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "small" / "theirs"

    def slow(entry: DatasetEntry, **options: object) -> Dataset:
        other.mkdir(parents=True)
        return digits()

    monkeypatch.setattr(DatasetEntry, "load", slow)
    with pytest.raises(UserError, match="dastune resume"):
        run(study, output=tmp_path)
    assert other.exists()


def test_an_existing_folder_is_refused(finished: tuple[StudyConfig, StudyResult]) -> None:
    study, result = finished
    with pytest.raises(UserError, match="dastune resume"):
        run(study, output=result.folder.root.parent)


def test_more_gpus_than_there_are_is_told_before_anything_is_written(study_of: StudyOf, tmp_path: Path) -> None:
    study = study_of(resources={"gpus": 1}, budget={"gpu_hours": 1})
    with pytest.raises(UserError, match="each search holds 1 GPU"):
        run(study, output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_tracking_store_that_does_not_answer_is_told_and_leaves_nothing(study_of: StudyOf, tmp_path: Path) -> None:
    study = study_of(tracking={"uri": "http://127.0.0.1:9"})
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        run(study, output=tmp_path / "runs")
    assert not (tmp_path / "runs" / "small").exists()


@pytest.mark.slow
def test_ctrl_c_and_resume_repeat_nothing(tmp_path: Path) -> None:
    """A study in a process of its own, interrupted once it has some rows, then resumed to the end."""
    command = [
        *(sys.executable, "-m", "dastune", "run", "digits_noise", "--output", "runs", "--budget", "300 steps"),
        *("--set", "seeds.search=[0]", "--set", "space.noise.levels=[0]", "--set", "final.epochs=3"),
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in until(process.stderr, "final trainings 1/6"):
            assert "FAILED" not in line
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "dastune resume runs/digits_noise" in rest
    folder = StudyFolder(tmp_path / "runs" / "digits_noise")
    done = {row.id: row for row in folder.search_rows()}
    assert 1 <= len(done) < 6
    result = resume(folder.root)
    assert not result.missing
    rows = {row.id: row for row in result.search_rows}
    assert len(rows) == 6
    assert all(rows[search] == row for search, row in done.items())
    assert {row.steps for row in rows.values() if row.status == "budget"} == {300}


def until(lines: Iterator[str], text: str) -> Iterator[str]:
    for line in lines:
        yield line
        if text in line:
            return
    raise AssertionError(f"{text!r} never came")
