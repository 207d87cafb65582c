"""One trial: a search under its budget, then its final trainings. Knows neither Ray nor MLflow; a plain generator."""

import json
import platform
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from dastune.budget import BEGAN_ANEW, AttemptMeter, Budget, LedgerEvent, Meter, device_share, event_from_row
from dastune.config import StudyConfig
from dastune.config.study import BlackBox, DasVideo
from dastune.data.dataset import Dataset
from dastune.errors import UserError
from dastune.folder import STOP_NAME, FinalRow, SearchRow, Status, model_name, policy_name, safe_name
from dastune.orchestration.checkpoints import Checkpoints, SupersededError
from dastune.orchestration.children import Children
from dastune.orchestration.crew import AttemptLostError, Worker
from dastune.orchestration.grid import Assignment
from dastune.orchestration.machine import Machine
from dastune.orchestration.pictures import policy_picture, sample_images
from dastune.orchestration.reports import Point, Report, Start
from dastune.orchestration.setting import final_task, reset_process, search_of, warm_up
from dastune.orchestration.watchdog import Watchdog
from dastune.policy.policy import Clip, Policy, noise_mass, policy_file_from_text, policy_text
from dastune.search.search import Search
from dastune.seeds import derive
from dastune.storage import Storage
from dastune.training.curve import LossCurve
from dastune.training.final import FinalTraining
from dastune.training.loop import Task
from dastune.training.receptive_field import measured
from dastune.training.receptive_map import ReceptiveField
from dastune.training.trained import trained_to_bytes

STOP_CHECK_SECONDS = 2.0  # between looks for STOP_NAME
WAIT_SECONDS = 60.0  # storage that takes nothing is waited for so long before a trial begins

# Reports are also the ledger's heartbeats. Long searches report and checkpoint less often: a day of one must not
# become a ledger of 43,000 lines, and what a death may cost grows with what there is to lose.
REPORT_SECONDS, LONGEST_REPORT_SECONDS, REPORT_SHARE = 2.0, 30.0, 0.0005  # of the budget
CHECKPOINT_SECONDS, LONGEST_CHECKPOINT_SECONDS, CHECKPOINT_SHARE = 10.0, 300.0, 0.005
CHECKPOINT_COST = 0.02  # of the time at most: a slow checkpoint is written less often
DIVERGED_LOSS = 1e9  # in place of a NaN or an infinity, which JSON cannot hold


def trial(
    study: StudyConfig,
    assignment: Assignment,
    dataset: Dataset,
    storage: Storage,
    start: Start,
    *,
    workers: Sequence[Worker] = (),
    granted: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Report]:
    """Run one search and its final trainings, from where an earlier attempt left off, yielding reports.

    Args:
        storage: where checkpoints are, on every node that a trial may run on.
        start: what the driver knows of the search.
        workers: processes that train children of the search besides this one, each on devices like this one's, all
            of which are metered. A final training needs one device, so that a trial with workers ends with its search.
        granted: the clock's time at which the process was given its devices; None: now.
        clock: monotonic seconds.

    A fault of the method is caught, and reported as a failed row with its traceback; so is a step that did not end
    (`Watchdog`), by the attempt after it.

    Raises:
        AttemptLostError: a worker is gone, or checkpoints cannot be read; the trial is to be run again.
    """
    granted = clock() if granted is None else granted
    try:
        if storage.exists(STOP_NAME):
            return
        if not storage.exists("study.yaml"):
            raise UserError(
                f"--output: the study's folder is not to be seen on node {platform.node()}; it must be on storage that "
                "all nodes of the cluster share, or give them an object store: --storage s3://BUCKET/PREFIX"
            )
        run = _begun(lambda: _Trial(study, assignment, dataset, storage, start, workers, granted, clock))
    except (UserError, OSError) as error:
        # No trial of the study can run on this node: the driver stops and says so.
        text = (
            f"the study's storage cannot be written on node {platform.node()} ({error}); make room, or see that it can "
            "be written there, then resume the study"
        )
        told = str(error) if isinstance(error, UserError) else text
        yield Report(assignment.id, "unfit", charged=0.0, steps=0, error=told)
        return
    if (hung := run.hung()) is not None:
        yield hung
        return
    try:
        with Watchdog(60.0 * study.hang_minutes, run.note_hang) as watchdog:
            run.watchdog = watchdog
            for report in run.reports():
                with watchdog.off():  # until the driver has taken it
                    yield report
    except _StopRequested:
        yield run.stopped()
    except SupersededError:
        return  # nobody listens any more
    except AttemptLostError:
        raise
    except (Exception, SystemExit) as error:  # Ray would take a method's sys.exit() for the end of the trial
        yield run.failed(f"{type(error).__name__}: {error}", traceback.format_exc())


def _begun(make: Callable[[], "_Trial"]) -> "_Trial":
    """Return what `make` does; while the storage takes nothing (a full disk), try again for `WAIT_SECONDS`."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return make()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


class _StopRequested(Exception):  # noqa: N818  no error: a person pressed Ctrl-C
    """The study is to stop; everything is checkpointed."""


class _Trial:
    watchdog: Watchdog

    def __init__(
        self,
        study: StudyConfig,
        assignment: Assignment,
        dataset: Dataset,
        storage: Storage,
        start: Start,
        workers: Sequence[Worker],
        granted: float,
        clock: Callable[[], float],
    ) -> None:
        self._study, self._assignment, self._dataset, self._storage = study, assignment, dataset, storage
        self._start, self._workers, self._clock = start, workers, clock
        self._share = device_share(study.resources.cpus, study.resources.gpus) * (1 + len(workers))
        self._children = Children(assignment)
        warm_up()
        self._device = reset_process(study, assignment)
        self._machine = Machine(self._device)
        self._checkpoints = Checkpoints(storage, assignment.id, start.attempt)
        self._attempt = self._checkpoints.attempt
        budget = study.budget.per_search().seconds or 0.0
        self._report_every = max(REPORT_SECONDS, min(REPORT_SHARE * budget, LONGEST_REPORT_SECONDS))
        self._checkpoint_every = max(CHECKPOINT_SECONDS, min(CHECKPOINT_SHARE * budget, LONGEST_CHECKPOINT_SECONDS))
        self._report_due = self._checkpoint_due = self._stop_due = clock()
        self._meter = self._new_meter("search", granted)
        # A process serves many searches; which of them pays for its start is chance: held, but charged to none.
        self._meter.book("process")
        self._final_granted = granted
        self._before = start.charge.charged
        self._steps = self._final_steps = 0
        self._row, self._policy_text, self._picture = start.row, start.policy, ""
        self._content: dict[str, Any] | None = None
        self._points: list[Point] = []
        self._points_settled = 0  # of them, the first ones: two checkpoints hold them, of which one may be damaged
        self._points_held = 0  # of them, the first ones: the last checkpoint holds them
        self._events: list[LedgerEvent] = []
        self._storage_fails = False

    def _new_meter(self, meter: Meter, granted: float | None = None) -> AttemptMeter:
        return AttemptMeter(self._assignment.id, self._attempt, meter, self._share, self._clock, granted=granted)

    def _event(self, *, durable: bool, closed: bool = False) -> LedgerEvent:
        steps = self._steps if self._meter.meter == "search" else self._final_steps
        return self._meter.event(steps, durable=durable, closed=closed)

    def reports(self) -> Iterator[Report]:
        """Run all that is left of the search and of its final trainings."""
        yield from self.search()
        if not self._workers:
            yield from self.finals()
        yield self.ended()

    # The search

    def search(self) -> Iterator[Report]:
        """Run the search until its budget is used up, unless an earlier attempt has."""
        if self._attempt > 0:
            self._load_checkpoint()
        if self._row is not None:
            self._before, self._steps = self._row.charged_seconds, self._row.steps
            if self._start.row is None:
                yield self._report("searched", booked=True)
            return
        search = search_of(self._study, self._assignment, self._dataset, self._device, self._workers)
        budget = self._study.budget.per_search()
        if self._attempt > 0:
            self._restore(search)
            self._meter.book("restore")
        else:
            self._meter.book("startup")
        self._checkpoint_due = self._clock() + self._checkpoint_every
        yield from self._told(self._report("search"))
        status = self._over(budget)
        while status is None:
            progress = search.step(budget.spent(self._charged, self._steps))
            self.watchdog.alive()
            self._steps += progress.steps
            before = self._meter.held
            self._meter.book(progress.account)
            self._children.hear(progress, self._meter.held - before)
            if progress.metrics:
                self._point(self._assignment.id, int(self._charged), progress.metrics)
            status = "done" if progress.done else self._over(budget)
            if status is None:
                yield from self._between_steps(search)
        yield self._end_search(search, status)

    def _between_steps(self, search: Search) -> Iterator[Report]:
        """Checkpoint, report or stop, where it is time to."""
        stop, report_due = self._should_stop(), self._clock() >= self._report_due
        if report_due:
            machine = self._machine.sample()
            self._meter.book("report")
            self._point(self._assignment.id, int(self._charged), {**search.summary(), **machine})
        if stop or self._clock() >= self._checkpoint_due:
            self._checkpoint("search", search.state_dict(), children=self._children.state_dict())
        if stop:
            raise _StopRequested
        if report_due:
            yield from self._told(self._report("search"))

    def _should_stop(self) -> bool:
        """Look now and then whether the study is to stop; no method caused the time that takes."""
        if self._clock() < self._stop_due:
            return False
        stop = False
        with suppress(OSError):  # the next look may be luckier
            stop = self._storage.exists(STOP_NAME)
        self._meter.book("report")
        self._stop_due = self._clock() + STOP_CHECK_SECONDS
        return stop

    def _over(self, budget: Budget) -> Status | None:
        """Return why the search must end now, or None."""
        if budget.spent(self._charged, self._steps) >= 1:
            return "budget"
        return "held" if budget.held_out(self._start.charge.held_working + self._meter.held_working) else None

    @property
    def _charged(self) -> float:
        return self._before + self._meter.charged

    def _end_search(self, search: Search, status: Status) -> Report:
        """Write the policy, close the meter, and report the row."""
        policy, summary = search.best(), dict(search.summary())
        self._children.cut()
        if isinstance(self._assignment.options(self._study), BlackBox) and "val_accuracy" not in summary:
            self._children.note("no child has a score, so that it found nothing: its policy is no augmentation")
        assignment, study = self._assignment, self._study
        provenance = {
            "study": study.name,
            "method": assignment.label,
            "noise_level": assignment.noise_level,
            "search_seed": assignment.search_seed,
            **({"removed_percent": assignment.removed_percent} if assignment.removed_percent else {}),
            "budget": study.budget.model_dump(exclude_none=True),
            "data": study.data.name,
            "data_fingerprint": self._dataset.fingerprint,
            **({"data_shift": study.data.model_dump(mode="json")["shift"]} if study.data.shift else {}),
            "dastune_version": version("dastune"),
        }
        self._policy_text = policy_text(policy, provenance)
        self._synchronise()
        self._meter.book("search")
        self._picture = self._picture_of(policy)
        self._meter.book("report")  # it is for people, and no doing of the method's
        self._row = self._search_row(status, policy, summary, search.space_size_log10)
        self._events.append(self._event(durable=True, closed=True))
        self._final_granted = self._meter.mark
        values = {**summary, "noise_mass": self._row.noise_mass, "charged_seconds": self._row.charged_seconds}
        self._point(assignment.id, int(self._charged), {**values, "held_seconds": self._row.held_seconds})
        self._settle()
        return self._report("searched", booked=True)

    def _picture_of(self, policy: Policy) -> str:
        """Return what `policy` does to images of the data set as a PNG in base64; nothing if that fails."""
        try:
            seed = derive(self._assignment.search_seed, "picture")
            return b64encode(policy_picture(policy, sample_images(self._dataset), seed)).decode()
        except Exception as error:  # the search has its policy, with a picture or without
            self._children.note(f"its picture cannot be made ({type(error).__name__}: {error})")
            return ""

    # The final trainings

    def finals(self) -> Iterator[Report]:
        """Train the found policy from scratch with each final seed that has no row yet."""
        seeds = [seed for seed in self._study.seeds.final if seed not in self._start.trained]
        if not seeds:
            return
        policy = policy_file_from_text(self._policy_text, policy_name(self._assignment.id)).policy
        task = final_task(self._study, self._assignment, self._dataset, self._device)
        self._meter = self._new_meter("final", self._final_granted)
        for seed in seeds:
            yield from self._final(task, policy, seed)

    def _final(self, task: Task, policy: Policy, seed: int) -> Iterator[Report]:
        study, assignment = self._study, self._assignment
        key = f"{assignment.id}/t{seed}"
        options = assignment.options(study)
        test = options.evaluation if isinstance(options, DasVideo) else "cell"
        final = FinalTraining(task, policy, study.final.epochs, assignment.search_seed, seed, test)
        curve = LossCurve(study.final.epochs, final.training.steps_per_epoch)
        spent_before = 0.0
        if self._content is not None and self._content["stage"] == f"final {seed}":
            final.load_state_dict(self._content["state"])
            torch.set_rng_state(self._content["torch_rng"])
            curve.load_state_dict(self._content["curve"])
            spent_before = float(self._content["seconds"])
        self._meter.book("restore" if self._attempt > 0 else "startup")
        begun, training_seconds = self._meter.held, 0.0
        steps_before = final.training.steps
        self._checkpoint_due = self._clock() + self._checkpoint_every
        while not final.done:
            at = self._clock()
            loss = final.step()
            self.watchdog.alive()
            self._final_steps = final.training.steps
            if loss is not None:
                if (point := curve.add(loss, final.training.steps)) is not None:
                    self._point(key, point[0], {"train_loss": point[1]})
                training_seconds += self._clock() - at
            self._meter.book("validate" if loss is None else "train")
            stop = self._should_stop()
            report_due = self._clock() >= self._report_due
            if stop or self._clock() >= self._checkpoint_due:
                seconds = spent_before + self._meter.held - begun
                self._checkpoint(f"final {seed}", final.state_dict(), seconds=seconds, curve=curve.state_dict())
            if stop:
                raise _StopRequested
            if report_due:
                yield from self._told(self._report("final"))
        result = final.result()
        if not np.isfinite(result.test_loss):
            self._children.note(f"its final training with seed {seed} diverged: its loss was not finite; it scores 0")
        self._synchronise()
        self._meter.book("validate")
        trained = (final.training.steps - steps_before) * final.training.images_per_step
        row = FinalRow(
            search_id=assignment.id,
            method=assignment.label,
            noise_level=assignment.noise_level,
            search_seed=assignment.search_seed,
            train_seed=seed,
            test_accuracy=result.test_accuracy,
            test_loss=result.test_loss if np.isfinite(result.test_loss) else DIVERGED_LOSS,
            epochs=study.final.epochs,
            seconds=spent_before + self._meter.held - begun,
            images_per_second=trained / training_seconds if training_seconds else 0.0,
            parameters=result.parameters,
            flops=result.flops,
            removed_percent=assignment.removed_percent,
            frames=task.frames,
            evaluation=final.evaluation,
        )
        field = self._receptive_field_of(task, final, seed) if np.isfinite(result.test_loss) else None
        self._meter.book("report")  # as a policy's picture
        if study.tracking.models != "none" and np.isfinite(result.test_loss):
            clip = policy if isinstance(policy, Clip) and final.evaluation == "cell" else None
            self._leave_model(model_name(assignment.id, seed), trained_to_bytes(task, final.training.network, clip))
        self._events.append(self._event(durable=True, closed=True))
        values = {"test_accuracy": row.test_accuracy, "test_loss": row.test_loss, "seconds": row.seconds}
        if field is not None:
            values |= {"receptive_field_half": field.half, "receptive_field_tenth": field.tenth}
        self._point(key, study.final.epochs, values)
        self._settle()
        report = self._report("finished", booked=True)
        report.finals.append(row)
        if field is not None:
            report.receptive_fields[seed] = field.text()
        yield from self._told(report)

    def _receptive_field_of(self, task: Task, final: FinalTraining, seed: int) -> ReceptiveField | None:
        """Return the receptive field of a trained network; nothing if that fails, or if no method makes clips."""
        if not any(isinstance(options, DasVideo) for options in self._study.methods.values()):
            return None
        try:
            return measured(task, final.training.network, final.tested, self._study.model.label)
        except Exception as error:  # the training has its row, with a receptive field or without
            told = f"the receptive field of its final training with seed {seed} cannot be measured"
            self._children.note(f"{told} ({type(error).__name__}: {error})")
            return None

    def _leave_model(self, name: str, content: bytes) -> None:
        """Leave a trained network in the storage, before its row is told; the driver sees to what becomes of it."""
        try:
            self._storage.write(name, content)
        except OSError as error:
            self._children.note(f"its trained network cannot be written ({error}), and will be no MLflow model")
        self._meter.book("checkpoint")

    # Checkpoints

    def _checkpoint(self, stage: str, state: Mapping[str, Any], **more: Any) -> None:
        """Write everything, then book the time; the ledger learns of it with the next report.

        A storage that takes nothing is told once; the work goes on, and the next checkpoint is tried in its time.
        """
        self._synchronise()
        begun = self._clock()
        event = self._event(durable=True)
        content = {
            "stage": stage,
            "state": dict(state),
            "steps": self._steps,
            "charged": self._charged,
            "event": {**vars(event), "accounts": dict(event.accounts)},
            "points": [asdict(point) for point in self._points],
            "row": None if self._row is None else asdict(self._row),
            "policy": self._policy_text,
            "picture": self._picture,
            "torch_rng": torch.get_rng_state(),
            **more,
        }
        try:
            self._checkpoints.save(content, event.sequence)
        except OSError as error:
            if not self._storage_fails:
                self._children.note(f"its checkpoint cannot be written ({error}); it goes on, and tries again")
            self._storage_fails = True
        else:
            self._storage_fails = False
            self._events.append(event)
            self._children.settle()
            self._points_settled, self._points_held = self._points_held, len(self._points)
        self._meter.book("checkpoint")
        took = self._clock() - begun
        self._checkpoint_due = self._clock() + max(self._checkpoint_every, took / CHECKPOINT_COST)

    def _settle(self) -> None:
        """Note that what there is of points and children may be told: a row that is durable comes with it."""
        self._children.settle()
        self._points_settled = self._points_held = len(self._points)

    def _load_checkpoint(self) -> None:
        """Load the newest sound checkpoint, if there is one, and what it knows of a search that has ended."""
        try:
            content, at, faults = self._checkpoints.load()
        except OSError as error:
            raise AttemptLostError(f"checkpoints cannot be read: {error}") from error
        for fault in faults:
            rest = "it begins anew" if content is None else "it goes on from the checkpoint before"
            self._children.note(f"{fault}; {rest}")
        ended = self._row is not None
        if content is None or (ended and content["stage"] == "search"):
            self._meter.origin = BEGAN_ANEW if not ended else None
            return
        self._content = content
        self._points = [Point(**point) for point in content["points"]]
        self._points_settled = self._points_held = len(self._points)
        # The driver may have died before it heard of this checkpoint; hearing twice is harmless.
        self._events.append(event_from_row(content["event"]))
        if content["stage"] == "search":
            self._meter.origin = at
        elif not ended:
            self._row, self._policy_text = SearchRow(**content["row"]), content["policy"]
            self._picture = content["picture"]

    def _restore(self, search: Search) -> None:
        """Take up the search where the checkpoint left it, if there is one; else it begins anew."""
        if (content := self._content) is not None:
            search.load_state_dict(content["state"])
            torch.set_rng_state(content["torch_rng"])
            self._children.load_state_dict(content["children"])
            self._steps, self._before = int(content["steps"]), float(content["charged"])
        else:
            self._before = 0.0  # what was charged before came to nothing

    # Hanging steps

    @property
    def _hang_name(self) -> str:
        return f"checkpoints/{safe_name(self._assignment.id)}.hang"

    def note_hang(self, stack: str) -> None:
        """Leave word, for the next attempt, of where this one hangs and what it held; called beside the main thread."""
        self._meter.book("hung")
        event = asdict(self._event(durable=False, closed=True))
        with suppress(OSError):
            self._storage.write(self._hang_name, json.dumps({"event": event, "stack": stack}).encode())

    def hung(self) -> Report | None:
        """Return the report of an attempt before that hung, if there was one; it is told once."""
        try:
            word = self._storage.read(self._hang_name)
            if word is None:
                return None
            self._storage.remove(self._hang_name)
            left = json.loads(word)
            self._events.append(event_from_row(left["event"]))
        except (OSError, ValueError, KeyError):
            return None
        minutes = self._study.hang_minutes
        error = f"a step did not end within {minutes:g} minutes (hang_minutes)"
        return self.failed(error, f"{error}; it was at\n{left['stack']}")

    # Reports

    def _point(self, key: str, step: int, values: Mapping[str, float]) -> None:
        if values:
            self._points.append(Point(key, step, dict(values), int(time.time() * 1000)))

    def _report(self, stage: str, *, booked: bool = False) -> Report:
        """Hand over what has gathered; between meters, `booked` says that nothing more is to be booked."""
        if not booked:
            self._events.append(self._event(durable=False))
        charged = self._row.charged_seconds if self._row else self._charged
        settled, self._points = self._points[: self._points_settled], self._points[self._points_settled :]
        report = Report(self._assignment.id, stage, charged, self._steps, self._events, settled)
        if stage == "searched":
            report.row, report.policy, report.picture = self._row, self._policy_text, self._picture
        report.children, report.notes = self._children.take()
        self._points_held -= self._points_settled
        self._events, self._points_settled = [], 0
        return report

    def _told(self, report: Report) -> Iterator[Report]:
        """Yield `report`; the time until the driver has taken it is no doing of the method's."""
        yield report
        self._meter.book("report")
        self._report_due = self._clock() + self._report_every

    def ended(self) -> Report:
        """Say that nothing is left to do."""
        return self._report("ended", booked=True)

    def stopped(self) -> Report:
        """Close the meter of a trial that stops because the study does; its last checkpoint is what is durable."""
        self._events.append(self._event(durable=False, closed=True))
        return self._report("stopped", booked=True)

    def failed(self, error: str, stack: str) -> Report:
        """Close the meter and report a failed search, or only the error if the search itself is done."""
        self._meter.book("failed")
        self._events.append(self._event(durable=False, closed=True))
        report = self._report("failed", booked=True)
        report.error, report.traceback = error, stack
        if self._row is None:
            report.row = self._search_row("failed", None, {}, 0.0)
        return report

    def _search_row(
        self, status: Status, policy: Policy | None, summary: Mapping[str, float], space_size_log10: float
    ) -> SearchRow:
        """Return the search's row as of now; `policy` is None for a failed search."""
        assignment = self._assignment
        return SearchRow(
            id=assignment.id,
            method=assignment.label,
            noise_level=assignment.noise_level,
            search_seed=assignment.search_seed,
            val_accuracy=summary.get("val_accuracy"),
            held_seconds=self._start.charge.held + self._meter.held,
            charged_seconds=self._charged,
            steps=self._steps,
            children=int(summary.get("children", 0)),
            noise_mass=0.0 if policy is None else noise_mass(policy),
            uniform_noise_share=self._study.space.at_level(assignment.noise_level).uniform_noise_share,
            space_size_log10=space_size_log10,
            policy="" if policy is None else policy_name(assignment.id),
            status=status,
            summary={name: float(value) for name, value in summary.items() if np.isfinite(value)},  # JSON holds no NaN
            removed_percent=assignment.removed_percent,
        )

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
