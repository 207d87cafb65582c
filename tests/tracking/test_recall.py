"""A study is read back from real stores and a real server, and what is no study, or somebody's trap, is told apart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dastune.errors import UserError
from dastune.folder import StudyFolder
from dastune.tracking import Tracker, recall, store_uri
from dastune.tracking.recall import experiment_id

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

SEARCHES = ("das-n4-s0", "das-n4-s1")
EXPERIMENT = "digits_noise"


def row_of(search: str) -> str:
    return json.dumps({"id": search, "method": "das", "noise_level": 4, "search_seed": int(search[-1])})


def final_of(search: str) -> str:
    return json.dumps({"search_id": search, "train_seed": 0, "test_accuracy": 0.1 + 0.2})


def log(study, tracker: Tracker) -> None:
    """Log two searches with their final trainings, as the driver does."""
    folder = study.folder
    for path in (folder.study, folder.env, folder.ledger):
        path.write_text(f"of {folder.root.name}: {path.name}")
        tracker.artifact(None, path, "study")
    for directory in (folder.policies, folder.pictures, folder.receptive_fields):
        directory.mkdir()
    for search in SEARCHES:
        tracker.search(search, search, {"method": "das"}, {})
        for step in range(300):
            tracker.metrics(search, step // 7, {"val_accuracy": step / 700, "tau_entropy": 1.0}, 1000 + step)
            tracker.metrics(search, step // 7, {"system/gpu_0_power_usage_watts": step + 0.5}, 1000 + step)
        tracker.metrics(search, 43, {"val_accuracy": 0.5, "charged_seconds": 43.21}, 2000)
        folder.policy(search).write_text(f"policy of {search}")
        folder.picture(search).write_bytes(b"\x89PNG of " + search.encode())
        tracker.policy(search, folder.policy(search))
        tracker.policy(search, folder.picture(search))
        tracker.tags(search, {"dastune.row": row_of(search)})
        tracker.end(search)
        tracker.final(f"{search}/t0", search, "final", {}, {})
        tracker.metrics(f"{search}/t0", 1, {"train_loss": 1 / 3}, 3000)
        folder.receptive_field(search, 0).write_text(f"field of {search}")
        tracker.metrics(f"{search}/t0", 2, {"receptive_field_half": 0.25}, 4000)
        tracker.artifact(f"{search}/t0", folder.receptive_field(search, 0), "receptive_field")
        tracker.tags(f"{search}/t0", {"dastune.row": final_of(search)})
    study.send_all(tracker)


@pytest.fixture
def logged(study):
    log(study, study.open())
    return study


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., StudyFolder]:
    """Return what recalls the experiment of a store into a new place."""

    def reading(uri: str, **options: object) -> StudyFolder:
        parent = tmp_path / f"recalled-{len(list(tmp_path.glob('recalled-*')))}"
        parent.mkdir()
        return recall.recall(uri, EXPERIMENT, parent, **options)  # type: ignore[arg-type]

    return reading


def uri_of(study) -> str:
    return store_uri(study.folder, None)


def files_of(folder: StudyFolder) -> dict[str, bytes]:
    return {str(path.relative_to(folder.root)): path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


def check_folder(folder: StudyFolder) -> None:
    """Assert that all of `log` is there, and nothing else."""
    files = files_of(folder)
    tracking = [json.loads(line) for line in files.pop("tracking.jsonl").splitlines()]
    rows, finals = (sorted(files.pop(name).decode().splitlines()) for name in ("searches.jsonl", "finals.jsonl"))
    assert rows == [row_of(search) for search in SEARCHES]
    assert finals == [final_of(search) for search in SEARCHES]
    assert files == {
        **{name: f"of study: {name}".encode() for name in ("study.yaml", "env.json", "ledger.jsonl")},
        **{f"policies/{search}.json": f"policy of {search}".encode() for search in SEARCHES},
        **{f"pictures/{search}.png": b"\x89PNG of " + search.encode() for search in SEARCHES},
        **{f"receptive_fields/{search}-t0.json": f"field of {search}".encode() for search in SEARCHES},
    }
    for search in SEARCHES:
        points = [(e["time"], e["step"], e["values"]) for e in tracking if e["key"] == search]
        drawn = [{"system/gpu_0_power_usage_watts": repr(i + 0.5), "val_accuracy": repr(i / 700)} for i in range(300)]
        assert points[:-1] == [(1000 + i, i // 7, values) for i, values in enumerate(drawn)]
        assert points[-1] == (2000, 43, {"val_accuracy": "0.5", "charged_seconds": "43.21"})
        (loss,) = (e for e in tracking if e["key"] == f"{search}/t0")
        assert loss["values"] == {"train_loss": repr(1 / 3)}


def test_a_study_from_its_sqlite_file(logged, read, monkeypatch):
    check_folder(read(uri_of(logged)))
    monkeypatch.setattr(recall, "RUNS_AT_ONCE", 2)
    monkeypatch.setattr(recall, "RUNS_IN_BULK", 1)
    monkeypatch.setattr(recall, "POINTS_IN_BULK", 300)  # too few: then each run is asked for by itself
    check_folder(read(uri_of(logged)))


def test_a_study_from_a_server(study, server, gateway, read):
    log(study, study.open(server.address))
    assert study.client().search_runs(["1"])[0].info.artifact_uri.startswith("mlflow-artifacts:")
    check_folder(read(server.address))
    gateway.only, gateway.answer = "get-history-bulk", 404  # a server that does not have what MLflow's UI asks
    check_folder(read(gateway.address))
    assert sum(gateway.came.values()) == 3
    assert experiment_id(server.address, EXPERIMENT) == "1"


def test_the_study_that_ran_last_unless_another_is_asked_for(logged, read, tmp_path):
    first = next(logged.events())["study"]
    other = type(logged)(tmp_path / "other")
    other.folder.root.mkdir()
    log(other, other.open(uri_of(logged)))
    second = next(other.events())["study"]
    told: list[str] = []
    assert read(uri_of(logged), tell=told.append).study.read_text() == "of other: study.yaml"
    assert len(told) == 1
    assert "has 2 studies; this is the one that ran last" in told[0]
    assert first in told[0]
    assert second in told[0]
    told.clear()
    check_folder(read(uri_of(logged), study=first, tell=told.append))
    assert told == []
    with pytest.raises(UserError, match=f"study nobody: experiment digits_noise has none; it has: {second}"):
        read(uri_of(logged), study="nobody")


def test_a_study_that_has_not_ended_is_told(study, read):
    tracker = study.open()
    study.folder.study.write_text("of study: study.yaml")
    tracker.artifact(None, study.folder.study, "study")
    study.send_all(tracker)
    told: list[str] = []
    folder = read(uri_of(study), tell=told.append)
    assert told == ["no execution of the study has ended: the report is without its device time and its faults"]
    assert files_of(folder).keys() == {"study.yaml", "searches.jsonl", "finals.jsonl", "tracking.jsonl"}


def test_a_store_of_a_version_that_logged_no_rows(study, read):
    tracker = study.open()
    study.log_search(tracker)
    study.send_all(tracker)
    with pytest.raises(UserError, match=r"has no study/study.yaml in .*dastune report RUNDIR"):
        read(uri_of(study))


def test_what_is_no_experiment_of_a_study(study, read):
    with pytest.raises(UserError, match=r"experiment digits_noise: sqlite:.* has none; it has: Default"):
        read(uri_of(study))
    client = study.client()
    made = client.create_experiment(EXPERIMENT)
    with pytest.raises(UserError, match="no study has been logged there by dastune"):
        read(uri_of(study))
    client.delete_experiment(made)
    with pytest.raises(UserError, match="has none"):
        read(uri_of(study))


def test_a_store_that_does_not_answer(tmp_path, closed_port, read):
    damaged = tmp_path / "damaged.db"
    damaged.write_text("no database" * 100)
    for uri, why in {
        f"sqlite:///{tmp_path}/missing.db": "there is no such file",
        f"sqlite:///{damaged}": "not a database",
        f"http://anna:geheim@127.0.0.1:{closed_port}": "refused",
        f"postgresql://anna:geheim@127.0.0.1:{closed_port}/mlflow": "refused",
        "somewhere://else": "cannot be read as an MLflow store",
    }.items():
        with pytest.raises(UserError, match=why) as refusal:
            read(uri)
        assert "geheim" not in str(refusal.value)
        assert refusal.value.__cause__ is None
    assert not (tmp_path / "missing.db").exists()


@pytest.mark.parametrize("row", ["no JSON", "[]", "{}", row_of("das-n4-s1"), '{"id": "../../das-n4-s0"}'])
def test_rows_that_are_none_are_left_out_and_told(study, read, row):
    tracker = study.open()
    log(study, tracker)
    client = study.client()
    runs = study.runs()
    client.set_tag(runs["das-n4-s0"].info.run_id, "dastune.row", row)
    told: list[str] = []
    folder = read(uri_of(study), tell=told.append)
    assert told == ["1 runs have a row that cannot be read; they are left out"]
    assert folder.searches.read_text() == row_of("das-n4-s1") + "\n"
    assert files_of(folder).keys() >= {"policies/das-n4-s1.json"}
    assert not folder.policy("das-n4-s0").exists()


@pytest.mark.parametrize("key", ["../../das-n4-s0", "/etc/das", "das-n4-s0\n", "", "." * 5])
def test_a_key_that_is_no_file_name_is_left_out(logged, read, key):
    run_id = logged.runs()["das-n4-s0"].info.run_id
    logged.client().set_tag(run_id, "dastune.key", key)
    logged.client().set_tag(run_id, "dastune.row", json.dumps({"id": key}))
    folder = read(uri_of(logged))
    assert folder.searches.read_text() == row_of("das-n4-s1") + "\n"
    assert {path.parent for path in folder.root.parent.rglob("*") if path.is_file()} == {
        folder.root,
        folder.policies,
        folder.pictures,
        folder.receptive_fields,
    }


def test_a_name_that_is_no_folder_name_is_not_used(study, read):
    for name in ("../outside", "/tmp/outside", ""):
        place = type(study)(study.folder.root.parent / f"by-{len(name)}")
        shutil.copytree(study.folder.root, place.folder.root)
        tracker = Tracker.open(
            place.folder, uri=None, experiment=EXPERIMENT, study_params={"study": name}, dataset=study.dataset, tags={}
        )
        log(place, tracker)
        folder = read(uri_of(place))
        assert folder.root.name == "study"
        assert folder.root.parent.name.startswith("recalled-")


def test_links_and_giants_among_the_files_are_left_out(logged, read, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    homes = {search: Path(logged.runs()[search].info.artifact_uri.removeprefix("file://")) for search in SEARCHES}
    policy = homes["das-n4-s0"] / "policy" / "das-n4-s0.json"
    policy.unlink()
    policy.symlink_to(secret)
    (homes["das-n4-s1"] / "policy").rename(tmp_path / "elsewhere")
    (homes["das-n4-s1"] / "policy").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(recall, "MOST_PICTURE_BYTES", 3)
    monkeypatch.setattr(recall, "MOST_FIELD_BYTES", 3)
    folder = read(uri_of(logged))
    assert not any(folder.policies.iterdir())
    assert not any(folder.pictures.iterdir())
    assert not any(folder.receptive_fields.iterdir())


def test_of_two_runs_of_one_search_one_counts(logged, read):
    """A request that was given up may have made a second run; a person may have copied one."""
    client: MlflowClient = logged.client()
    run = logged.runs()["das-n4-s0"]
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("dastune.")}
    client.create_run(run.info.experiment_id, start_time=run.info.start_time - 1, tags=tags)
    client.create_run(
        run.info.experiment_id,
        start_time=run.info.start_time + 1,
        tags={name: value for name, value in tags.items() if name != "dastune.row"},
    )
    check_folder(read(uri_of(logged)))
