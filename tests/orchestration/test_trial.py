"""A trial in a plain loop: budgets, interruption, failure, what a search may see."""

import errno
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dastune.budget import Ledger, LedgerEvent, event_from_row
from dastune.config import StudyConfig
from dastune.data.dataset import Dataset
from dastune.folder import ChildRow, StudyFolder, append_line, model_name, read_lines, write_atomic
from dastune.orchestration import trial as trial_module
from dastune.orchestration.crew import ChildServer, WorkerLostError
from dastune.orchestration.grid import Assignment, grid
from dastune.orchestration.pictures import policy_picture, sample_images
from dastune.orchestration.reports import Report, Start
from dastune.orchestration.setting import child_server
from dastune.orchestration.trial import trial as trial_of
from dastune.policy.policy import NO_AUGMENTATION, Policy, load_policy, load_policy_file
from dastune.search.auto_augment import AutoAugmentProposer
from dastune.search.black_box import BlackBoxSearch
from dastune.search.search import SearchProgress
from dastune.seeds import derive
from dastune.storage import FolderStorage
from dastune.training.trained import trained_from_bytes


class TickingClock:
    """A clock that moves by one second each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def write(folder: StudyFolder, report: Report) -> None:
    """What the driver does with a report."""
    for event in report.ledger:
        append_line(folder.ledger, asdict(event))
    if report.policy:
        write_atomic(folder.policy(report.search), report.policy)
    if report.row is not None:
        folder.add_search(report.row)
    for final in report.finals:
        folder.add_final(final)
    folder.add_children(report.children)


def start_of(folder: StudyFolder, search: str) -> Start:
    """What the driver knows of a search, from its folder."""
    ledger = Ledger(events(folder))
    row = next((row for row in folder.search_rows() if row.id == search and row.status != "failed"), None)
    return Start(
        attempt=max(ledger.charge(search).attempts, ledger.charge(search, "final").attempts),
        charge=ledger.charge(search),
        row=row,
        policy=folder.policy(search).read_text() if row else "",
        trained=tuple(final.train_seed for final in folder.final_rows() if final.search_id == search),
    )


def trial(
    study: StudyConfig, assignment: Assignment, dataset: Dataset, folder: StudyFolder, **options: Any
) -> Iterator[Report]:
    """A trial that begins, or goes on, with what is in `folder`."""
    start = start_of(folder, assignment.id)
    return trial_of(study, assignment, dataset, FolderStorage(folder.root), start, **options)


def new_folder(root: Path) -> StudyFolder:
    folder = StudyFolder(root)
    folder.root.mkdir(parents=True)
    folder.study.touch()
    return folder


def run(reports: Iterator[Report], folder: StudyFolder) -> list[Report]:
    heard = []
    for report in reports:
        write(folder, report)
        heard.append(report)
    return heard


def outcome(
    folder: StudyFolder, assignment: Assignment
) -> tuple[Policy, float | None, int, list[tuple[int, float]], list[ChildRow]]:
    [row] = [row for row in folder.search_rows() if row.id == assignment.id]
    finals = sorted((final.train_seed, final.test_accuracy) for final in folder.final_rows())
    children = [replace(child, seconds=0.0) for child in folder.child_rows(assignment.id)]
    return load_policy(folder.policy(assignment.id)), row.val_accuracy, row.steps, finals, children


StudyOf = Callable[..., StudyConfig]

METHODS = ("das", "auto_augment", "rand_augment", "random", "trivial", "none")
SEVERAL = {"method": "random", "children_in_parallel": 2, "halving": {"children": 4, "eta": 2}}


@pytest.mark.parametrize("label", METHODS)
def test_a_trial_writes_its_search_and_every_final_training(
    label: str, study: StudyConfig, dataset: Dataset, root: Path
) -> None:
    folder, assignment = new_folder(root), Assignment(label, 2, 0)
    reports = run(trial(study, assignment, dataset, folder), folder)
    [row] = folder.search_rows()
    assert (row.id, row.method, row.noise_level, row.search_seed) == (f"{label}-n2-s0", label, 2, 0)
    assert row.uniform_noise_share == pytest.approx(2 / 5)
    assert row.status == ("done" if label in ("trivial", "none") else "budget")
    assert row.steps == (0 if label in ("trivial", "none") else 12)
    assert sorted(final.train_seed for final in folder.final_rows()) == [0, 1]
    assert all(0 <= final.test_accuracy <= 1 and final.epochs == 2 for final in folder.final_rows())
    assert [report.stage for report in reports][-3:] == ["finished", "finished", "ended"]


@pytest.mark.parametrize("label", METHODS)
def test_the_same_seed_gives_the_same_policy_and_accuracy(
    label: str, study: StudyConfig, dataset: Dataset, tmp_path: Path
) -> None:
    assignment = Assignment(label, 2, 0)
    first, second = new_folder(tmp_path / "a"), new_folder(tmp_path / "b")
    for folder in (first, second):
        run(trial(study, assignment, dataset, folder), folder)
    assert outcome(first, assignment) == outcome(second, assignment)


def test_a_row_holds_the_searchs_own_summary(
    study: StudyConfig, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder(root)
    told = {"val_accuracy": 0.5, "children": 1.0, "some_entropy": 2.25, "diverged": float("nan")}
    monkeypatch.setattr(BlackBoxSearch, "summary", lambda self: told)
    run(trial(study, Assignment("random", 2, 0), dataset, folder), folder)
    run(trial(study, Assignment("none", 2, 0), dataset, folder), folder)
    rows = {row.method: row for row in folder.search_rows()}
    assert rows["random"].summary == {"val_accuracy": 0.5, "children": 1.0, "some_entropy": 2.25}
    assert rows["none"].summary == {}


def test_a_policy_tells_of_the_shift_it_was_searched_for(
    study_of: StudyOf, study: StudyConfig, dataset: Dataset, tmp_path: Path
) -> None:
    data = {"name": "digits", "train_images": 40, "validation_images": 40, "shift": [{"rotate": {"degrees": 40}}]}
    provenance = []
    for name, one in (("plain", study), ("shifted", study_of(data=data))):
        folder = new_folder(tmp_path / name)
        run(trial(one, Assignment("none", 0, 0), dataset, folder), folder)
        provenance.append(load_policy_file(folder.policy("none-n0-s0")).provenance)
    shift = [{"op": "rotate", "signed": True, "low": 0.0, "high": 40.0, "probability": 1.0}]
    assert provenance[1] == {**provenance[0], "data_shift": shift}
    assert "data_shift" not in provenance[0]


def test_seeds_differ(study_of: StudyOf, study: StudyConfig, dataset: Dataset, tmp_path: Path) -> None:
    study = study_of(seeds={"search": [0, 1], "final": [0]})
    folders = [new_folder(tmp_path / str(seed)) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        run(trial(study, Assignment("none", 0, seed), dataset, folder), folder)
    assert folders[0].final_rows()[0].test_loss != folders[1].final_rows()[0].test_loss


@pytest.mark.parametrize("label", ["das", "auto_augment", "rand_augment", "random", "several"])
@pytest.mark.parametrize("killed_after", [1, 5, 9, 14, 17])
def test_a_killed_trial_goes_on_from_its_checkpoint(
    label: str,
    killed_after: int,
    study_of: StudyOf,
    study: StudyConfig,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if label == "several":
        study = study_of(methods={"several": SEVERAL}, budget={"steps": 20})
    assignment = Assignment(label, 2, 0)
    unbroken, broken = new_folder(tmp_path / "a"), new_folder(tmp_path / "b")
    run(trial(study, assignment, dataset, unbroken), unbroken)
    # Checkpoint and report after every step; then a process that just vanishes after some of its reports.
    monkeypatch.setattr(trial_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trial_module, "CHECKPOINT_COST", 1e9)
    monkeypatch.setattr(trial_module, "REPORT_SECONDS", 0.0)
    for report in islice(trial(study, assignment, dataset, broken), killed_after):
        write(broken, report)
    run(trial(study, assignment, dataset, broken), broken)
    assert outcome(broken, assignment) == outcome(unbroken, assignment)
    assert len(broken.search_rows()) == 1
    assert len(broken.final_rows()) == 2


@pytest.mark.parametrize("killed_after", [3, 11])
def test_a_killed_search_is_charged_like_an_unbroken_one(
    study_of: StudyOf, killed_after: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, assignment = study_of(budget={"cpu_hours": 60 / 3600}), Assignment("random", 0, 0)
    monkeypatch.setattr(trial_module, "CHECKPOINT_SECONDS", 10.0)
    monkeypatch.setattr(trial_module, "CHECKPOINT_COST", 1e9)
    monkeypatch.setattr(trial_module, "REPORT_SECONDS", 0.0)
    folder = new_folder(tmp_path / "b")
    for report in islice(trial(study, assignment, dataset, folder, clock=TickingClock()), killed_after):
        write(folder, report)
    run(trial(study, assignment, dataset, folder, clock=TickingClock()), folder)
    [row] = folder.search_rows()
    charge = Ledger(events(folder)).charge(assignment.id)
    assert charge.attempts == 2
    assert charge.charged == pytest.approx(row.charged_seconds)
    assert charge.held == pytest.approx(row.held_seconds)
    # One batch-sized unit over the budget at most: with this clock a handful of ticks, a checkpoint included.
    assert 60 <= row.charged_seconds <= 60 + 15
    assert row.held_seconds > row.charged_seconds


def test_the_time_of_a_child_is_what_its_steps_were_charged(
    study_of: StudyOf, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves in steps of the search only: each child has a second for each of them."""
    seconds = []
    step = BlackBoxSearch.step
    for parallel in (1, 2):
        now = [0.0]

        def timed(self: BlackBoxSearch, spent: float, now: list[float] = now) -> SearchProgress:
            now[0] += 1.0
            return step(self, spent)

        methods = {"random": {"children_in_parallel": parallel}}
        study = study_of(methods=methods, budget={"cpu_hours": 21 / 3600})
        folder = new_folder(tmp_path / str(parallel))
        with monkeypatch.context() as patched:
            patched.setattr(BlackBoxSearch, "step", timed)
            run(trial(study, Assignment("random", 0, 0), dataset, folder, clock=lambda now=now: now[0]), folder)
        rows = folder.child_rows()
        seconds.append([(row.seconds, row.epochs, row.status) for row in rows])
        assert sum(row.seconds for row in rows) == folder.search_rows()[0].charged_seconds == 21
    # A child is 2 epochs of 2 batches and an evaluation: 5 steps; two at a time share them.
    assert seconds[0] == [(5.0, 2.0, "scored")] * 4 + [(1.0, 0.5, "cut")]
    assert seconds[1] == [(2.5, 2.0, "scored")] * 8 + [(0.5, 0.5, "cut")] * 2


def test_a_diverged_child_is_a_line_for_people_and_scores_nothing(
    study_of: StudyOf, dataset: Dataset, root: Path
) -> None:
    training = {"batch_size": 20, "child_epochs": 10, "learning_rate": 1e9}
    study, folder = study_of(training=training, budget={"steps": 20}), new_folder(root)
    notes = [
        note
        for report in run(trial(study, Assignment("random", 0, 0), dataset, folder), folder)
        for note in report.notes
    ]
    first = folder.child_rows()[0]
    assert (first.status, first.score) == ("diverged", 0.0)
    assert (
        notes[0]
        == f"random-n0-s0: child 0 diverged: after {first.epochs:.3g} epochs its loss was not finite, and it scores 0"
    )


def test_children_that_no_checkpoint_holds_are_on_no_record_until_they_are_trained_again(
    study_of: StudyOf, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first attempt gets through more children than the second one, and is lost without a checkpoint."""
    monkeypatch.setattr(trial_module, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(trial_module, "CHECKPOINT_SECONDS", 1e9)
    study, assignment, folder = study_of(budget={"cpu_hours": 60 / 3600}), Assignment("random", 0, 0), new_folder(root)
    heard = list(islice(trial(study, assignment, dataset, folder), 60))
    assert heard[-1].steps >= 10 * 4  # optimiser steps of a child
    assert not any(report.points for report in heard)
    for report in heard:
        write(folder, report)
    assert folder.child_rows() == []
    run(trial(study, assignment, dataset, folder, clock=TickingClock()), folder)
    [row] = folder.search_rows()
    rows = folder.child_rows()
    assert sum(child.status != "cut" for child in rows) == row.children < 10
    assert sum(child.seconds for child in rows) <= row.charged_seconds


def test_a_search_that_scores_no_child_says_so(study_of: StudyOf, dataset: Dataset, root: Path) -> None:
    study, folder = study_of(budget={"steps": 3}), new_folder(root)
    for label in ("random", "das", "none"):
        reports = run(trial(study, Assignment(label, 0, 0), dataset, folder), folder)
        notes = [note for report in reports for note in report.notes]
        assert notes == (
            ["random-n0-s0: no child has a score, so that it found nothing: its policy is no augmentation"]
            if label == "random"
            else []
        )
    assert load_policy(folder.policy("random-n0-s0")) == NO_AUGMENTATION


class Gone:
    """A worker whose process is gone."""

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        raise WorkerLostError("planted")


def test_a_lost_worker_is_no_fault_of_the_method(study_of: StudyOf, dataset: Dataset, root: Path) -> None:
    study, folder = study_of(methods={"several": SEVERAL}), new_folder(root)
    with pytest.raises(WorkerLostError):
        run(trial(study, Assignment("several", 0, 0), dataset, folder, workers=[Gone()]), folder)
    assert folder.search_rows() == []
    run(trial(study, Assignment("several", 0, 0), dataset, folder), folder)
    assert folder.search_rows()[0].status == "budget"


def test_a_search_with_workers_is_charged_for_all_and_leaves_the_final_trainings(
    study_of: StudyOf, dataset: Dataset, root: Path
) -> None:
    study = study_of(methods={"several": SEVERAL}, budget={"cpu_hours": 200 / 3600})
    folder, clock, assignment = new_folder(root), TickingClock(), Assignment("several", 0, 0)
    servers = [child_server(study, assignment, dataset) for _ in range(3)]
    reports = run(
        trial(study, assignment, dataset, folder, workers=[Here(each) for each in servers], clock=clock), folder
    )
    [row] = folder.search_rows()
    assert 200 <= row.charged_seconds <= 200 + 4 * 10
    assert row.held_seconds <= 4 * clock.now
    assert reports[-1].stage == "ended"
    assert folder.final_rows() == []
    run(trial(study, assignment, dataset, folder), folder)
    assert len(folder.final_rows()) == 2
    assert folder.search_rows() == [row]


class Here:
    """A worker in this process."""

    def __init__(self, server: ChildServer) -> None:
        self._server = server

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        return lambda: getattr(self._server, method)(*arguments)


def events(folder: StudyFolder) -> list[LedgerEvent]:
    return [event_from_row(line) for line in read_lines(folder.ledger)]


def test_a_budget_in_seconds_ends_the_search_at_the_first_step_over_it(
    study_of: StudyOf, dataset: Dataset, root: Path
) -> None:
    study, assignment = study_of(budget={"cpu_hours": 200 / 3600}), Assignment("das", 0, 0)
    folder, clock = new_folder(root), TickingClock()
    granted = clock() - 50  # the process took 50 s to start
    run(trial(study, assignment, dataset, folder, granted=granted, clock=clock), folder)
    [row] = folder.search_rows()
    assert row.status == "budget"
    assert 200 <= row.charged_seconds <= 200 + 5
    # What the process cost before it worked on this search is held, and charged to none.
    assert row.held_seconds - row.charged_seconds >= 50
    last = [event for event in events(folder) if event.meter == "search"][-1]
    assert sum(last.accounts.values()) == pytest.approx(row.held_seconds)


def test_waiting_for_the_driver_is_held_but_not_charged(
    study_of: StudyOf, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "REPORT_SECONDS", 20.0)
    monkeypatch.setattr(trial_module, "CHECKPOINT_SECONDS", 1e9)
    study, assignment = study_of(budget={"cpu_hours": 200 / 3600}), Assignment("das", 0, 0)
    rows = []
    for wait in (0, 100):
        folder, clock = new_folder(tmp_path / str(wait)), TickingClock()
        for report in trial(study, assignment, dataset, folder, clock=clock):
            write(folder, report)
            clock.now += wait
        rows += folder.search_rows()
    assert rows[0].steps == rows[1].steps
    assert rows[0].charged_seconds == rows[1].charged_seconds
    assert rows[1].held_seconds >= rows[0].held_seconds + 5 * 100


def test_the_start_of_processes_does_not_end_a_resumed_search(
    study_of: StudyOf, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process takes longer to start than the whole budget; held is far over its limit, the search goes on."""
    monkeypatch.setattr(trial_module, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(trial_module, "CHECKPOINT_SECONDS", 10.0)
    monkeypatch.setattr(trial_module, "CHECKPOINT_COST", 1e9)
    study, assignment = study_of(budget={"cpu_hours": 60 / 3600}), Assignment("random", 0, 0)
    folder = new_folder(root)
    for _ in range(2):
        clock = TickingClock()
        for report in islice(trial(study, assignment, dataset, folder, granted=clock() - 80, clock=clock), 5):
            write(folder, report)
    clock = TickingClock()
    run(trial(study, assignment, dataset, folder, granted=clock() - 80, clock=clock), folder)
    [row] = folder.search_rows()
    assert row.status == "budget"
    assert row.held_seconds >= 3 * 80 + 60


def test_a_folder_that_this_node_does_not_see_is_told(study: StudyConfig, dataset: Dataset, root: Path) -> None:
    [report] = trial(study, Assignment("das", 0, 0), dataset, StudyFolder(root))
    assert report.stage == "unfit"
    assert "--output" in (report.error or "")
    assert not root.exists()


def test_a_trial_that_starts_while_the_study_stops_does_nothing(
    study: StudyConfig, dataset: Dataset, root: Path
) -> None:
    folder = new_folder(root)
    folder.stop.touch()
    assert list(trial(study, Assignment("das", 0, 0), dataset, folder)) == []
    assert not folder.checkpoints.exists()


@pytest.mark.slow
def test_two_cpus_charge_twice(study_of: StudyOf, dataset: Dataset, root: Path) -> None:
    study = study_of(budget={"cpu_hours": 200 / 3600}, resources={"cpus": 2}, methods={"das": {}})
    folder = new_folder(root)
    reports = run(trial(study, Assignment("das", 0, 0), dataset, folder, clock=TickingClock()), folder)
    one = study_of(budget={"cpu_hours": 200 / 3600}, methods={"das": {}})
    other = new_folder(root.with_name("one"))
    run(trial(one, Assignment("das", 0, 0), dataset, other, clock=TickingClock()), other)
    assert reports
    assert folder.search_rows()[0].steps == pytest.approx(other.search_rows()[0].steps / 2, abs=2)


def test_a_request_to_stop_ends_in_a_checkpoint(
    study: StudyConfig, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(trial_module, "STOP_CHECK_SECONDS", 0.0)
    assignment = Assignment("rand_augment", 0, 0)
    unbroken, stopped = new_folder(tmp_path / "a"), new_folder(tmp_path / "b")
    run(trial(study, assignment, dataset, unbroken), unbroken)
    reports = trial(study, assignment, dataset, stopped)
    for report in islice(reports, 6):
        write(stopped, report)
    stopped.stop.touch()
    rest = run(reports, stopped)
    assert [report.stage for report in rest] == ["stopped"]
    assert not stopped.search_rows()
    stopped.stop.unlink()
    run(trial(study, assignment, dataset, stopped), stopped)
    assert outcome(stopped, assignment) == outcome(unbroken, assignment)


def test_a_failing_method_is_a_failed_row_with_its_traceback(
    study: StudyConfig, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, assignment = new_folder(root), Assignment("random", 0, 0)

    def broken(self: AutoAugmentProposer, policy: Policy, score: float) -> None:
        raise ZeroDivisionError("planted")

    with monkeypatch.context() as patched:
        patched.setattr(AutoAugmentProposer, "tell", broken)
        reports = run(trial(study, assignment, dataset, folder), folder)
    assert reports[-1].error == "ZeroDivisionError: planted"
    [row] = folder.search_rows()
    assert row.status == "failed"
    assert 'in broken\n    raise ZeroDivisionError("planted")' in reports[-1].traceback
    assert not folder.final_rows()
    # Tried again once the cause is gone: the new row takes the failed one's place.
    run(trial(study, assignment, dataset, folder), folder)
    assert [row.status for row in folder.search_rows()] == ["budget"]
    assert len(folder.final_rows()) == 2


@pytest.mark.parametrize("killed_after", range(2, 18, 3))
def test_what_a_damaged_checkpoint_held_is_told_once(
    killed_after: int, study: StudyConfig, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that vanishes after a report, whose newest checkpoint is then cut: its work is done again."""
    assignment = Assignment("random", 2, 0)
    unbroken, broken = new_folder(tmp_path / "a"), new_folder(tmp_path / "b")
    expected = told_of_children(run(trial(study, assignment, dataset, unbroken), unbroken))
    monkeypatch.setattr(trial_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trial_module, "CHECKPOINT_COST", 1e9)
    monkeypatch.setattr(trial_module, "REPORT_SECONDS", 0.0)
    heard = []
    for report in islice(trial(study, assignment, dataset, broken), killed_after):
        write(broken, report)
        heard.append(report)
    checkpoints = sorted(broken.checkpoints.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
    if len(checkpoints) == 2 and not broken.search_rows():
        checkpoints[1].write_bytes(checkpoints[1].read_bytes()[:-1])
    heard += run(trial(study, assignment, dataset, broken), broken)
    assert outcome(broken, assignment) == outcome(unbroken, assignment)
    assert told_of_children(heard) == expected


def test_a_search_whose_checkpoints_are_all_damaged_begins_anew_within_its_whole_budget(
    study_of: StudyOf, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "CHECKPOINT_COST", 1e9)
    monkeypatch.setattr(trial_module, "REPORT_SECONDS", 0.0)
    study, assignment, folder = study_of(budget={"cpu_hours": 200 / 3600}), Assignment("random", 0, 0), new_folder(root)
    for report in islice(trial(study, assignment, dataset, folder, clock=TickingClock()), 6):
        write(folder, report)
    assert start_of(folder, assignment.id).charge.charged > 10  # so much comes to nothing
    for path in folder.checkpoints.glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    reports = run(trial(study, assignment, dataset, folder, clock=TickingClock()), folder)
    assert any("it begins anew" in note for report in reports for note in report.notes)
    [row] = folder.search_rows()
    last = [event for event in events(folder) if event.meter == "search"][-1]
    free = sum(last.accounts.get(account, 0.0) for account in ("process", "report"))
    # All of the second attempt, and nothing of the first.
    assert row.charged_seconds == pytest.approx(last.held - free)
    assert row.charged_seconds == pytest.approx(Ledger(events(folder)).charge(assignment.id).charged)
    assert 200 <= row.charged_seconds <= 200 + 15


def told_of_children(reports: list[Report]) -> list[float]:
    """The accuracies of children in what MLflow is told, where a point with the same time is the same point."""
    points = {
        (point.timestamp_ms, point.step, point.values["child_accuracy"])
        for report in reports
        for point in report.points
        if "child_accuracy" in point.values
    }
    return [accuracy for _, _, accuracy in sorted(points)]


class FullStorage(FolderStorage):
    """A storage that takes no checkpoints."""

    def write(self, name: str, content: bytes) -> None:
        if name.endswith(".pt"):
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(name, content)


def test_checkpoints_that_cannot_be_written_are_told_once_and_change_nothing(
    study: StudyConfig, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trial_module, "CHECKPOINT_COST", 1e9)
    assignment = Assignment("random", 0, 0)
    sound, full = new_folder(tmp_path / "a"), new_folder(tmp_path / "b")
    run(trial(study, assignment, dataset, sound), sound)
    reports = run(trial_of(study, assignment, dataset, FullStorage(full.root), Start()), full)
    assert outcome(full, assignment) == outcome(sound, assignment)
    [note] = [note for report in reports for note in report.notes]
    assert "its checkpoint cannot be written ([Errno 28] No space left on device)" in note
    assert not any(event.durable and not event.closed for event in events(full))


def test_a_das_whose_network_diverges_fails_and_says_so(study_of: StudyOf, dataset: Dataset, root: Path) -> None:
    training = {"batch_size": 20, "child_epochs": 2, "learning_rate": 1e9}
    folder, study = new_folder(root), study_of(methods={"das": None}, training=training, budget={"steps": 60})
    reports = run(trial(study, Assignment("das", 0, 0), dataset, folder), folder)
    assert "DivergedError: the network of the search diverged" in (reports[-1].error or "")
    assert [row.status for row in folder.search_rows()] == ["failed"]
    assert folder.final_rows() == []


class Untouchable(np.ndarray):  # type: ignore[type-arg]
    """An array that must not be read."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("a search read test data")


@pytest.mark.parametrize("label", METHODS)
def test_no_search_sees_test_data(label: str, study: StudyConfig, dataset: Dataset, root: Path) -> None:
    hidden = replace(
        dataset,
        test_pixels=dataset.test_pixels.view(Untouchable),
        test_labels=dataset.test_labels.view(Untouchable),
    )
    folder = new_folder(root)
    for report in trial(study, Assignment(label, 0, 0), hidden, folder):
        write(folder, report)
        if report.row is not None:
            break
    [row] = folder.search_rows()
    assert row.status != "failed"


def test_the_grid_goes_seed_by_seed(study_of: StudyOf, study: StudyConfig) -> None:
    study = study_of(seeds={"search": [3, 1], "final": [0]}, methods={"das": {}, "none": {}})
    assert [assignment.id for assignment in grid(study)] == [
        *("das-n0-s3", "none-n0-s3", "das-n2-s3", "none-n2-s3"),
        *("das-n0-s1", "none-n0-s1", "das-n2-s1", "none-n2-s1"),
    ]


def losses_of(reports: list[Report]) -> dict[str, list[tuple[int, float]]]:
    """(epoch, training loss) of each final training, where a point with the same time is the same point."""
    told: dict[str, set[tuple[int, int, float]]] = {}
    for point in (point for report in reports for point in report.points if "train_loss" in point.values):
        told.setdefault(point.key, set()).add((point.step, point.timestamp_ms, point.values["train_loss"]))
    return {key: [(epoch, loss) for epoch, _, loss in sorted(points)] for key, points in told.items()}


@pytest.mark.parametrize("killed_after", [2, 5, 9, 13])
def test_each_epoch_of_a_final_training_has_its_loss_once(
    killed_after: int, study_of: StudyOf, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, assignment = study_of(final={"epochs": 5}), Assignment("none", 2, 0)
    unbroken, broken = new_folder(tmp_path / "a"), new_folder(tmp_path / "b")
    undisturbed = losses_of(run(trial(study, assignment, dataset, unbroken), unbroken))
    assert {key: [epoch for epoch, _ in losses] for key, losses in undisturbed.items()} == {
        f"none-n2-s0/t{seed}": [1, 2, 3, 4, 5] for seed in (0, 1)
    }
    for name, value in (("CHECKPOINT_SECONDS", 0.0), ("CHECKPOINT_COST", 1e9), ("REPORT_SECONDS", 0.0)):
        monkeypatch.setattr(trial_module, name, value)
    heard = list(islice(trial(study, assignment, dataset, broken), killed_after))
    for report in heard:
        write(broken, report)
    assert losses_of(heard + run(trial(study, assignment, dataset, broken), broken)) == undisturbed


def test_a_search_leaves_a_picture_that_nobody_is_charged_for(
    study: StudyConfig, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that takes a minute by the clock."""
    clock, draw = TickingClock(), policy_picture

    def slow(*arguments: Any) -> bytes:
        clock.now += 60.0
        return draw(*arguments)

    monkeypatch.setattr(trial_module, "policy_picture", slow)
    folder = new_folder(root)
    [report] = [
        each for each in run(trial(study, Assignment("das", 2, 0), dataset, folder, clock=clock), folder) if each.row
    ]
    assert report.row is not None
    assert report.row.charged_seconds < 60 < report.row.held_seconds
    assert report.row.held_seconds == pytest.approx(Ledger(events(folder)).charge("das-n2-s0").held)
    policy = load_policy(folder.policy("das-n2-s0"))
    seen = [draw(policy, sample_images(dataset), derive(0, "picture")), draw(policy, sample_images(dataset), 1)]
    assert b64decode(report.picture) == seen[0] != seen[1]


def test_a_picture_that_cannot_be_made_is_a_note(
    study: StudyConfig, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> bytes:
        raise MemoryError("planted")

    monkeypatch.setattr(trial_module, "policy_picture", fail)
    folder = new_folder(root)
    reports = run(trial(study, Assignment("none", 0, 0), dataset, folder), folder)
    assert [note for report in reports for note in report.notes] == [
        "none-n0-s0: its picture cannot be made (MemoryError: planted)"
    ]
    assert [report.picture for report in reports if report.row is not None] == [""]
    assert len(folder.final_rows()) == 2


def test_a_picture_outlives_the_process_that_made_it(
    study: StudyConfig, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver never hears of the search's end; a checkpoint of its final training does."""
    for name, value in (("CHECKPOINT_SECONDS", 0.0), ("CHECKPOINT_COST", 1e9), ("REPORT_SECONDS", 0.0)):
        monkeypatch.setattr(trial_module, name, value)
    folder, assignment = new_folder(root), Assignment("none", 2, 0)
    lost = list(islice(trial(study, assignment, dataset, folder), 4))
    assert [report.stage for report in lost][-1] == "final"
    again = run(trial(study, assignment, dataset, folder), folder)
    assert [report.picture for report in again if report.row] == [report.picture for report in lost if report.row]
    assert again[0].picture


def test_a_long_search_tells_of_its_machine(
    study_of: StudyOf, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "REPORT_SECONDS", 0.0)
    folder, study = new_folder(root), study_of(budget={"steps": 6})
    reports = run(trial(study, Assignment("das", 0, 0), dataset, folder), folder)
    points = [point for report in reports for point in report.points]
    told = [point for point in points if "system/cpu_utilization_percentage" in point.values]
    assert len(told) == 5  # between steps
    assert {point.key for point in told} == {"das-n0-s0"}
    assert all(0 < point.values["system/system_memory_usage_percentage"] < 100 for point in told)


def test_the_network_of_a_final_training_is_left_before_its_row_is_told(
    study_of: StudyOf, dataset: Dataset, tmp_path: Path
) -> None:
    for which in ("best", "all", "none"):
        study, folder = study_of(tracking={"models": which}), new_folder(tmp_path / which)
        for report in trial(study, Assignment("none", 0, 0), dataset, folder):
            write(folder, report)
            left = {path.name for path in folder.models.glob("*")}
            rows = {f"none-n0-s0-t{row.train_seed}.pt" for row in folder.final_rows()}
            assert left == (set() if which == "none" else rows)
    images_BCHW = torch.from_numpy(dataset.test_pixels).float() / 255
    for row in folder.final_rows():
        trained = trained_from_bytes((tmp_path / "all" / model_name("none-n0-s0", row.train_seed)).read_bytes())
        with torch.no_grad():
            right = trained(images_BCHW).argmax(1).numpy() == dataset.test_labels
        assert right.mean() == pytest.approx(row.test_accuracy)


def test_a_diverged_network_is_not_left_and_one_that_cannot_be_written_is_told(
    study_of: StudyOf, dataset: Dataset, tmp_path: Path
) -> None:
    study = study_of(tracking={"models": "all"}, final={"epochs": 8, "learning_rate": 1e9})
    folder = new_folder(tmp_path / "diverged")
    run(trial(study, Assignment("none", 0, 0), dataset, folder), folder)
    assert [row.test_accuracy for row in folder.final_rows()] == [0, 0]
    assert not folder.models.exists()
    study, full = study_of(tracking={"models": "all"}), new_folder(tmp_path / "full")
    reports = trial_of(study, Assignment("none", 0, 0), dataset, FullStorage(full.root), Start())
    notes = [note for report in run(reports, full) for note in report.notes]
    assert len(notes) == 2
    assert all("its trained network cannot be written ([Errno 28]" in note for note in notes)
    assert len(full.final_rows()) == 2
