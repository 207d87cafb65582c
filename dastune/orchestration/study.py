"""Run a study and resume one: folder, data, cluster, trials, records, report."""

import fcntl
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeGuard

import pandas as pd
import yaml
from rich.console import Console

from dastune.config import StudyConfig, load_study
from dastune.data.classification import Dataset
from dastune.data.table import DATASETS
from dastune.errors import UserError
from dastune.folder import FinalRow, SearchRow, StudyFolder, write_atomic
from dastune.orchestration.environment import environment
from dastune.orchestration.grid import grid, unfinished
from dastune.orchestration.progress import Progress
from dastune.orchestration.records import Records
from dastune.orchestration.reports import Report
from dastune.orchestration.tuner import Devices, check_devices, cluster, processes_of, run_on_cluster, run_trials
from dastune.report.page import write_report
from dastune.report.plan import Plan, read_plan, rows_in_order
from dastune.tracking import DatasetInfo, Tracker

STOP_SECONDS = 20.0  # after Ctrl-C trials get so long to checkpoint
FLUSH_SECONDS = 30.0  # for MLflow to take the last events


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
    study: StudyConfig, *, output: str | Path = "runs", address: str | None = None, console: Console | None = None
) -> StudyResult:
    """Run a study from the beginning, in the new folder `output`/NAME.

    Args:
        address: of a running Ray cluster: "auto", host:port, or ray://host:port from outside it (the study is then
            driven on the cluster, and `output` is a path there); None: this machine.
        console: where progress goes; None: standard error.

    Raises:
        UserError: the folder exists, the data set is missing, the devices do not suffice ...; nothing is left behind.
    """
    if _from_outside(address):
        return run_on_cluster(address, partial(run, study, output=output, address="auto"))
    folder = StudyFolder(Path(output) / study.name)
    _check_free(folder)
    with cluster(address, object_store_bytes=_object_store(study, address)) as devices:
        check_devices(devices, study)
        dataset = _load(study)
        _make(folder)
        try:
            with _lock(folder):
                _prepare(study, folder, dataset)
                tracker = _tracker(study, folder, dataset, required=True)
                return _execute(study, folder, dataset, devices, tracker, console or Console(stderr=True))
        except BaseException as error:
            # Nothing has been searched yet: once the user has mended what is at fault, the next run begins anew.
            begun = folder.study.is_file() and not isinstance(error, UserError)
            if not begun and not folder.search_rows():
                shutil.rmtree(folder.root, ignore_errors=True)
            raise


def resume(root: str | Path, *, address: str | None = None, console: Console | None = None) -> StudyResult:
    """Go on with the study in the folder `root`: what is finished is not repeated, failed searches are tried again.

    Raises:
        UserError: no study is there, or the data set is not the one the study began with.
    """
    if _from_outside(address):
        return run_on_cluster(address, partial(resume, root, address="auto"))
    folder = StudyFolder.existing(root)
    study = load_study(folder.study)
    with _lock(folder):
        return _resume(study, folder, address, console or Console(stderr=True))


def _resume(study: StudyConfig, folder: StudyFolder, address: str | None, console: Console) -> StudyResult:
    dataset = _load(study)
    if not folder.env.is_file():
        raise UserError(f"{folder.env}: is missing, so the study cannot go on; remove {folder.root} and run it anew")
    began_with = json.loads(folder.env.read_text()).get("data_fingerprint")
    if began_with != dataset.fingerprint:
        raise UserError(
            f"{study.data.name}: the data set has changed since the study began (fingerprint {dataset.fingerprint}, "
            f"was {began_with}); put the former one back, or run the study anew under another name"
        )
    folder.stop.unlink(missing_ok=True)
    # A finished study needs no cluster: its report is made again, and MLflow gets what it has not had.
    store = _object_store(study, address)
    joined = cluster(address, object_store_bytes=store) if unfinished(study, folder) else nullcontext()
    with joined as devices:
        if devices is not None:
            check_devices(devices, study)
        tracker = _tracker(study, folder, dataset, required=False)
        return _execute(study, folder, dataset, devices, tracker, console)


def _from_outside(address: str | None) -> TypeGuard[str]:
    return address is not None and address.startswith("ray://")


def _execute(
    study: StudyConfig,
    folder: StudyFolder,
    dataset: Dataset,
    devices: Devices | None,
    tracker: Tracker,
    console: Console,
) -> StudyResult:
    todo = unfinished(study, folder)
    slots = devices.slots(study.resources) if devices is not None else 0
    records = Records(study, folder, tracker)
    unfit: list[str] = []
    shown = Progress(study, todo, slots, console, rows=folder.search_rows(), finals=folder.final_rows())
    with _interruption(folder) as interrupted_at, shown as progress:
        if todo:
            done = len(grid(study)) - len(todo)
            progress.note(
                f"{study.name}: {len(todo)} searches, {slots} at a time"
                + (f" ({done} are done already)" if done else "")
                + f", in {_shown(folder.root)}"
            )

            def hear(report: Report) -> None:
                progress.hear(report)
                if report.stage == "unfit":
                    unfit.append(report.error or "")
                else:
                    records.hear(report)
                for text in report.notes:
                    progress.note(text)

            def retry(search: str) -> None:
                progress.note(f"{search}: its process died; it is started again from its last checkpoint")

            def lost(search: str, reason: str) -> None:
                write_atomic(folder.errors / f"{search}.txt", reason)
                progress.note(f"{search}: its process died again and again; see {_shown(folder.errors)}/{search}.txt")

            def should_stop() -> bool:
                since = interrupted_at()
                late = since is not None and time.monotonic() - since > STOP_SECONDS
                return bool(unfit) or late or (since is not None and not progress.running)

            run_trials(study, todo, dataset, folder, hear, retry, lost, should_stop)
            searched = {row.id for row in folder.search_rows() if row.status != "failed"}
            several = [item for item in todo if item.id in searched and processes_of(study, item) > 1]
            left = [item for item in unfinished(study, folder) if item in several]
            if left and not unfit and interrupted_at() is None:
                # A search that had several devices does its final trainings on one.
                run_trials(study, left, dataset, folder, hear, retry, lost, should_stop)
        interrupted = interrupted_at() is not None
    if unfit:
        tracker.close(FLUSH_SECONDS)
        raise UserError(unfit[0])
    folder.stop.unlink(missing_ok=True)
    page = write_report(folder)
    missing = tuple(assignment.id for assignment in unfinished(study, folder))
    undelivered = records.close(page, "KILLED" if interrupted else "FAILED" if missing else "FINISHED", FLUSH_SECONDS)
    plan = read_plan(folder.study)
    rows, finals = rows_in_order(folder, plan)
    return StudyResult(folder, missing, interrupted, undelivered, page, tuple(rows), tuple(finals), plan)


@contextmanager
def _interruption(folder: StudyFolder) -> Iterator[Callable[[], float | None]]:
    """Turn the first Ctrl-C into a request that trials checkpoint and end; the second one interrupts at once."""
    at: list[float] = []
    before = signal.getsignal(signal.SIGINT)

    def first(number: int, frame: FrameType | None) -> None:
        at.append(time.monotonic())
        folder.stop.touch()
        signal.signal(signal.SIGINT, before)
        print("\nstopping: searches write their checkpoints (Ctrl-C again: stop at once)", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, first)
    try:
        yield lambda: at[0] if at else None
    finally:
        signal.signal(signal.SIGINT, before)


def _load(study: StudyConfig) -> Dataset:
    """Load the data set, and compute what would otherwise be computed in every trial."""
    dataset = DATASETS[study.data.name].load(**study.data.load_options())
    _ = dataset.mean, dataset.std, dataset.fingerprint
    return dataset


def _object_store(study: StudyConfig, address: str | None) -> int | None:
    """Return enough shared memory for the data set on a local cluster; Ray would take 30 % of the memory."""
    entry = DATASETS[study.data.name]
    size = (entry.train_images + entry.test_images) * 3 * entry.side_px**2
    return None if address is not None else max(2 * size, 200 * 2**20)


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


def _make(folder: StudyFolder) -> None:
    """Make the folder; raise UserError if another run has just made it."""
    try:
        folder.root.mkdir(parents=True)
    except FileExistsError as error:
        raise _taken(folder) from error


def _taken(folder: StudyFolder) -> UserError:
    return UserError(
        f"{folder.root} exists already; go on with it: dastune resume {_shown(folder.root)}; or choose another "
        "folder (--output) or name (--set name=...)"
    )


@contextmanager
def _lock(folder: StudyFolder) -> Iterator[None]:
    """Hold the study against a second driver; the system frees the lock of a process that is gone.

    Raises:
        UserError: another process holds it.
    """
    with folder.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{folder.root}: another dastune works on this study; wait for it, or stop it, then resume"
            ) from error
        yield


def _prepare(study: StudyConfig, folder: StudyFolder, dataset: Dataset) -> None:
    """Write what a study's folder begins with."""
    resolved = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    write_atomic(folder.env, json.dumps({**environment(), "data_fingerprint": dataset.fingerprint}, indent=1))
    for path in (folder.ledger, folder.searches, folder.finals):
        path.touch()
    write_atomic(folder.study, resolved)


def _tracker(study: StudyConfig, folder: StudyFolder, dataset: Dataset, *, required: bool) -> Tracker:
    budget = study.budget.model_dump(exclude_none=True)
    return Tracker.open(
        folder,
        uri=study.tracking.uri,
        experiment=study.tracking.experiment or study.name,
        study_params={
            "study": study.name,
            "data": study.data.name,
            "model": json.dumps(study.model.model_dump()),
            "budget": json.dumps(budget),
            "methods": json.dumps(list(study.methods)),
            "noise_levels": json.dumps(study.space.noise.levels),
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


def _shown(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
