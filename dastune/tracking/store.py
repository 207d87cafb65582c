"""The only door to MLflow: one experiment of a store, and how each event is written into it, repeatably.

Every delivery can be repeated: runs are found by their key before they are made, and a metric point is a row of its own
key, step, time and value. How far the journal has been delivered is noted in the store itself, as a tag of the
experiment: a store that is new, was deleted or came back from a backup is sent exactly what it lacks, or more.

A request that was given up may still arrive. All but one change nothing then; one that makes a run makes a second, and
`_run` deletes it.

Imported by `Tracker.open` only: MLflow takes seconds to load.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as databases
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from dastune.folder import StudyFolder
from dastune.tracking.address import artifact_root, public
from dastune.tracking.journal import NOWHERE, DatasetInfo, EndStatus, Event, Place, RefusedError
from dastune.tracking.model_store import PACKING_SECONDS, logged_model, register
from dastune.tracking.views import view_tags

# As for HTTP (see MLFLOW_ENVIRONMENT): ten tries of its own to open a database take 102 s, and no option changes that.
databases.MAX_RETRY_COUNT = 1

# Tags by which runs, and the position in a study's journal, are found again.
KEY, STAGE, STUDY, PARENT = "dastune.key", "dastune.stage", "dastune.study_id", "mlflow.parentRunId"
DELIVERED = "dastune.delivered_bytes"

# The tag by which MLflow's UI and `mlflow.load_table` know which of a run's artifacts are tables.
TABLES = "mlflow.loggedArtifacts"


def _make_whole(path: Path) -> None:
    """Make an empty sqlite store: a process that dies while MLflow makes one leaves what MLflow cannot open."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{beside}").search_experiments(max_results=1)
    beside.replace(path)


class Store:
    """What one study writes into one store. `connect` comes before all else.

    Attributes:
        place: how far the store was at the last `connect` or `note`.
    """

    def __init__(self, folder: StudyFolder, uri: str, experiment: str, study_id: str) -> None:
        self._folder, self._uri, self._experiment, self._study_id = folder, uri, experiment, study_id
        self._delivered_tag = f"{DELIVERED}.{study_id}"
        self.place = NOWHERE
        self._client: MlflowClient
        self._run_ids: dict[str, str] = {}
        self._execution = ""  # the key of the last execution that began
        self._doubtful: set[str] = set()  # runs that a request may have made, or may still make, that was given up
        self._first = True  # the next search may be in the making by a driver that was killed

    def connect(self) -> None:
        """Open the store, find or make the experiment, and see how far it is. Raises whatever MLflow raises.

        To be called again at times: a store may be put back from a backup while it is in use.
        """
        if self.place == NOWHERE:
            if self._uri == f"sqlite:///{self._folder.mlflow_store}" and not self._folder.mlflow_store.exists():
                _make_whole(self._folder.mlflow_store)
            self._client = MlflowClient(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            self._make_experiment()
            found = self._client.get_experiment_by_name(self._experiment)
        if found is None or found.lifecycle_stage == "deleted":
            raise RuntimeError(f"its experiment {self._experiment!r} is deleted; restore it, or rename the study")
        delivered, _, batch = found.tags.get(self._delivered_tag, "0 0").partition(" ")
        place = Place(found.experiment_id, found.creation_time or 0, int(delivered), int(batch or 0))
        if place != self.place:
            self._run_ids.clear()
        self.place = place

    def _make_experiment(self) -> None:
        # So that the UI opens on training runs, and not on what it has for language models.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            self._client.create_experiment(self._experiment, artifact_root(self._folder, self._uri), kind)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another study of this name has just made it
                raise

    def note(self, place: Place) -> None:
        """Note in the store how far it is. Raises whatever MLflow raises."""
        value = f"{place.delivered_bytes} {place.batch}"
        self._client.set_experiment_tag(place.experiment_id, self._delivered_tag, value)
        self.place = place

    def deliver(self, event: Event) -> None:
        """Write one event. Raises RefusedError if it can never be written, anything else if it is worth another try."""
        try:
            match event.get("event"):
                case "begin":
                    self._begin(event)
                case "batch":
                    self._batch(event)
                case "artifact":
                    self._artifact(event)
                case "table":
                    self._table(event)
                case "model":
                    self._model(event)
                case "end":
                    self._end(event)
        except MlflowException as error:
            if _is_final(error):
                raise RefusedError(event["key"], f"{event['event']}: {public(str(error))}") from error
            raise

    @staticmethod
    def longest_seconds(event: Event) -> float:
        """Return how long an event may take without being stuck."""
        return PACKING_SECONDS if event.get("event") == "model" else 0.0

    def _run(self, key: str) -> Run | None:
        """Return a run if there is one; delete empty ones beside it, made by requests that arrived after their repeat.

        Such a request may come at any time, so where there is reason to expect one this is called again: when the run
        ends, and when the execution ends.
        """
        # The key alone: each tag that is asked for costs a look at that tag of all runs.
        found = self._client.search_runs([self.place.experiment_id], f"tags.`{KEY}` = '{key}'")
        runs = [run for run in found if run.data.tags.get(STUDY) == self._study_id]
        if not runs:
            return None
        known = self._run_ids.get(key)
        runs.sort(key=lambda run: (run.info.run_id == known, bool(run.data.params), bool(run.data.metrics)))
        for surplus in runs[:-1]:
            if not surplus.data.params and not surplus.data.metrics:
                self._client.delete_run(surplus.info.run_id)
        self._run_ids[key] = runs[-1].info.run_id
        return runs[-1]

    def _run_id(self, key: str) -> str:
        if key not in self._run_ids and self._run(key) is None:
            raise RefusedError(key, "no such run in the store")
        return self._run_ids[key]

    def _begin(self, event: Event) -> None:
        """Make the run, or open it again: a search that a later execution continues stays one run."""
        key, client = event["key"], self._client
        with _reading(event):
            time_ms, stage, parent = int(event["time"]), str(event["stage"]), event["parent"]
            params, tags = [Param(*item) for item in event["params"].items()], [*event["tags"].items()]
            dataset = _dataset_input(DatasetInfo(**event["dataset"]))
        if stage == "execution":
            self._execution = key
            self._add_views(time_ms, event["params"])
            self._end_earlier_executions(key, time_ms)
        elif self._first:
            self._first = False
            self._doubtful.add(key)
        run = self._run(key)
        if run is not None:
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            above = {PARENT: self._run_id(parent)} if parent and self._has(parent) else {}
            short = {name: value for name, value in tags if len(value) <= MAX_TAG_VAL_LENGTH}  # others are cut below
            try:
                run = client.create_run(
                    self.place.experiment_id,
                    time_ms,
                    {**short, KEY: key, STAGE: stage, STUDY: self._study_id, **above},
                    event["name"],
                )
            except Exception:
                self._doubtful.add(key)
                raise
        run_id = self._run_ids[key] = run.info.run_id
        # A parameter's value cannot change: on a run that was there before, only the missing ones are sent.
        missing = [param for param in params if param.key not in run.data.params]
        changed = [RunTag(*item) for item in tags if run.data.tags.get(item[0]) != item[1]]
        client.log_batch(run_id, params=missing, tags=changed)
        _twice(client.log_inputs, run_id, datasets=[dataset])

    def _has(self, key: str) -> bool:
        return key in self._run_ids or self._run(key) is not None

    def _add_views(self, time_ms: int, params: Mapping[str, str]) -> None:
        """Add the views that the experiment lacks; others are as they were made, or as a person has changed them."""
        there = self._client.get_experiment(self.place.experiment_id).tags
        for name, value in view_tags(time_ms, params).items():
            if name not in there:
                _twice(self._client.set_experiment_tag, self.place.experiment_id, name, value)

    def _end_earlier_executions(self, key: str, time_ms: int) -> None:
        """Mark executions that were killed: nobody was left to end their runs."""
        running = (
            f"tags.`{STUDY}` = '{self._study_id}' and tags.`{STAGE}` = 'execution' and attributes.status = 'RUNNING'"
        )
        where = f"{running} and attributes.start_time < {time_ms}"
        for run in self._client.search_runs([self.place.experiment_id], where):
            if run.data.tags[KEY] != key:
                self._client.set_terminated(run.info.run_id, "KILLED", time_ms)

    def _batch(self, event: Event) -> None:
        """Log points and tags. MLflow takes all or none of a request: where it forbids one, send name by name."""
        points, tags, forbidden = _read_batch(event)
        run_id = self._run_id(event["key"])
        try:
            self._client.log_batch(run_id, [metric for name in points for metric in points[name]], tags=tags)
        except MlflowException as error:
            parts: list[tuple[list[Metric], list[RunTag]]] = [([], tags), *((part, []) for part in points.values())]
            if not _is_final(error) or (len(points) == 1 and not tags):
                raise
            for metrics, run_tags in parts:
                try:
                    self._client.log_batch(run_id, metrics, tags=run_tags)
                except MlflowException as error:
                    if not _is_final(error):
                        raise
                    forbidden = forbidden or public(str(error))
        if forbidden:
            raise RefusedError(event["key"], f"metrics or tags: {forbidden}")

    def _end(self, event: Event) -> None:
        key, status = event["key"], event["status"]
        with _reading(event):
            time_ms = int(event["time"])
        if status not in get_args(EndStatus):
            raise RefusedError(key, f"end: {status!r} is no status")
        for doubtful in self._doubtful if key == self._execution else self._doubtful & {key}:
            self._run(doubtful)
        self._client.set_terminated(self._run_id(key), status, time_ms)

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

    def _model(self, event: Event) -> None:
        key, run_id = event["key"], self._run_id(event["key"])
        tags = {KEY: key, STUDY: self._study_id}
        name = key.replace("/", "-").replace(".", "-")  # MLflow takes neither
        with _reading(event):
            file = self._folder.root / event["path"]
        try:
            model = logged_model(self._client, self.place.experiment_id, run_id, tags, name, file)
        except RefusedError as refusal:
            raise RefusedError(key, f"model: {refusal.args[1]}") from refusal
        if event["register"] is not None:
            register(self._client, str(event["register"]), model, run_id, tags, str(event["description"]))

    def _path(self, event: Event) -> Path:
        path: Path = self._folder.root / event["path"]
        if not path.exists():
            raise RefusedError(event["key"], f"{path} is gone before it could be sent")
        return path


def _read_batch(batch: Event) -> tuple[dict[str, list[Metric]], list[RunTag], str]:
    """Return the points of a batch by name, its tags, and what is wrong with those that cannot be sent."""
    points: dict[str, list[Metric]] = {}
    tags: dict[str, str] = {}
    forbidden = ""
    for event in (*batch["metrics"], *batch["tags"]):
        try:
            with _reading(event):
                for name, value in event["values" if event["event"] == "metrics" else "tags"].items():
                    if event["event"] == "tags":
                        tags[name] = str(value)
                    else:
                        metric = Metric(name, float(value), int(event["time"]), int(event["step"]))
                        points.setdefault(name, []).append(metric)
        except RefusedError as refusal:
            forbidden = forbidden or refusal.args[1]
    for name in [name for name, value in tags.items() if len(value) > MAX_TAG_VAL_LENGTH]:
        del tags[name]  # MLflow would cut it, and a row that is cut is none
        forbidden = forbidden or f"{name} is longer than {MAX_TAG_VAL_LENGTH:,} characters"
    return points, [RunTag(*item) for item in tags.items()], forbidden


def _twice(call: Callable[..., object], *arguments: Any, **named: Any) -> None:
    """Call, and once more if it conflicts with another study that has just written the same.

    MLflow looks whether a data set or a tag is there, then adds it, without a lock; the second look finds it.
    """
    try:
        call(*arguments, **named)
    except MlflowException as error:
        if error.error_code != "BAD_REQUEST":
            raise
        call(*arguments, **named)


@contextmanager
def _reading(event: Event) -> Iterator[None]:
    """Refuse an event whose fields are not what they were written as: no other try would read them."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        raise RefusedError(event["key"], f"{event['event']}: damaged in the journal") from error


def _is_final(error: MlflowException) -> bool:
    """Say whether MLflow will never take it: a value it forbids, a run that a person has deleted."""
    return error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


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
