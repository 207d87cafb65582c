"""A study on a Ray cluster of several nodes, all on this machine."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dastune.budget import Ledger, event_from_row
from dastune.config import StudyConfig
from dastune.data.dataset import Dataset
from dastune.errors import UserError
from dastune.folder import StudyFolder, read_lines
from dastune.orchestration.grid import Assignment, grid
from dastune.orchestration.study import run
from dastune.orchestration.tuner import from_store, in_store
from dastune.policy.policy import load_policy

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


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Cluster]":
    """A cluster whose head takes no trials and whose two workers take one each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    store = 200 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=store)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def test_a_cluster_finds_what_one_process_finds(
    three_nodes: "Cluster",
    study_of: Callable[..., StudyConfig],
    tmp_path: Path,
    alone: Callable[[StudyConfig, Assignment], Any],
) -> None:
    study = study_of(seeds={"search": [0], "final": [0]})
    result = run(study, output=tmp_path / "runs", address=three_nodes.address)
    assert not result.missing
    tested = {row.search_id: row.test_accuracy for row in result.final_rows}
    for assignment in grid(study):
        here = alone(study, assignment)
        assert here.policy == load_policy(result.folder.policy(assignment.id))
        assert here.accuracies == {0: tested[assignment.id]}


def test_a_data_set_is_on_each_node_once(three_nodes: "Cluster") -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pixels = np.zeros((2000, 32, 32, 3), np.uint8)
    labels = np.zeros(2000, np.int64)
    large = Dataset("zeros", pixels, labels, pixels[:1], labels[:1], 10, "nowhere")
    ray.init(address=three_nodes.address, log_to_driver=False)
    try:
        data = in_store(large)
        places = {}
        for node in ray.nodes():
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            processes = [ray.remote(Place).options(num_cpus=0, scheduling_strategy=strategy).remote() for _ in range(3)]
            places[node["NodeID"]] = ray.get([process.of_pixels.remote(data) for process in processes])
    finally:
        ray.shutdown()
    assert len(places) == 3
    assert len({place for found in places.values() for place in found}) == 3
    assert all(len(set(found)) == 1 for found in places.values())


class Place:
    """A process that says which file of shared memory an array of the data set lies in, and where in it."""

    def of_pixels(self, data: list[Any]) -> tuple[str, int]:
        self.dataset = from_store(data)
        at = self.dataset.train_pixels.ctypes.data
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, _, offset, device, inode, *_ = line.split()
            begin, end = (int(number, 16) for number in span.split("-"))
            if begin <= at < end:
                return f"{device}:{inode}", at - begin + int(offset, 16)
        raise AssertionError("nowhere")


def test_children_on_two_nodes_of_which_one_is_lost(
    three_nodes: "Cluster",
    study_of: Callable[..., StudyConfig],
    tmp_path: Path,
    alone: Callable[[StudyConfig, Assignment], Any],
) -> None:
    """Two children at a time, on a node each; one node dies, a third takes its place: as if nothing had happened."""
    three_nodes.add_node(num_cpus=1, object_store_memory=200 * 2**20)
    several = {"method": "random", "children_in_parallel": 2}
    study = study_of(
        methods={"several": several},
        space={"ops": ["identity", "rotate", "invert"], "noise": {"levels": [0]}},
        budget={"steps": 6000},  # long enough for a checkpoint and more
        seeds={"search": [0], "final": [0]},
    )
    [assignment] = grid(study)
    here = alone(study, assignment)
    folder = StudyFolder(tmp_path / "runs" / study.name)

    import ray

    def lose_a_node() -> None:
        while not list(folder.checkpoints.glob("*.pt")):
            if done.wait(0.1):
                return
        [group] = [each for each in ray.util.placement_group_table().values() if each["state"] == "CREATED"]
        [lost] = [node for node in three_nodes.list_all_nodes() if node.node_id == group["bundles_to_node_id"][1]]
        three_nodes.remove_node(lost, allow_graceful=False)

    done = Event()
    thread = Thread(target=lose_a_node)
    thread.start()
    try:
        result = run(study, output=tmp_path / "runs", address=three_nodes.address)
    finally:
        done.set()
        thread.join()
    assert not result.missing
    [row] = result.search_rows
    assert (row.status, row.steps) == ("budget", here.steps)
    assert load_policy(folder.policy(assignment.id)) == here.policy
    scores = {child.child: child.score for child in here.children}
    assert {child.child: child.score for child in folder.child_rows()} == scores
    events = [event_from_row(line) for line in read_lines(folder.ledger)]
    assert Ledger(events).charge(assignment.id).attempts == 2


def test_a_worker_without_the_gpu_that_ray_promises_is_told(
    three_nodes: "Cluster", study_of: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    three_nodes.add_node(num_cpus=2, num_gpus=2, object_store_memory=200 * 2**20)
    study = study_of(
        methods={"random": {"children_in_parallel": 2}}, resources={"gpus": 1}, budget={"gpu_hours": 0.001}
    )
    with pytest.raises(UserError, match="GPU"):
        run(study, output=tmp_path / "runs", address=three_nodes.address)


@pytest.fixture
def client_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The ray:// address of a cluster in processes of its own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    port, client_port = free_ports(2)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false"]
    with subprocess.Popen([*command, f"--object-store-memory={200 * 2**20}"], stdout=subprocess.DEVNULL) as process:
        while not answers(client_port):
            with pytest.raises(subprocess.TimeoutExpired):  # it runs on
                process.wait(timeout=0.5)
        yield f"ray://127.0.0.1:{client_port}"
        process.terminate()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_study_is_driven_on_the_cluster_from_outside_it(client_server: str, tmp_path: Path) -> None:
    small = ["--budget", "20 steps", "--set", "seeds.search=[0]", "--set", "space.noise.levels=[0]"]
    command = [sys.executable, "-m", "dastune", "run", "digits_noise", *small, "--set", "final.epochs=1"]
    command += ["--address", client_server, "--output", str(tmp_path / "runs")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert "rand_augment" in result.stdout
    folder = StudyFolder(tmp_path / "runs" / "digits_noise")
    assert len(folder.search_rows()) == len(folder.final_rows()) == 6
    # A fault of the input there is a message and exit code 2 here.
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr
