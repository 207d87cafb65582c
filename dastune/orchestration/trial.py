"""One trial: a search under its budget, then its final trainings. Knows neither Ray nor MLflow; a plain generator."""

import io
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from dastune.budget import AttemptMeter, Budget, Charge, Ledger, LedgerEvent, Meter, device_share, event_from_row
from dastune.config import StudyConfig
from dastune.config.study import BlackBox
from dastune.data.classification import Dataset
from dastune.errors import UserError
from dastune.folder import FinalRow, SearchRow, Status, StudyFolder, read_lines, write_atomic
from dastune.orchestration.children import Children
from dastune.orchestration.crew import Worker, WorkerLostError
from dastune.orchestration.grid import Assignment
from dastune.orchestration.reports import Point, Report
from dastune.orchestration.setting import final_task, reset_process, search_of, warm_up
from dastune.policy.policy import Policy, load_policy, noise_mass, policy_text
from dastune.search.search import Search
from dastune.training.final import FinalTraining
from dastune.training.loop import Task

REPORT_SECONDS = 2.0  # between reports, which are also the ledger's heartbeats
CHECKPOINT_SECONDS = 10.0  # between checkpoints, at least
CHECKPOINT_SHARE = 0.02  # of the time at most: a slow checkpoint is written less often
DIVERGED_LOSS = 1e9  # in place of a NaN or an infinity, which JSON cannot hold


def trial(
    study: StudyConfig,
    assignment: Assignment,
    dataset: Dataset,
    folder: StudyFolder,
    *,
    workers: Sequence[Worker] = (),
    granted: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Report]:
    """Run one search and its final trainings, from where an earlier attempt left off, yielding reports.

    Args:
        workers: processes that train children of the search besides this one, each on devices like this one's, all
            of which are metered. A final training needs one device, so that a trial with workers ends with its search.
        granted: the clock's time at which the process was given its devices; None: now.
        clock: monotonic seconds.

    A fault of the method is caught, written to `folder.errors`, and reported as a failed row.

    Raises:
        WorkerLostError: a worker is gone; the trial is to be run again.
    """
    granted = clock() if granted is None else granted
    if folder.stop.exists():
        return
    try:
        if not folder.study.is_file():
            raise UserError(
                f"--output: {folder.root} is not to be seen on node {platform.node()}; it must be on storage that all "
                "nodes of the cluster share"
            )
        run = _Trial(study, assignment, dataset, folder, workers, granted, clock)
    except UserError as error:
        # No trial of the study can run on this node: the driver stops and says so.
        yield Report(assignment.id, "unfit", charged=0.0, steps=0, error=str(error))
        return
    try:
        yield from run.search()
        if not workers:
            yield from run.finals()
        yield run.ended()
    except _StopRequested:
        yield run.stopped()
    except WorkerLostError:
        raise
    except Exception as error:
        write_atomic(folder.errors / f"{assignment.id}.txt", traceback.format_exc())
        yield run.failed(error)


class _StopRequested(Exception):  # noqa: N818  no error: a person pressed Ctrl-C
    """The study is to stop; everything is checkpointed."""


class _Trial:
    def __init__(
        self,
        study: StudyConfig,
        assignment: Assignment,
        dataset: Dataset,
        folder: StudyFolder,
        workers: Sequence[Worker],
        granted: float,
        clock: Callable[[], float],
    ) -> None:
        self._study, self._assignment, self._dataset, self._folder = study, assignment, dataset, folder
        self._workers, self._clock = workers, clock
        self._share = device_share(study.resources.cpus, study.resources.gpus) * (1 + len(workers))
        self._children = Children(assignment)
        warm_up()
        self._device = reset_process(study, assignment)
        self._attempt = folder.begin_attempt(assignment.id)
        self._report_due = self._checkpoint_due = clock()
        self._meter = self._new_meter("search", granted)
        # A process serves many searches; which of them pays for its start is chance: held, but charged to none.
        self._meter.book("process")
        self._final_granted = granted
        self._before = 0.0
        self._earlier = Charge()
        self._steps = self._final_steps = 0
        self._row: SearchRow | None = None
        self._points: list[Point] = []
        self._events: list[LedgerEvent] = []

    def _new_meter(self, meter: Meter, granted: float | None = None) -> AttemptMeter:
        return AttemptMeter(self._assignment.id, self._attempt, meter, self._share, self._clock, granted=granted)

    def _event(self, *, durable: bool, closed: bool = False) -> LedgerEvent:
        steps = self._steps if self._meter.meter == "search" else self._final_steps
        return self._meter.event(steps, durable=durable, closed=closed)

    # The search

    def search(self) -> Iterator[Report]:
        """Run the search until its budget is used up, unless an earlier attempt has."""
        done = {row.id: row for row in self._folder.search_rows() if row.status != "failed"}
        if self._assignment.id in done:
            self._row = done[self._assignment.id]
            self._before, self._steps = self._row.charged_seconds, self._row.steps
            return
        search = search_of(self._study, self._assignment, self._dataset, self._device, self._workers)
        budget = self._study.budget.per_search()
        if self._attempt > 0:
            self._restore(search)
            self._meter.book("restore")
        else:
            self._meter.book("startup")
        self._checkpoint_due = self._clock() + CHECKPOINT_SECONDS
        yield from self._told(self._report("search"))
        status = self._over(budget)
        while status is None:
            progress = search.step(budget.spent(self._charged, self._steps))
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
        report_due = self._clock() >= self._report_due
        stop = report_due and self._folder.stop.exists()
        if stop or self._clock() >= self._checkpoint_due:
            self._checkpoint("search", search.state_dict(), children=self._children.state_dict())
            self._children.settle()
        if stop:
            raise _StopRequested
        if report_due:
            self._point(self._assignment.id, int(self._charged), search.summary())
            yield from self._told(self._report("search"))

    def _over(self, budget: Budget) -> Status | None:
        """Return why the search must end now, or None."""
        if budget.spent(self._charged, self._steps) >= 1:
            return "budget"
        return "held" if budget.held_out(self._earlier.held_working + self._meter.held_working) else None

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
            "budget": study.budget.model_dump(exclude_none=True),
            "data": study.data.name,
            "data_fingerprint": self._dataset.fingerprint,
            **({"data_shift": study.data.model_dump(mode="json")["shift"]} if study.data.shift else {}),
            "dastune_version": version("dastune"),
        }
        write_atomic(self._folder.policy(assignment.id), policy_text(policy, provenance))
        self._synchronise()
        self._meter.book("search")
        self._row = self._search_row(status, policy, summary, search.space_size_log10)
        self._events.append(self._event(durable=True, closed=True))
        self._final_granted = self._meter.mark
        values = {**summary, "noise_mass": self._row.noise_mass, "charged_seconds": self._row.charged_seconds}
        self._point(assignment.id, int(self._charged), {**values, "held_seconds": self._row.held_seconds})
        return self._report("searched", booked=True)

    # The final trainings

    def finals(self) -> Iterator[Report]:
        """Train the found policy from scratch with each final seed that has no row yet."""
        done = {(row.search_id, row.train_seed) for row in self._folder.final_rows()}
        seeds = [seed for seed in self._study.seeds.final if (self._assignment.id, seed) not in done]
        if not seeds:
            return
        policy = load_policy(self._folder.policy(self._assignment.id))
        task = final_task(self._study, self._assignment, self._dataset, self._device)
        self._meter = self._new_meter("final", self._final_granted)
        for seed in seeds:
            yield from self._final(task, policy, seed)
        self._folder.checkpoint(self._assignment.id).unlink(missing_ok=True)

    def _final(self, task: Task, policy: Policy, seed: int) -> Iterator[Report]:
        study, assignment = self._study, self._assignment
        key = f"{assignment.id}/t{seed}"
        final = FinalTraining(task, policy, study.final.epochs, assignment.search_seed, seed)
        spent_before = 0.0
        if self._attempt > 0 and (state := self._load_checkpoint(f"final {seed}")) is not None:
            final.load_state_dict(state["state"])
            spent_before = float(state["seconds"])
        self._meter.book("restore" if self._attempt > 0 else "startup")
        begun, training_seconds = self._meter.held, 0.0
        steps_before = final.training.steps
        self._checkpoint_due = self._clock() + CHECKPOINT_SECONDS
        loss: torch.Tensor | None = None
        while not final.done:
            at = self._clock()
            new_loss = final.step()
            self._final_steps = final.training.steps
            if new_loss is not None:
                loss = new_loss
                training_seconds += self._clock() - at
            self._meter.book("validate" if new_loss is None else "train")
            stop = self._clock() >= self._report_due and self._folder.stop.exists()
            if stop or self._clock() >= self._checkpoint_due:
                seconds = spent_before + self._meter.held - begun
                self._checkpoint(f"final {seed}", final.state_dict(), seconds=seconds)
            if stop:
                raise _StopRequested
            if self._clock() >= self._report_due:
                if loss is not None:
                    epoch = final.training.steps * study.final.epochs // final.training.total_steps
                    self._point(key, epoch, {"train_loss": float(loss)})
                yield from self._told(self._report("final"))
        result = final.result()
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
        )
        self._events.append(self._event(durable=True, closed=True))
        values = {"test_accuracy": row.test_accuracy, "test_loss": row.test_loss, "seconds": row.seconds}
        self._point(key, study.final.epochs, values)
        report = self._report("finished", booked=True)
        report.finals.append(row)
        yield from self._told(report)

    # Checkpoints

    def _checkpoint(self, stage: str, state: Mapping[str, Any], **more: Any) -> None:
        """Write everything, then book the time; the ledger learns of it with the next report."""
        self._synchronise()
        begun = self._clock()
        event = self._event(durable=True)
        content = {
            "stage": stage,
            "state": dict(state),
            "steps": self._steps,
            "event": {**vars(event), "accounts": dict(event.accounts)},
            "torch_rng": torch.get_rng_state(),
            **more,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomic(self._folder.checkpoint(self._assignment.id), buffer.getvalue())
        self._events.append(event)
        self._meter.book("checkpoint")
        took = self._clock() - begun
        self._checkpoint_due = self._clock() + max(CHECKPOINT_SECONDS, took / CHECKPOINT_SHARE)

    def _load_checkpoint(self, stage: str) -> dict[str, Any] | None:
        path = self._folder.checkpoint(self._assignment.id)
        if not path.exists():
            return None
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if content["stage"] != stage:
            return None
        torch.set_rng_state(content["torch_rng"])
        # The driver may have died before it heard of this checkpoint; hearing twice is harmless.
        self._events.append(event_from_row(content["event"]))
        return content

    def _restore(self, search: Search) -> None:
        """Take up the search where the last checkpoint left it, if there is one; else it begins anew."""
        mine = (row for row in read_lines(self._folder.ledger) if row["search"] == self._assignment.id)
        ledger = Ledger(event_from_row(row) for row in mine)
        content = self._load_checkpoint("search")
        if content is not None:
            search.load_state_dict(content["state"])
            self._children.load_state_dict(content["children"])
            self._steps = int(content["steps"])
            ledger.add(event_from_row(content["event"]))
            self._before = ledger.charge(self._assignment.id).charged
        self._earlier = ledger.charge(self._assignment.id)

    # Reports

    def _point(self, key: str, step: int, values: Mapping[str, float]) -> None:
        if values:
            self._points.append(Point(key, step, dict(values), int(time.time() * 1000)))

    def _report(self, stage: str, *, booked: bool = False) -> Report:
        """Hand over what has gathered; between meters, `booked` says that nothing more is to be booked."""
        if not booked:
            self._events.append(self._event(durable=False))
        charged = self._row.charged_seconds if self._row else self._charged
        row = self._row if stage == "searched" else None
        report = Report(self._assignment.id, stage, charged, self._steps, self._events, self._points, row)
        report.children, report.notes = self._children.take()
        self._events, self._points = [], []
        return report

    def _told(self, report: Report) -> Iterator[Report]:
        """Yield `report`; the time until the driver has taken it is no doing of the method's."""
        yield report
        self._meter.book("report")
        self._report_due = self._clock() + REPORT_SECONDS

    def ended(self) -> Report:
        """Say that nothing is left to do."""
        return self._report("ended", booked=True)

    def stopped(self) -> Report:
        """Close the meter of a trial that stops because the study does; its last checkpoint is what is durable."""
        self._events.append(self._event(durable=False, closed=True))
        return self._report("stopped", booked=True)

    def failed(self, error: Exception) -> Report:
        """Close the meter and report a failed search, or only the error if the search itself is done."""
        self._meter.book("failed")
        self._events.append(self._event(durable=False, closed=True))
        report = self._report("failed", booked=True)
        report.error = f"{type(error).__name__}: {error}"
        if self._row is None:
            report.row = self._search_row("failed", None, {}, 0.0)
        return report

    def _search_row(
        self, status: Status, policy: Policy | None, summary: Mapping[str, float], space_size_log10: float
    ) -> SearchRow:
        """Return the search's row as of now; `policy` is None for a failed search."""
        assignment = self._assignment
        path = self._folder.policy(assignment.id).relative_to(self._folder.root)
        return SearchRow(
            id=assignment.id,
            method=assignment.label,
            noise_level=assignment.noise_level,
            search_seed=assignment.search_seed,
            val_accuracy=summary.get("val_accuracy"),
            held_seconds=self._earlier.held + self._meter.held,
            charged_seconds=self._charged,
            steps=self._steps,
            children=int(summary.get("children", 0)),
            noise_mass=0.0 if policy is None else noise_mass(policy),
            uniform_noise_share=self._study.space.at_level(assignment.noise_level).uniform_noise_share,
            space_size_log10=space_size_log10,
            policy="" if policy is None else str(path),
            status=status,
            summary={name: float(value) for name, value in summary.items() if np.isfinite(value)},  # JSON holds no NaN
        )

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
