"""Nodes that are not fit for a study are refused with the remedy, and unlike ones are not compared."""

import errno
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dastune.config import StudyConfig
from dastune.errors import UserError
from dastune.orchestration import doctor
from dastune.orchestration.nodes import (
    Node,
    NodeFacts,
    Versions,
    accelerator_resources,
    check_nodes,
    examine,
    nodes_of_model,
    probe,
    recorded,
    takes_trials,
    versions_here,
)
from dastune.storage import FolderStorage

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

HERE = Versions("0.1.0 (source 3fa9c1d2)", "2.60.0", "2.14.1", "3.11.7")
A100, T4 = "NVIDIA A100-SXM4-40GB", "Tesla T4"
MIXED = "which the report will state (--set resources.devices=mixed)"
SHARED = (
    "put --output on a file system that all nodes mount at this path (NFS, EFS, FSx, Lustre ...), or checkpoints into "
    "an object store: --storage s3://BUCKET/PREFIX"
)

StudyOf = Callable[..., StudyConfig]


def node(host: str, cpus: float = 8, **changes: Any) -> tuple[Node, NodeFacts]:
    facts = NodeFacts(host, HERE, "Xeon 8124M", (), sees_storage=True, writes_storage=True)
    return Node(host, cpus, gpus=0), replace(facts, **changes)


def gpu_node(host: str, ray_model: str, *gpus: str) -> tuple[Node, NodeFacts]:
    return Node(host, 8, len(gpus), (ray_model,)), node(host, gpus=gpus)[1]


HEAD = node("head", cpus=0, cpu="Ryzen", versions=replace(HERE, torch="1.0"), sees_storage=False)


@pytest.fixture
def on_cpus(study_of: StudyOf) -> StudyConfig:
    return study_of(budget={"cpu_hours": 1})


@pytest.fixture
def on_gpus(study_of: StudyOf) -> StudyConfig:
    return study_of(budget={"gpu_hours": 1}, resources={"gpus": 1})


def with_devices(study: StudyConfig, devices: str) -> StudyConfig:
    return study.model_copy(update={"resources": study.resources.model_copy(update={"devices": devices})})


def refusal(
    study: StudyConfig, *examined: tuple[Node, NodeFacts], storage: str = "/home/a/runs/x", **options: Any
) -> str:
    with pytest.raises(UserError) as caught:
        check_nodes([HEAD, *examined], study, storage, HERE, **options)
    return str(caught.value)


def test_like_nodes_are_taken_and_a_head_without_trials_is_not_compared(
    on_cpus: StudyConfig, on_gpus: StudyConfig
) -> None:
    check_nodes([HEAD, node("a"), node("b", cpus=64)], on_cpus, "/shared/x", HERE)
    check_nodes([HEAD, gpu_node("a", "A100", A100, A100), gpu_node("b", "A100", A100)], on_gpus, "/shared/x", HERE)
    # Where trials hold GPUs, neither nodes without one nor the models of CPUs matter.
    of_gpus, facts = gpu_node("b", "A100", A100)
    other_cpu = (of_gpus, replace(facts, cpu="EPYC"))
    no_gpu = node("c", sees_storage=False)
    check_nodes([gpu_node("a", "A100", A100), other_cpu, no_gpu], on_gpus, "/shared/x", HERE)


@pytest.mark.parametrize(
    ("package", "number", "message"),
    [
        (
            "dastune",
            "0.1.0 (source 00000000)",
            "dastune: the study is driven by 0.1.0 (source 3fa9c1d2), but there is ",
        ),
        ("ray", "2.60.1", "ray: the study is driven by 2.60.0, but there is 2.60.1 on b and c; 2.59.0 on d. "),
        ("torch", "2.14.0", "torch: the study is driven by 2.14.1, but there is 2.14.0 on b and c; 2.59.0 on d. "),
        ("python", "3.12.7", "python: the study is driven by 3.11.7, but there is 3.12.7 on b and c; 2.59.0 on d. "),
    ],
)
def test_other_versions(package: str, number: str, message: str, on_cpus: StudyConfig) -> None:
    other, third = (replace(HERE, **{package: each}) for each in (number, "2.59.0"))
    there = refusal(on_cpus, node("a"), *(node(host, versions=other) for host in "bc"), node("d", versions=third))
    assert there.startswith(message)
    assert there.endswith("install the same dastune, ray and torch, on the same Python, on all nodes")


def test_versions_that_matter_to_no_result(on_cpus: StudyConfig) -> None:
    close = replace(HERE, torch="2.14.1+cu126", python="3.11.2")
    check_nodes([node("a"), node("b", versions=close)], on_cpus, "/shared/x", HERE)


def test_a_storage_that_nodes_do_not_see(on_cpus: StudyConfig) -> None:
    text = "/home/a/runs/x: the study's checkpoints go there, and node{} cannot see what the driver wrote{}; " + SHARED
    blind = node("b", sees_storage=False, writes_storage=False)
    assert refusal(on_cpus, node("a"), blind) == text.format(" b", "")
    denied = node("c", sees_storage=False, writes_storage=False, storage_fault="Permission denied")
    assert refusal(on_cpus, blind, denied) == text.format("s b and c", " (Permission denied)")


def test_an_object_store_that_nodes_do_not_see(on_cpus: StudyConfig) -> None:
    denied = node("b", sees_storage=False, writes_storage=False, storage_fault="no credentials")
    assert refusal(on_cpus, node("a"), denied, storage="s3://b/x") == (
        "s3://b/x: the study's checkpoints go there, and node b cannot see what the driver wrote (no credentials); "
        "give every node the credentials and the way to it, or another --storage"
    )


def test_a_storage_that_nodes_cannot_write(on_cpus: StudyConfig) -> None:
    closed = node("b", writes_storage=False, storage_fault="Read-only file system")
    assert refusal(on_cpus, node("a"), closed) == (
        "/home/a/runs/x: the study's checkpoints go there, and node b can read but not write (Read-only file system); "
        "let the user that Ray runs as write there"
    )


def test_unlike_cpus(on_cpus: StudyConfig, study_of: StudyOf) -> None:
    nodes = (node("a"), node("b", cpu="EPYC"), node("c"))
    assert refusal(on_cpus, *nodes) == (
        "resources.devices: hours of unlike CPUs buy unlike amounts of search, and there are Xeon 8124M on a and c; "
        f"EPYC on b. Run it on nodes of one model; or on all, {MIXED}"
    )
    check_nodes(nodes, with_devices(on_cpus, "mixed"), "/shared/x", HERE)
    check_nodes(nodes, study_of(budget={"steps": 9}), "/shared/x", HERE)


def test_unlike_gpus(on_gpus: StudyConfig) -> None:
    nodes = (gpu_node("a", "A100", A100, A100), gpu_node("b", "T4", T4))
    assert refusal(on_gpus, *nodes) == (
        "resources.devices: hours of unlike GPUs buy unlike amounts of search, and there are NVIDIA A100-SXM4-40GB on "
        "a; Tesla T4 on b. Run it on nodes of one model; on those of one that Ray names (--set resources.devices=A100; "
        f"it names A100 and T4); or on all, {MIXED}"
    )
    check_nodes(nodes, with_devices(on_gpus, "mixed"), "/shared/x", HERE)


def test_unlike_gpus_in_one_node(on_gpus: StudyConfig) -> None:
    both = gpu_node("a", "A100", A100, T4)
    assert "NVIDIA A100-SXM4-40GB on a; Tesla T4 on a." in refusal(on_gpus, both)
    # Ray names a node by its first GPU, so a name does not help.
    assert refusal(with_devices(on_gpus, "A100"), both) == (
        "resources.devices: Ray calls all GPUs of a A100, but they are NVIDIA A100-SXM4-40GB and Tesla T4, and a "
        "search may get any; start Ray there with CUDA_VISIBLE_DEVICES listing like ones, or mix them, which the "
        "report will state: --set resources.devices=mixed"
    )


def test_one_model_of_gpu_by_name(on_gpus: StudyConfig) -> None:
    named = with_devices(on_gpus, "A100")
    examined = [gpu_node("a", "A100", A100), gpu_node("b", "T4", T4), gpu_node("c", "A100", A100)]
    examined[1] = (examined[1][0], replace(examined[1][1], sees_storage=False))  # it is none of ours
    check_nodes(examined, named, "/shared/x", HERE)
    nodes = [each for each, _ in examined]
    assert nodes_of_model(nodes, named) == (nodes[0], nodes[2])
    assert nodes_of_model(nodes, on_gpus) == tuple(nodes)
    assert accelerator_resources(on_gpus) == accelerator_resources(with_devices(on_gpus, "mixed")) == {}
    assert accelerator_resources(named) == {"accelerator_type:A100": 0.001}


def test_a_model_that_no_node_has(on_gpus: StudyConfig) -> None:
    nodes = [gpu_node("a", "A100", A100)[0], gpu_node("b", "T4", T4)[0]]
    with pytest.raises(UserError) as caught:
        nodes_of_model(nodes, with_devices(on_gpus, "H100"))
    assert str(caught.value) == (
        "resources.devices: no node has the GPU model H100, as Ray calls it; the nodes have A100 and T4. Name one of "
        "those, or start Ray on the nodes that have it with --resources='{\"accelerator_type:H100\": 1}'"
    )
    with pytest.raises(UserError, match="as Ray calls it; Ray names no model on any node"):
        nodes_of_model([node("a")[0]], with_devices(on_gpus, "H100"))


def test_gpus_that_ray_gives_away_and_torch_does_not_see(on_gpus: StudyConfig) -> None:
    blind = (Node("b", 8, 4, ("A100",)), node("b")[1])
    assert refusal(on_gpus, gpu_node("a", "A100", A100), blind) == (
        "resources.gpus is 1, and Ray gives away GPUs of node b, but torch 2.14.1 sees no GPU there; install a CUDA "
        "build of torch, or start Ray there without --num-gpus"
    )


def test_a_study_resumed_on_other_devices(on_cpus: StudyConfig) -> None:
    before = recorded([node("a")], on_cpus)
    check_nodes([node("z")], on_cpus, "/shared/x", HERE, before)
    others = (node("z", cpu="EPYC"),)
    assert refusal(on_cpus, *others, before=before) == (
        "resources.devices: hours of unlike CPUs buy unlike amounts of search, and there are EPYC on z; Xeon 8124M "
        "when the study was begun. Go on with it on nodes like those; or on all, which the report will state: "
        "resources.devices: mixed in the study.yaml of its folder"
    )
    assert recorded(others, with_devices(on_cpus, "mixed"), before) == [
        {"device": "CPU", "model": "Xeon 8124M", "count": 8, "nodes": 1},
        {"device": "CPU", "model": "EPYC", "count": 8, "nodes": 1},
    ]


def test_what_is_recorded_has_no_host_names(on_gpus: StudyConfig) -> None:
    examined = [HEAD, gpu_node("a", "A100", A100, A100, T4), gpu_node("b", "A100", A100), node("c")]
    rows = recorded(examined, on_gpus)
    assert rows == [
        {"device": "GPU", "model": A100, "count": 3, "nodes": 2},
        {"device": "GPU", "model": T4, "count": 1, "nodes": 1},
    ]
    assert recorded(examined[:1], on_gpus, rows) == rows
    assert recorded([gpu_node("z", "A100", A100)], on_gpus, rows[:1]) == [{**rows[0], "count": 1, "nodes": 1}]
    assert json.loads(json.dumps(rows)) == rows


def test_many_nodes_of_one_host_are_named_apart_and_not_all(on_cpus: StudyConfig) -> None:
    facts = node("host", sees_storage=False)[1]
    examined = [(Node(f"{index:08}ffff", 1, 0), facts) for index in range(30)]
    assert "nodes host/00000000, host/00000001, " in refusal(on_cpus, *examined)
    assert "host/00000007 and 22 more cannot see" in refusal(on_cpus, *examined)


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "fits"),
    [
        (0, 0, {"cpus": 1}, False),
        (1, 0, {"cpus": 1}, True),
        (0.3, 0, {"cpus": 0.3}, True),
        (2, 0, {"cpus": 4}, False),
        (8, 0, {"gpus": 0.5}, False),
        (8, 1, {"gpus": 0.5}, True),
        (8, 1, {"gpus": 1, "devices": "A100"}, False),
    ],
)
def test_a_node_takes_trials(
    cpus: float, gpus: float, resources: Mapping[str, Any], fits: bool, study_of: StudyOf
) -> None:
    study = study_of(resources=dict(resources))
    assert takes_trials(Node("a", cpus, gpus, ("T4",)), study.resources) == fits


def test_versions_are_those_of_the_packages() -> None:
    here = versions_here()
    assert here.dastune.startswith(f"{version('dastune')} (source ")
    assert (here.ray, here.torch, here.python) == (version("ray"), version("torch"), platform.python_version())


def test_a_node_in_sight_of_the_storage(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "runs")
    with probe(storage, "runs") as name:
        facts = examine(False, storage, name)
        assert json.loads(json.dumps(asdict(facts)))["versions"]["ray"] == version("ray")
    assert (facts.sees_storage, facts.writes_storage, facts.storage_fault, facts.gpus) == (True, True, "", ())
    assert list((tmp_path / "runs").iterdir()) == []


TORCH = """
import os
class cuda:
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1")
    device_count = lambda: 2 if cuda.seen == "0,1" else len(cuda.seen)
    get_device_name = ("NVIDIA A100-SXM4-40GB", "Tesla T4").__getitem__
"""


@pytest.mark.parametrize(("visible", "models"), [(None, (A100, T4)), ("", (A100, T4)), ("0", (A100,))])
def test_the_gpus_of_a_node(
    visible: str | None, models: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hides GPUs from a process that holds none by an empty variable; what a node was started with counts."""
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert examine(True, FolderStorage(tmp_path), "probe").gpus == models
    assert examine(False, FolderStorage(tmp_path), "probe").gpus == ()


def test_a_node_whose_torch_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert examine(True, FolderStorage(tmp_path), "probe").gpus == ()


def test_a_node_with_another_folder_at_the_path(tmp_path: Path) -> None:
    """Nothing is there, or something else: it is not seen, and nothing is made."""
    with probe(FolderStorage(tmp_path / "shared"), "shared") as name:
        facts = examine(False, FolderStorage(tmp_path / "own"), name)
        assert (facts.sees_storage, facts.writes_storage) == (False, False)
        assert not (tmp_path / "own").exists()
        FolderStorage(tmp_path / "own").write(name, b"other")
        assert not examine(False, FolderStorage(tmp_path / "own"), name).sees_storage


class Faulty(FolderStorage):
    """A folder that takes nothing, or does not answer."""

    def __init__(self, root: Path, reading: int = 0) -> None:
        super().__init__(root)
        self._reading = reading

    def read(self, name: str) -> bytes | None:
        if self._reading:
            raise OSError(self._reading, "it does not answer")
        return super().read(name)

    def write(self, name: str, content: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")


def test_a_node_with_a_faulty_storage(tmp_path: Path) -> None:
    with probe(FolderStorage(tmp_path), "runs") as name:
        facts = examine(False, Faulty(tmp_path), name)
        assert (facts.sees_storage, facts.writes_storage) == (True, False)
        assert facts.storage_fault == "Read-only file system"
        facts = examine(False, Faulty(tmp_path, reading=errno.EIO), name)
        assert (facts.sees_storage, facts.writes_storage) == (False, False)
        assert facts.storage_fault == "it does not answer"


def test_a_driver_that_cannot_write_to_the_storage(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, probe(Faulty(tmp_path), "/home/a/runs/x"):
        pass
    assert str(caught.value) == (
        "/home/a/runs/x: the study's checkpoints go there, and it cannot be written (Read-only file system); " + SHARED
    )


def ray_nodes() -> list[Node]:
    import ray

    return [Node.of_ray(row) for row in ray.nodes() if row["Alive"]]


def on_each(nodes: list[Node], function: Callable[[], NodeFacts]) -> list[NodeFacts]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(lambda: function())
    there = (NodeAffinitySchedulingStrategy(each.id, soft=False) for each in nodes)
    return ray.get([task.options(scheduling_strategy=strategy).remote() for strategy in there])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Cluster]":
    """A cluster whose head takes no trials, with a node of each of two models, as Ray is told."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20})
    for model in ("A100", "T4"):
        resources = {f"accelerator_type:{model}": 1}
        cluster.add_node(num_cpus=1, num_gpus=1, resources=resources, object_store_memory=200 * 2**20)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


real_cluster = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def marked(test: Any) -> Any:
    for mark in real_cluster:
        test = mark(test)
    return test


@marked
def test_trials_get_nodes_of_the_named_model(cluster: "Cluster", on_gpus: StudyConfig, tmp_path: Path) -> None:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    nodes = ray_nodes()
    assert sorted((each.cpus, each.gpus, each.models) for each in nodes) == [
        (0, 0, ()),
        (1, 1, ("A100",)),
        (1, 1, ("T4",)),
    ]
    for model in ("T4", "A100"):
        study = with_devices(on_gpus, model)
        [chosen] = nodes_of_model(nodes, study)
        group = ray.util.placement_group([{"CPU": 1, "GPU": 1, **accelerator_resources(study)}])
        strategy = PlacementGroupSchedulingStrategy(group)
        where = ray.remote(num_cpus=1, num_gpus=1)(lambda: ray.get_runtime_context().get_node_id())
        assert ray.get(where.options(scheduling_strategy=strategy).remote()) == chosen.id
        ray.util.remove_placement_group(group)
    assert "         as resources.devices may name them: A100 on 1 node, T4 on 1 node" in doctor.examine(None, "auto")
    # The GPUs are declared only, and the nodes say so themselves.
    storage = FolderStorage(tmp_path / "runs")
    with probe(storage, "runs") as name:
        examined = list(zip(nodes, on_each(nodes, lambda: examine(True, storage, name)), strict=True))
    with pytest.raises(UserError, match="sees no GPU there"):
        check_nodes(examined, on_gpus, "runs", examined[0][1].versions)


HIDDEN = 'mount -t tmpfs none "$0"'
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'


def in_own_mounts(mount: str, folder: Path, command: list[str]) -> list[str]:
    """Return a command that runs `command` where a folder is mounted otherwise than elsewhere."""
    return ["unshare", "--mount", "sh", "-ec", f'{mount}; exec "$@"', str(folder), *command]


@pytest.fixture
def odd_nodes(cluster: "Cluster", tmp_path: Path) -> Iterator[Path]:
    """The folder that two more nodes of the cluster do not see, or see read-only."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for mount in (HIDDEN, READ_ONLY):
        tried = subprocess.run(in_own_mounts(mount, folder, ["true"]), capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"this user may not mount: {tried.stderr}")
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}", "--block"]
    start += ["--num-cpus=1", f"--object-store-memory={200 * 2**20}"]
    with ExitStack() as stack:
        for name, mount in (("hidden", HIDDEN), ("read_only", READ_ONLY)):
            command = in_own_mounts(mount, folder, [*start, f'--resources={{"{name}": 1}}'])
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            stack.callback(process.terminate)
            # One by one: two that start at the same time may choose the same socket.
            before = len(ray_nodes())
            while len(ray_nodes()) == before:
                with pytest.raises(subprocess.TimeoutExpired):  # it runs on
                    process.wait(timeout=0.2)
        yield folder


@marked
def test_nodes_that_do_not_see_the_folder(cluster: "Cluster", odd_nodes: Path, on_cpus: StudyConfig) -> None:
    import ray

    nodes = ray_nodes()
    odd = {row["NodeID"]: row["Resources"].keys() & {"hidden", "read_only"} for row in ray.nodes()}
    storage = FolderStorage(odd_nodes)
    with probe(storage, "runs") as name:
        facts = dict(zip(nodes, on_each(nodes, lambda: examine(False, storage, name)), strict=True))
        assert [path.name for path in odd_nodes.iterdir()] == [name]
    assert list(odd_nodes.iterdir()) == []
    seen = {each.id: (it.sees_storage, it.writes_storage, it.storage_fault) for each, it in facts.items()}
    expected = {"hidden": (False, False, ""), "read_only": (True, False, "Read-only file system")}
    assert seen == {id: expected[min(names)] if names else (True, True, "") for id, names in odd.items()}
    [hidden] = [each for each in nodes if "hidden" in odd[each.id]]
    with pytest.raises(UserError) as caught:
        check_nodes(list(facts.items()), on_cpus, str(odd_nodes), facts[hidden].versions)
    assert f"node {platform.node()}/{hidden.id[:8]} cannot see what the driver wrote; {SHARED}" in str(caught.value)
    driver = facts.pop(hidden).versions
    with pytest.raises(UserError, match=r"can read but not write \(Read-only file system\)"):
        check_nodes(list(facts.items()), on_cpus, str(odd_nodes), driver)
