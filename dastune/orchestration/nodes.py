"""What the nodes of a cluster must be for a study: of its versions, in sight of its storage, with like devices."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from dastune.config import StudyConfig
from dastune.config.study import Resources
from dastune.errors import UserError
from dastune.orchestration.environment import cpu_name
from dastune.storage import Storage

MODEL_RESOURCE = "accelerator_type:"  # what Ray's names for a node's accelerator models begin with
MODEL_SHARE = 0.001  # of that resource, of which a node has 1: what Ray itself takes for `accelerator_type=`
GPU_SECONDS = 120.0  # for torch to start in a process of its own and tell its GPUs
MOST_NAMED = 8  # nodes in a message

_TELL_GPUS = (
    "import json, torch\n"
    "print(json.dumps([torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]))"
)


@dataclass(frozen=True)
class Node:
    """A living node as Ray describes it.

    Attributes:
        id: Ray's own.
        cpus, gpus: how many of each Ray gives away there.
        models: what Ray calls the node's accelerators, such as "A100". It names the first GPU only.
    """

    id: str
    cpus: float
    gpus: float
    models: tuple[str, ...] = ()

    @classmethod
    def of_ray(cls, row: Mapping[str, Any]) -> "Node":
        """Return the node that a row of `ray.nodes()` describes."""
        offered = row["Resources"]
        models = sorted(name.removeprefix(MODEL_RESOURCE) for name in offered if name.startswith(MODEL_RESOURCE))
        return cls(row["NodeID"], offered.get("CPU", 0.0), offered.get("GPU", 0.0), tuple(models))


@dataclass(frozen=True)
class Versions:
    """What runs in a process. `dastune` has a digest of the source behind it: a copy may lag behind its number."""

    dastune: str
    ray: str
    torch: str
    python: str


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself.

    Attributes:
        host: its host name, for messages.
        versions: what runs there.
        cpu: the CPU's model.
        gpus: the model of each GPU that torch sees; empty where the study wants none.
        sees_storage, writes_storage: whether what the driver left in the study's storage is there, and more can be.
        storage_fault: what the system said where it is not, or cannot; may be empty.
    """

    host: str
    versions: Versions
    cpu: str
    gpus: tuple[str, ...]
    sees_storage: bool
    writes_storage: bool
    storage_fault: str = ""


Examined = Sequence[tuple[Node, NodeFacts]]


@cache
def versions_here() -> Versions:
    """Return the versions of this process, as it first found them."""
    package = Path(__file__).parents[1]
    source = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).as_posix()):
        source.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return Versions(
        dastune=f"{version('dastune')} (source {source.hexdigest()[:8]})",
        ray=version("ray"),
        torch=version("torch"),
        python=platform.python_version(),
    )


@contextmanager
def probe(storage: Storage, shown: str) -> Iterator[str]:
    """Leave a blob in the storage for the length of the context; yield its name, which `examine` looks for.

    Args:
        shown: the storage as its user named it.

    Raises:
        UserError: it cannot be written from here.
    """
    name = f"probe-{uuid4().hex}"
    try:
        storage.write(name, name.encode())
    except OSError as error:
        raise UserError(
            f"{shown}: the study's checkpoints go there, and it cannot be written ({_reason(error)}); {_mend(shown)}"
        ) from error
    try:
        yield name
    finally:
        with suppress(OSError):
            storage.remove(name)


def examine(wants_gpus: bool, storage: Storage, probe: str) -> NodeFacts:
    """Return what this node is; to be called on each node.

    Args:
        wants_gpus: whether the study's trials hold GPUs.
        storage: the study's.
        probe: name of the blob that the driver has left there (`probe`).
    """
    return NodeFacts(
        platform.node(),
        versions_here(),
        cpu_name(),
        _gpus() if wants_gpus else (),
        *_storage(storage, probe),
    )


def _gpus() -> tuple[str, ...]:
    """Return the models of this node's GPUs; asked in another process, so that this one, of Ray's, stays without CUDA.

    Ray hides GPUs from a process that holds none, or leaves to it those that the node was started with, by its version.
    """
    visible = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES" or value}
    try:
        told = subprocess.run(
            [sys.executable, "-c", _TELL_GPUS],
            env=visible,
            capture_output=True,
            text=True,
            check=True,
            timeout=GPU_SECONDS,
        )
    except subprocess.SubprocessError:
        return ()  # no torch that works: none that it sees
    return tuple(json.loads(told.stdout.splitlines()[-1]))


def _storage(storage: Storage, probe: str) -> tuple[bool, bool, str]:
    """Return whether this node sees the storage, whether it can write there, and what went wrong."""
    try:
        if storage.read(probe) != probe.encode():
            return False, False, ""  # not tried further: writing would make a folder that nobody else sees
    except OSError as error:
        return False, False, _reason(error)
    own = f"{probe}-{uuid4().hex}"
    try:
        storage.write(own, b"")
        storage.remove(own)
    except OSError as error:
        return True, False, _reason(error)
    return True, True, ""


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def accelerator_resources(study: StudyConfig) -> dict[str, float]:
    """Return what each of a trial's bundles holds besides CPUs and GPUs, so that it gets a node of the named model."""
    model = study.resources.model
    return {} if model is None else {f"{MODEL_RESOURCE}{model}": MODEL_SHARE}


def nodes_of_model(nodes: Sequence[Node], study: StudyConfig) -> tuple[Node, ...]:
    """Return the nodes that trials may get by `resources.devices`, whatever they have room for.

    Raises:
        UserError: no node is of the named model.
    """
    model = study.resources.model
    chosen = tuple(node for node in nodes if model is None or model in node.models)
    if not chosen:
        known = sorted({each for node in nodes for each in node.models})
        there = f"the nodes have {_listed(known)}" if known else "Ray names no model on any node"
        raise UserError(
            f"resources.devices: no node has the GPU model {model}, as Ray calls it; {there}. Name one of those, or "
            "start Ray on the nodes that have it with "
            f"--resources='{{\"{MODEL_RESOURCE}{model}\": 1}}'"
        )
    return chosen


def takes_trials(node: Node, resources: Resources) -> bool:
    """Return whether at least one trial fits on a node and may get it."""
    enough = node.cpus + 1e-9 >= resources.cpus and (resources.gpus == 0 or node.gpus >= 1)
    return enough and (resources.model is None or resources.model in node.models)


def check_nodes(
    examined: Examined,
    study: StudyConfig,
    storage: str,
    driver: Versions,
    before: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Raise UserError, with the remedy, if the nodes that take trials are not fit for the study, or not alike.

    Nodes that take none, such as a head of 0 CPUs, are not looked at.

    Args:
        examined: all living nodes.
        storage: the study's, as its user named it: a folder, or s3://BUCKET/PREFIX.
        driver: `versions_here()` of the process that drives the study.
        before: `recorded` of earlier, where the study is resumed.
    """
    names = _names(examined)
    taking = [(node, facts) for node, facts in examined if takes_trials(node, study.resources)]
    _check_versions(taking, driver, names)
    _check_storage(taking, storage, names)
    if study.resources.gpus > 0:
        _check_gpus(taking, study.resources, names)
    if study.budget.steps is None and study.resources.devices == "alike":
        _check_alike(taking, study.resources, names, before)


def _check_versions(taking: Examined, driver: Versions, names: Mapping[str, str]) -> None:
    for field in fields(Versions):
        here = getattr(driver, field.name)
        others: dict[str, list[str]] = {}
        for node, facts in taking:
            there = getattr(facts.versions, field.name)
            if _compared(field.name, there) != _compared(field.name, here):
                others.setdefault(there, []).append(names[node.id])
        if others:
            told = "; ".join(f"{there} on {_listed(where)}" for there, where in others.items())
            raise UserError(
                f"{field.name}: the study is driven by {here}, but there is {told}. Results of unlike versions are not "
                "compared: install the same dastune, ray and torch, on the same Python, on all nodes"
            )


def _compared(package: str, number: str) -> str:
    """Return the part of a version that has to be equal."""
    if package == "python":
        return ".".join(number.split(".")[:2])
    # torch's wheels for a head without GPUs and for its workers differ behind the plus.
    return number.partition("+")[0] if package == "torch" else number


def _check_storage(taking: Examined, storage: str, names: Mapping[str, str]) -> None:
    unseen = [(node, facts) for node, facts in taking if not facts.sees_storage]
    if unseen:
        raise UserError(
            f"{storage}: the study's checkpoints go there, and {_of(unseen, names)} cannot see what the driver wrote"
            f"{_faults(unseen)}; {_mend(storage)}"
        )
    closed = [(node, facts) for node, facts in taking if not facts.writes_storage]
    if closed:
        raise UserError(
            f"{storage}: the study's checkpoints go there, and {_of(closed, names)} can read but not write"
            f"{_faults(closed)}; let the user that Ray runs as write there"
        )


def _mend(storage: str) -> str:
    if "://" in storage:
        return "give every node the credentials and the way to it, or another --storage"
    return (
        "put --output on a file system that all nodes mount at this path (NFS, EFS, FSx, Lustre ...), or checkpoints "
        "into an object store: --storage s3://BUCKET/PREFIX"
    )


def _faults(nodes: Examined) -> str:
    faults = sorted({facts.storage_fault for _, facts in nodes if facts.storage_fault})
    return f" ({'; '.join(faults)})" if faults else ""


def _check_gpus(taking: Examined, resources: Resources, names: Mapping[str, str]) -> None:
    blind = [(node, facts) for node, facts in taking if not facts.gpus]
    if blind:
        raise UserError(
            f"resources.gpus is {resources.gpus:g}, and Ray gives away GPUs of {_of(blind, names)}, but torch "
            f"{_listed(sorted({facts.versions.torch for _, facts in blind}))} sees no GPU there; install a CUDA build "
            "of torch, or start Ray there without --num-gpus"
        )
    for node, facts in taking:
        if resources.model is not None and len(set(facts.gpus)) > 1:
            raise UserError(
                f"resources.devices: Ray calls all GPUs of {names[node.id]} {resources.model}, but they are "
                f"{_listed(sorted(set(facts.gpus)))}, and a search may get any; start Ray there with "
                f"CUDA_VISIBLE_DEVICES listing like ones, or mix them, which the report will state: "
                "--set resources.devices=mixed"
            )


def _check_alike(
    taking: Examined, resources: Resources, names: Mapping[str, str], before: Sequence[Mapping[str, Any]]
) -> None:
    wants_gpus = resources.gpus > 0
    where: dict[str, list[str]] = {}
    for node, facts in taking:
        for model in dict.fromkeys(_models(facts, wants_gpus)):
            where.setdefault(model, []).append(names[node.id])
    earlier = {row["model"] for row in before} - where.keys()
    if len(where) + len(earlier) <= 1:
        return
    told = [f"{model} on {_listed(nodes)}" for model, nodes in where.items()]
    told += [f"{model} when the study was begun" for model in sorted(earlier)]
    raise UserError(
        f"resources.devices: hours of unlike {'GPUs' if wants_gpus else 'CPUs'} buy unlike amounts of search, and "
        f"there are {'; '.join(told)}. {_ways_on(taking, wants_gpus, bool(earlier))}"
    )


def _ways_on(taking: Examined, wants_gpus: bool, resumed: bool) -> str:
    if resumed:
        return (
            "Go on with it on nodes like those; or on all, which the report will state: resources.devices: mixed in "
            "the study.yaml of its folder"
        )
    ways = ["Run it on nodes of one model"]
    known = sorted({model for node, _ in taking for model in node.models})
    if known and wants_gpus:
        ways.append(f"on those of one that Ray names (--set resources.devices={known[0]}; it names {_listed(known)})")
    ways.append("or on all, which the report will state (--set resources.devices=mixed)")
    return "; ".join(ways)


def recorded(
    examined: Examined, study: StudyConfig, before: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, str | float]]:
    """Return which devices trials may get, for env.json: `device` (GPU, CPU), `model`, `count`, `nodes`.

    `count` is of GPUs, or of CPU slots; `nodes` how many nodes have some. Models of `before`, what was recorded when
    the study was begun, stay.
    """
    wants_gpus = study.resources.gpus > 0
    count: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for node, facts in examined:
        if takes_trials(node, study.resources):
            models = _models(facts, wants_gpus)
            nodes.update(set(models))
            count.update(models if wants_gpus else {facts.cpu: int(node.cpus)})
    kind = "GPU" if wants_gpus else "CPU"
    now = [{"device": kind, "model": model, "count": count[model], "nodes": nodes[model]} for model in sorted(count)]
    return [dict(row) for row in before if row["model"] not in count] + now


def _models(facts: NodeFacts, wants_gpus: bool) -> tuple[str, ...]:
    return facts.gpus if wants_gpus else (facts.cpu,)


def _names(examined: Examined) -> dict[str, str]:
    """Return what messages call each node: its host, with Ray's id where a host has several."""
    hosts = Counter(facts.host for _, facts in examined)
    return {
        node.id: facts.host if hosts[facts.host] == 1 else f"{facts.host}/{node.id[:8]}" for node, facts in examined
    }


def _of(nodes: Examined, names: Mapping[str, str]) -> str:
    return f"node{'s' if len(nodes) > 1 else ''} {_listed([names[node.id] for node, _ in nodes])}"


def _listed(words: Sequence[str]) -> str:
    shown = list(words[:MOST_NAMED])
    if len(words) > MOST_NAMED:
        shown.append(f"{len(words) - MOST_NAMED} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
