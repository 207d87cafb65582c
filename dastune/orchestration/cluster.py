"""Ray's cluster: starts or joins one, what it offers, and calls on each of its nodes."""

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from secrets import token_hex
from typing import Any, TypeVar, cast

from dastune.config import StudyConfig
from dastune.config.study import BlackBox, Resources
from dastune.errors import UserError
from dastune.orchestration.nodes import Node, nodes_of_model, takes_trials

Result = TypeVar("Result")

CONNECTION_TRIES = 4  # of Ray's client

# Set before Ray starts, where the user has not chosen otherwise: nothing is sent home, Tune's own loggers (which import
# TensorBoard and torch into the driver) are off, trials keep the work folder, Ctrl-C is ours, and so is what a resumed
# study needs: Tune's snapshots of itself, whose cost grows with the trials, are not.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


@dataclass(frozen=True)
class Devices:
    """What the cluster offers."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        """CPU slots over all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs over all nodes."""
        return sum(node.gpus for node in self.nodes)

    def slots(self, resources: Resources) -> int:
        """Return how many searches fit at the same time; each needs all it holds on one node, a fraction on one GPU."""
        return sum(_fits(node, resources) for node in self.nodes if takes_trials(node, resources))


def _fits(node: Node, resources: Resources) -> int:
    by_cpu = int(node.cpus / resources.cpus + 1e-9)
    if resources.gpus == 0:
        return by_cpu
    return min(by_cpu, int(node.gpus) * int(1 / resources.gpus + 1e-9))


@contextmanager
def cluster(address: str | None, *, object_store_bytes: int | None = None) -> Iterator[Devices]:
    """Start Ray on this machine, or join the cluster at `address`, for the length of the context.

    Args:
        address: None for a new local cluster; "auto" or host:port for one that is running. Inside a
            process of a cluster (`run_on_cluster`) it is that cluster, whatever is given.
        object_store_bytes: shared memory of a local cluster; None: Ray's own choice.

    Raises:
        UserError: no cluster answers at `address`.
    """
    ray = _ray(address)
    if ray.is_initialized():
        yield _devices(ray)
        return
    _check_answers(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": object_store_bytes}
    try:
        with _unsignalled():
            ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if address is None:
            raise UserError(f"Ray does not start on this machine: {error}; see `dastune doctor`") from error
        raise UserError(
            f"--address {address}: no Ray cluster answers there ({error}); start one with `ray start --head`, or leave "
            "--address out to run on this machine"
        ) from error
    try:
        yield _devices(ray)
    finally:
        ray.shutdown()


@contextmanager
def _unsignalled() -> Iterator[None]:
    """Have processes that are begun inside not hear a hang-up or SIGTERM, and this one hear it as before.

    A terminal that closes, `timeout`, systemd and Slurm signal all processes at once. Ray's must go on then, as they do
    at Ctrl-C, until the driver, which hears it too, has ended the study.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray's aborts, with a dump
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_on_cluster(address: str, function: Callable[[], Result]) -> Result:
    """Call `function` in a process of the cluster behind a Ray client address, `ray://host:port`.

    What it prints is printed here; Ctrl-C here is Ctrl-C there.

    Raises:
        UserError: Ray's client is not installed, nothing answers at `address`, or `function` raised it.
    """
    if find_spec("grpc") is None:
        raise UserError(
            f"--address {address}: needs Ray's client: pip install 'dastune[client]'; or run on a node of the cluster "
            "with --address auto"
        )
    _check_answers(address)
    ray = _ray(address)
    _connect(ray, address)
    try:
        call = ray.remote(num_cpus=0, max_retries=0)(lambda: function()).remote()
        try:
            return cast(Result, ray.get(call))
        except KeyboardInterrupt:
            ray.cancel(call)
            return cast(Result, ray.get(call))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Connect Ray's client; Ray's proxy now and then loses the server it has just started for it, so try again."""
    for tries_left in reversed(range(CONNECTION_TRIES)):
        try:
            ray.init(address, log_to_driver=True, logging_level=logging.ERROR)
            return
        except (ConnectionError, ValueError, RuntimeError) as error:
            if not tries_left:
                raise UserError(f"--address {address}: no Ray client server answers there ({error})") from error


def _ray(address: str | None) -> Any:
    """Import Ray with our environment set."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None:
        # One machine: Ray listens on loopback only. The variable decides that on every system, whatever its name says;
        # it is read when Ray is first imported, so in a program that has imported Ray before Ray listens everywhere.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Others with an account on the machine reach loopback too: Ray asks for a token. Its own would be a file that
        # they may read.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray

    # Tune's own words about state files and retries; what a person must know is said by us.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    return ray


def _check_answers(address: str | None) -> None:
    """Raise UserError if nothing listens at a host:port address; Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"--address {address}: nothing answers there ({error}); start a cluster with `ray start --head`, or leave "
            "--address out to run on this machine"
        ) from error


def _devices(ray: Any) -> Devices:
    return Devices(tuple(Node.of_ray(row) for row in ray.nodes() if row["Alive"]))


def check_devices(devices: Devices, study: StudyConfig) -> None:
    """Raise UserError if not even one search of the study fits into the cluster."""
    wanted = study.resources
    nodes_of_model(devices.nodes, study)
    if wanted.gpus > devices.gpus:
        hint = "set resources.gpus to 0 and give the budget in cpu_hours (--set resources.gpus=0 --budget ...)"
        raise UserError(
            f"resources.gpus: each search holds {wanted.gpus:g} GPU, but there are {devices.gpus:g}; run it where GPUs "
            f"are (--address), or {hint}"
        )
    if devices.slots(wanted) < 1:
        most = max((node.cpus for node in devices.nodes if node.gpus >= wanted.gpus), default=0.0)
        raise UserError(
            f"resources.cpus: each search holds {wanted.cpus:g} CPUs of one node, but no node has more than {most:g}; "
            f"lower it (--set resources.cpus={int(most)}) or give the address of a larger cluster (--address)"
        )
    for label, options in study.methods.items():
        if isinstance(options, BlackBox) and options.children_in_parallel > devices.slots(wanted):
            raise UserError(
                f"methods.{label}.children_in_parallel: {options.children_in_parallel} children at the same time need "
                f"as many times what resources says, and there is room for {devices.slots(wanted)}; lower it, or give "
                "the address of a larger cluster (--address)"
            )


def on_each_node(function: Callable[[], Result], nodes: Sequence[str]) -> dict[str, Result]:
    """Call `function` once on each of the nodes with these ids, at the same time, holding no devices there.

    Returns:
        What it returned, by node; nodes that are lost meanwhile are left out. Must run inside `cluster`.

    Raises:
        UserError: it raised on a node, such as one without dastune.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(lambda: function())
    calls = {
        node: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    }
    results: dict[str, Result] = {}
    for node, call in calls.items():
        try:
            results[node] = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise UserError(
                f"node {node[:8]}: is not fit for the study ({error.cause or error}); install the same dastune there"
            ) from error
        except ray.exceptions.RayError:
            continue
    return results
