"""Real stores and servers, a study that logs into one, and what of it has arrived."""

import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dastune.folder import StudyFolder
from dastune.tracking import DatasetInfo, Tracker, store_uri
from dastune.tracking.journal import Event, read

LONG_ENOUGH_SECONDS = 60.0


class Study:
    """One study's folder with its own store, and the checks that tests of different files share."""

    dataset = DatasetInfo("digits", "0123456789abcdef0123456789abcdef", "sklearn.datasets.load_digits", 1797, 10)

    def __init__(self, root: Path) -> None:
        self.folder = StudyFolder(root)

    def open(self, uri: str | None = None, **options: object) -> Tracker:
        return Tracker.open(
            self.folder,
            uri=uri,
            experiment="digits_noise",
            study_params={"data": "digits", "budget": "10 cpu-seconds"},
            dataset=self.dataset,
            tags={"dastune.version": "0.1.0"},
            **options,  # type: ignore[arg-type]
        )

    def send_all(self, tracker: Tracker | None = None) -> None:
        """Close a tracker, by default one of an execution that logs nothing itself, with everything sent."""
        assert (tracker or self.open()).close(LONG_ENOUGH_SECONDS) == 0

    def log_search(self, tracker: Tracker, points: int = 5) -> None:
        """Log a search with a policy, and its final training; `check_search` is the other side."""
        key = "das-n4-s0"
        policy = self.folder.policy(key)
        policy.parent.mkdir(exist_ok=True)
        policy.write_text('{"kind": "stages"}')
        tracker.search(key, key, {"method": "das", "noise_level": 4}, {"dastune.cost": "search"})
        for step in range(points):
            tracker.metrics(key, step, {"val_accuracy": step / 7, "held_seconds": step + 0.1}, 1000 + step)
        tracker.policy(key, policy)
        tracker.end(key)
        tracker.final(f"{key}/t0", key, f"{key} final 0", {"train_seed": 0}, {})
        tracker.metrics(f"{key}/t0", 3, {"test_accuracy": 0.9}, 2000)
        tracker.end(f"{key}/t0", "FAILED")

    def check_search(self, count: int = 5) -> None:
        """Assert that all of `log_search` is there, once."""
        search, final = self.runs()["das-n4-s0"], self.runs()["das-n4-s0/t0"]
        assert self.points(search, "val_accuracy") == [(i, 1000 + i, i / 7) for i in range(count)]
        assert self.points(search, "held_seconds") == [(i, 1000 + i, i + 0.1) for i in range(count)]
        assert self.points(final, "test_accuracy") == [(3, 2000, 0.9)]
        assert (search.info.status, final.info.status) == ("FINISHED", "FAILED")

    def log_many(self, tracker: Tracker, searches: int, steps: range) -> None:
        """Log searches side by side, whole where `steps` begin at 0 and end at 60; `check_many` is the other side."""
        names = [f"search-{i}" for i in range(searches)]
        for name in names if steps.start == 0 else []:
            tracker.search(name, name, {"method": "das", "budget": name}, {"method": "das"})
        for step in steps:
            with tracker.together():
                for i, name in enumerate(names):
                    tracker.metrics(name, step, {"accuracy": step / (i + 3), "loss": -step}, 10_000 + step)
        for name in names if steps.stop == 60 else []:
            policy, table = self.folder.policy(name), self.folder.children_table(name)
            for path, text in [(policy, f'{{"of": "{name}"}}'), (table, '{"columns": ["x"], "data": [[1]]}')]:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
            tracker.policy(name, policy)
            tracker.table(name, table, "children.json")
            tracker.end(name)

    def check_many(self, searches: int, artifacts: Path | None = None) -> None:
        """Assert that all of `log_many` is there, once, its points in the order in which they were logged."""
        found = self.runs()
        assert {key for key in found if "execution" not in key} == {f"search-{i}" for i in range(searches)}
        for i in range(searches):
            name = f"search-{i}"
            run = found[name]
            assert self.arrived(run, "accuracy") == [(step, 10_000 + step, step / (i + 3)) for step in range(60)]
            assert self.arrived(run, "loss") == [(step, 10_000 + step, -step) for step in range(60)]
            assert run.data.params == {"method": "das", "budget": name}
            assert run.data.tags["method"] == "das"
            assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "children.json", "type": "table"}]
            assert run.info.status == "FINISHED"
            assert run.inputs is not None
            assert len(run.inputs.dataset_inputs) == 1
            home = (artifacts or self.folder.mlflow_artifacts) / run.info.experiment_id / run.info.run_id / "artifacts"
            if artifacts is None:
                home = self.folder.mlflow_artifacts / run.info.run_id / "artifacts"
            files = {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}
            assert files == {
                f"policy/{name}.json": f'{{"of": "{name}"}}',
                "children.json": '{"columns": ["x"], "data": [[1]]}',
            }

    def arrived(self, run: Run, metric: str) -> list[tuple[int, int, float]]:
        """(step, time, value) of each row of the sqlite store, in the order in which it was written."""
        query = "select step, timestamp, value from metrics where run_uuid = ? and key = ? order by rowid"
        with closing(sqlite3.connect(self.folder.mlflow_store)) as store:
            return store.execute(query, (run.info.run_id, metric)).fetchall()

    def events(self) -> Iterator[Event]:
        return (event for _, event in read(self.folder.tracking, 0))

    def journal_lines(self) -> int:
        return self.folder.tracking.read_bytes().count(b"\n")

    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=store_uri(self.folder, None))

    def runs(self) -> dict[str, Run]:
        """All runs of the store by key; executions, whose keys are random, as execution-0, -1 ... in order."""
        ids = [experiment.experiment_id for experiment in self.client().search_experiments()]
        found = self.client().search_runs(ids, order_by=["start_time ASC"])
        executions = [run for run in found if run.data.tags["dastune.stage"] == "execution"]
        named = {f"execution-{i}": run for i, run in enumerate(executions)}
        others = {run.data.tags["dastune.key"]: run for run in found if run not in executions}
        assert len(named | others) == len(found), "a key has two runs"
        return named | others

    def points(self, run: Run, metric: str) -> list[tuple[int, int, float]]:
        """(step, time, value) of each stored row, in the order of arrival."""
        return [(p.step, p.timestamp, p.value) for p in self.client().get_metric_history(run.info.run_id, metric)]

    def rows(self) -> dict[str, int]:
        """Row counts of the tables that a repeated delivery could swell."""
        tables = ["runs", "metrics", "params", "tags", "inputs", "datasets", "experiments"]
        with closing(sqlite3.connect(self.folder.mlflow_store)) as store:
            return {table: store.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}

    def delivered_bytes(self) -> int:
        """How much of the journal the store has had, by its own word."""
        experiment = self.client().get_experiment_by_name("digits_noise")
        assert experiment is not None
        values = [value for name, value in experiment.tags.items() if name.startswith("dastune.delivered")]
        return int(values[0].split()[0]) if values else 0

    def rewind(self, lines: int) -> None:
        """Put the position back to the end of a line, as a crash before the store took the later one leaves it."""
        client = self.client()
        experiment = client.get_experiment_by_name("digits_noise")
        assert experiment is not None
        (tag,) = (name for name in experiment.tags if name.startswith("dastune.delivered"))
        ends = [0, *(end for end, _ in read(self.folder.tracking, 0))]
        assert self.delivered_bytes() == ends[-1]
        client.set_experiment_tag(experiment.experiment_id, tag, ends[lines])


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store with all of MLflow's tables: making one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def study(tmp_path: Path, migrated_store: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = Study(tmp_path / "study")
    study.folder.root.mkdir()
    shutil.copy(migrated_store, study.folder.mlflow_store)
    return study


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A loopback port that refuses connections: bound, so that nobody else takes it, and not listening."""
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Server:
    """A real `mlflow server` on loopback, its store a database and its artifacts a folder."""

    def __init__(self, home: Path, store_uri: str, port: int) -> None:
        self.address, self.artifacts = f"http://127.0.0.1:{port}", home / "served"
        self._port, self._log, self._store_uri = port, home / "server.log", store_uri
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        options = ["--workers", "1", "--serve-artifacts", "--artifacts-destination", self.artifacts.as_uri()]
        environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": self._store_uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 120
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        with suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)) as line:
            line.request("GET", "/health")
            return line.getresponse().status == 200
        return False

    def kill(self) -> None:
        """End it and its workers with `kill -9`."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Gateway(ThreadingHTTPServer):
    """A proxy before a server, for faults between the two.

    Attributes:
        answer: the status with which requests are answered here; None: they go through.
        only: the fault is for paths that hold this.
        gate: while it is not set, requests wait here, also for clients that have gone.
        deaf_share: of so many requests, drawn by a seeded coin, the server's answers are lost.
        lost: how many answers were.
        came: how often each (method, path) came in.
    """

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.server_host = server.removeprefix("http://")
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.answer: int | None = None
        self.only = ""
        self.deaf_share, self.lost, self._coin = 0.0, 0, random.Random(0)
        self.gate = threading.Event()
        self.gate.set()
        self.came: Counter[tuple[str, str]] = Counter()
        self.arrival = threading.Condition()

    def loses(self) -> bool:
        lost = self._coin.random() < self.deaf_share
        self.lost += lost
        return lost

    def wait_for(self, requests: int) -> None:
        """Wait until so many requests have come in since the last call."""
        with self.arrival:
            assert self.arrival.wait_for(lambda: sum(self.came.values()) >= requests, timeout=120)
            self.came.clear()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that have gone are what this is for."""


class _Passage(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        gateway = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        faulty = gateway.only in path
        with gateway.arrival:
            gateway.came[self.command, path] += faulty
            gateway.arrival.notify_all()
        if faulty and gateway.answer is not None:
            return self._reply(gateway.answer, b"<html>not now</html>", "text/html")
        if faulty:
            gateway.gate.wait()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        with closing(http.client.HTTPConnection(gateway.server_host, timeout=60)) as line:
            line.request(self.command, self.path, body, headers)
            response = line.getresponse()
            content = response.read()
        if faulty and gateway.loses():
            self.close_connection = True
            return None
        return self._reply(response.status, content, response.getheader("Content-Type") or "text/plain")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _reply(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(study: Study, tmp_path: Path) -> Iterator[Server]:
    """A server that is not running yet, whose store is the study's sqlite file."""
    server = Server(tmp_path, store_uri(study.folder, None), free_port())
    yield server
    server.kill()


@pytest.fixture
def gateway(server: Server) -> Iterator[Gateway]:
    """A proxy before the running server."""
    server.start()
    with Gateway(server.address) as gateway:
        thread = threading.Thread(target=gateway.serve_forever)
        thread.start()
        yield gateway
        gateway.gate.set()
        gateway.shutdown()
        thread.join()
