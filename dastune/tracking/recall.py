"""MLflow's way back: makes a study's folder again, as far as a report reads it, from what a store has of the study.

The other door to MLflow, beside store.py. What is in a store may come from anybody: names are checked before they are
paths, files are taken by their expected names and up to a size, and all of it is data to whoever reads the folder.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dastune.errors import UserError, shortened
from dastune.folder import SAFE_NAME, StudyFolder
from dastune.tracking.address import MLFLOW_ENVIRONMENT, public, remedy

if TYPE_CHECKING:
    from mlflow.entities import Run

RUNS_AT_ONCE, MOST_RUNS = 1000, 1_000_000
REQUESTS_AT_ONCE = 8  # most of its time each waits for the store
RUNS_IN_BULK, POINTS_IN_BULK = 100, 25_000  # the most that a server gives at once
HISTORY_PATH = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
MOST_POINTS = 100_000  # of a run
MOST_LISTED = 10  # names in a message
MEGABYTE = 2**20

# Files of the executions' runs and of searches' runs, and how large they may be.
STUDY_FILE, ENV_FILE, LEDGER_FILE = "study/study.yaml", "study/env.json", "study/ledger.jsonl"
MOST_STUDY_BYTES, MOST_ENV_BYTES, MOST_LEDGER_BYTES = MEGABYTE, 16 * MEGABYTE, 4096 * MEGABYTE
MOST_POLICY_BYTES, MOST_PICTURE_BYTES, MOST_FIELD_BYTES = MEGABYTE, 4 * MEGABYTE, MEGABYTE

# What a report draws over time; of a GPU's power there are several, by its number.
CURVES, POWER = ("val_accuracy", "train_loss"), ("system/gpu_", "_power_usage_watts")

FIELD_METRIC = "receptive_field_half"  # of the final trainings whose network's field was measured

KEY, STAGE, STUDY, ROW = "dastune.key", "dastune.stage", "dastune.study_id", "dastune.row"  # tags


class _Logged(NamedTuple):
    """A run that has a row; `text` is one JSON object."""

    run: "Run"
    text: str


def recall(
    uri: str, experiment: str, parent: Path, study: str | None = None, tell: Callable[[str], None] = lambda text: None
) -> StudyFolder:
    """Make the folder of a study again in `parent`, by the study's name, and return it.

    In it is what a report is made of: study.yaml, env.json and the ledger, the rows, policies and their pictures,
    receptive fields, and the points of curves.

    Args:
        uri: of the store: a sqlite file, a server, a database.
        experiment: its name.
        study: the id of the study where the experiment has several; None: of the one that ran last.
        tell: told that there are others, and what is left out.

    Raises:
        UserError: the store cannot be read, has no such experiment or study, or too little of it.
    """
    with _answering(uri):
        return _Reader(uri, experiment).recall(parent, study, tell)


def experiment_id(uri: str, experiment: str) -> str:
    """Return the id that MLflow has given an experiment. Raises UserError as `recall`."""
    with _answering(uri):
        return _Reader(uri, experiment).experiment_id


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """Make one message of it if the store does not answer. Raises UserError."""
    if uri.startswith("sqlite:") and not Path(uri.removeprefix("sqlite:///").partition("?")[0]).is_file():
        raise UserError(f"{public(uri)}: there is no such file")  # MLflow would make it
    for variable, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's, the network's, an object store's
        advice = remedy(error) or "give sqlite:////PATH/mlflow.db, or http://HOST:PORT of a running `mlflow server`"
        # not from it: its text may hold a password
        raise UserError(f"{public(uri)} cannot be read as an MLflow store ({public(str(error))}); {advice}") from None


class _Reader:
    """Reads one experiment of one store."""

    def __init__(self, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient
        from mlflow.store.db import utils as databases

        databases.MAX_RETRY_COUNT = 1  # as in store.py
        self._uri, self._name = uri, f"experiment {shortened(experiment)}"
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage == "deleted":
            names = [item.name for item in self._client.search_experiments(max_results=MOST_LISTED)]
            raise UserError(f"{self._name}: {public(uri)} has none; it has: {', '.join(map(shortened, names))}")
        self.experiment_id: str = found.experiment_id

    def recall(self, parent: Path, study: str | None, tell: Callable[[str], None]) -> StudyFolder:
        executions = self._executions(study, tell)
        name = executions[0].data.params.get("study", "")
        folder = StudyFolder(parent / (name if SAFE_NAME.fullmatch(name) else "study"))
        folder.policies.mkdir(parents=True)
        folder.pictures.mkdir()
        folder.receptive_fields.mkdir()
        if not self._take_any(executions, STUDY_FILE, folder.study, MOST_STUDY_BYTES):
            raise UserError(
                f"{self._name}: the study has no {STUDY_FILE} in {public(executions[0].info.artifact_uri)}; its files "
                "are on another machine, or it was logged by a version of dastune that did not log enough for a "
                "report: make it of the study's folder, dastune report RUNDIR"
            )
        self._take_any(executions, ENV_FILE, folder.env, MOST_ENV_BYTES)
        if not self._take_any(executions, LEDGER_FILE, folder.ledger, MOST_LEDGER_BYTES):
            tell("no execution of the study has ended: the report is without its device time and its faults")
        searches, finals, damaged = self._rows(executions[0].data.tags[STUDY])
        if damaged:
            tell(f"{damaged} runs have a row that cannot be read; they are left out")
        _write(folder.searches, (logged.text for logged in searches.values()))
        _write(folder.finals, (logged.text for logged in finals.values()))
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            for _ in pool.map(lambda key: self._take_policy(searches[key].run, key, folder), searches):
                pass
            for _ in pool.map(lambda key: self._take_receptive_field(finals[key].run, key, folder), finals):
                pass
            logged = [*searches.items(), *finals.items()]
            parts = [dict(logged[i : i + RUNS_IN_BULK]) for i in range(0, len(logged), RUNS_IN_BULK)]
            _write(folder.tracking, chain.from_iterable(pool.map(self._points, parts)))
        return folder

    def _executions(self, study: str | None, tell: Callable[[str], None]) -> "list[Run]":
        """Return the runs of a study's executions, the last first."""
        found: dict[str, list[Run]] = {}
        for run in self._runs(f"tags.`{STAGE}` = 'execution'"):
            if SAFE_NAME.fullmatch(name := run.data.tags.get(STUDY, "")):
                found.setdefault(name, []).append(run)
        if not found:
            raise UserError(f"{self._name}: no study has been logged there by dastune")
        listed = ", ".join(f"{name} (of {_day(runs[-1])})" for name, runs in list(found.items())[:MOST_LISTED])
        if study is not None and study not in found:
            raise UserError(f"study {shortened(study)}: {self._name} has none; it has: {listed}")
        chosen = study or next(iter(found))
        if study is None and len(found) > 1:
            tell(f"{self._name} has {len(found)} studies; this is the one that ran last, {chosen}, of: {listed}")
        return found[chosen]

    def _runs(self, where: str) -> "Iterator[Run]":
        """Yield runs, those that began last first."""
        token: str | None = None
        for _ in range(MOST_RUNS // RUNS_AT_ONCE):
            page = self._client.search_runs(
                [self.experiment_id], where, max_results=RUNS_AT_ONCE, order_by=["start_time DESC"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return
        raise UserError(f"{self._name}: has more than {MOST_RUNS:,} runs")

    def _rows(self, study: str) -> tuple[dict[str, _Logged], dict[str, _Logged], int]:
        """Return the searches and the final trainings that have a row, by key, and how many rows cannot be read."""
        found: dict[str, dict[str, _Logged]] = {"search": {}, "final": {}}
        damaged = 0
        for run in self._runs(f"tags.`{STUDY}` = '{study}'"):
            tags = run.data.tags
            stage, key, text = tags.get(STAGE, ""), tags.get(KEY, ""), tags.get(ROW)
            if stage not in found or text is None:
                continue
            if SAFE_NAME.fullmatch(key.partition("/")[0]) and _key_of(text, stage) == key:
                found[stage].setdefault(key, _Logged(run, text))  # of two runs of a key, the one that began last
            else:
                damaged += 1
        return found["search"], found["final"], damaged

    def _take_any(self, runs: "Iterable[Run]", path: str, target: Path, most_bytes: int) -> bool:
        """Copy a file of the first run that has it; return whether one had."""
        return any(self._take(run, {path: (target, most_bytes)}) for run in runs)

    def _take_policy(self, run: "Run", key: str, folder: StudyFolder) -> None:
        targets = {
            f"policy/{key}.json": (folder.policy(key), MOST_POLICY_BYTES),
            f"policy/{key}.png": (folder.picture(key), MOST_PICTURE_BYTES),
        }
        self._take(run, targets)

    def _take_receptive_field(self, run: "Run", key: str, folder: StudyFolder) -> None:
        search, _, seed = key.rpartition("/t")
        if FIELD_METRIC in run.data.metrics and seed.isdecimal():  # most runs have none: they are not asked for it
            target = folder.receptive_field(search, int(seed))
            self._take(run, {f"receptive_field/{target.name}": (target, MOST_FIELD_BYTES)})

    def _take(self, run: "Run", targets: Mapping[str, tuple[Path, int]]) -> int:
        """Copy those of a run's files, all of one folder, that are there and not too large; return how many.

        `targets`: by the path in the run, where it goes and how many bytes it may have.
        """
        place = urlsplit(run.info.artifact_uri)
        if place.scheme in ("", "file"):
            root = Path(url2pathname(place.path))
            return sum(_copy(root / path, *target) for path, target in targets.items())
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        store = get_artifact_repository(run.info.artifact_uri, tracking_uri=self._uri)
        taken = 0
        for item in store.list_artifacts(next(iter(targets)).rpartition("/")[0]):
            target, most_bytes = targets.get(item.path, (None, 0))
            if target is not None and not item.is_dir and (item.file_size or 0) <= most_bytes:
                # what `download_artifacts` does with a file; that would ask two more times whether it is one
                store._download_file(item.path, str(target))  # type: ignore[no-untyped-call]
                taken += 1
        return taken

    def _points(self, logged: Mapping[str, _Logged]) -> list[str]:
        """Return the points of runs that a report draws, as lines of tracking's journal: by run, in order of time."""
        names: dict[str, list[str]] = {}
        for run, _ in logged.values():
            for name in run.data.metrics:
                if name in CURVES or (name.startswith(POWER[0]) and name.endswith(POWER[1])):
                    names.setdefault(name, []).append(run.info.run_id)
        found: dict[str, dict[tuple[int, int], dict[str, str]]] = {}
        for name in sorted(names):
            for run_id, time, step, value in self._history(names[name], name):
                found.setdefault(run_id, {}).setdefault((time, step), {})[name] = repr(value)
        lines = []
        for key, (run, _) in logged.items():
            points = sorted(found.get(run.info.run_id, {}).items(), key=lambda item: item[0])
            last = next((values for _, values in reversed(points) if "val_accuracy" in values), None)
            if last and "charged_seconds" in run.data.metrics:  # logged once, with the last of these: the search's end
                last["charged_seconds"] = repr(run.data.metrics["charged_seconds"])
            for (time, step), values in points[-MOST_POINTS:]:
                event = {"event": "metrics", "key": key, "time": time, "step": step, "values": values}
                lines.append(json.dumps(event))
        return lines

    def _history(self, run_ids: list[str], name: str) -> list[tuple[str, int, int, float]]:
        """Return a metric's points: run, time (ms), step and value.

        MLflow has no public call for several runs. What its own UI calls is thirty times as quick as a call for each.
        """
        from mlflow.utils.rest_utils import http_request

        store, found = self._client._tracking_client.store, []
        if hasattr(store, "get_metric_history_bulk"):  # a database
            points = store.get_metric_history_bulk(run_ids, name, POINTS_IN_BULK)
            found = [(point.run_id, point.timestamp, point.step, float(point.value)) for point in points]
        elif hasattr(store, "get_host_creds"):  # a server
            query = {"run_id": run_ids, "metric_key": name, "max_results": POINTS_IN_BULK}
            host = store.get_host_creds()
            answer = http_request(host, HISTORY_PATH, "GET", params=query)  # type: ignore[no-untyped-call]
            if answer.status_code == HTTPStatus.OK:
                rows = answer.json().get("metrics", [])
                found = [(str(row["run_id"]), row["timestamp"], row["step"], float(row["value"])) for row in rows]
        if found and len(found) < POINTS_IN_BULK:
            return found
        return [
            (run_id, point.timestamp, point.step, float(point.value))
            for run_id in run_ids
            for point in self._client.get_metric_history(run_id, name)
        ]


def _copy(source: Path, target: Path, most_bytes: int) -> bool:
    """Copy a file that is no link, nor in a folder that is one; return whether it is there, and not too large."""
    if source.is_symlink() or source.parent.is_symlink() or not source.is_file():
        return False
    if source.stat().st_size > most_bytes:
        return False
    shutil.copyfile(source, target)
    return True


def _key_of(text: str, stage: str) -> str | None:
    """Return the key of the run that a row belongs to, or None if it is no row."""
    try:
        row = json.loads(text)
        return str(row["id"]) if stage == "search" else f"{row['search_id']}/t{row['train_seed']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _day(run: "Run") -> str:
    return f"{datetime.fromtimestamp((run.info.start_time or 0) / 1000):%Y-%m-%d %H:%M}"


def _write(path: Path, objects: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for text in objects:
            file.write(text.replace("\n", " ") + "\n")
