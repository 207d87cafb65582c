"""Trained networks as models of a real sqlite store and its registry: once, and giving what the network gives."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import LoggedModel

from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.data.images import Images
from dastune.folder import StudyFolder, model_name
from dastune.tracking import Tracker, store_uri
from dastune.tracking.model_store import TRY_AGAIN, register
from dastune.training.loop import Task
from dastune.training.optim import Recipe
from dastune.training.trained import trained_to_bytes

if TYPE_CHECKING:
    from tests.tracking.conftest import Server, Study

pytestmark = [
    # MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|torch)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(mlflow|torch)"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

KEY = "das-n4.5-s0/t1"


# Stands in for the process that makes a model.
PACKS = f"""exec {sys.executable} -c '
import json, pathlib, sys
target = pathlib.Path(json.loads(sys.argv[1])["target"])
target.mkdir()
(target / "MLmodel").write_text("{{}}")' "$3" """


def network(folder: StudyFolder) -> tuple[Task, torch.nn.Module]:
    """Leave a Wide ResNet, as a final training does, in the folder; return it."""
    cpu = torch.device("cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 12, 12), dtype=np.uint8)
    images = Images(pixels, np.arange(40) % 5, np.arange(40), cpu)
    task = Task(
        train=images,
        held_out=images,
        classes=5,
        network="wide_resnet",
        network_options={"depth": 10, "width": 1, "dropout": 0.2},
        recipe=Recipe(20, 0.1, 0.9, 1e-4, "cosine", None),
        standard=StandardAugmentation(),
        normalise=Normalise([0.2, 0.4, 0.6], [0.1, 0.2, 0.3], cpu),
        device=cpu,
    )
    trained = task.new_network(3)
    for _ in range(3):  # so that its batch norms have seen something
        task.logits(trained, images.batch(torch.arange(40))[0])
    left(folder).write_bytes(trained_to_bytes(task, trained))
    return task, trained.eval()


def left(folder: StudyFolder) -> Path:
    path = folder.root / model_name("das-n4.5-s0", 1)
    path.parent.mkdir(exist_ok=True)
    return path


def log_final(study: "Study", tracker: Tracker, name: str | None = None) -> None:
    tracker.search("das-n4.5-s0", "das-n4.5-s0", {"method": "das"}, {})
    tracker.final(KEY, "das-n4.5-s0", "final", {"method": "das", "train_seed": 1}, {})
    tracker.metrics(KEY, 3, {"test_accuracy": 0.25}, 2000)
    tracker.model(KEY, left(study.folder), register=name, description="the best of 2, which is flattered")
    tracker.end(KEY)


def logged(study: "Study") -> list[LoggedModel]:
    experiment = study.client().get_experiment_by_name("digits_noise")
    assert experiment is not None
    return list(study.client().search_logged_models([experiment.experiment_id]))


def test_a_network_becomes_one_model_and_one_version(study: "Study", monkeypatch: pytest.MonkeyPatch) -> None:
    task, trained = network(study.folder)
    elsewhere = mlflow.get_tracking_uri()
    tracker = study.open()
    log_final(study, tracker, "digits-best")
    study.send_all(tracker)
    for line in (0, 3):  # sent again from there on
        study.rewind(line)
        study.send_all()
    assert mlflow.get_tracking_uri() == elsewhere

    run = study.runs()[KEY]
    [model] = logged(study)
    assert (model.name, model.source_run_id, str(model.status)) == ("das-n4-5-s0-t1", run.info.run_id, "READY")
    assert run.outputs is not None
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert model.metrics is not None
    assert [(metric.key, metric.value) for metric in model.metrics] == [("test_accuracy", 0.25)]
    assert study.points(run, "test_accuracy") == [(3, 2000, 0.25)]
    [version] = study.client().search_model_versions("name = 'digits-best'")
    aliased = study.client().get_model_version_by_alias("digits-best", "best")
    assert (aliased.version, aliased.run_id) == (version.version, run.info.run_id)
    assert "flattered" in aliased.description

    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri(study.folder, None))
    monkeypatch.setitem(sys.modules, "dastune", None)  # it is loaded without
    loaded = mlflow.pytorch.load_model("models:/digits-best@best")
    served = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    for count in (1, 2, 40):
        images_BCHW, _ = task.held_out.batch(torch.arange(count))
        with torch.no_grad():
            expected_BK = task.logits(trained, images_BCHW)
            torch.testing.assert_close(loaded(images_BCHW), expected_BK)
        np.testing.assert_allclose(served.predict(images_BCHW.numpy()), expected_BK.numpy(), rtol=1e-4, atol=1e-5)
    schema = served.metadata.signature
    assert [spec.shape for spec in (*schema.inputs.inputs, *schema.outputs.inputs)] == [(-1, 3, 12, 12), (-1, 5)]


@pytest.mark.cluster
def test_a_server_takes_and_registers_a_model(
    study: "Study", server: "Server", monkeypatch: pytest.MonkeyPatch
) -> None:
    task, trained = network(study.folder)
    server.start()
    for _ in range(2):
        tracker = study.open(server.address)
        log_final(study, tracker, "digits-best")
        study.send_all(tracker)
    [model] = logged(study)
    assert str(model.status) == "READY"
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    loaded = mlflow.pytorch.load_model("models:/digits-best@best")
    images_BCHW, _ = task.held_out.batch(torch.arange(40))
    with torch.no_grad():
        torch.testing.assert_close(loaded(images_BCHW), task.logits(trained, images_BCHW))


def test_a_file_that_is_no_network_is_refused_and_the_rest_goes_on(study: "Study") -> None:
    left(study.folder).write_bytes(b"no network")
    warnings: list[str] = []
    tracker = study.open(warn=warnings.append)
    log_final(study, tracker)
    study.send_all(tracker)
    assert study.runs()[KEY].info.status == "FINISHED"
    [warning] = warnings
    assert f"{KEY}: model: no model can be made of it" in warning


@pytest.mark.parametrize("end", ["kill -9 $$", f"echo 'No space left on device' >&2; exit {TRY_AGAIN}"])
def test_a_model_that_cannot_be_made_now_is_made_later(
    study: "Study", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The process that makes it dies; then, in place of the real one, one that leaves a file."""
    left(study.folder).touch()
    program = tmp_path / "python"
    monkeypatch.setattr("dastune.tracking.model_store.sys", type("sys", (), {"executable": str(program)}))

    def install(script: str) -> None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    install(end)
    warnings: list[str] = []
    tracker = study.open(warn=warnings.append)
    log_final(study, tracker)
    assert tracker.close(1.0) == 1
    assert "MLflow does not take files" in warnings[0]
    assert study.runs()[KEY].info.status == "FINISHED"
    assert [str(model.status) for model in logged(study)] == ["PENDING"]
    install(PACKS)
    study.send_all()
    assert [str(model.status) for model in logged(study)] == ["READY"]


def test_a_model_that_is_being_made_is_waited_for(
    study: "Study", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than for a store that does not answer."""
    left(study.folder).touch()
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nsleep 2\n{PACKS}\n")
    program.chmod(0o755)
    monkeypatch.setattr("dastune.tracking.model_store.sys", type("sys", (), {"executable": str(program)}))
    tracker = study.open()
    log_final(study, tracker)
    assert tracker.close(1.0) == 0
    assert [str(model.status) for model in logged(study)] == ["READY"]


def test_a_network_that_is_gone_is_told(study: "Study") -> None:
    warnings: list[str] = []
    tracker = study.open(warn=warnings.append)
    log_final(study, tracker)
    study.send_all(tracker)
    assert "is gone before it could be sent" in warnings[0]


def test_a_repeated_registration_does_not_take_the_alias_from_a_newer_study(study: "Study") -> None:
    study.send_all()
    client, experiment = study.client(), study.client().get_experiment_by_name("digits_noise")
    assert experiment is not None
    run = study.runs()["execution-0"]

    def registered(of: str) -> Callable[[], str]:
        model = client.create_logged_model(experiment.experiment_id, of, run.info.run_id)
        tags = {"dastune.key": "das-n0-s0/t0", "dastune.study_id": of}
        return lambda: str(register(client, "shared", model, run.info.run_id, tags, of).version)

    older, newer = registered("older"), registered("newer")
    assert [older(), newer(), older(), newer()] == ["1", "2", "1", "2"]
    assert str(client.get_model_version_by_alias("shared", "best").version) == "2"
    assert json.dumps(sorted(v.description for v in client.search_model_versions("name = 'shared'"))) == (
        '["newer", "older"]'
    )
