"""The only door to MLflow: the driver appends events to a journal, a thread delivers them to the store.

A tracking call appends one JSON line to the study's folder and returns; it never waits for MLflow. One daemon thread
sends the lines in order and keeps a line until the store has taken it; a position file beside the journal counts the
bytes delivered. The position may lag behind the store (a crash in between, a lagging disk), so every delivery can be
repeated: runs are found by their key before they are made, and a metric point is a row of its own key, step, time and
value. A journal is sent from its start to a store that has not had it.
"""

import contextlib
import json
import logging
import math
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dastune.errors import UserError
from dastune.folder import StudyFolder, write_atomic

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
Event = dict[str, Any]

# Tags by which runs are found again.
KEY, STAGE, STUDY, PARENT = "dastune.key", "dastune.stage", "dastune.study_id", "mlflow.parentRunId"

# MLflow's limits: characters of a parameter's and a tag's value, entries of one request.
PARAM_CHARS, TAG_CHARS = 6000, 8000
PARAMS_PER_REQUEST, METRICS_PER_REQUEST = 100, 1000

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0

# A request costs some 10 ms of the driver's time whatever it holds, so the sender gathers before it sends.
GATHER_SECONDS, LINES_AT_ONCE = 1.0, 200

# Set before the import of MLflow, where the user has not chosen otherwise: no telemetry, no log lines into the live
# table (failures are told through `warn`), no URLs on stdout. Retries are ours: MLflow's own would repeat a POST that
# makes a run, and hold the thread for minutes.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}

_LOG = logging.getLogger(__name__)

# One delivery at a time in this process: a tracker closed in the middle of a slow call and its successor on the same
# folder must not both look for a run and both make it.
_DELIVERING = threading.Lock()


@dataclass(frozen=True)
class DatasetInfo:
    """The data set of a study, logged as an input of each run.

    `digest`: at most 36 characters; `source`: a URL, or where the data comes from in words.
    """

    name: str
    digest: str
    source: str
    images: int
    classes: int


class RefusedError(Exception):
    """The store has answered that it will never take this event."""


class Journal:
    """The append-only event file of a study's folder, and the position up to which a store has had it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = path.with_name(f"{path.name}.position")
        self._lock = threading.Lock()
        self._file: FileIO | None = None

    def append(self, event: Event) -> None:
        """Add one line. Raises OSError if the disk does not take it, ValueError after `close`."""
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        with self._lock:
            if self._file is None:
                self._file = self._open()
            self._file.write(line)

    def _open(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line leaves in one write, and is with the kernel when `append` returns.
        file = self.path.open("ab+", buffering=0)
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a line torn by a crash
                file.write(b"\n")
        return file

    def read(self, start: int) -> Iterator[tuple[int, Event]]:
        """Yield (byte offset of its end, event) of each whole line from `start`; an unreadable line is empty."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start += len(line)
                try:
                    yield start, dict(json.loads(line))
                except (TypeError, ValueError):
                    yield start, {}

    def position(self, store: str) -> int:
        """Return how many bytes `store` has had: 0 if another store was the last."""
        try:
            saved = json.loads(self._position.read_text())
            known = saved["store"] == store and saved["bytes"] <= self.path.stat().st_size
            return int(saved["bytes"]) if known else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def save_position(self, store: str, delivered_bytes: int) -> None:
        """Note that `store` has had the first `delivered_bytes`; a failure only means that some are sent again."""
        with contextlib.suppress(OSError):
            write_atomic(self._position, json.dumps({"store": store, "bytes": delivered_bytes}))

    def close(self) -> None:
        """Take no more events."""
        if self._file is not None:
            self._file.close()


class Store:
    """One experiment of an MLflow store, and how each event is written into it, repeatably."""

    def __init__(self, folder: StudyFolder, uri: str, experiment: str, study_id: str) -> None:
        self._folder, self._uri, self._experiment, self._study_id = folder, uri, experiment, study_id
        # Without the folder's path: a folder that was moved still has its position in its own store.
        self.name = _public(uri).replace(str(folder.root), ".")
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._run_ids: dict[str, str] = {}

    def connect(self) -> "MlflowClient":
        """Open the store once and find or make the experiment. Raises whatever MLflow raises."""
        if self._client is not None:
            return self._client
        for name, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._uri)
        found = client.get_experiment_by_name(self._experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            raise RuntimeError(f"its experiment {self._experiment!r} is deleted; restore it, or rename the study")
        self._experiment_id = (
            found.experiment_id
            if found is not None
            else client.create_experiment(self._experiment, _artifacts(self._folder, self._uri))
        )
        self._client = client
        return client

    def deliver(self, event: Event) -> None:
        """Write one event. Raises RefusedError if it can never be written, anything else if it is worth another try."""
        client = self.connect()
        from mlflow.exceptions import MlflowException

        try:
            match event.get("event"):
                case "begin":
                    self._begin(client, event)
                case "metrics":
                    self._metrics(client, event)
                case "artifact":
                    self._artifact(client, event)
                case "end":
                    client.set_terminated(self._run_id(client, event["key"]), event["status"], event["time"])
        except MlflowException as error:
            # Values that MLflow forbids, and runs that a person has deleted: another try would stop the line for good.
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise RefusedError(f"{event.get('key')}: {event.get('event')}: {_public(str(error))}") from error
            raise

    def _find(self, client: "MlflowClient", key: str) -> "Run | None":
        where = f"tags.`{STUDY}` = '{self._study_id}' and tags.`{KEY}` = '{key}'"
        runs = client.search_runs([self._experiment_id], where, max_results=1, order_by=["attributes.start_time ASC"])
        return runs[0] if runs else None

    def _run_id(self, client: "MlflowClient", key: str) -> str:
        if key not in self._run_ids:
            run = self._find(client, key)
            if run is None:
                raise RefusedError(f"{key}: no such run in the store")
            self._run_ids[key] = run.info.run_id
        return self._run_ids[key]

    def _begin(self, client: "MlflowClient", event: Event) -> None:
        """Make the run, or open it again: a search that a later execution continues stays one run."""
        from mlflow.entities import Param, RunTag

        key = event["key"]
        if event["stage"] == "execution":
            self._end_earlier_executions(client, event)
        run = self._find(client, key)
        if run is None:
            tags = event["tags"] | {KEY: key, STAGE: event["stage"], STUDY: self._study_id}
            if event["parent"] is not None:
                tags[PARENT] = self._run_id(client, event["parent"])
            run = client.create_run(self._experiment_id, event["time"], tags, event["name"])
        else:
            client.update_run(run.info.run_id, status="RUNNING")
            client.log_batch(run.info.run_id, tags=[RunTag(*tag) for tag in event["tags"].items()])
        run_id = self._run_ids[key] = run.info.run_id
        # A parameter's value cannot change: on a run that was there before, only the missing ones are sent.
        params = (Param(*item) for item in event["params"].items() if item[0] not in run.data.params)
        while some := list(islice(params, PARAMS_PER_REQUEST)):
            client.log_batch(run_id, params=some)
        client.log_inputs(run_id, datasets=[_dataset_input(DatasetInfo(**event["dataset"]))])

    def _end_earlier_executions(self, client: "MlflowClient", event: Event) -> None:
        """Mark executions that were killed: nobody was left to end their runs."""
        where = (
            f"tags.`{STUDY}` = '{self._study_id}' and tags.`{STAGE}` = 'execution' "
            f"and attributes.status = 'RUNNING' and attributes.start_time < {event['time']}"
        )
        for run in client.search_runs([self._experiment_id], where):
            if run.data.tags[KEY] != event["key"]:
                client.set_terminated(run.info.run_id, "KILLED", event["time"])

    def _metrics(self, client: "MlflowClient", event: Event) -> None:
        from mlflow.entities import Metric

        run_id = self._run_id(client, event["key"])
        points = (Metric(k, float(v), p["time"], p["step"]) for p in event["points"] for k, v in p["values"].items())
        while some := list(islice(points, METRICS_PER_REQUEST)):
            client.log_batch(run_id, metrics=some)

    def _artifact(self, client: "MlflowClient", event: Event) -> None:
        path = self._folder.root / event["path"]
        if not path.exists():
            raise RefusedError(f"{event['key']}: {path} is gone before it could be sent")
        client.log_artifact(self._run_id(client, event["key"]), str(path), event["folder"])


class Tracker:
    """What the driver calls. All but `open` and `close` append a line and return.

    A key names one run of the study, whichever execution writes to it; None is this execution's own run. Steps are
    whole charged seconds, times are milliseconds since 1970.
    """

    def __init__(self, folder: StudyFolder, store: Store, dataset: DatasetInfo, warn: Callable[[str], None]) -> None:
        """Make a tracker that sends nothing yet; see `open`."""
        self._folder, self._store, self._dataset, self._warn = folder, store, dataset, warn
        self._journal = Journal(folder.tracking)
        self._delivered = self._journal.position(store.name)
        self._execution = f"execution-{secrets.token_hex(4)}"
        self._warned: set[str] = set()
        self._wake, self._closing, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._sender = threading.Thread(target=self._send, name="dastune-tracking", daemon=True)

    @classmethod
    def open(
        cls,
        folder: StudyFolder,
        *,
        uri: str | None,
        experiment: str,
        study_params: Mapping[str, str],
        dataset: DatasetInfo,
        tags: Mapping[str, str],
        required: bool = True,
        warn: Callable[[str], None] | None = None,
    ) -> "Tracker":
        """Open the store, make the experiment and this execution's run, and start sending.

        To be called before any other process opens the store: several that open a fresh sqlite file at once fail in
        its migrations. What an earlier execution could not deliver is sent first, in its order.

        Args:
            uri: of the store; None for MLFLOW_TRACKING_URI where set, else the folder's own sqlite file.
            required: whether a store that cannot be opened is an error; if not, events wait for it in the journal.
            warn: told once when the store does not answer, and once for each run that has an event refused;
                default: the log.

        Raises:
            UserError: `required`, and the store cannot be opened. Nothing is in the journal then.
        """
        uri = store_uri(folder, uri)
        folder.root.mkdir(parents=True, exist_ok=True)
        study = next((event["study"] for _, event in Journal(folder.tracking).read(0) if "study" in event), None)
        study = study or secrets.token_hex(8)
        tracker = cls(folder, Store(folder, uri, experiment, study), dataset, warn or _LOG.warning)
        name = f"{experiment} {time.strftime('%Y-%m-%d %H:%M')}"
        event = tracker._begin("execution", tracker._execution, None, name, study_params, tags) | {"study": study}
        try:
            with _DELIVERING:
                tracker._store.deliver(event)
        except Exception as error:  # MLflow's, SQLAlchemy's, the network's, a missing database driver
            if required:
                raise UserError(
                    f"tracking.uri: {_public(uri)} cannot be used as an MLflow store ({_public(str(error))}); give "
                    "sqlite:////PATH/mlflow.db, or http://HOST:PORT of a running `mlflow server`, or neither it nor "
                    "MLFLOW_TRACKING_URI for a store in the study's folder"
                ) from error
        tracker._append(event)
        tracker._sender.start()
        return tracker

    def search(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Begin a search's run under this execution's, or open it again if an earlier execution made it."""
        self._append(self._begin("search", key, self._execution, name, params, tags))

    def final(self, key: str, search_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Begin a final training's run under its search's, or open it again."""
        self._append(self._begin("final", key, search_key, name, params, tags))

    def metrics(self, key: str | None, step: int, values: Mapping[str, float], timestamp_ms: int) -> None:
        """Log values at one step. The same call twice, time included, is one point a value."""
        # JSON has no NaN and no infinity; as words they pass through float() on the other side.
        plain = {name: v if math.isfinite(v) else str(v) for name, v in ((n, float(v)) for n, v in values.items())}
        self._add("metrics", key, time=int(timestamp_ms), step=int(step), values=plain)

    def policy(self, key: str, path: Path) -> None:
        """Log a policy file as an artifact of its search's run."""
        self.artifact(key, path, "policy")

    def artifact(self, key: str | None, path: Path, folder_in_run: str | None = None) -> None:
        """Log a file or a folder as it is when it is sent, which may be later: it has to stay where it is."""
        path = Path(path).absolute()
        inside = path.relative_to(self._folder.root) if path.is_relative_to(self._folder.root) else path
        self._add("artifact", key, path=str(inside), folder=folder_in_run)

    def end(self, key: str | None, status: EndStatus = "FINISHED") -> None:
        """End a run."""
        self._add("end", key, time=_now_ms(), status=status)

    def close(self, timeout_seconds: float) -> int:
        """Send what `timeout_seconds` allow, take no more, and return how many events may be undelivered.

        They stay in the journal; the next tracker on the folder sends them.
        """
        self._closing.set()
        self._wake.set()
        self._sender.join(timeout_seconds)
        self._stop.set()
        self._journal.close()
        return sum(1 for _ in self._journal.read(self._delivered))

    def _begin(
        self,
        stage: str,
        key: str,
        parent: str | None,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
    ) -> Event:
        return {
            "event": "begin",
            "key": key,
            "time": _now_ms(),
            "stage": stage,
            "parent": parent,
            "name": name,
            "params": {name: str(value)[:PARAM_CHARS] for name, value in params.items()},
            "tags": {name: str(value)[:TAG_CHARS] for name, value in tags.items()},
            "dataset": asdict(self._dataset),
        }

    def _add(self, event: str, key: str | None, **fields: Any) -> None:
        self._append({"event": event, "key": key or self._execution, **fields})

    def _append(self, event: Event) -> None:
        self._journal.append(event)
        self._wake.set()

    def _send(self) -> None:
        """Send the journal's rest whenever there is more; the body of the sender thread."""
        closing = False
        while not closing and not self._stop.is_set():
            self._wake.wait()
            self._closing.wait(GATHER_SECONDS)
            self._wake.clear()
            closing = self._closing.is_set()  # read before the last look, which then sees every event
            while lines := list(islice(self._journal.read(self._delivered), LINES_AT_ONCE)):
                if not all(self._deliver(event) for event in _merged(event for _, event in lines)):
                    break
                self._delivered = lines[-1][0]
                self._journal.save_position(self._store.name, self._delivered)

    def _deliver(self, event: Event) -> bool:
        """Send one event, as often as it takes; return False if stopped before it was taken."""
        wait_seconds = FIRST_WAIT_SECONDS
        while not self._stop.is_set():
            try:
                with _DELIVERING:
                    self._store.deliver(event)
                return True
            except RefusedError as refusal:
                self._warn_once(str(event.get("key")), f"MLflow does not take an event; left out: {refusal}")
                return True
            except Exception as error:  # whatever stands between here and the store: keep the line, try again
                self._warn_once(
                    "", f"MLflow does not answer; the study goes on, its events wait in {self._journal.path}: {error}"
                )
                # While closing, only the caller's deadline ends the wait, and the tries come closer together.
                signal = self._stop if self._closing.is_set() else self._closing
                signal.wait(min(wait_seconds, FIRST_WAIT_SECONDS) if signal is self._stop else wait_seconds)
                wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
        return False

    def _warn_once(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            self._warn(_public(message))


def store_uri(folder: StudyFolder, uri: str | None) -> str:
    """Return the URI of a study's store: `uri`, else MLFLOW_TRACKING_URI, else the sqlite file in its folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.mlflow_store}"


def ui_command(folder: StudyFolder, uri: str | None, port: int = 5000) -> list[str]:
    """Return the command that serves the MLflow UI on loopback; run it in `ui_environment`.

    Raises UserError if the store is a server, which has its own UI.
    """
    uri = store_uri(folder, uri)
    if uri.startswith(("http:", "https:")):
        raise UserError(f"tracking.uri: {_public(uri)} is a server with a UI of its own; open it in a browser")
    return [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def ui_environment(folder: StudyFolder, uri: str | None) -> dict[str, str]:
    """Return what `ui_command` needs in its environment; the store is here because its URI may hold a password."""
    return {
        "MLFLOW_BACKEND_STORE_URI": store_uri(folder, uri),
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": folder.mlflow_artifacts.as_uri(),  # else ./mlruns of wherever it is started
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes and twenty seconds, for nothing here
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _merged(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events with the metrics of each run between two others of it as one, in the order that a run needs."""
    waiting: dict[str, Event] = {}
    for event in events:
        key = event.get("key", "")
        if event.get("event") == "metrics":
            waiting.setdefault(key, {"event": "metrics", "key": key, "points": []})["points"].append(event)
        else:
            if key in waiting:
                yield waiting.pop(key)
            yield event
    yield from waiting.values()


def _artifacts(folder: StudyFolder, uri: str) -> str | None:
    """Return where a new experiment keeps its artifacts: a server decides itself, MLflow's default is ./mlruns."""
    if uri.startswith("sqlite:///"):
        return (Path(uri.removeprefix("sqlite:///")).absolute().parent / folder.mlflow_artifacts.name).as_uri()
    return folder.mlflow_artifacts.as_uri() if uri.startswith(("postgresql", "mysql", "mssql")) else None


def _public(text: str) -> str:
    """Return the first line of `text`, at most 500 characters, its URIs without user, password and query."""
    first_line = text.strip().partition("\n")[0][:500]
    return re.sub(r"\?\S+", "", re.sub(r"(\w://)[^/\s]*@", r"\1", first_line))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _dataset_input(dataset: DatasetInfo) -> "DatasetInput":
    """Return a data set as MLflow's input, its source in a form that MLflow's readers know."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

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
