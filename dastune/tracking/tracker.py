"""What the driver calls: each call appends one JSON line to the study's journal and returns; none waits for MLflow.

A thread sends the lines (sender.py). The next execution sends what was left.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dastune.errors import UserError
from dastune.folder import StudyFolder, append_lines
from dastune.tracking.address import MLFLOW_ENVIRONMENT, public, remedy, store_uri
from dastune.tracking.journal import DatasetInfo, EndStatus, Event, read
from dastune.tracking.sender import DELIVERING, Sender

if TYPE_CHECKING:
    from dastune.tracking.store import Store

_LOG = logging.getLogger(__name__)


class Tracker:
    """One execution's tracking, for one thread. All methods but `open` and `close` append a line and return.

    They raise OSError if the line cannot be written, such as on a full disk. The same calls can then be made again:
    each may be made any number of times, and what was written in part is passed over.

    A key names one run of the study, whichever execution writes to it; None is this execution's own run. Steps are
    whole charged seconds, times are milliseconds since 1970.
    """

    def __init__(self, folder: StudyFolder, store: "Store", dataset: DatasetInfo, warn: Callable[[str], None]) -> None:
        """Make a tracker that sends nothing yet; see `open`."""
        self._folder, self._dataset = folder, dataset
        self._execution = f"execution-{secrets.token_hex(4)}"
        self._gathered: list[Event] | None = None
        self._sender = Sender(folder.tracking, store, warn)

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
            warn: told once when the store does not answer, when it refuses this process, and when it takes no
                files, and once for each run that has an event refused; default: the log.

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
            with DELIVERING:
                store.connect()
                store.deliver(begin)
        except Exception as error:  # MLflow's, SQLAlchemy's, the network's, a missing database driver
            if required:
                advice = remedy(error) or (
                    "give sqlite:////PATH/mlflow.db, or http://HOST:PORT of a running `mlflow server`, or neither it "
                    "nor MLFLOW_TRACKING_URI for a store in the study's folder"
                )
                why = f"{public(uri)} cannot be used as an MLflow store ({public(str(error))})"
                raise UserError(f"tracking.uri: {why}; {advice}") from None  # the cause's text may hold a password
        tracker._append(begin)
        tracker._sender.start()
        return tracker

    @contextmanager
    def together(self) -> Iterator[None]:
        """Gather the calls made inside, and append their lines at once on leaving: one wait for the disk, not one each.

        An exception inside leaves the journal as it was. Raises OSError on leaving if the lines cannot be written.
        """
        gathered = self._gathered = []
        try:
            yield
        finally:
            self._gathered = None
        append_lines(self._folder.tracking, gathered)

    def search(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Begin a search's run under this execution's, or open it again if an earlier execution made it."""
        self._append(self._begin("search", key, self._execution, name, params, tags))

    def final(self, key: str, search_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Begin a final training's run under its search's, or open it again."""
        self._append(self._begin("final", key, search_key, name, params, tags))

    def metrics(self, key: str | None, step: int, values: Mapping[str, float], timestamp_ms: int) -> None:
        """Log values at one step. The same call twice, time included, is one point a value."""
        # As words, which float() takes back exactly: JSON has no NaN and no infinity.
        words = {name: repr(float(value)) for name, value in values.items()}
        self._add("metrics", key, time=int(timestamp_ms), step=int(step), values=words)

    def tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, in place of those of the same names."""
        self._add("tags", key, tags=dict(tags))

    def policy(self, key: str, path: Path) -> None:
        """Log a policy file, or a picture of it, as an artifact of its search's run."""
        self.artifact(key, path, "policy")

    def artifact(self, key: str | None, path: Path, folder_in_run: str | None = None) -> None:
        """Log a file or a folder as it is when it is sent, which may be later: it has to stay where it is."""
        self._add("artifact", key, path=self._inside(path), folder=folder_in_run)

    def table(self, key: str, path: Path, name: str) -> None:
        """Log a JSON file of `columns` and `data` as the table `name`, in place of one that the run has of this name.

        The file has to stay where it is; runs whose tables have one name can be compared in MLflow's UI.
        """
        self._add("table", key, path=self._inside(path), name=name)

    def model(self, key: str, path: Path, *, register: str | None = None, description: str = "") -> None:
        """Log the trained network in a file as a model of a final training's run, and register it where asked to.

        The file has to stay where it is.

        Args:
            register: of the model in the registry, where it becomes a version with the alias `best`; None: nothing.
            description: of that version, for people.
        """
        self._add("model", key, path=self._inside(path), register=register, description=description)

    def end(self, key: str | None, status: EndStatus = "FINISHED") -> None:
        """End a run."""
        self._add("end", key, time=_now_ms(), status=status)

    def close(self, timeout_seconds: float) -> int:
        """Send what is left, and return how many events the store may not have had.

        `timeout_seconds` are for a store that does not get on: they begin anew with each batch that it takes. What is
        left stays in the journal; the next tracker on the folder sends it. All of it is counted if the
        store has never answered, since only it knows which it has.
        """
        return self._sender.close(timeout_seconds)

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
            "tags": {"stage": stage, **{name: str(value) for name, value in tags.items()}},
            "dataset": asdict(self._dataset),
        }

    def _inside(self, path: Path) -> str:
        """Return a path in the study's folder relative to it, so that the folder can be moved."""
        path = Path(path).absolute()
        return str(path.relative_to(self._folder.root) if path.is_relative_to(self._folder.root) else path)

    def _add(self, event: str, key: str | None, **fields: Any) -> None:
        self._append({"event": event, "key": key or self._execution, **fields})

    def _append(self, event: Event) -> None:
        if self._gathered is None:
            append_lines(self._folder.tracking, [event])
        else:
            self._gathered.append(event)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
