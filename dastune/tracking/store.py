"""The only door to MLflow: one experiment of a store, and how each event is written into it, repeatably.

Every delivery can be repeated: runs are found by their key before they are made, and a metric point is a row of its own
key, step, time and value. How far the journal has been delivered is noted in the store itself, as a tag of the
experiment: a store that is new, was deleted or came back from a backup is sent exactly what it lacks, or more.

Imported by `Tracker.open` only: MLflow takes seconds to load.
"""

import contextlib
import json
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from dastune.folder import StudyFolder
from dastune.tracking.address import artifact_root, public
from dastune.tracking.journal import DatasetInfo, Event, RefusedError

# Tags by which runs, and the position in a study's journal, are found again.
KEY, STAGE, STUDY, PARENT = "dastune.key", "dastune.stage", "dastune.study_id", "mlflow.parentRunId"
DELIVERED = "dastune.delivered_bytes"

# The tag by which MLflow's UI and `mlflow.load_table` know which of a run's artifacts are tables.
TABLES = "mlflow.loggedArtifacts"


class Store:
    """What one study writes into one store. `connect` comes before all else.

    Attributes:
        delivered_bytes: how much of the journal the store has had; 0 before `connect`.
    """

    def __init__(self, folder: StudyFolder, uri: str, experiment: str, study_id: str) -> None:
        self._folder, self._uri, self._experiment, self._study_id = folder, uri, experiment, study_id
        self._delivered_tag = f"{DELIVERED}.{study_id}"
        self.delivered_bytes = 0
        self._client: MlflowClient
        self._experiment_id = ""
        self._run_ids: dict[str, str] = {}

    def connect(self) -> None:
        """Open the store, unless it is open, and find or make the experiment. Raises whatever MLflow raises."""
        if self._experiment_id:
            return
        self._client = MlflowClient(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            root = artifact_root(self._folder, self._uri)
            # So that the UI opens on training runs, and not on what it has for language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            self._experiment_id = self._client.create_experiment(self._experiment, root, kind)
        elif found.lifecycle_stage == "deleted":
            raise RuntimeError(f"its experiment {self._experiment!r} is deleted; restore it, or rename the study")
        else:
            self.delivered_bytes = int(found.tags.get(self._delivered_tag, 0))
            self._experiment_id = found.experiment_id

    def note_delivered(self, delivered_bytes: int) -> None:
        """Note that the store has had so much of the journal; a failure only means that some is sent again."""
        self.delivered_bytes = delivered_bytes
        with contextlib.suppress(Exception):
            self._client.set_experiment_tag(self._experiment_id, self._delivered_tag, delivered_bytes)

    def deliver(self, event: Event) -> None:
        """Write one event. Raises RefusedError if it can never be written, anything else if it is worth another try."""
        try:
            match event.get("event"):
                case "begin":
                    self._begin(event)
                case "metrics":
                    self._metrics(event)
                case "artifact":
                    self._artifact(event)
                case "table":
                    self._table(event)
                case "end":
                    self._client.set_terminated(self._run_id(event["key"]), event["status"], event["time"])
        except MlflowException as error:
            # Values that MLflow forbids, and runs that a person has deleted: another try would stop the line for good.
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise RefusedError(event["key"], f"{event['event']}: {public(str(error))}") from error
            raise

    def _search(self, where: str) -> list[Run]:
        """Return the study's runs that `where` holds for, the oldest first."""
        where = f"tags.`{STUDY}` = '{self._study_id}' and {where}"
        return list(self._client.search_runs([self._experiment_id], where, order_by=["attributes.start_time ASC"]))

    def _run_id(self, key: str) -> str:
        if key not in self._run_ids:
            runs = self._search(f"tags.`{KEY}` = '{key}'")
            if not runs:
                raise RefusedError(key, "no such run in the store")
            self._run_ids[key] = runs[0].info.run_id
        return self._run_ids[key]

    def _begin(self, event: Event) -> None:
        """Make the run, or open it again: a search that a later execution continues stays one run."""
        key, client = event["key"], self._client
        if event["stage"] == "execution":
            self._end_earlier_executions(event)
        if runs := self._search(f"tags.`{KEY}` = '{key}'"):
            run = runs[0]
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            parent = {PARENT: self._run_id(event["parent"])} if event["parent"] else {}
            tags = {KEY: key, STAGE: event["stage"], STUDY: self._study_id, **parent}
            run = client.create_run(self._experiment_id, event["time"], tags, event["name"])
        run_id = self._run_ids[key] = run.info.run_id
        # A parameter's value cannot change: on a run that was there before, only the missing ones are sent.
        params = [Param(*item) for item in event["params"].items() if item[0] not in run.data.params]
        client.log_batch(run_id, params=params, tags=[RunTag(*item) for item in event["tags"].items()])
        client.log_inputs(run_id, datasets=[_dataset_input(DatasetInfo(**event["dataset"]))])

    def _end_earlier_executions(self, event: Event) -> None:
        """Mark executions that were killed: nobody was left to end their runs."""
        running = f"tags.`{STAGE}` = 'execution' and attributes.status = 'RUNNING'"
        for run in self._search(f"{running} and attributes.start_time < {event['time']}"):
            if run.data.tags[KEY] != event["key"]:
                self._client.set_terminated(run.info.run_id, "KILLED", event["time"])

    def _metrics(self, event: Event) -> None:
        points = [Metric(k, float(v), p["time"], p["step"]) for p in event["points"] for k, v in p["values"].items()]
        self._client.log_batch(self._run_id(event["key"]), metrics=points)

    def _artifact(self, event: Event) -> None:
        self._client.log_artifact(self._run_id(event["key"]), str(self._path(event)), event["folder"])

    def _table(self, event: Event) -> None:
        """Log what `mlflow.log_table` would, which appends to the table that is there: repeated, it is doubled."""
        run_id, name = self._run_id(event["key"]), event["name"]
        self._client.log_text(run_id, self._path(event).read_text(encoding="utf-8"), name)
        tables = json.loads(self._client.get_run(run_id).data.tags.get(TABLES, "[]"))
        entry = {"path": name, "type": "table"}
        if entry not in tables:
            self._client.set_tag(run_id, TABLES, json.dumps([*tables, entry]))

    def _path(self, event: Event) -> Path:
        path: Path = self._folder.root / event["path"]
        if not path.exists():
            raise RefusedError(event["key"], f"{path} is gone before it could be sent")
        return path


def _dataset_input(dataset: DatasetInfo) -> DatasetInput:
    """Return a data set as MLflow's input, its source in a form that MLflow's readers know."""
    is_url = dataset.source.startswith(("http:", "https:"))
    source = {"url": dataset.source} if is_url else {"tags": {"mlflow.source.name": dataset.source}}
    return DatasetInput(
        Dataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type="http" if is_url else "code",
            source=json.dumps(source),
            profile=json.dumps({"images": dataset.images, "classes": dataset.classes}),
        ),
        tags=[InputTag("mlflow.data.context", "training")],
    )
