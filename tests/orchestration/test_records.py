"""What the driver makes of reports, which searches there are, and that the report counts the same ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dastune.config import StudyConfig
from dastune.folder import ChildRow, SearchRow, StudyFolder, write_atomic
from dastune.orchestration.grid import grid, unfinished
from dastune.orchestration.records import Records
from dastune.orchestration.reports import Point, Report
from dastune.report.plan import read_plan
from dastune.tracking import DatasetInfo, Tracker

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

StudyOf = Callable[..., StudyConfig]

METHODS = {"random": {}, "theirs": {"method": "published", "policy": "aa-cifar10"}}
POLICY = {"kind": "stages", "stages": []}


@pytest.fixture
def study(study_of: StudyOf) -> StudyConfig:
    space = {"ops": ["identity", "rotate", "invert"], "noise": {"levels": [2, 0]}}
    return study_of(methods=METHODS, space=space, seeds={"search": [3, 5], "final": [0]})


@pytest.fixture
def folder(study: StudyConfig, root: Path) -> StudyFolder:
    folder = StudyFolder(root)
    write_atomic(folder.study, yaml.safe_dump(study.model_dump(mode="json")))
    return folder


def row_of(search: str) -> SearchRow:
    method, level, seed = search.split("-")
    return SearchRow(
        *(search, method, int(level[1:]), int(seed[1:]), None, 2.0, 1.0, 9, 3, 0.0, 0.4, 0.0),
        *(f"policies/{search}.json", "done"),
    )


def child_of(search: str, child: int, score: float | None = 0.5) -> ChildRow:
    row = row_of(search)
    return ChildRow(search, row.method, row.noise_level, row.search_seed, child, score, 1.5, 2.0, "scored", POLICY)


def test_published_policies_are_at_the_first_level_only(study: StudyConfig, folder: StudyFolder) -> None:
    ids = [assignment.id for assignment in grid(study)]
    assert ids == [
        *("random-n2-s3", "theirs-n2-s3", "random-n0-s3"),
        *("random-n2-s5", "theirs-n2-s5", "random-n0-s5"),
    ]
    assert [assignment.id for assignment in unfinished(study, folder)] == ids
    plan = read_plan(folder.study)
    assert plan is not None
    assert sorted(plan.searches) == sorted(ids)
    assert plan.methods == {"random": "random", "theirs": "published"}
    assert plan.published == {"theirs": "aa-cifar10"}


def test_children_are_one_table_of_their_searchs_run(
    study: StudyConfig, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports heard twice, and children trained again after a crash: each child is one row, of what came last."""
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker.open(
        folder,
        uri=None,
        experiment="small",
        study_params={},
        dataset=DatasetInfo("digits", "0" * 32, "sklearn.datasets.load_digits", 1797, 10),
        tags={},
    )
    records = Records(study, folder, tracker)
    lost = Report("random-n2-s3", "search", 1.0, 3, children=[child_of("random-n2-s3", child) for child in range(2)])
    again = replace(child_of("random-n2-s3", 1, score=None), epochs=0.25, status="cut")
    ended = replace(lost, stage="searched", children=[again], row=row_of("random-n2-s3"))
    elsewhere = Report("theirs-n2-s3", "searched", 0.0, 0, row=row_of("theirs-n2-s3"))
    other = Report("random-n2-s5", "search", 1.0, 3, children=[child_of("random-n2-s5", 0)])
    for report in (lost, other, ended, elsewhere):
        write_atomic(folder.policy(report.search), "{}")
        records.hear(report)
    records.hear(ended)
    final = Point("theirs-n2-s3/t0", 1, {"train_loss": 1.0}, 5)
    records.hear(Report("theirs-n2-s3", "final", 0.0, 0, points=[final]))
    assert tracker.close(60.0) == 0

    assert folder.child_rows("random-n2-s3") == [child_of("random-n2-s3", 0), again]
    # What was heard again as it was is no second line; not by the records of another execution either.
    Records(study, folder, tracker).hear(Report("random-n2-s3", "search", 1.0, 3, children=[again]))
    assert len(folder.children.read_text().splitlines()) == 4
    uri = f"sqlite:///{folder.mlflow_store}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # load_table asks for it
    table = client.load_table(experiment.experiment_id, "children.json", extra_columns=["run_id"])
    assert set(table["run_id"]) == {runs["random-n2-s3"].info.run_id}
    assert list(table.columns) == ["child", "score", "seconds", "epochs", "status", "policy", "run_id"]
    assert table["child"].tolist() == [0, 1]
    assert table["score"].isna().tolist() == [False, True]
    assert table["epochs"].tolist() == [2.0, 0.25]
    assert table["status"].tolist() == ["scored", "cut"]
    assert [json.loads(text) for text in table["policy"]] == [POLICY, POLICY]
    assert {name for name, run in runs.items() if "external" in run.data.tags} == {
        *("theirs-n2-s3", "theirs-n2-s3 final 0"),
    }
