"""A study that varies how much of the training data is removed: its grid, its images, its records, and the way back."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient

from dastune.config import StudyConfig
from dastune.data.dataset import Dataset
from dastune.data.images import Images
from dastune.folder import LETTERS, StudyFolder, method_of, search_id, write_atomic
from dastune.orchestration.grid import Assignment, grid, unfinished
from dastune.orchestration.records import Records
from dastune.orchestration.setting import final_task, search_of
from dastune.orchestration.study import resume, run
from dastune.orchestration.trial import trial
from dastune.policy.policy import load_policy
from dastune.report.plan import read_plan
from dastune.report.results import read_results
from dastune.storage import FolderStorage
from dastune.tracking import DatasetInfo, Tracker
from dastune.tracking.recall import recall
from dastune.tracking.views import view_tags

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

CPU = torch.device("cpu")
OPS = {"ops": ["identity", "rotate", "invert"]}

StudyOf = Callable[..., StudyConfig]


def removing(study_of: StudyOf, *percents: int, **changes: object) -> StudyConfig:
    data = {"name": "digits", "train_images": 200, "search_images": 100, "validation_images": 100}
    return study_of(**{"space": OPS, "data": {**data, "removed_percent": percents}, **changes})


def test_the_grid_is_over_what_is_removed(study_of: StudyOf, tmp_path: Path) -> None:
    theirs = {"method": "published", "policy": "aa-svhn"}
    study = removing(study_of, 50, 0, methods={"das": {}, "theirs": theirs}, seeds={"search": [3, 1], "final": [0]})
    assert (study.axis, study.levels) == ("removed_percent", (50, 0))
    found = grid(study)
    assert [assignment.id for assignment in found] == [
        *("das-r50-s3", "theirs-r50-s3", "das-r0-s3"),
        *("das-r50-s1", "theirs-r50-s1", "das-r0-s1"),
    ]
    assert [(each.removed_percent, each.noise_level) for each in found[:3]] == [(50, 0), (50, 0), (0, 0)]
    folder = StudyFolder(tmp_path)
    write_atomic(folder.study, yaml.safe_dump(study.model_dump(mode="json")))
    plan = read_plan(folder.study)
    assert plan is not None
    assert sorted(plan.searches) == sorted(assignment.id for assignment in found)
    assert plan.ops == dict.fromkeys((50, 0), ("identity", "rotate", "invert"))


@pytest.mark.parametrize(
    ("percents", "levels", "axis", "ids"),
    [
        ((0,), (0, 2), "noise_level", ["none-n0-s0", "none-n2-s0"]),
        ((0,), (4,), "noise_level", ["none-n4-s0"]),
        ((30,), (0, 2), "noise_level", ["none-n0-s0", "none-n2-s0"]),  # of which all have 30 % removed
        ((30,), (0,), "removed_percent", ["none-r30-s0"]),
        ((0, 30), (2,), "removed_percent", ["none-r0-s0", "none-r30-s0"]),
    ],
)
def test_what_a_study_varies(
    percents: tuple[int, ...], levels: tuple[int, ...], axis: str, ids: list[str], study_of: StudyOf
) -> None:
    study = removing(study_of, *percents, methods={"none": {}}, space={**OPS, "noise": {"levels": levels}})
    found = grid(study)
    assert (study.axis, [each.id for each in found]) == (axis, ids)
    assert {each.removed_percent for each in found} == set(percents)
    assert {each.noise_level for each in found} == set(levels)


@pytest.mark.parametrize("label", ["das", "a-n4-s0", "x-r9", "my.own-r90-s1"])
@pytest.mark.parametrize("field", LETTERS)
def test_a_label_is_read_back_from_an_id(label: str, field: str) -> None:
    assert method_of(search_id(label, field, 90, 12)) == label  # type: ignore[arg-type]
    assert method_of("no id") == ""


def as_set(images: Images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.batch(torch.arange(len(images)))[0]}


def test_searches_and_final_trainings_see_what_is_left(
    study_of: StudyOf, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pixels: each part is part of that with nothing removed, and the test set is whole."""
    built = []
    monkeypatch.setattr("dastune.orchestration.setting.build_search", lambda options, its: built.append(its.task))
    study, plain = removing(study_of, 0, 80, methods={"none": {}}), removing(study_of, 0, methods={"none": {}})
    tasks = [
        search_of(study, Assignment("none", 0, 3, percent, "removed_percent"), dataset, CPU) for percent in (0, 80)
    ]
    search_of(plain, Assignment("none", 0, 3), dataset, CPU)
    whole, left, before = built
    finals = [
        final_task(study, Assignment("none", 0, 3, percent, "removed_percent"), dataset, CPU) for percent in (0, 80)
    ]
    assert len(tasks) == 2
    assert [len(images) for task in built for images in (task.train, task.held_out)] == [100, 100, 20, 20, 100, 100]
    assert [len(task.train) for task in finals] == [200, 40]
    everything = torch.arange(100)
    for part in ("train", "held_out"):
        one, other = (getattr(task, part).batch(everything) for task in (whole, before))
        assert all(map(torch.equal, one, other))  # nothing removed is as it was, in the same order
        assert as_set(getattr(left, part)) < as_set(getattr(whole, part))
    assert as_set(finals[1].train) < as_set(finals[0].train)
    assert len(finals[1].held_out) == len(dataset.test_labels)
    counts = np.bincount(finals[1].train.batch(torch.arange(40))[1], minlength=10)
    assert np.ptp(counts) <= 2


def test_rows_records_and_the_way_back(
    study_of: StudyOf,
    dataset: Dataset,
    tmp_path: Path,
    folder_at: Callable[[Path], StudyFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real searches, stopped between two of them and resumed, into a real store of MLflow, and read back from it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = removing(study_of, 0, 80, methods={"rand_augment": None, "none": None}, budget={"steps": 8})
    folder = folder_at(tmp_path / "small")
    write_atomic(folder.study, yaml.safe_dump(study.model_dump(mode="json")))
    write_atomic(folder.env, json.dumps({"python": "3.11", "versions": {"numpy": "2"}, "devices": ["cpu"]}))
    write_atomic(page := folder.report / "index.html", "a page")
    for done in (0, 2):
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
        todo = unfinished(study, folder)
        assert todo == grid(study)[done:]
        for assignment in todo[:2]:
            storage = FolderStorage(folder.root)
            for report in trial(study, assignment, dataset, storage, records.start(assignment.id)):
                records.hear(report)
        assert records.close(page, "FINISHED", 60.0) == 0
    assert unfinished(study, folder) == []

    ids = [assignment.id for assignment in grid(study)]
    assert sorted(row.id for row in folder.search_rows()) == sorted(ids)
    for row in (*folder.search_rows(), *folder.final_rows(), *folder.child_rows()):
        search = getattr(row, "id", None) or row.search_id
        assert (row.noise_level, f"-r{row.removed_percent}-" in search) == (0, True)
    children = [row for row in folder.child_rows() if row.removed_percent == 80]
    assert children  # of 20 images, in batches of 20: a step each epoch
    assert {row.epochs for row in children if row.status == "scored"} == {2.0}
    provenance = {id: json.loads(folder.policy(id).read_text())["provenance"] for id in ids}
    assert [provenance[id].get("removed_percent") for id in ids] == [None, None, 80, 80]

    uri = f"sqlite:///{folder.mlflow_store}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    for its in client.search_runs([experiment], "tags.stage = 'search'"):
        params, search = its.data.params, its.data.tags["dastune.key"]
        assert search == f"{params['method']}-r{params['removed_percent']}-s0"
        [point] = client.get_metric_history(its.info.run_id, "over_removed_percent/test_accuracy")
        trained = [row.test_accuracy for row in folder.final_rows() if row.search_id == search]
        assert (point.step, point.value) == (int(params["removed_percent"]), fmean(trained))
        assert not [name for name in its.data.metrics if "over_noise_level" in name]
    told: list[str] = []
    recalled = read_results(recall(uri, "small", tmp_path / "recalled", tell=told.append))
    here = read_results(folder)
    assert told == []
    assert (recalled.searches, recalled.finals) == (here.searches, here.finals)
    assert (recalled.axis, recalled.cells) == (here.axis, here.cells)
    assert [cell.level for cell in recalled.cells] == [0, 80, 0, 80]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(ray|mlflow|pydantic|google)")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_whole_study(
    study_of: StudyOf, alone: Callable[[StudyConfig, Assignment], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real Ray, resumed once, with its views in MLflow; each search is what it is by itself."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = removing(study_of, 0, 80, methods={"das": None, "random": None, "none": None})
    folder = run(study, output=tmp_path).folder
    lost = folder.finals.read_text().splitlines()
    folder.finals.write_text("".join(f"{line}\n" for line in lost if "-r80-" not in line))
    result = resume(folder.root)
    assert not result.missing
    tested = {(row.search_id, row.train_seed): row.test_accuracy for row in result.final_rows}
    for assignment in grid(study):
        here = alone(study, assignment)
        assert here.policy == load_policy(folder.policy(assignment.id))
        assert here.accuracies == {seed: tested[assignment.id, seed] for seed in study.seeds.final}
    assert (folder.report / "figure10.png").stat().st_size > 0
    client = MlflowClient(f"sqlite:///{folder.mlflow_store}")
    experiment = client.get_experiment_by_name("small")
    [execution, _] = client.search_runs([experiment.experiment_id], "tags.`dastune.stage` = 'execution'")
    assert json.loads(execution.data.params["removed_percents"]) == [0, 80]
    made = view_tags(0, execution.data.params)
    assert {name: json.loads(experiment.tags[name])["state"] for name in made} == {
        name: json.loads(value)["state"] for name, value in made.items()
    }
