"""What the driver calls, and the thread that sends.

A tracking call appends one JSON line to the study's journal and returns; it never waits for MLflow. One daemon thread
sends the lines in order and keeps a line until the store has taken it. The next execution sends what was left.
"""

import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dastune.errors import UserError
from dastune.folder import StudyFolder, append_line
from dastune.tracking.address import MLFLOW_ENVIRONMENT, public, store_uri
from dastune.tracking.journal import DatasetInfo, EndStatus, Event, RefusedError, merged, read

if TYPE_CHECKING:
    from dastune.tracking.store import Store

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0

# A request costs some 10 ms of the driver's time whatever it holds, so the sender gathers before it sends.
GATHER_SECONDS, LINES_AT_ONCE = 1.0, 200

_LOG = logging.getLogger(__name__)

# One delivery at a time in this process: a tracker closed in the middle of a slow call and its successor on the same
# folder must not both look for a run and both make it.
_DELIVERING = threading.Lock()


class Tracker:
    """One execution's tracking. All methods but `open` and `close` append a line and return.

    A key names one run of the study, whichever execution writes to it; None is this execution's own run. Steps are
    whole charged seconds, times are milliseconds since 1970.
    """

    def __init__(self, folder: StudyFolder, store: "Store", dataset: DatasetInfo, warn: Callable[[str], None]) -> None:
        """Make a tracker that sends nothing yet; see `open`."""
        self._folder, self._store, self._dataset, self._warn = folder, store, dataset, warn
        self._journal = folder.tracking
        self._execution = f"execution-{secrets.token_hex(4)}"
        self._warned: set[str] = set()
        self._closing, self._deadline = threading.Event(), math.inf
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
        for variable, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        from dastune.tracking.store import Store

        uri = store_uri(folder, uri)
        folder.root.mkdir(parents=True, exist_ok=True)
        studies = (event["study"] for _, event in read(folder.tracking, 0) if "study" in event)
        study = next(studies, None) or secrets.token_hex(8)
        store = Store(folder, uri, experiment, study)
        tracker = cls(folder, store, dataset, warn or _LOG.warning)
        name = f"{experiment} {time.strftime('%Y-%m-%d %H:%M')}"
        begin = tracker._begin("execution", tracker._execution, None, name, study_params, tags) | {"study": study}
        try:
            with _DELIVERING:
                store.connect()
                store.deliver(begin)
        except Exception as error:  # MLflow's, SQLAlchemy's, the network's, a missing database driver
            if required:
                raise UserError(
                    f"tracking.uri: {public(uri)} cannot be used as an MLflow store ({public(str(error))}); give "
                    "sqlite:////PATH/mlflow.db, or http://HOST:PORT of a running `mlflow server`, or neither it nor "
                    "MLFLOW_TRACKING_URI for a store in the study's folder"
                ) from error
        append_line(folder.tracking, begin)
        tracker._sender.start()
        return tracker

    def search(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Begin a search's run under this execution's, or open it again if an earlier execution made it."""
        append_line(self._journal, self._begin("search", key, self._execution, name, params, tags))

    def final(self, key: str, search_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Begin a final training's run under its search's, or open it again."""
        append_line(self._journal, self._begin("final", key, search_key, name, params, tags))

    def metrics(self, key: str | None, step: int, values: Mapping[str, float], timestamp_ms: int) -> None:
        """Log values at one step. The same call twice, time included, is one point a value."""
        # As words, which float() takes back exactly: JSON has no NaN and no infinity.
        words = {name: repr(float(value)) for name, value in values.items()}
        self._add("metrics", key, time=int(timestamp_ms), step=int(step), values=words)

    def policy(self, key: str, path: Path) -> None:
        """Log a policy file as an artifact of its search's run."""
        self.artifact(key, path, "policy")

    def artifact(self, key: str | None, path: Path, folder_in_run: str | None = None) -> None:
        """Log a file or a folder as it is when it is sent, which may be later: it has to stay where it is."""
        self._add("artifact", key, path=self._inside(path), folder=folder_in_run)

    def table(self, key: str, path: Path, name: str) -> None:
        """Log a JSON file of `columns` and `data` as the table `name`, in place of one that the run has of this name.

        The file has to stay where it is; runs whose tables have one name can be compared in MLflow's UI.
        """
        self._add("table", key, path=self._inside(path), name=name)

    def end(self, key: str | None, status: EndStatus = "FINISHED") -> None:
        """End a run."""
        self._add("end", key, time=_now_ms(), status=status)

    def close(self, timeout_seconds: float) -> int:
        """Send what `timeout_seconds` allow, and return how many events the store may not have had.

        They stay in the journal; the next tracker on the folder sends them. All of the journal's are counted if the
        store has never answered, since only it knows which it has.
        """
        self._deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        self._sender.join(timeout_seconds)
        return sum(1 for _ in read(self._journal, self._store.delivered_bytes))

    def _begin(
        self, stage: str, key: str, parent: str | None, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]
    ) -> Event:
        return {
            "event": "begin",
            "key": key,
            "time": _now_ms(),
            "stage": stage,
            "parent": parent,
            "name": name,
            "params": {name: str(value) for name, value in params.items()},
            "tags": {name: str(value) for name, value in tags.items()},
            "dataset": asdict(self._dataset),
        }

    def _inside(self, path: Path) -> str:
        """Return a path in the study's folder relative to it, so that the folder can be moved."""
        path = Path(path).absolute()
        return str(path.relative_to(self._folder.root) if path.is_relative_to(self._folder.root) else path)

    def _add(self, event: str, key: str | None, **fields: Any) -> None:
        append_line(self._journal, {"event": event, "key": key or self._execution, **fields})

    def _send(self) -> None:
        """Send the journal's rest, again and again; the body of the sender thread."""
        closing = False
        while not closing:
            closing = self._closing.wait(GATHER_SECONDS)  # known before the last look, which then sees every event
            if self._insist(self._store.connect):
                self._send_rest()

    def _send_rest(self) -> None:
        while lines := list(islice(read(self._journal, self._store.delivered_bytes), LINES_AT_ONCE)):
            if not all(self._insist(self._store.deliver, event) for event in merged(event for _, event in lines)):
                return
            self._store.note_delivered(lines[-1][0])

    def _insist(self, call: Callable[..., None], *arguments: Event) -> bool:
        """Make a call to the store, as often as it takes; return False if the deadline came first."""
        wait_seconds = FIRST_WAIT_SECONDS
        while time.monotonic() < self._deadline:
            try:
                with _DELIVERING:
                    call(*arguments)
                return True
            except RefusedError as refusal:
                key, why = refusal.args
                self._warn_once(key, f"MLflow does not take an event; left out: {key}: {why}")
                return True
            except Exception as error:  # whatever stands between here and the store: keep the line, try again
                self._warn_once(
                    "", f"MLflow does not answer; the study goes on, its events wait in {self._journal}: {error}"
                )
                if self._closing.is_set():  # somebody waits: the tries come closer together
                    time.sleep(FIRST_WAIT_SECONDS)
                else:
                    self._closing.wait(wait_seconds)
                wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
        return False

    def _warn_once(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            self._warn(public(message))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
