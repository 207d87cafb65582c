"""Does a study survive whatever happens to it? python benchmarks/soak.py [--minutes 15] [--seed 0]

Runs small studies, one after another, on a real Ray cluster of this machine's processes (a head that takes no trials,
two nodes), each driven by `dastune run --resume` in a process of its own, and makes a fault happen every few seconds: a
trial's process is killed, a node is lost and another joins, the driver is killed, stopped by a signal, stopped at once,
or by `dastune stop`, a checkpoint is damaged, the MLflow store is locked. Budgets are in steps, so each finished study
must be what an undisturbed one is: the same rows, policies and accuracies, each once, here and in MLflow.

Prints the faults by kind, and what was lost, repeated or different, whose bar is 0. Exits 1 on a missed bar, or if no
study was finished.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from dastune.budget import Ledger, event_from_row
from dastune.config import StudyConfig
from dastune.config.defaults import with_defaults
from dastune.folder import StudyFolder, read_lines
from dastune.policy.policy import load_policy

BETWEEN_FAULTS_SECONDS = (2.0, 9.0)
AFTER_A_START_SECONDS = (5.0, 45.0)  # of a driver, which takes ten of them: it must get on at times
LOCK_SECONDS = 25.0  # longer than MLflow waits for its file
CLOSE_TO_THE_END = 1.5  # in these minutes, studies are left in peace
OBJECT_STORE_BYTES = 150 * 2**20
RAW = {
    "data": {"name": "digits", "train_images": 40, "validation_images": 40},
    "model": {"name": "small_cnn", "channels": 4},
    "space": {"ops": ["identity", "rotate", "invert"], "noise": {"levels": [0, 2]}},
    "methods": {"das": None, "auto_augment": None, "random": None, "none": None},
    "budget": {"steps": 2500},
    "seeds": {"search": [0], "final": [0, 1]},
    "training": {"batch_size": 20, "child_epochs": 2},
    "final": {"epochs": 20},
}


class Soak:
    """The cluster, the study that runs on it, and what has happened to them."""

    def __init__(self, cluster: Any, place: Path, chance: random.Random) -> None:
        self.cluster, self.place, self.chance = cluster, place, chance
        self.faults: Counter[str] = Counter()
        self.nodes = [self._node(), self._node()]
        self.driver: subprocess.Popen[bytes] | None = None
        self.folder = StudyFolder(place)

    def _node(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)

    def begin(self, name: str) -> None:
        """Begin the study `name`, or go on with it."""
        self.folder = StudyFolder(self.place / "runs" / name)
        command = [sys.executable, "-m", "dastune", "run", str(self.place / f"{name}.yaml"), "--resume"]
        command += ["--output", str(self.place / "runs"), "--address", self.cluster.address]
        with (self.place / f"{name}.log").open("ab") as log:
            self.driver = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.place, start_new_session=True)

    def fault(self) -> None:
        """Make something happen that can happen now."""
        kinds: list[Callable[[], bool]] = [
            *[self.trial_killed] * 5,
            *[self.node_lost] * 3,
            self.driver_killed,
            self.driver_stopped,
            self.driver_stopped_at_once,
            self.stop_command,
            self.checkpoint_damaged,
            self.mlflow_locked,
        ]
        kind = self.chance.choice(kinds)
        if kind():
            self.faults[kind.__name__] += 1

    def trial_killed(self) -> bool:
        trials = list(self._trials())
        if trials:
            with suppress(ProcessLookupError):
                os.kill(self.chance.choice(trials), signal.SIGKILL)
        return bool(trials)

    def _trials(self) -> Iterator[int]:
        """Yield the processes of trials on this cluster."""
        session = self.cluster.head_node.get_session_dir_path().encode()
        for place in Path("/proc").iterdir():
            with suppress(OSError, ValueError, IndexError):
                title = (place / "cmdline").read_bytes()
                parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
                if title.startswith(b"ray::ImplicitFunc") and session in Path(f"/proc/{parent}/cmdline").read_bytes():
                    yield int(place.name)

    def node_lost(self) -> bool:
        self.cluster.remove_node(self.nodes.pop(self.chance.randrange(2)), allow_graceful=self.chance.random() < 0.5)
        self.nodes.append(self._node())
        return True

    def _signal(self, *numbers: signal.Signals) -> bool:
        assert self.driver is not None
        for number in numbers:
            self.driver.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.driver.wait(0.5)
        return True

    def driver_killed(self) -> bool:
        return self._signal(signal.SIGKILL)

    def driver_stopped(self) -> bool:
        return self._signal(self.chance.choice([signal.SIGINT, signal.SIGTERM]))

    def driver_stopped_at_once(self) -> bool:
        return self._signal(signal.SIGINT, signal.SIGINT)

    def stop_command(self) -> bool:
        command = [sys.executable, "-m", "dastune", "stop", str(self.folder.root)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def checkpoint_damaged(self) -> bool:
        """Cut, or change a bit of, one of a search's two checkpoints, where there are two."""
        found = sorted(self.folder.checkpoints.glob("*.pt"))
        searches = [path.name.partition(".")[0] for path in found]
        whole = [path for path, search in zip(found, searches, strict=True) if searches.count(search) == 2]
        if not whole or not self.driver_killed():
            return False
        assert self.driver is not None
        self.driver.wait()
        while list(self._trials()):  # they end with their driver
            time.sleep(0.1)
        path = self.chance.choice(whole)
        with suppress(OSError):
            content = bytearray(path.read_bytes())
            at = self.chance.randrange(len(content))
            if self.chance.random() < 0.5:
                del content[at:]
            else:
                content[at] ^= 1 << self.chance.randrange(8)
            path.write_bytes(content)
        return True

    def mlflow_locked(self) -> bool:
        if not self.folder.mlflow_store.exists():
            return False
        store = sqlite3.connect(self.folder.mlflow_store, timeout=30)
        try:
            store.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCK_SECONDS)
        except sqlite3.OperationalError:
            return False
        finally:
            store.close()
        return True


def faults_of(study: StudyConfig, folder: StudyFolder, reference: StudyFolder) -> Counter[str]:
    """Count what is lost, twice, or other than in the undisturbed study."""
    wrong: Counter[str] = Counter()
    searches = [line["id"] for line in read_lines(folder.searches) if line["status"] != "failed"]
    finals = {(line["search_id"], line["train_seed"]): line["test_accuracy"] for line in read_lines(folder.finals)}
    expected = {(row.search_id, row.train_seed): row.test_accuracy for row in reference.final_rows()}
    rows = {row.id: row for row in reference.search_rows()}
    wrong["rows lost"] = len(rows.keys() - set(searches)) + len(expected.keys() - finals.keys())
    wrong["rows twice"] = len(searches) - len(set(searches))
    wrong["rows twice"] += len(list(read_lines(folder.finals))) - len(finals)
    wrong["accuracies that differ"] = sum(finals.get(key) != value for key, value in expected.items())
    ledger = Ledger(event_from_row(line) for line in read_lines(folder.ledger))
    for row in folder.search_rows():
        other = load_policy(folder.policy(row.id)) != load_policy(reference.policy(row.id))
        wrong["policies that differ"] += other or row.steps != rows[row.id].steps
        charge = ledger.charge(row.id)
        honest = abs(charge.charged - row.charged_seconds) < 1e-6 and charge.charged <= charge.held + 1e-6
        wrong["searches whose charge is not the ledger's"] += not honest
    for key, differs in mlflow_faults(study, folder).items():
        wrong[key] += differs
    left = {"stop", "pending.json", "checkpoints", "ray"} & {path.name for path in folder.root.iterdir()}
    wrong["files left behind"] = len(left) + len(list(folder.root.rglob("*.tmp")))
    return wrong


def mlflow_faults(study: StudyConfig, folder: StudyFolder) -> Counter[str]:
    """Count what MLflow lacks, or has twice."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.mlflow_store}")
    experiment = client.get_experiment_by_name(study.name)
    runs = client.search_runs([experiment.experiment_id], max_results=10_000) if experiment else []
    by_key = {run.data.tags["dastune.key"]: run for run in runs if run.data.tags["dastune.stage"] != "execution"}
    executions = sum(run.data.tags["dastune.stage"] == "execution" for run in runs)
    finals = {f"{row.search_id}/t{row.train_seed}" for row in folder.final_rows()}
    expected = {row.id for row in folder.search_rows()} | finals
    wrong = Counter({"runs of MLflow lost": len(expected - by_key.keys())})
    wrong["runs of MLflow twice"] = len(runs) - executions - len(by_key)
    for key, run in by_key.items():
        wrong["runs of MLflow that have not ended"] += run.info.status != "FINISHED"
        name = "test_accuracy" if "/" in key else "charged_seconds"
        wrong["values of MLflow lost or twice"] += len(client.get_metric_history(run.info.run_id, name)) != 1
    return wrong


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Start a head that takes no trials; end all at the end."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", MLFLOW_DISABLE_TELEMETRY="true")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def main() -> int:
    """Run studies and faults until the time is over; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    options = parser.parse_args()
    chance, wrong = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder, ray_cluster() as cluster:
        soak = Soak(cluster, Path(folder), chance)
        studies = 0

        def finish(name: str, disturbed: Callable[[], bool]) -> StudyConfig:
            study = StudyConfig.model_validate(with_defaults({**RAW, "name": name}))
            (soak.place / f"{name}.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
            soak.begin(name)
            pause = AFTER_A_START_SECONDS
            while True:
                assert soak.driver is not None
                try:
                    code = soak.driver.wait(chance.uniform(*pause))
                except subprocess.TimeoutExpired:
                    pause = BETWEEN_FAULTS_SECONDS
                    if disturbed():
                        soak.fault()
                    continue
                if code == 0:
                    return study
                if code not in (130, -signal.SIGKILL):
                    print((soak.place / f"{name}.log").read_text()[-2000:])
                    wrong["ends that no fault explains"] += 1
                    if not disturbed():
                        return study
                soak.begin(name)
                pause = AFTER_A_START_SECONDS

        finish("undisturbed", lambda: False)
        reference, begun = soak.folder, time.monotonic()
        until = begun + 60 * options.minutes
        while time.monotonic() < until:
            study = finish(f"soak{studies}", lambda: time.monotonic() < until - 60 * CLOSE_TO_THE_END)
            wrong.update(faults_of(study, soak.folder, reference))
            studies += 1
    for kind, count in sorted(soak.faults.items()):
        print(f"{kind.replace('_', ' ')}: {count}")
    minutes = (time.monotonic() - begun) / 60
    print(f"faults survived: {soak.faults.total()} in {minutes:.1f} min, {studies} studies finished (bar 1)")
    for what, count in sorted(wrong.items()):
        print(f"{what}: {count} (bar 0)")
    return 0 if studies and not wrong.total() else 1


if __name__ == "__main__":
    sys.exit(main())
