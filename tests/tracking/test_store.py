"""What arrives in a real sqlite store, once and in order, and what it refuses."""

import json
import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from dastune.errors import UserError
from dastune.tracking import store_uri
from dastune.tracking.journal import Place
from dastune.tracking.store import Store

if TYPE_CHECKING:
    from tests.tracking.conftest import Study

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


def test_what_is_logged_arrives(tmp_path: Path, study: "Study") -> None:
    tracker = study.open()
    study.log_search(tracker)
    report = study.folder.report / "index.html"
    report.parent.mkdir()
    report.write_text("<html>")
    tracker.artifact(None, study.folder.report)
    tracker.end(None)
    study.send_all(tracker)

    found = study.runs()
    parent, search, final = found["execution-0"], found["das-n4-s0"], found["das-n4-s0/t0"]
    assert len(found) == 3
    assert "mlflow.parentRunId" not in parent.data.tags
    assert search.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert final.data.tags["mlflow.parentRunId"] == search.info.run_id
    assert [run.data.tags["dastune.stage"] for run in (parent, search, final)] == ["execution", "search", "final"]
    assert len({run.data.tags["dastune.study_id"] for run in found.values()}) == 1
    assert parent.data.tags["dastune.version"] == "0.1.0"
    assert search.data.tags["dastune.cost"] == "search"
    assert parent.data.params == {"data": "digits", "budget": "10 cpu-seconds"}
    assert search.data.params == {"method": "das", "noise_level": "4"}
    assert search.info.run_name == "das-n4-s0"
    assert parent.info.status == "FINISHED"
    study.check_search()
    for run in found.values():
        assert run.inputs is not None
        (entry,) = run.inputs.dataset_inputs
        assert (entry.dataset.name, entry.dataset.digest) == (study.dataset.name, study.dataset.digest)
        assert json.loads(entry.dataset.profile or "") == {"images": 1797, "classes": 10}
    assert list(study.folder.mlflow_artifacts.rglob("das-n4-s0.json"))
    for run, path, text in [
        (search, "policy/das-n4-s0.json", '{"kind": "stages"}'),
        (parent, "report/index.html", "<html>"),
    ]:
        assert Path(study.client().download_artifacts(run.info.run_id, path, str(tmp_path))).read_text() == text


def test_interleaved_runs_keep_their_order(study: "Study") -> None:
    """The sender puts the waiting points of one run into one request; each run still sees its own events in order."""
    tracker = study.open()
    for step in range(450):  # more than the sender takes at once
        key = "ab"[step % 2]
        if step in (0, 1, 300):
            tracker.search(key, key, {}, {})
        tracker.metrics(key, step, {"loss": float(-step)}, 5000 - step)
        if step in (100, 449):
            tracker.end(key)
    study.send_all(tracker)
    found = study.runs()
    for first, key in enumerate("ab"):
        expected = [(step, 5000 - step, float(-step)) for step in range(first, 450, 2)]
        assert sorted(study.points(found[key], "loss")) == expected
    assert [found[key].info.status for key in "ab"] == ["RUNNING", "FINISHED"]


def test_values_beyond_mlflows_limits(study: "Study") -> None:
    tracker = study.open()
    tracker.search("a", "a", {f"p{i}": "x" * 7000 for i in range(120)}, {"long": "y" * 9000})
    tracker.metrics("a", 1, {f"m{i}": float(i) for i in range(1100)} | {"nan": math.nan, "minus": -math.inf}, 1)
    study.send_all(tracker)
    run = study.runs()["a"]
    assert len(run.data.params) == 120
    assert len(run.data.params["p119"]) == 6000
    assert len(run.data.tags["long"]) == 8000
    assert len(run.data.metrics) == 1102
    assert math.isnan(run.data.metrics["nan"])


@pytest.mark.parametrize("back_to_line", [0, 1, 4, 9])
def test_sending_again_makes_nothing_twice(study: "Study", back_to_line: int) -> None:
    tracker = study.open()
    study.log_search(tracker)
    tracker.end(None)
    study.send_all(tracker)
    # The second execution's own run is made here, so that only the repetition is left to differ.
    study.send_all()
    before = study.rows()

    study.rewind(back_to_line)
    study.send_all()
    after = study.rows()
    assert after["runs"] == before["runs"] + 1  # the third execution's
    assert {t: after[t] for t in ("metrics", "datasets", "experiments")} == {
        t: before[t] for t in ("metrics", "datasets", "experiments")
    }
    assert after["inputs"] == before["inputs"] + 1
    study.check_search()
    assert study.runs()["execution-0"].info.status == "FINISHED"


def test_a_store_that_was_deleted_gets_everything_again(study: "Study", migrated_store: Path) -> None:
    tracker = study.open()
    study.log_search(tracker)
    tracker.end(None)
    study.send_all(tracker)
    shutil.copy(migrated_store, study.folder.mlflow_store)
    study.send_all()
    study.check_search()
    assert {key: run.info.status for key, run in study.runs().items() if "execution" in key} == {
        "execution-0": "FINISHED",
        "execution-1": "RUNNING",
    }


def test_a_store_back_from_a_backup_gets_what_it_lacks(tmp_path: Path, study: "Study") -> None:
    study.send_all()
    shutil.copy(study.folder.mlflow_store, tmp_path / "backup.db")
    tracker = study.open()
    study.log_search(tracker)
    study.send_all(tracker)
    shutil.copy(tmp_path / "backup.db", study.folder.mlflow_store)
    study.send_all()
    study.check_search()
    assert len(study.runs()) == 5


def test_a_store_put_back_before_it_has_noted_what_it_had_gets_it_again(
    study: "Study", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup says the same of the journal as the store did; test_outages.py has it with a server."""
    note, lost = Store.note, []
    tracker = study.open()
    study.send_all(tracker)
    tracker = study.open()
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as backup:
        with closing(sqlite3.connect(study.folder.mlflow_store)) as store:
            store.backup(backup)

        def fail_once(store: Store, place: Place) -> None:
            if place.delivered_bytes > store.place.delivered_bytes and not lost:
                lost.append(place)
                with closing(sqlite3.connect(study.folder.mlflow_store)) as live:
                    backup.backup(live)
                raise ConnectionError
            note(store, place)

        monkeypatch.setattr(Store, "note", fail_once)
        study.log_search(tracker)
        study.send_all(tracker)
    assert lost
    study.check_search()


def test_a_second_execution_continues_the_searchs_run(study: "Study") -> None:
    first = study.open()
    first.search("a", "a", {"method": "das"}, {})
    first.metrics("a", 1, {"val_accuracy": 0.5}, 1)
    study.send_all(first)  # as after Ctrl-C: nobody has ended the runs
    second = study.open()
    second.search("a", "a", {"method": "changed", "added": 1}, {"dastune.resumed": "1"})
    second.metrics("a", 2, {"val_accuracy": 0.6}, 2)
    second.end("a")
    second.end(None)
    study.send_all(second)

    found = study.runs()
    assert set(found) == {"execution-0", "execution-1", "a"}
    assert found["a"].data.tags["mlflow.parentRunId"] == found["execution-0"].info.run_id
    assert found["a"].data.tags["dastune.resumed"] == "1"
    assert found["a"].data.params == {"method": "das", "added": "1"}
    assert study.points(found["a"], "val_accuracy") == [(1, 1, 0.5), (2, 2, 0.6)]
    assert [found[key].info.status for key in ("execution-0", "execution-1", "a")] == ["KILLED", "FINISHED", "FINISHED"]


def test_two_studies_of_one_name_in_one_store_stay_apart(tmp_path: Path, study: "Study") -> None:
    for one in (study, type(study)(tmp_path / "twin")):
        tracker = one.open(store_uri(study.folder, None))
        tracker.search("a", "a", {}, {})
        one.send_all(tracker)
    assert study.rows()["runs"] == 4


@pytest.mark.filterwarnings("ignore:For backward compatibility:pandas.errors.Pandas4Warning")  # log_table's
def test_a_table_is_what_mlflow_logs_and_sent_twice_not_doubled(
    study: "Study", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    columns = ["child", "score", "status", "policy"]
    rows = [[0, 0.75, "scored", '{"kind": "stages", "n": [1, "\\u00e4"]}'], [1, None, "cut", "[]"]]
    path = study.folder.children_table("a")
    path.parent.mkdir()
    path.write_text(json.dumps({"columns": columns, "data": rows}))
    tracker = study.open()
    tracker.search("a", "a", {}, {})
    tracker.table("a", path, "children.json")
    study.send_all(tracker)
    study.rewind(1)
    study.send_all()

    client, run = study.client(), study.runs()["a"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri(study.folder, None))  # load_table asks for it
    loaded = client.load_table(run.info.experiment_id, "children.json", [run.info.run_id])
    assert list(loaded.columns) == columns
    assert loaded.astype(object).where(loaded.notna(), None).to_numpy().tolist() == rows

    twin = client.create_run(run.info.experiment_id).info.run_id
    client.log_table(twin, {column: [row[i] for row in rows] for i, column in enumerate(columns)}, "children.json")
    tables = [
        json.loads(Path(client.download_artifacts(each, "children.json", str(tmp_path))).read_text())
        for each in (run.info.run_id, twin)
    ]
    assert tables[0] == tables[1]
    tag = "mlflow.loggedArtifacts"
    assert json.loads(run.data.tags[tag]) == json.loads(client.get_run(twin).data.tags[tag])


def test_a_second_table_leaves_the_first_one_known(study: "Study") -> None:
    path = study.folder.root / "table.json"
    path.write_text('{"columns": ["x"], "data": [[1]]}')
    tracker = study.open()
    tracker.search("a", "a", {}, {})
    for name in ("one.json", "other.json", "one.json"):
        tracker.table("a", path, name)
    study.send_all(tracker)
    tables = json.loads(study.runs()["a"].data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": "one.json", "type": "table"}, {"path": "other.json", "type": "table"}]


def test_an_event_that_the_store_refuses_holds_up_nothing(study: "Study") -> None:
    warnings: list[str] = []
    tracker = study.open(warn=warnings.append)
    for step in range(3):
        tracker.metrics("never-begun", step, {"loss": 1.0}, 1)
    tracker.artifact(None, study.folder.root / "gone.png")
    with study.folder.tracking.open("a") as journal:
        journal.write('{"event": "metr\n')  # torn by a crash
    study.log_search(tracker)
    study.send_all(tracker)
    study.check_search()
    assert ["never-begun" in w or "gone.png" in w for w in warnings] == [True, True]


def test_a_name_that_mlflow_forbids_costs_only_its_own_points(study: "Study") -> None:
    warnings: list[str] = []
    tracker = study.open(warn=warnings.append)
    tracker.search("a", "a", {}, {})
    for step in range(5):
        tracker.metrics("a", step, {"x": step / 7, "loss[0]@": 1.0, "y": step / 3}, 1000 + step)
    study.send_all(tracker)
    run = study.runs()["a"]
    assert set(run.data.metrics) == {"x", "y"}
    for name, part in (("x", 7), ("y", 3)):
        assert study.points(run, name) == [(step, 1000 + step, step / part) for step in range(5)]
    assert len(warnings) == 1
    assert "loss[0]@" in warnings[0]


def test_lines_that_were_damaged_hold_up_nothing(study: "Study") -> None:
    """Each is well-formed JSON with all fields, as a flipped bit or another version may leave it."""
    tracker = study.open()
    tracker.search("a", "a", {}, {})
    tracker.metrics("a", 1, {"x": 1.0}, 1)
    tracker.end("a")
    begin, metrics, end = [event for event in study.events() if event["key"] == "a"]
    tags = {"event": "tags", "key": "a", "tags": {"status": "done"}}
    damaged = [
        tags,  # one that is not, among metrics that are
        tags | {"tags": "done"},
        begin | {"key": "b", "dataset": {"nam": "digits"}},
        begin | {"key": "b", "params": 7},
        metrics | {"values": {"x": "0.q"}},
        metrics | {"step": None},
        end | {"status": "FINISHE"},
        end | {"time": "7x"},
    ]
    with study.folder.tracking.open("a") as journal:
        journal.writelines(json.dumps(event) + "\n" for event in damaged)
    study.log_search(tracker)
    study.send_all(tracker)
    study.check_search()
    found = study.runs()
    assert set(found) == {"execution-0", "a", "das-n4-s0", "das-n4-s0/t0"}
    assert found["a"].info.status == "FINISHED"
    assert found["a"].data.tags["status"] == "done"
    assert study.points(found["a"], "x") == [(1, 1, 1.0)]


def test_tags_of_a_run_are_set_and_set_anew(study: "Study") -> None:
    warnings: list[str] = []
    tracker = study.open(warn=warnings.append)
    tracker.search("a", "a", {}, {"cost": "none"})
    tracker.tags("a", {"status": "failed", "dastune.row": '{"a": 0.1}'})
    tracker.metrics("a", 1, {"x": 1.0}, 1)
    tracker.tags("a", {"status": "done", "long": "y" * 8001})
    tracker.metrics("a", 2, {"x": 2.0}, 2)
    study.send_all(tracker)
    run = study.runs()["a"]
    told = {name: run.data.tags.get(name) for name in ("stage", "cost", "status", "dastune.row", "long")}
    # A value that MLflow would cut is not sent at all: half a row is none.
    assert told == {"stage": "search", "cost": "none", "status": "done", "dastune.row": '{"a": 0.1}', "long": None}
    assert study.points(run, "x") == [(1, 1, 1.0), (2, 2, 2.0)]
    assert len(warnings) == 1
    assert "long is longer than 8,000 characters" in warnings[0]


def test_the_experiment_has_views_and_a_persons_changes_stay(study: "Study") -> None:
    study.send_all()
    client = study.client()

    def views() -> dict[str, str]:
        experiment = client.get_experiment_by_name("digits_noise")
        assert experiment is not None
        return {name: value for name, value in experiment.tags.items() if name.startswith("mlflow.sharedViewState.")}

    made = views()
    assert len(made) >= 1
    experiment = client.get_experiment_by_name("digits_noise")
    assert experiment is not None
    client.set_experiment_tag(experiment.experiment_id, next(iter(made)), "changed in the UI")
    study.send_all()
    assert views() == {**made, next(iter(made)): "changed in the UI"}


def test_a_search_whose_executions_run_a_person_has_deleted_is_tracked(study: "Study") -> None:
    tracker = study.open()
    study.send_all(tracker)
    study.log_search(tracker)  # which the next one will send
    study.client().delete_run(study.runs()["execution-0"].info.run_id)
    study.send_all()
    study.check_search()
    assert "mlflow.parentRunId" not in study.runs()["das-n4-s0"].data.tags


def test_an_empty_twin_of_a_run_is_deleted(study: "Study") -> None:
    """As a request leaves that was given up, made again, and then arrives; test_outages.py has the real thing."""
    tracker = study.open()
    tracker.search("a", "a", {"method": "das"}, {})
    tracker.metrics("a", 1, {"x": 1.0}, 1)
    study.send_all(tracker)
    run = study.runs()["a"]
    twin = study.client().create_run(run.info.experiment_id, run.info.start_time - 1, run.data.tags)
    tracker = study.open()
    tracker.metrics("a", 2, {"x": 2.0}, 2)
    tracker.end("a")
    study.send_all(tracker)
    assert study.runs()["a"].info.run_id == run.info.run_id
    assert study.points(study.runs()["a"], "x") == [(1, 1, 1.0), (2, 2, 2.0)]
    assert study.client().get_run(twin.info.run_id).info.lifecycle_stage == "deleted"


def test_another_study_may_make_the_experiment_first(study: "Study", monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look whether it is there and its making."""
    look = MlflowClient.get_experiment_by_name
    looks: list[str] = []

    def late(client: MlflowClient, name: str) -> object:
        looks.append(name)
        found = look(client, name)
        if len(looks) == 1:
            study.client().create_experiment(name)
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    tracker = study.open()
    study.log_search(tracker)
    study.send_all(tracker)
    study.check_search()


@pytest.mark.parametrize("name", ["log_inputs", "set_experiment_tag"])
def test_another_study_may_write_the_same_first(name: str, study: "Study", monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow answers so where two write a data set, or a view, and both look before either has added it."""
    write, refused = getattr(MlflowClient, name), []

    def conflict(client: MlflowClient, *arguments: object, **named: object) -> None:
        if not refused:
            refused.append(arguments)
            raise MlflowException("duplicate key value violates unique constraint", error_code=BAD_REQUEST)
        write(client, *arguments, **named)

    monkeypatch.setattr(MlflowClient, name, conflict)
    study.send_all(study.open())
    assert refused
    experiment = study.client().get_experiment_by_name("digits_noise")
    assert experiment is not None
    assert sum(tag.startswith("mlflow.sharedViewState.") for tag in experiment.tags) == 3
    for run in study.runs().values():
        assert run.inputs is not None
        assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["digits"]


def test_a_deleted_experiment_is_said(study: "Study") -> None:
    study.client().delete_experiment(study.client().create_experiment("digits_noise"))
    with pytest.raises(UserError, match="'digits_noise' is deleted"):
        study.open()
