"""The only door to Ray: starts or joins a cluster, and runs assignments as Ray Tune trials."""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dastune.config import StudyConfig
from dastune.config.study import BlackBox, Resources
from dastune.errors import UserError
from dastune.folder import StudyFolder
from dastune.orchestration.grid import Assignment, grid

if TYPE_CHECKING:
    from dastune.data.classification import Dataset
    from dastune.orchestration.reports import Report

Result = TypeVar("Result")

CONNECTION_TRIES = 4  # of Ray's client
RETRIES = 3  # of a trial whose process or node died; faults of a method are reported, not retried

# Set before Ray starts, where the user has not chosen otherwise: nothing is sent home, Tune's own loggers (which import
# TensorBoard and torch into the driver) are off, trials keep the work folder, and Ctrl-C is ours.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


@dataclass(frozen=True)
class Devices:
    """What the cluster offers: CPU slots and GPUs of each node."""

    nodes: tuple[tuple[float, float], ...]

    @property
    def cpus(self) -> float:
        """CPU slots over all nodes."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs over all nodes."""
        return sum(gpus for _, gpus in self.nodes)

    def slots(self, resources: Resources) -> int:
        """Return how many searches fit at the same time; each needs all it holds on one node, a fraction on one GPU."""
        return sum(_fits(cpus, gpus, resources) for cpus, gpus in self.nodes)


def _fits(cpus: float, gpus: float, resources: Resources) -> int:
    by_cpu = int(cpus / resources.cpus + 1e-9)
    if resources.gpus == 0:
        return by_cpu
    return min(by_cpu, int(gpus) * int(1 / resources.gpus + 1e-9))


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
        # Ray listens on all interfaces, so even a cluster of one machine asks for a token; Ray makes it where needed.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
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
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Devices(tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive))


def check_devices(devices: Devices, study: StudyConfig) -> None:
    """Raise UserError if not even one search of the study fits into the cluster."""
    wanted = study.resources
    if wanted.gpus > devices.gpus:
        hint = "set resources.gpus to 0 and give the budget in cpu_hours (--set resources.gpus=0 --budget ...)"
        raise UserError(
            f"resources.gpus: each search holds {wanted.gpus:g} GPU, but there are {devices.gpus:g}; run it where GPUs "
            f"are (--address), or {hint}"
        )
    if devices.slots(wanted) < 1:
        most = max((cpus for cpus, gpus in devices.nodes if gpus >= wanted.gpus), default=0.0)
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


def processes_of(study: StudyConfig, assignment: Assignment) -> int:
    """Return how many processes a search has, each with devices of its own: one for each child trained at a time."""
    options = assignment.options(study)
    return options.children_in_parallel if isinstance(options, BlackBox) else 1


def run_trials(
    study: StudyConfig,
    assignments: Sequence[Assignment],
    dataset: "Dataset",
    folder: StudyFolder,
    on_report: Callable[["Report"], None],
    on_retry: Callable[[str], None],
    on_lost: Callable[[str, str], None],
    should_stop: Callable[[], bool],
) -> None:
    """Run each assignment as one Ray Tune trial in a reused actor, until all have ended or `should_stop` says so.

    Must run inside `cluster`. The data set goes once into the object store, which all actors of a node share.
    `on_report` is called in this process, in the order in which a trial reports; `on_retry` with the id of a search
    whose process died and that is started again; `on_lost` at the end with the id and the reason of every search whose
    processes died more than RETRIES times.

    A search that trains several children at the same time holds as many devices; it ends with its search, and is to be
    run again for its final trainings.
    """
    import ray
    from ray import tune

    class Door(tune.Callback, tune.Stopper):
        """Hands reports out of Tune, and the wish to stop into it."""

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            on_report(result["report"])

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            on_retry(trial.config["search"])

        def __call__(self, trial_id: str, result: Any) -> bool:
            return False

        def stop_all(self) -> bool:
            return should_stop()

        def __reduce__(self) -> tuple[Any, ...]:
            # Tune pickles its configuration to restore from; we resume from our own rows, so nothing of this is kept.
            return (object, ())

    door = Door()
    searched = {row.id for row in folder.search_rows() if row.status != "failed"}
    # One where only final trainings are left.
    processes = {item.id: 1 if item.id in searched else processes_of(study, item) for item in assignments}
    # In a list, so that Ray hands the reference on, and all processes of a node share one copy of the data.
    data = [ray.put(dataset)]
    trainable = tune.with_parameters(
        _run_assignment, study=study, data=data, root=str(folder.root), processes=processes
    )

    def resources(config: dict[str, Any]) -> Any:
        return tune.PlacementGroupFactory([_bundle(study.resources)] * processes[config["search"]])

    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"search": tune.grid_search([assignment.id for assignment in assignments])},
        tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=_trial_folder),
        run_config=tune.RunConfig(
            name=f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}",
            storage_path=str(folder.ray),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[door],
            stop=door,
            verbose=0,
        ),
    )
    results = tuner.fit()
    for result in (results[index] for index in range(len(results))):
        if result.error is not None:
            # A trial that never reported has no configuration here, but a folder.
            on_lost(Path(result.path).name.rpartition("-")[0], str(result.error))


def _trial_folder(trial: Any) -> str:
    return f"{trial.config['search']}-{trial.trial_id}"


def _bundle(resources: Resources) -> dict[str, float]:
    return {"CPU": resources.cpus, "GPU": resources.gpus}


def _run_assignment(
    config: dict[str, Any], *, study: StudyConfig, data: list[Any], root: str, processes: dict[str, int]
) -> None:
    """The trainable: runs in an actor that has run other assignments before."""
    granted = time.monotonic()
    import ray
    from ray import tune

    from dastune.orchestration.reports import Report
    from dastune.orchestration.trial import trial

    [assignment] = [assignment for assignment in grid(study) if assignment.id == config["search"]]
    dataset = ray.get(data[0])
    try:
        with _workers(processes[assignment.id] - 1, study, assignment, data) as workers:
            for report in trial(study, assignment, dataset, StudyFolder(root), workers=workers, granted=granted):
                tune.report({"report": report})
    except UserError as error:
        # A worker's node is not fit for the study, and so the next attempt would not go better.
        tune.report({"report": Report(assignment.id, "unfit", charged=0.0, steps=0, error=str(error))})


@contextmanager
def _workers(count: int, study: StudyConfig, assignment: Assignment, data: list[Any]) -> Iterator[list["_RayWorker"]]:
    """Start processes that train children, each in a bundle of the trial's placement group after the trial's own.

    Raises:
        WorkerLostError: one of them does not start.
        UserError: one of their nodes is not fit for the study.
    """
    if count == 0:
        yield []
        return
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.get_current_placement_group()
    assert group is not None  # Tune gives every trial one
    actors: list[Any] = []
    try:
        for bundle in range(1, count + 1):
            actor_class = ray.remote(_ChildActor).options(
                num_cpus=study.resources.cpus,
                num_gpus=study.resources.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
            )
            actors.append(actor_class.remote())
        workers = [_RayWorker(actor) for actor in actors]
        for begun in [worker.call("serve", study, assignment, data) for worker in workers]:
            begun()
        yield workers
    finally:
        for actor in actors:
            ray.kill(actor)


class _ChildActor:
    """The Ray actor around a ChildServer."""

    def call(self, method: str, *arguments: Any) -> Any:
        # Not in __init__, whose errors Ray reports as the death of the actor.
        return self._serve(*arguments) if method == "serve" else getattr(self._server, method)(*arguments)

    def _serve(self, study: StudyConfig, assignment: Assignment, data: list[Any]) -> None:
        import ray

        from dastune.orchestration.setting import child_server

        self._server = child_server(study, assignment, ray.get(data[0]))


class _RayWorker:
    """A Worker that is a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        import ray

        from dastune.orchestration.crew import WorkerLostError

        pending = self._actor.call.remote(method, *arguments)

        def wait() -> Any:
            try:
                return ray.get(pending)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause or error) from None
            except ray.exceptions.RayError as error:
                raise WorkerLostError(f"a process that trained children is gone: {error}") from error

        return wait
