"""Runs assignments as Ray Tune trials, supervised: what dies is started again, what crashes Tune as well."""

import gc
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dastune.config import StudyConfig
from dastune.config.study import BlackBox
from dastune.errors import UserError
from dastune.orchestration.grid import Assignment, grid

if TYPE_CHECKING:
    from dastune.data.dataset import Dataset
    from dastune.orchestration.reports import Report, Start

RETRIES = 3  # of a trial that dies again and again without a checkpoint in between; faults of a method are not retried


class Listener(Protocol):
    """The driver's side: says how a search begins, and hears what comes of it. All is called in the driver's thread."""

    def start(self, search: str) -> "Start":
        """Return what a process that begins now with a search, or goes on with it, is to know."""

    def hear(self, report: "Report") -> None:
        """Take in a report; the trial waits for it."""

    def retry(self, search: str, reason: str) -> None:
        """Hear that the process of a search died, and that it is started again."""

    def lose(self, search: str, reason: str) -> None:
        """Hear that the processes of a search died more than RETRIES times without getting on."""

    def should_stop(self) -> bool:
        """Return whether to end at once, whatever runs."""


def processes_of(study: StudyConfig, assignment: Assignment) -> int:
    """Return how many processes a search has, each with devices of its own: one for each child trained at a time."""
    options = assignment.options(study)
    return options.children_in_parallel if isinstance(options, BlackBox) else 1


def run_trials(
    study: StudyConfig,
    assignments: Sequence[Assignment],
    dataset: "Dataset",
    storage: str,
    listener: Listener,
    *,
    scratch: Path,
    max_concurrent: int | None = None,
    node_resources: Mapping[str, float] | None = None,
) -> None:
    """Run each assignment as one Ray Tune trial in a reused actor, until all have ended or the listener says so.

    Must run inside `cluster`. The data set goes once into the object store, which all actors of a node share.

    A process or a node that dies costs a trial an attempt: it is started again from its checkpoint, RETRIES times
    without a new checkpoint in between. Tune itself gives up when Ray's memory monitor kills a trial; it is then begun
    anew with all trials that are not done, each of which goes on from its checkpoint.

    Args:
        storage: where checkpoints are, as `open_storage` takes it, on every node.
        scratch: a folder for Tune's own state, removed at the end.
        max_concurrent: how many searches at the same time at most; None: as many as fit.
        node_resources: what each process asks of its node besides CPUs and GPUs.

    Raises:
        Exception: what a call of the listener raised; all trials are ended then.
    """
    data = in_store(dataset)
    left = {assignment.id: assignment for assignment in assignments}
    deaths = Deaths()
    while left:
        door = _door(listener, deaths)
        try:
            crash = _fit(
                study, list(left.values()), data, storage, listener, door, scratch, max_concurrent, node_resources or {}
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if door.fault is not None:
            raise door.fault
        for search in door.over:
            left.pop(search, None)
        if listener.should_stop():
            return
        for search in _culprits(crash, door.running) if crash else left.keys() - door.again:
            deaths.add(search)
            reason = _told_of_memory(crash) or "Ray Tune has dropped it"
            if deaths.too_many(search):
                listener.lose(search, reason)
                left.pop(search)
            else:
                listener.retry(search, reason)


class Deaths:
    """Counts how often the process of each search died since the search last got on."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._newest: dict[str, tuple[int, bool, int]] = {}

    def __getitem__(self, search: str) -> int:
        return self._count.get(search, 0)

    def add(self, search: str) -> None:
        """Count one more."""
        self._count[search] = self[search] + 1

    def too_many(self, search: str) -> bool:
        """Return whether the search is to be given up."""
        return self[search] > RETRIES

    def hear(self, report: "Report") -> None:
        """Forget the deaths of a search that tells of a new checkpoint; of one just before a death its next process."""
        written = [(event.attempt, event.meter == "final", event.sequence) for event in report.ledger if event.durable]
        if written and max(written) > self._newest.get(report.search, (-1, False, 0)):
            self._newest[report.search] = max(written)
            self._count.pop(report.search, None)


def in_store(dataset: "Dataset") -> list[Any]:
    """Put a data set into Ray's object store, from which it goes once to each node that asks for it."""
    import ray

    return [ray.put(dataset)]  # in a list, so that Ray hands the reference on, and not the data


def from_store(data: list[Any]) -> "Dataset":
    """Return the data set of `in_store`: its arrays lie in memory that all processes of a node share, and are fixed."""
    import ray

    dataset: Dataset = ray.get(data[0])
    return dataset


def _culprits(crash: str, running: Mapping[str, str]) -> list[str]:
    """Return the searches whose processes a crash of Tune is about: those that Ray killed for their memory, or all.

    Args:
        running: the Ray id of the actor of each search.
    """
    killed = re.findall(r"Selected to kill: \(Actor\((\w+)\)", crash)
    return [search for search, actor in running.items() if actor in killed] or list(running)


def _told_of_memory(crash: str) -> str:
    """Return why Tune crashed, with a last line for people."""
    if (used := re.search(r"was (\S+) used / (\S+) limit", crash)) is None:
        return crash
    return (
        f"{crash}\nended by Ray for the memory of its node, {used[1]} used of {used[2]}; run fewer searches at the "
        "same time (--max-concurrent), or with smaller batches"
    )


def _door(listener: Listener, deaths: Deaths) -> Any:
    """Return what hands reports out of Tune, and the wish to stop into it."""
    from ray import tune

    class Door(tune.Callback, tune.Stopper):
        """Attributes: whether a search began; the running actors by search; what is over; what is to begin again."""

        def __init__(self) -> None:
            self.begun = False
            self.running: dict[str, str] = {}
            self.over: set[str] = set()
            self.again: set[str] = set()
            self.fault: Exception | None = None

        def _tell(self, hear: Callable[..., Any], *arguments: Any) -> Any:
            # An exception would pass through Tune, which would end as if by a crash of its own.
            try:
                return hear(*arguments)
            except Exception as fault:
                self.fault = self.fault or fault

        def _end(self, trial: Any) -> str:
            search: str = trial.config["search"]
            self.running.pop(search, None)
            return search

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            search = trial.config["search"]
            self.begun = True
            self.again.discard(search)
            self.running[search] = trial.temporary_state.ray_actor._actor_id.hex()
            # Tune counts failures over a trial's whole life, and has no public way to tell it another number.
            trial.run_metadata.num_failures = deaths[search]

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            report = result["report"]
            deaths.hear(report)
            trial.run_metadata.num_failures = deaths[report.search]
            self._tell(listener.hear, report)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.over.add(self._end(trial))

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            search = self._end(trial)
            self.again.add(search)
            deaths.add(search)
            self._tell(listener.retry, search, _reason(trial))
            trial.config["start"] = self._tell(listener.start, search)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            search = self._end(trial)
            # Of a process that dies as it takes on a search Tune tells twice, and gives up: it is to begin anew then.
            if search not in self.again:
                deaths.add(search)
                if deaths.too_many(search):
                    self.over.add(search)
                    self._tell(listener.lose, search, _reason(trial))
                else:
                    self.again.add(search)
                    self._tell(listener.retry, search, _reason(trial))

        def __call__(self, trial_id: str, result: Any) -> bool:
            return False

        def stop_all(self) -> bool:
            return self.fault is not None or listener.should_stop()

        def __reduce__(self) -> tuple[Any, ...]:
            # Tune pickles its configuration to restore from; we resume from our own rows, so nothing of this is kept.
            return (object, ())

    return Door()


def _silence() -> Any:
    """Return what stands in for Tune's own word on trials that end, which it prints whatever its verbosity."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Silence(TrialProgressCallback):
        def log_result(self, *arguments: Any, **options: Any) -> None:
            pass

        def on_trial_complete(self, *arguments: Any, **options: Any) -> None:
            pass

    return Silence()


def _reason(trial: Any) -> str:
    """Return what Tune has noted of a trial's deaths, the last one at the end."""
    path = trial.error_file
    return Path(path).read_text(encoding="utf-8", errors="replace") if path and Path(path).exists() else "unknown"


def _fit(
    study: StudyConfig,
    assignments: Sequence[Assignment],
    data: list[Any],
    storage: str,
    listener: Listener,
    door: Any,
    scratch: Path,
    max_concurrent: int | None,
    node_resources: Mapping[str, float],
) -> str:
    """Run Tune to its end; return what it crashed with, if it did. Raises what it raises before a trial has begun."""
    from ray import tune
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    # Tune would hand keys of the cloud to its actors in their runtime environment, which Ray writes into logs that
    # anybody may read. Processes of this machine have this one's environment, and a cluster's nodes their own.
    ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])

    starts = {item.id: listener.start(item.id) for item in assignments}
    # One where only final trainings are left.
    processes = {item.id: 1 if starts[item.id].row is not None else processes_of(study, item) for item in assignments}
    # Beside the trials' configurations, of which Tune copies the whole grid for each.
    trainable = tune.with_parameters(
        _run_assignment, study=study, data=data, storage=storage, starts=starts, processes=processes
    )

    def resources(config: dict[str, Any]) -> Any:
        bundle = {"CPU": study.resources.cpus, "GPU": study.resources.gpus, **node_resources}
        return tune.PlacementGroupFactory([bundle] * processes[config["search"]])

    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"search": tune.grid_search(list(starts))},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config['search']}-{trial.trial_id}",
            max_concurrent_trials=max_concurrent,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[door, _silence()],
            stop=door,
            verbose=0,
        ),
    )
    crash = ""
    try:
        tuner.fit()
    except Exception as fault:
        if not door.begun:
            raise
        crash = str(fault)
    # Where Tune crashed again as it tidied up, the end of its objects removes placement groups, and with them actors.
    del tuner
    gc.collect()
    return crash


def _run_assignment(
    config: dict[str, Any],
    *,
    study: StudyConfig,
    data: list[Any],
    storage: str,
    starts: "Mapping[str, Start]",
    processes: Mapping[str, int],
) -> None:
    """The trainable: runs in an actor that has run other assignments before.

    `config` holds the `search`, and where it is started again its `start`.
    """
    granted = time.monotonic()
    from ray import tune

    from dastune.orchestration.reports import Report
    from dastune.orchestration.trial import trial
    from dastune.storage import open_storage

    search = config["search"]
    start = config.get("start", starts[search])
    [assignment] = [assignment for assignment in grid(study) if assignment.id == search]
    dataset = from_store(data)
    try:
        blobs = open_storage(storage)
        with _workers(processes[search] - 1, study, assignment, data) as workers:
            for report in trial(study, assignment, dataset, blobs, start, workers=workers, granted=granted):
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
        from dastune.orchestration.setting import child_server

        self._server = child_server(study, assignment, from_store(data))


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
