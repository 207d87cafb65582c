"""Run a study and resume one: folder, data, cluster, trials, records, report."""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import pandas as pd
import yaml
from rich.console import Console

from dastune.config import StudyConfig, load_study
from dastune.data.dataset import Dataset
from dastune.data.table import DATASETS
from dastune.errors import UserError, shortened
from dastune.folder import (
    STOP_NAME,
    FinalRow,
    SearchRow,
    StudyFolder,
    safe_name,
    write_atomic,
)
from dastune.mirror import TABLE, Mirror, holds_study, restore
from dastune.orchestration.cluster import Devices, check_devices, cluster, on_each_node, run_on_cluster
from dastune.orchestration.driver import Driver, shown, signals, unwritable
from dastune.orchestration.environment import environment
from dastune.orchestration.grid import grid, unfinished
from dastune.orchestration.nodes import (
    accelerator_resources,
    check_nodes,
    examine,
    probe,
    recorded,
    versions_here,
)
from dastune.orchestration.progress import Progress
from dastune.orchestration.records import Records
from dastune.orchestration.tuner import processes_of, run_trials
from dastune.report.page import write_report
from dastune.report.plan import Plan, read_plan, rows_in_order
from dastune.storage import check_storage, inside, open_storage
from dastune.tracking import DatasetInfo, Tracker

FLUSH_SECONDS = 30.0  # for MLflow, and for a mirror, to take what is left


@dataclass(frozen=True)
class StudyResult:
    """What a run ended with.

    Attributes:
        folder: the study's folder.
        missing: searches that are not finished, because they failed or the run was interrupted.
        interrupted: whether a person stopped it.
        undelivered: tracking events that MLflow has not taken yet; `dastune resume` sends them again.
        page: the report page.
        search_rows, final_rows: the rows of the folder.
        plan: what the study's file promises, for tables; it may lie on another machine.
    """

    folder: StudyFolder
    missing: tuple[str, ...]
    interrupted: bool
    undelivered: int
    page: Path
    search_rows: tuple[SearchRow, ...]
    final_rows: tuple[FinalRow, ...]
    plan: Plan | None

    def searches(self) -> pd.DataFrame:
        """Return the finished searches as a table with the fields of SearchRow."""
        return pd.DataFrame([asdict(row) for row in self.search_rows])

    def finals(self) -> pd.DataFrame:
        """Return the finished final trainings as a table with the fields of FinalRow."""
        return pd.DataFrame([asdict(row) for row in self.final_rows])


def run(
    study: StudyConfig,
    *,
    output: str | Path = "runs",
    address: str | None = None,
    storage: str | None = None,
    go_on: bool = False,
    max_concurrent: int | None = None,
    console: Console | None = None,
) -> StudyResult:
    """Run a study from the beginning, in the new folder `output`/NAME.

    Args:
        address: of a running Ray cluster: "auto", host:port, or ray://host:port from outside it (the study is then
            driven on the cluster, and `output` is a path there); None: this machine.
        storage: an object store for checkpoints and a mirror of the folder, such as s3://BUCKET/PREFIX, which all nodes
            reach; None: the folder itself, which all nodes must see.
        go_on: whether to resume the study if it has been begun, in the folder or in `storage`.
        max_concurrent: how many searches run at the same time at most; None: as many as fit.
        console: where progress goes; None: standard error.

    Raises:
        UserError: the folder exists, the data set is missing, the devices do not suffice ...; nothing is left behind.
            Or, later: the folder cannot be written, a node is not fit for the study; what was done is kept.
    """
    if _from_outside(address):
        there = partial(
            run, study, output=output, address="auto", storage=storage, go_on=go_on, max_concurrent=max_concurrent
        )
        return run_on_cluster(address, there)
    folder = StudyFolder(Path(output) / study.name)
    _forget_unbegun(folder)
    blobs = _storage_uri(storage, study.name)
    if go_on and (folder.study.is_file() or _mirrored(blobs)):
        return resume(
            folder.root,
            address=address,
            storage=storage,
            max_concurrent=max_concurrent,
            console=console,
            expected=study,
        )
    _check_free(folder)
    if _mirrored(blobs):
        raise UserError(
            f"--storage: {blobs} holds a study already; go on with it: dastune resume {shown(folder.root)} "
            f"--storage {storage}; or choose another name (--set name=...)"
        )
    with cluster(address, object_store_bytes=_object_store(study, address)) as devices:
        check_devices(devices, study)
        dataset = _load(study)
        _make(folder)
        try:
            with _writable(folder), _lock(folder):
                nodes = _checked_nodes(study, devices, blobs, folder)
                _prepare(study, folder, dataset, storage, nodes)
                tracker = _tracker(study, folder, dataset, required=True)
                return _execute(study, folder, blobs, dataset, devices, tracker, console, max_concurrent)
        except BaseException:
            # Nothing has been searched yet: once the user has mended what is at fault, the next run begins anew.
            if not folder.ledger.exists() or folder.ledger.stat().st_size == 0:
                shutil.rmtree(folder.root, ignore_errors=True)
                if blobs is not None:
                    with suppress(OSError):
                        open_storage(blobs).remove(TABLE)
            raise


def resume(
    root: str | Path,
    *,
    address: str | None = None,
    storage: str | None = None,
    max_concurrent: int | None = None,
    console: Console | None = None,
    expected: StudyConfig | None = None,
) -> StudyResult:
    """Go on with the study in the folder `root`: what is finished is not repeated, failed searches are tried again.

    Args:
        storage: as the study was begun with, if not in the folder itself; where the folder is lost, it is made again
            from the mirror there. None: what the folder says.
        expected: what the study must be.
        address, max_concurrent, console: as of `run`.

    Raises:
        UserError: no study is there, it is another one than `expected`, or the data set or the devices are not those
            that it began with.
    """
    if _from_outside(address):
        there = partial(resume, root, address="auto", storage=storage, max_concurrent=max_concurrent, expected=expected)
        return run_on_cluster(address, there)
    folder = StudyFolder(root)
    blobs = None if folder.study.is_file() else _storage_uri(storage, folder.root.name)
    if blobs is not None:
        check_storage(blobs)
        restore(open_storage(blobs), folder)
    folder = StudyFolder.existing(root)
    study = load_study(folder.study)
    if expected is not None:
        _check_same(study, expected, folder)
    with _writable(folder), _lock(folder):
        _clear(folder)
        return _resume(study, folder, address, storage, max_concurrent, console)


def _resume(
    study: StudyConfig,
    folder: StudyFolder,
    address: str | None,
    storage: str | None,
    max_concurrent: int | None,
    console: Console | None,
) -> StudyResult:
    dataset = _load(study)
    began_with = _began_with(folder)
    if began_with.get("data_fingerprint") != dataset.fingerprint:
        raise UserError(
            f"{study.data.name}: the data set has changed since the study began (fingerprint {dataset.fingerprint}, "
            f"was {began_with.get('data_fingerprint')}); put the former one back, or run the study anew under another "
            "name"
        )
    blobs = _storage_uri(storage or began_with.get("storage"), study.name)
    if blobs is not None:
        check_storage(blobs)
    # A finished study needs no cluster: its report is made again, and MLflow gets what it has not had.
    store = _object_store(study, address)
    joined = cluster(address, object_store_bytes=store) if unfinished(study, folder) else nullcontext()
    with joined as devices:
        if devices is not None:
            check_devices(devices, study)
            nodes = _checked_nodes(study, devices, blobs, folder, before=began_with.get("nodes", ()))
            write_atomic(folder.env, json.dumps({**began_with, "nodes": nodes}, indent=1))
        tracker = _tracker(study, folder, dataset, required=False)
        return _execute(study, folder, blobs, dataset, devices, tracker, console, max_concurrent)


def _began_with(folder: StudyFolder) -> dict[str, Any]:
    """Return what the study's folder says of its beginning. Raises UserError if it says nothing."""
    try:
        told = json.loads(folder.env.read_text(encoding="utf-8")) if folder.env.is_file() else None
    except (OSError, ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("storage"), str | None):
        raise UserError(f"{folder.env}: is missing or damaged, so the study cannot go on; run it anew elsewhere")
    return told


def _check_same(study: StudyConfig, expected: StudyConfig, folder: StudyFolder) -> None:
    """Raise UserError if what is in the folder is another study."""
    there, wanted = study.model_dump(mode="json"), expected.model_dump(mode="json")
    differing = [key for key in wanted if there.get(key) != wanted[key]]
    if differing:
        raise UserError(
            f"{shown(folder.root)}: holds another study of this name (it differs in {', '.join(differing)}); go on "
            f"with that: dastune resume {shown(folder.root)}; or give this one another name (--set name=...)"
        )


def _storage_uri(storage: str | None, name: str) -> str | None:
    """Return where in an object store a study is; None: in its folder. Raises UserError if `storage` is none."""
    if storage is None:
        return None
    if "://" not in storage:
        raise UserError(
            f"--storage: {shortened(storage)} is no object store; give s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; a "
            "folder that all nodes see is given by --output"
        )
    return inside(storage, safe_name(name))


def _mirrored(blobs: str | None) -> bool:
    if blobs is None:
        return False
    check_storage(blobs)
    return holds_study(open_storage(blobs))


def _checked_nodes(
    study: StudyConfig, devices: Devices, blobs: str | None, folder: StudyFolder, before: Any = ()
) -> list[dict[str, Any]]:
    """Return which devices there are, for env.json. Raises UserError if nodes are not fit for the study."""
    where = blobs or str(folder.root)
    storage = open_storage(where)
    wants_gpus = study.resources.gpus > 0
    with probe(storage, where) as name:
        if len(devices.nodes) == 1:
            facts = {devices.nodes[0].id: examine(wants_gpus, storage, name)}
        else:
            facts = on_each_node(partial(_examine, wants_gpus, where, name), [node.id for node in devices.nodes])
    examined = [(node, facts[node.id]) for node in devices.nodes if node.id in facts]
    check_nodes(examined, study, where, versions_here(), before)
    return recorded(examined, study, before)


def _examine(wants_gpus: bool, where: str, name: str) -> Any:
    return examine(wants_gpus, open_storage(where), name)


def _from_outside(address: str | None) -> TypeGuard[str]:
    return address is not None and address.startswith("ray://")


def _execute(
    study: StudyConfig,
    folder: StudyFolder,
    blobs: str | None,
    dataset: Dataset,
    devices: Devices | None,
    tracker: Tracker,
    console: Console | None,
    max_concurrent: int | None,
) -> StudyResult:
    storage = open_storage(blobs or folder.root)
    records = Records(study, folder, tracker, storage)
    records.begin()
    storage.remove(STOP_NAME)
    folder.stop.unlink(missing_ok=True)
    todo = [assignment for assignment in grid(study) if not records.finished(assignment.id)]
    slots = min(devices.slots(study.resources), max_concurrent or sys.maxsize) if devices is not None else 0
    console = console or Console(stderr=True)
    display = Progress(study, todo, slots, console, rows=folder.search_rows(), finals=folder.final_rows())
    with _mirror(folder, blobs, display.note) as mirror, signals() as asked, display as progress:
        driver = Driver(folder, storage, records, progress, asked, mirror is not None)
        if todo:
            done = len(grid(study)) - len(todo)
            progress.note(
                f"{study.name}: {len(todo)} searches, {slots} at a time"
                + (f" ({done} are done already)" if done else "")
                + f", in {shown(folder.root)}"
            )
            run_all = partial(
                run_trials,
                study,
                dataset=dataset,
                storage=blobs or str(folder.root),
                listener=driver,
                scratch=folder.ray,
                max_concurrent=max_concurrent,
                node_resources=accelerator_resources(study),
            )
            run_all(todo)
            # Those that had several devices do their final trainings on one.
            left = [item for item in todo if processes_of(study, item) > 1 and records.searched(item.id)]
            left = [item for item in left if not records.finished(item.id)]
            if left and not driver.stopping:
                run_all(left)
        stopped = driver.stopping
        with suppress(OSError):
            storage.remove(STOP_NAME)
        folder.stop.unlink(missing_ok=True)
        if driver.unfit is not None:
            records.end("KILLED")
            tracker.close(FLUSH_SECONDS)
            raise UserError(driver.unfit)
        page = write_report(folder)
        missing = tuple(item.id for item in grid(study) if not records.finished(item.id))
        undelivered = records.close(page, "KILLED" if stopped else "FAILED" if missing else "FINISHED", FLUSH_SECONDS)
    if mirror is not None:
        for assignment in grid(study):
            if records.finished(assignment.id):
                driver.forget(assignment.id)
    if not missing:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
    plan = read_plan(folder.study)
    rows, finals = rows_in_order(folder, plan)
    return StudyResult(folder, missing, stopped, undelivered, page, tuple(rows), tuple(finals), plan)


@contextmanager
def _mirror(folder: StudyFolder, blobs: str | None, warn: Callable[[str], None]) -> Iterator[Mirror | None]:
    """Keep a copy of the folder in an object store for the length of the context, if the study has one."""
    if blobs is None:
        yield None
        return
    mirror = Mirror(folder, open_storage(blobs), warn)
    mirror.start()
    try:
        try:
            mirror.sync()  # trials look for the study there
        except OSError as error:
            raise UserError(f"{blobs}: the study's folder cannot be copied there ({error})") from error
        yield mirror
    finally:
        if left := mirror.close(FLUSH_SECONDS):
            warn(f"{left} files are not in {blobs} yet; dastune resume {shown(folder.root)} copies them")


def _load(study: StudyConfig) -> Dataset:
    """Load the data set, and compute what would otherwise be computed in every trial."""
    dataset = DATASETS[study.data.name].load(**study.data.load_options())
    study.data.check_fits(len(dataset.train_labels))
    _ = dataset.mean, dataset.std, dataset.fingerprint
    return dataset


def _object_store(study: StudyConfig, address: str | None) -> int | None:
    """Return enough shared memory for the data set on a local cluster; Ray would take 30 % of the memory."""
    return None if address is not None else max(2 * study.data.pixel_bytes, 200 * 2**20)


def _check_free(folder: StudyFolder) -> None:
    """Raise UserError if the folder is there, or cannot be made; make nothing."""
    try:
        if folder.root.exists():
            raise _taken(folder)
        parent = folder.root
        while not parent.exists():
            parent = parent.parent
        probe = parent / f".{folder.root.name}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--output: {folder.root} cannot be made ({error.strerror}: {error.filename}); give a folder that can be "
            "written: --output FOLDER"
        ) from error


def _forget_unbegun(folder: StudyFolder) -> None:
    """Remove the folder if all it holds is of a driver that was killed before the study began."""
    try:
        if folder.study.exists() or any(path.is_dir() for path in folder.root.iterdir()):
            return
        written = {path.name for path in folder.root.iterdir() if path.stat().st_size > 0}
        made = {path.name for path in folder.root.iterdir() if not _is_passing(path)}
        empty = {path.name for path in (folder.lock, folder.ledger, folder.searches, folder.finals)}
        if made <= empty | {folder.env.name} and not written & empty:
            with _lock(folder):
                shutil.rmtree(folder.root, ignore_errors=True)
    except (OSError, UserError):
        return  # it is not there, or somebody's


def _is_passing(path: Path) -> bool:
    """Return whether a file is there for a moment only, and so is of no use once its driver is gone."""
    return path.name.startswith("probe-") or (path.name.startswith(".") and path.suffix == ".tmp")


def _clear(folder: StudyFolder) -> None:
    """Remove what a driver that was killed, and its trials, had no time to remove."""
    shutil.rmtree(folder.ray, ignore_errors=True)
    told = (folder.policies, folder.pictures, folder.receptive_fields, folder.children_tables, folder.errors)
    for place in (folder.root, *told, folder.models, folder.checkpoints):
        for path in place.glob("*") if place.is_dir() else ():
            if _is_passing(path) and path.is_file():
                path.unlink(missing_ok=True)


def _make(folder: StudyFolder) -> None:
    """Make the folder; raise UserError if another run has just made it."""
    try:
        folder.root.mkdir(parents=True)
    except FileExistsError as error:
        raise _taken(folder) from error


def _taken(folder: StudyFolder) -> UserError:
    return UserError(
        f"{folder.root} exists already; go on with it: dastune resume {shown(folder.root)}; or choose another "
        "folder (--output) or name (--set name=...)"
    )


@contextmanager
def _lock(folder: StudyFolder) -> Iterator[None]:
    """Hold the study against a second driver; the system frees the lock of a process that is gone.

    Raises:
        UserError: another process holds it.
    """
    with folder.lock.open("a") as file:  # not "w": whom the lock refuses must not touch it
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.2)  # `dastune status` looks at it for an instant
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder.root}: another dastune works on this study; wait for it, or stop it, then resume"
            ) from error
        except OSError as error:
            raise UserError(
                f"{folder.root}: its file system takes no locks ({error.strerror}), and two drivers would spoil the "
                "study; mount it with locks (Lustre: -o flock), or give another folder"
            ) from error
        os.utime(folder.lock)  # when the driver began, for `dastune status`
        yield


@contextmanager
def _writable(folder: StudyFolder) -> Iterator[None]:
    """Make one message of it if the folder takes nothing. Raises UserError."""
    try:
        yield
    except OSError as error:
        raise unwritable(folder, error) from error


def _prepare(
    study: StudyConfig, folder: StudyFolder, dataset: Dataset, storage: str | None, nodes: list[dict[str, Any]]
) -> None:
    """Write what a study's folder begins with."""
    resolved = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    began_with = {**environment(), "data_fingerprint": dataset.fingerprint, "storage": storage, "nodes": nodes}
    write_atomic(folder.env, json.dumps(began_with, indent=1))
    for path in (folder.ledger, folder.searches, folder.finals):
        path.touch()
    write_atomic(folder.study, resolved)


def _tracker(study: StudyConfig, folder: StudyFolder, dataset: Dataset, *, required: bool) -> Tracker:
    return Tracker.open(
        folder,
        uri=study.tracking.uri,
        experiment=study.tracking.experiment or study.name,
        study_params={
            "study": study.name,
            "data": study.data.name,
            "model": study.model.label,
            "budget": str(study.budget),
            "methods": json.dumps(list(study.methods)),
            "noise_levels": json.dumps(study.space.noise.levels),
            **({"removed_percents": json.dumps(study.levels)} if study.axis == "removed_percent" else {}),
            "search_seeds": json.dumps(study.seeds.search),
            "final_seeds": json.dumps(study.seeds.final),
        },
        dataset=DatasetInfo(
            name=study.data.name,
            digest=dataset.fingerprint,
            source=dataset.source,
            images=len(dataset.train_labels),
            classes=dataset.classes,
        ),
        tags={"folder": str(folder.root)},
        required=required,
        warn=lambda text: print(text, file=sys.stderr, flush=True),
    )
