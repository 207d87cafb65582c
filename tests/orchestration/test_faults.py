"""Faults of trials, made to happen on a real Ray: lost processes, nodes and memory, and methods that misbehave.

Budgets are in steps, so that what comes of a study can be held against what comes of it undisturbed.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from dastune.budget import LedgerEvent, event_from_row
from dastune.cli import app
from dastune.config import StudyConfig
from dastune.folder import StudyFolder, read_lines, write_atomic
from dastune.orchestration import trial, tuner
from dastune.orchestration.checkpoints import Checkpoints, SupersededError
from dastune.orchestration.driver import Driver
from dastune.orchestration.grid import Assignment
from dastune.orchestration.reports import Report, Start
from dastune.orchestration.study import run
from dastune.search.search import Search, SearchProgress

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(ray|mlflow|pydantic|google)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

StudyOf = Callable[..., StudyConfig]
Survived = Callable[[StudyConfig, StudyFolder], None]

METHODS = ("das", "auto_augment", "rand_augment", "random", "trivial")

# What a fault does around one attempt at a search, in the process that makes the attempt.
Fault = Callable[[int], AbstractContextManager[object]]

Plant = Callable[[Mapping[str, Fault]], None]

STORE_BYTES = 200 * 2**20
ONE_LEVEL = {"ops": ["identity", "rotate", "invert"], "noise": {"levels": [0]}}


@contextmanager
def started_cluster(**head: Any) -> Iterator["Cluster"]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"object_store_memory": STORE_BYTES, **head})
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def one_node() -> "Iterator[Cluster]":
    """A node with room for two searches."""
    with started_cluster(num_cpus=2) as cluster:
        yield cluster


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Return what has faults, by search, happen in the processes of trials."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    real, real_trial = tuner._run_assignment, trial.trial

    def planted(faults: Mapping[str, Fault]) -> None:
        def disturbed(
            study: StudyConfig, assignment: Assignment, dataset: Any, storage: Any, start: Start, **options: Any
        ) -> Iterator[Report]:
            with faults.get(assignment.id, lambda attempt: nullcontext())(start.attempt):
                yield from real_trial(study, assignment, dataset, storage, start, **options)

        def run_assignment(config: dict[str, Any], **parameters: Any) -> None:
            with patch.object(trial, "trial", disturbed):
                real(config, **parameters)

        monkeypatch.setattr(tuner, "_run_assignment", run_assignment)

    return planted


def die() -> None:
    """Die as by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def death_at_the_start(attempt: int) -> Iterator[None]:
    if attempt == 0:
        die()
    yield


class Faulty:
    """A search to which something happens once a share of its budget is spent."""

    def __init__(self, search: Search, share: float, happen: Callable[[], object]) -> None:
        self._search, self._share, self._happen = search, share, happen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._search, name)

    def step(self, spent: float) -> SearchProgress:
        if spent >= self._share:
            self._happen()
        return self._search.step(spent)


@contextmanager
def at_share(share: float, happen: Callable[[], object]) -> Iterator[None]:
    real = trial.search_of
    with patch.object(trial, "search_of", lambda *arguments: Faulty(real(*arguments), share, happen)):
        yield


@contextmanager
def checkpoint_after_each_step() -> Iterator[None]:
    with patch.multiple(trial, CHECKPOINT_SECONDS=0.0, CHECKPOINT_COST=1e9):
        yield


@contextmanager
def death_amid_the_second_checkpoint(attempt: int) -> Iterator[None]:
    """Die when all of the checkpoint is written, but it does not have its name yet."""
    real, written = os.fsync, []

    def fsync(file: int) -> None:
        real(file)
        if Path(f"/proc/self/fd/{file}").readlink().name.endswith(f".pt.{os.getpid()}.tmp"):
            written.append(file)
            if attempt == 0 and len(written) == 2:
                die()

    with checkpoint_after_each_step(), patch.object(os, "fsync", fsync):
        yield


@contextmanager
def deaths_with_checkpoints_between(attempt: int) -> Iterator[None]:
    """The first 6 attempts do one more twelfth of the budget each, and die before they tell the driver of it."""
    with checkpoint_after_each_step(), at_share((attempt + 1) / 12, die) if attempt < 6 else nullcontext():
        yield


@contextmanager
def death_in_a_step(attempt: int) -> Iterator[None]:
    with at_share(0.5, die) if attempt == 0 else nullcontext():
        yield


@contextmanager
def death_in_a_final_training(attempt: int) -> Iterator[None]:
    with patch.object(trial, "final_task", lambda *arguments: die()) if attempt == 0 else nullcontext():
        yield


@contextmanager
def death_as_the_process_takes_on_another_search(attempt: int) -> Iterator[None]:
    """Once this search is done, its process dies as Tune gives it the next one."""
    from ray.tune.trainable import function_trainable

    yield
    function_trainable.get_session = die  # which is how it begins to take it on


def events(folder: StudyFolder, search: str) -> list[LedgerEvent]:
    lines = [event_from_row(line) for line in read_lines(folder.ledger)]
    return [event for event in lines if event.search == search]


def attempts(folder: StudyFolder, search: str) -> int:
    return 1 + max(event.attempt for event in events(folder, search))


def test_what_kills_processes_changes_nothing(
    one_node: "Cluster", study_of: StudyOf, plant: Plant, survived: Survived, tmp_path: Path
) -> None:
    study = study_of(space=ONE_LEVEL)
    plant(
        {
            "das-n0-s0": death_at_the_start,
            "auto_augment-n0-s0": death_amid_the_second_checkpoint,
            "rand_augment-n0-s0": deaths_with_checkpoints_between,
            "random-n0-s0": death_in_a_step,
            "trivial-n0-s0": death_in_a_final_training,
        }
    )
    result = run(study, output=tmp_path, address=one_node.address)
    assert not result.missing
    died = {"das": 1, "auto_augment": 1, "rand_augment": 6, "random": 1, "trivial": 1, "none": 0}
    assert {label: attempts(result.folder, f"{label}-n0-s0") - 1 for label in died} == died
    survived(study, result.folder)


def test_a_process_that_dies_as_it_takes_on_a_search_changes_nothing(
    one_node: "Cluster", study_of: StudyOf, plant: Plant, survived: Survived, tmp_path: Path
) -> None:
    """Tune takes the search for failed then; which search it is, is Tune's choice."""
    study = study_of(space=ONE_LEVEL, methods=dict.fromkeys(("none", *METHODS)))
    plant({"none-n0-s0": death_as_the_process_takes_on_another_search})
    words = StringIO()
    result = run(study, output=tmp_path, address=one_node.address, console=Console(file=words))
    assert words.getvalue().count("its process died") == 1
    survived(study, result.folder)


def fail() -> None:
    raise ZeroDivisionError("planted")


def hang() -> None:
    Event().wait()


def crash() -> None:
    ctypes.string_at(0)


@contextmanager
def failure(attempt: int) -> Iterator[None]:
    with at_share(0.5, fail):
        yield


@contextmanager
def hanging(attempt: int) -> Iterator[None]:
    with checkpoint_after_each_step(), at_share(0.5, hang):
        yield


@contextmanager
def crash_each_time(attempt: int) -> Iterator[None]:
    with at_share(0.5, crash):
        yield


@contextmanager
def failure_of_a_final_training(attempt: int) -> Iterator[None]:
    with patch.object(trial, "final_task", lambda *arguments: fail()):
        yield


def test_methods_that_fail_hang_or_crash_are_told_and_the_others_go_on(
    one_node: "Cluster",
    study_of: StudyOf,
    plant: Plant,
    survived: Survived,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = study_of(space=ONE_LEVEL, hang_minutes=0.2)
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    plant(
        {
            "das-n0-s0": failure,
            "random-n0-s0": hanging,
            "auto_augment-n0-s0": crash_each_time,
            "rand_augment-n0-s0": failure_of_a_final_training,
        }
    )
    told = CliRunner().invoke(app, ["run", "study.yaml", "--address", one_node.address])
    assert told.exit_code == 1, told.output
    failed = "auto_augment-n0-s0, das-n0-s0, rand_augment-n0-s0, random-n0-s0"
    assert f"4 failed: {failed}; tracebacks in runs/small/errors" in told.stderr
    assert "dastune resume runs/small" in told.stderr
    folder = StudyFolder(tmp_path / "runs" / study.name)
    assert {row.search_id for row in folder.final_rows()} == {"trivial-n0-s0", "none-n0-s0"}
    assert {row.id for row in folder.search_rows() if row.status == "failed"} == {"das-n0-s0", "random-n0-s0"}
    words = {path.stem: path.read_text() for path in folder.errors.iterdir()}
    assert "in fail" in words["das-n0-s0"]
    assert "ZeroDivisionError: planted" in words["das-n0-s0"]
    assert "in fail" in words["rand_augment-n0-s0"]
    assert "hang_minutes" in words["random-n0-s0"]
    assert "in hang" in words["random-n0-s0"]
    assert words["auto_augment-n0-s0"].count("Failure #") == 1 + tuner.RETRIES
    hung = max(event.accounts.get("hung", 0.0) for event in events(folder, "random-n0-s0"))
    assert hung > 60 * study.hang_minutes / 2  # nearly all of it: the limit counts from the end of the step before
    before = {row.id: row for row in folder.search_rows()}

    plant({})
    told = CliRunner().invoke(app, ["resume", "runs/small", "--address", one_node.address])
    assert told.exit_code == 0, told.output
    after = {row.id: row for row in folder.search_rows()}
    assert all(after[search] == row for search, row in before.items() if row.status != "failed")
    # What was lost with the fault is held, and not charged.
    assert after["random-n0-s0"].held_seconds - after["random-n0-s0"].charged_seconds > hung
    survived(study, folder)


def test_what_diverges_is_told(study_of: StudyOf, alone: Callable[[StudyConfig, Assignment], Any]) -> None:
    """A learning rate at which every network's weights are no numbers after a step or two."""
    study = study_of(
        training={"batch_size": 20, "child_epochs": 2, "learning_rate": 1e20},
        final={"epochs": 2, "learning_rate": 1e20},
    )
    for label in ("auto_augment", "rand_augment", "random"):
        here = alone(study, Assignment(label, 0, 0))
        assert {child.status for child in here.children} <= {"diverged", "cut"}
        notes = [note for report in here.reports for note in report.notes]
        assert any(note.startswith(f"{label}-n0-s0: child 0 diverged") for note in notes)
        assert any("found nothing" in note for note in notes)
        assert sum("its final training with seed" in note for note in notes) == 2
        assert here.accuracies == {0: 0.0, 1: 0.0}


def used_memory() -> tuple[int, int]:
    """Return how many bytes of the machine's memory are in use, and how many there are."""
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    sizes = {name.rstrip(":"): 1024 * int(size) for name, size, *_ in lines}
    return sizes["MemTotal"] - sizes["MemAvailable"], sizes["MemTotal"]


HOG_BYTES = 3 * 2**30


def eat() -> None:
    """Take all memory up to the limit, and more; Ray is to put an end to it."""
    held = []
    for _ in range(2 * HOG_BYTES // 2**27):
        held.append(b"\1" * 2**27)
        Event().wait(0.02)
    Event().wait(60)
    raise AssertionError(f"Ray left a process with {len(held)} times 128 MiB alone")


@contextmanager
def eats_once(attempt: int) -> Iterator[None]:
    with checkpoint_after_each_step(), at_share(0.5, eat) if attempt == 0 else nullcontext():
        yield


@contextmanager
def eats_each_time(attempt: int) -> Iterator[None]:
    with at_share(0.5, eat):
        yield


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Cluster]":
    """A node with room for two searches, but with little more memory than is in use."""
    used, total = used_memory()
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(used + HOG_BYTES) / total:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    with started_cluster(num_cpus=2) as cluster:
        yield cluster


def trial_processes(cluster: "Cluster") -> list[str]:
    """Return the names of the processes of trials that the nodes of a cluster have."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    names = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            name = (process / "cmdline").read_text().rstrip("\0")
            if parent in raylets and name.startswith("ray::ImplicitFunc"):  # Tune's name for a function
                names.append(name)
    return names


def until(condition: Callable[[], object], patience: float = 120.0) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < patience
        Event().wait(0.05)


def test_trials_that_are_out_of_memory_are_tried_again_and_given_up(
    short_of_memory: "Cluster",
    study_of: StudyOf,
    plant: Plant,
    survived: Survived,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tune crashes; what it leaves is gone before it is started again, and its slots are free."""
    import ray

    study = study_of(space=ONE_LEVEL)
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    plant({"auto_augment-n0-s0": eats_once, "random-n0-s0": eats_each_time})
    crashes = []
    real_retry = Driver.retry

    def retry(self: Driver, search: str, reason: str) -> None:
        if "running low on memory" in reason:
            crashes.append(search)
            until(lambda: {group["state"] for group in ray.util.placement_group_table().values()} <= {"REMOVED"}, 30)
            until(lambda: not trial_processes(short_of_memory), 30)
            until(lambda: ray.available_resources().get("CPU") == 2, 30)
        real_retry(self, search, reason)

    monkeypatch.setattr(Driver, "retry", retry)
    told = CliRunner().invoke(app, ["run", "study.yaml", "--address", short_of_memory.address])
    assert told.exit_code == 1, told.output
    assert "1 failed: random-n0-s0; tracebacks in runs/small/errors" in told.stderr
    folder = StudyFolder(tmp_path / "runs" / study.name)
    assert "--max-concurrent" in folder.error("random-n0-s0").read_text().splitlines()[-1]
    assert {row.search_id for row in folder.final_rows()} == {f"{label}-n0-s0" for label in study.methods} - {
        "random-n0-s0"
    }
    assert "auto_augment-n0-s0" in crashes
    assert crashes.count("random-n0-s0") == tuner.RETRIES

    plant({})
    told = CliRunner().invoke(app, ["resume", "runs/small", "--address", short_of_memory.address])
    assert told.exit_code == 0, told.output
    survived(study, folder)


@dataclass(frozen=True)
class Visits:
    """A folder in which each attempt at a search leaves the id of its node, and what it is at."""

    folder: Path

    def told(self, search: str, what: int | str) -> Path:
        return self.folder / f"{search}.{what}"

    def of(self, search: str) -> Fault:
        return partial(visit, self, search, ())

    def waiting(self, search: str) -> Fault:
        """The first attempt waits in a step for its end, once it has told of itself."""
        return partial(visit, self, search, (0,))

    def node(self, search: str, attempt: int) -> str:
        until(self.told(search, attempt).exists)
        return self.told(search, attempt).read_text()


@contextmanager
def visit(visits: Visits, search: str, waiting: tuple[int, ...], attempt: int) -> Iterator[None]:
    import ray

    def tell() -> None:
        write_atomic(visits.told(search, attempt), ray.get_runtime_context().get_node_id())
        if attempt in waiting:
            hang()

    with checkpoint_after_each_step(), at_share(0.5, tell):
        yield


@contextmanager
def operator(folder: StudyFolder, work: Callable[[], None]) -> Iterator[None]:
    """Do something beside a study; what it raises ends the study, and is raised then."""
    faults: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as fault:
            faults.append(fault)
            folder.stop.touch()

    thread = Thread(target=guarded)
    thread.start()
    yield
    thread.join()
    if faults:
        raise faults[0]


@contextmanager
def joining(cluster: "Cluster") -> Iterator[None]:
    """One more node with room for a search, started as people start one; `add_node` is for the main thread alone."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={cluster.address}"]
    command += ["--num-cpus=1", f"--object-store-memory={STORE_BYTES}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def test_nodes_that_come_and_go_change_nothing(
    study_of: StudyOf, plant: Plant, survived: Survived, tmp_path: Path
) -> None:
    """One node is lost, one comes in its place, and one is taken away with notice."""
    study, visits = study_of(space=ONE_LEVEL), Visits(tmp_path / "visits")
    searches = [f"{label}-n0-s0" for label in study.methods]
    lost, taken = "das-n0-s0", "auto_augment-n0-s0"
    plant({search: visits.waiting(search) if search in (lost, taken) else visits.of(search) for search in searches})
    with started_cluster(num_cpus=0) as cluster:
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(2)]
        cluster.wait_for_nodes()
        known = {node.node_id for node in cluster.list_all_nodes()}

        def remove(name: str, *, graceful: bool) -> None:
            [node] = [node for node in nodes if node.node_id == name]
            cluster.remove_node(node, allow_graceful=graceful)

        def new_nodes_at_work() -> set[str]:
            return {path.read_text() for path in visits.folder.glob("*.*") if not path.name.startswith(".")} - known

        def work() -> None:
            first, second = visits.node(lost, 0), visits.node(taken, 0)
            remove(first, graceful=False)
            stack.enter_context(joining(cluster))
            until(new_nodes_at_work)
            remove(second, graceful=True)

        with ExitStack() as stack, operator(StudyFolder(tmp_path / study.name), work):
            result = run(study, output=tmp_path, address=cluster.address)
    assert not result.missing
    assert attempts(result.folder, lost) == attempts(result.folder, taken) == 2
    assert {visits.node(lost, 1), visits.node(taken, 1)} == new_nodes_at_work()
    survived(study, result.folder)


@contextmanager
def on_the_frozen_node(visits: Visits, search: str, attempt: int) -> Iterator[None]:
    """The first attempt goes on once the second has claimed the search, which waits until the first has found out."""

    def tell() -> None:
        path = visits.told(search, attempt)
        if not path.exists():
            write_atomic(path, ray.get_runtime_context().get_node_id())
            until(visits.told(search, 1).exists if attempt == 0 else visits.told(search, "superseded").exists)

    import ray

    real = Checkpoints.save

    def save(self: Checkpoints, content: Mapping[str, Any], sequence: int) -> None:
        try:
            real(self, content, sequence)
        except SupersededError:
            write_atomic(visits.told(search, "superseded"), str(attempt))
            raise

    with checkpoint_after_each_step(), at_share(0.5, tell), patch.object(Checkpoints, "save", save):
        yield


def test_a_process_that_was_taken_for_dead_writes_no_checkpoint(
    study_of: StudyOf, plant: Plant, survived: Survived, tmp_path: Path
) -> None:
    """A node does not answer, and is given up; its process lives on while another node has taken over."""
    study, visits = study_of(space=ONE_LEVEL, methods={"random": None}), Visits(tmp_path / "visits")
    search = "random-n0-s0"
    plant({search: partial(on_the_frozen_node, visits, search)})
    with started_cluster(num_cpus=0) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()

        def work() -> None:
            [frozen] = [node for node in cluster.list_all_nodes() if node.node_id == visits.node(search, 0)]
            raylet = frozen.all_processes["raylet"][0].process
            raylet.send_signal(signal.SIGSTOP)
            until(visits.told(search, "superseded").exists)
            raylet.send_signal(signal.SIGCONT)

        with operator(StudyFolder(tmp_path / study.name), work):
            result = run(study, output=tmp_path, address=cluster.address)
    assert visits.told(search, "superseded").read_text() == "0"
    assert visits.node(search, 0) != visits.node(search, 1)
    survived(study, result.folder)


def test_a_raylet_that_is_killed_changes_nothing(
    study_of: StudyOf, plant: Plant, survived: Survived, tmp_path: Path
) -> None:
    study, visits = study_of(space=ONE_LEVEL, methods={"random": None, "none": None}), Visits(tmp_path / "visits")
    search = "random-n0-s0"
    plant({search: visits.waiting(search)})
    with started_cluster(num_cpus=0) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()

        def work() -> None:
            [lost] = [node for node in cluster.list_all_nodes() if node.node_id == visits.node(search, 0)]
            lost.all_processes["raylet"][0].process.kill()

        with operator(StudyFolder(tmp_path / study.name), work):
            result = run(study, output=tmp_path, address=cluster.address)
    assert not result.missing
    assert visits.node(search, 0) != visits.node(search, 1)
    survived(study, result.folder)
