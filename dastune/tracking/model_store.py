"""How a trained network becomes a model of an MLflow store, and a version in its registry; both repeatably.

As runs, models and versions are found by their tags before they are made. A model that is not ready, since whoever made
it died in the middle, is completed. Which version has the alias is decided once, when the version is made: repeated
later, it would take the alias from a newer study.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from dastune.tracking.journal import RefusedError

PACKING_SECONDS = 300.0  # a model that takes longer is tried again
TRY_AGAIN = os.EX_TEMPFAIL  # what the process that packs ends with where another try may help

ALIAS, ALIASED = "best", "dastune.aliased"


def logged_model(
    client: MlflowClient, experiment_id: str, run_id: str, tags: dict[str, str], name: str, file: Path
) -> LoggedModel:
    """Return the model with these tags, made of the network in `file` if it is not there or not whole.

    Raises:
        RefusedError: there is no making a model of the file.
        RuntimeError: another try may help. Besides, whatever MLflow raises.
    """
    where = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
    found = list(client.search_logged_models([experiment_id], where))
    found.sort(key=lambda model: model.status == LoggedModelStatus.READY)
    for surplus in found[:-1]:  # of requests that arrived after their repeat
        if surplus.status != LoggedModelStatus.READY:
            client.delete_logged_model(surplus.model_id)
    run = client.get_run(run_id)
    if found:
        model = found[-1]
    else:
        model = client.create_logged_model(experiment_id, name, run_id, tags, run.data.params, "classifier")
    if model.status == LoggedModelStatus.READY:
        return model
    if not file.exists():
        raise RefusedError(file.name, f"{file} is gone before it could be sent")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        _pack(file, folder, run_id, model)
        client.log_model_artifacts(model.model_id, str(folder))
    outputs = run.outputs.model_outputs if run.outputs is not None else ()
    if model.model_id not in [output.model_id for output in outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    tested = client.get_metric_history(run_id, "test_accuracy")
    client.log_batch(
        run_id,
        [Metric(point.key, point.value, point.timestamp, point.step, model_id=model.model_id) for point in tested],
    )
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _pack(file: Path, target: Path, run_id: str, model: LoggedModel) -> None:
    """Make the model's folder; in another process, for the reasons that packing.py tells."""
    ids = {"run_id": run_id, "model_id": model.model_id, "model_uuid": model.model_id}
    spec = {"source": str(file), "target": str(target), "artifact_path": model.artifact_location, **ids}
    done = subprocess.run(
        [sys.executable, "-m", "dastune.tracking.packing", json.dumps(spec)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "MLFLOW_TRACKING_URI": f"sqlite:///{target}.db"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PACKING_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    if done.returncode < 0 or done.returncode == TRY_AGAIN:
        raise RuntimeError(f"{file}: the process that makes a model of it ended with {done.returncode}: {last}")
    raise RefusedError(file.name, f"no model can be made of it: {last}")


def register(
    client: MlflowClient, name: str, model: LoggedModel, run_id: str, tags: dict[str, str], description: str
) -> ModelVersion:
    """Return the version with these tags of a registered model, made of `model` if it is not there."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = [
        version for version in client.search_model_versions(f"name = '{name}'") if tags.items() <= version.tags.items()
    ]
    if versions:
        version = versions[-1]
    else:
        # Not models:/ID, which a store without a server looks up in the process' global tracking URI.
        source, model_id = model.artifact_location, model.model_id
        version = client.create_model_version(
            name, source, run_id, tags, description=description, await_creation_for=0, model_id=model_id
        )
    if ALIASED not in version.tags:
        client.set_registered_model_alias(name, ALIAS, version.version)
        client.set_model_version_tag(name, version.version, ALIASED, "true")
    return version
