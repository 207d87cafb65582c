"""How a study stands: folders built by hand, with counts worked out here."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from dastune.budget import LedgerEvent, Meter, Origin
from dastune.config import load_study
from dastune.errors import UserError
from dastune.folder import FinalRow, SearchRow, StudyFolder, append_lines, write_atomic
from dastune.report.standing import MOST_LISTED, SILENT_SECONDS, Failure, MethodStatus, Status
from dastune.report.status import device_seconds_left, read_status

NOW = 1_800_000_000.0
BEGUN = NOW - 7200

# 4 methods, 14 searches: das and aa at 2 levels x 2 seeds, none likewise, published at the first level only.
CHANGES = (
    "methods={das: {}, aa: {method: auto_augment, children_in_parallel: 2}, none: {}, theirs: {method: published, "
    "policy: aa-svhn}}",
    "space.noise.levels=[0, 4]",
    "seeds={search: [0, 1], final: [0, 1]}",
    "resources.cpus=2",
)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return make(tmp_path / "study")


def make(root: Path, *changes: str, budget: str = "100 cpu-seconds") -> StudyFolder:
    folder = StudyFolder(root)
    study = load_study("digits_noise", overrides=[*CHANGES, *changes], budget=budget)
    write_atomic(folder.study, yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    for path in (folder.ledger, folder.searches, folder.finals):
        path.touch()
    return folder


@contextmanager
def driver(folder: StudyFolder, begun: float = BEGUN) -> Iterator[None]:
    with folder.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(folder.lock, (begun, begun))
        yield


def searched(
    folder: StudyFolder, row_of: Callable[..., SearchRow], method: str, level: int = 0, seed: int = 0, **fields: object
) -> None:
    append_lines(folder.searches, [asdict(row_of(method, level, seed, **fields))])


def trained(
    folder: StudyFolder, row_of: Callable[..., FinalRow], method: str, level: int = 0, seed: int = 0, *, seeds: int = 2
) -> None:
    rows = [row_of(0.9, method, level, seed, train_seed) for train_seed in range(seeds)]
    append_lines(folder.finals, [asdict(row) for row in rows])


def heard(
    folder: StudyFolder,
    search: str,
    ago: float,
    seconds: float = 10.0,
    *,
    attempt: int = 0,
    sequence: int = 1,
    steps: int = 100,
    meter: Meter = "search",
    durable: bool = False,
    closed: bool = False,
    origin: Origin | None = None,
) -> None:
    accounts = {"process": 3.0, "startup": 1.0, "search": seconds}
    event = LedgerEvent(search, attempt, sequence, meter, accounts, steps, durable, closed, NOW - ago, origin)
    append_lines(folder.ledger, [asdict(event)])


def error(folder: StudyFolder, search: str, text: str, ago: float = 10.0) -> None:
    write_atomic(folder.errors / f"{search}.txt", text)
    os.utime(folder.errors / f"{search}.txt", (NOW - ago, NOW - ago))


def method(status: Status, name: str) -> MethodStatus:
    return next(method for method in status.methods if method.method == name)


def counts(status: Status, name: str) -> tuple[int, int, int, int, int, int]:
    of = method(status, name)
    return of.done, of.running, of.failed, of.waiting, of.finals_done, of.finals_expected


def test_a_study_in_the_middle(
    folder: StudyFolder, search_row: Callable[..., SearchRow], final_row: Callable[..., FinalRow]
) -> None:
    fields = {"val_accuracy": 0.75, "held_seconds": 130.0, "charged_seconds": 101.0, "steps": 900}
    searched(folder, search_row, "das", 0, 0, **fields)
    trained(folder, final_row, "das", 0, 0)
    searched(folder, search_row, "das", 4, 0, **{**fields, "val_accuracy": 0.5})
    trained(folder, final_row, "das", 4, 0, seeds=1)
    with driver(folder):
        heard(folder, "das-n4-s0", 70.0, closed=True, durable=True)
        heard(folder, "das-n4-s0", 1.0, 7.0, meter="final")
        heard(folder, "das-n0-s1", 2.0, 39.0)
        heard(folder, "aa-n0-s0", SILENT_SECONDS + 1, 59.0)
        heard(folder, "aa-n4-s0", 100.0, 10.0)
        error(folder, "aa-n4-s0", "died again and again\nand more", ago=50.0)
        status = read_status(folder.root, now=NOW)
    assert (status.name, status.state, status.driver) == ("digits_noise", "running", True)
    assert status.begun_unix_time == BEGUN
    # done, running, failed, waiting; final trainings done, expected
    assert counts(status, "das") == (2, 1, 0, 1, 3, 8)
    assert counts(status, "aa") == (0, 1, 1, 2, 0, 8)
    assert counts(status, "none") == (0, 0, 0, 4, 0, 8)
    assert counts(status, "theirs") == (0, 0, 0, 2, 0, 4)
    das, none = method(status, "das"), method(status, "none")
    # Two rows, and of the running one all but the start of its process, which is held only.
    assert (das.charged_seconds, das.held_seconds) == (101.0 * 2 + 40.0, 130.0 * 2 + 43.0)
    assert (das.budget_seconds, das.budget_steps, das.best_val_accuracy) == (pytest.approx(400.0), None, 0.75)
    assert (none.budget_seconds, none.best_val_accuracy) == (None, None)
    running = {search.search: search for search in status.running}
    assert list(running) == ["das-n0-s1", "das-n4-s0", "aa-n0-s0"]
    assert running["das-n0-s1"].spent == pytest.approx(0.4)
    assert running["das-n0-s1"].heard_seconds_ago == pytest.approx(2.0)
    assert (running["das-n4-s0"].stage, running["das-n4-s0"].spent) == ("final", None)
    assert [search.silent for search in running.values()] == [False, False, True]
    assert status.slots_in_use == 1 + 1 + 2  # aa trains two children at a time
    assert status.failures == (Failure("aa-n4-s0", "search", "died again and again"),)
    # das takes 130 s (one waits, one has 40), the rest their budget (aa: 2 wait, one has 60; none: 4; theirs: 2), and
    # 25 final trainings 20 s each; the failed search none.
    finals = 5 + 6 + 8 + 4
    left = (130 + 90) + (2 * 100 + 40) + 400 + 200 + finals * 20
    assert status.device_seconds_left == pytest.approx(left)
    assert status.seconds_left == pytest.approx(left / 2 / 4)  # of 2 CPUs each, on 4 slots
    assert status.estimated_end is not None
    assert datetime.fromisoformat(status.estimated_end).timestamp() == pytest.approx(NOW + left / 8, abs=1)


def test_what_it_prints(
    folder: StudyFolder, search_row: Callable[..., SearchRow], final_row: Callable[..., FinalRow]
) -> None:
    searched(folder, search_row, "none")
    trained(folder, final_row, "none")
    with driver(folder, NOW - 1800):
        heard(folder, "none-n0-s0", 1000.0, 20.0, durable=True, closed=True)
        heard(folder, "das-n0-s0", 75.0, 24.0)
        lines = read_status(folder.root, now=NOW).lines
    assert lines[0] == "digits_noise: running; 1 of 14 searches and 2 of 28 final trainings done"
    assert lines[1] == "a driver works on it"
    table = [line.split() for line in lines[3:8]]
    assert table[1] == ["das", "0", "1", "0", "3", "0/8", "25", "s", "of", "7", "min", "28", "s", "-"]
    assert table[3][:6] == ["none", "1", "0", "0", "3", "2/8"]
    assert len({len(line) for line in lines[3:8]}) == 1  # columns
    (running,) = (line for line in lines if line.startswith("  das-n0-s0"))
    assert " 25 % of its budget" in running
    assert "heard of 75 s ago  SILENT: nothing for more than 60 s" in running
    (pace,) = (line for line in lines if line.startswith("an hour"))
    assert "2.0 searches, 0.0 final trainings" in pace
    assert "over the last 30 min" in pace
    # Four das less 25 s, four aa and two published ones at their budget, three none at 11 s, 26 final trainings of
    # 20 s; on two CPUs.
    seconds = (400 - 25 + 400 + 200 + 33 + 520) / 2
    end = datetime.fromtimestamp(NOW + seconds)
    assert f"left: about {seconds / 60:.0f} min on 1 slot, until {end:%Y-%m-%d %H:%M} local time" in lines


def test_no_driver_and_nothing_done_is_not_begun(folder: StudyFolder) -> None:
    status = read_status(folder.root, now=NOW)
    assert (status.state, status.driver, status.throughput, status.running) == ("not begun", False, None, ())
    assert f"dastune resume {folder.root}" in status.lines[1]


def test_a_driver_that_has_heard_nothing_yet(folder: StudyFolder) -> None:
    with driver(folder):
        status = read_status(folder.root, now=NOW)
    assert (status.state, status.slots_in_use, status.seconds_left) == ("running", 0, None)
    assert all(of.waiting == of.finals_expected / 2 for of in status.methods)


def test_stopping_and_stopped(folder: StudyFolder) -> None:
    with driver(folder):
        heard(folder, "das-n0-s0", 3.0, closed=True)
        heard(folder, "das-n0-s1", 1.0)
        folder.stop.touch()
        status = read_status(folder.root, now=NOW)
        assert status.state == "stopping"
        assert [search.search for search in status.running] == ["das-n0-s1"]
        assert status.seconds_left is None
    heard(folder, "das-n0-s1", 0.5, sequence=2, closed=True)
    status = read_status(folder.root, now=NOW)
    assert (status.state, status.running, status.unheld) == ("stopped", (), False)


@pytest.mark.parametrize("failing", [False, True])
def test_finished(
    folder: StudyFolder, search_row: Callable[..., SearchRow], final_row: Callable[..., FinalRow], failing: bool
) -> None:
    grid = [(name, level, seed) for name in ("das", "aa", "none") for level in (0, 4) for seed in (0, 1)]
    for name, level, seed in [*grid, ("theirs", 0, 0), ("theirs", 0, 1)]:
        failed = failing and name == "aa"
        searched(folder, search_row, name, level, seed, status="failed" if failed else "budget")
        if not failed:
            trained(folder, final_row, name, level, seed)
    folder.lock.touch()
    status = read_status(folder.root, now=NOW)
    assert (status.state, status.device_seconds_left) == ("finished", 0.0)
    assert len(status.failures) == (4 if failing else 0)
    assert ("dastune resume" in status.lines[1]) == failing
    # Failed searches are charged too.
    assert method(status, "aa").charged_seconds == 40.0


def test_what_an_earlier_driver_left_is_waiting_and_charged_up_to_its_checkpoint(folder: StudyFolder) -> None:
    heard(folder, "das-n0-s0", 8000.0, 20.0, durable=True, steps=200)
    heard(folder, "das-n0-s0", 7900.0, 30.0, sequence=2, steps=300)
    with driver(folder):
        status = read_status(folder.root, now=NOW)
        assert (counts(status, "das")[:4], status.running) == ((0, 0, 0, 4), ())
        assert (method(status, "das").charged_seconds, method(status, "das").steps) == (21.0, 200)
        # Its next process goes on from there; its start-up is not charged again.
        heard(folder, "das-n0-s0", 1.0, 5.0, attempt=1, steps=250, origin=(0, 1))
        status = read_status(folder.root, now=NOW)
    assert counts(status, "das")[:4] == (0, 1, 0, 3)
    assert (status.running[0].charged_seconds, status.running[0].steps) == (26.0, 250)
    assert method(status, "das").held_seconds == 34.0 + 9.0


def test_a_damaged_checkpoint_that_was_passed_over_is_not_charged(folder: StudyFolder) -> None:
    with driver(folder):
        for sequence, seconds in ((1, 10.0), (2, 20.0), (3, 30.0)):
            heard(folder, "das-n0-s0", 60.0, seconds, sequence=sequence, durable=True)
        heard(folder, "das-n0-s0", 1.0, 5.0, attempt=1, origin=(0, 2))
        status = read_status(folder.root, now=NOW)
    assert status.running[0].charged_seconds == 21.0 + 5.0


def test_a_search_of_several_processes_waits_for_its_final_trainings(
    folder: StudyFolder, search_row: Callable[..., SearchRow]
) -> None:
    with driver(folder):
        for name in ("aa", "das"):
            searched(folder, search_row, name)
            heard(folder, f"{name}-n0-s0", 1.0, durable=True, closed=True)
        status = read_status(folder.root, now=NOW)
    # das goes on in the same process, which has not told of it yet.
    assert [(search.search, search.stage, search.slots) for search in status.running] == [("das-n0-s0", "final", 1)]


def test_final_trainings_of_a_search_of_several_processes_take_one_slot(
    folder: StudyFolder, search_row: Callable[..., SearchRow]
) -> None:
    with driver(folder):
        searched(folder, search_row, "aa")
        heard(folder, "aa-n0-s0", 90.0, durable=True, closed=True)
        heard(folder, "aa-n0-s0", 1.0, attempt=1, meter="final")
        status = read_status(folder.root, now=NOW)
    assert [(search.stage, search.slots) for search in status.running] == [("final", 1)]


def test_a_budget_in_steps(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", budget="400 steps")
    with driver(folder):
        heard(folder, "das-n0-s0", 1.0, steps=100)
        status = read_status(folder.root, now=NOW)
    assert status.running[0].spent == 0.25
    das = method(status, "das")
    assert (das.steps, das.budget_steps, das.budget_seconds) == (100, 1600, None)
    assert "100 of 1,600 steps" in status.lines[4]
    assert "left: not to be told before a final training has ended" in status.lines


def test_throughput_is_of_the_last_hour_or_since_the_driver_began(
    folder: StudyFolder, search_row: Callable[..., SearchRow]
) -> None:
    for seed in (0, 1):
        searched(folder, search_row, "das", 0, seed)
    with driver(folder, NOW - 7200):
        heard(folder, "das-n0-s0", 4000.0, 50.0, durable=True, closed=True)
        heard(folder, "das-n0-s1", 3700.0, 30.0)
        heard(folder, "das-n0-s1", 3000.0, 90.0, sequence=2, durable=True, closed=True)
        heard(folder, "das-n0-s1", 2000.0, 15.0, meter="final", durable=True, closed=True)
        hour = read_status(folder.root, now=NOW).throughput
    assert hour is not None
    assert (hour.over_seconds, hour.searches_per_hour, hour.finals_per_hour) == (3600.0, 1.0, 1.0)
    assert (hour.charged_seconds_per_hour, hour.final_seconds_per_hour) == pytest.approx((60.0, 16.0))
    with driver(folder, NOW - 1800):
        heard(folder, "das-n4-s0", 900.0, 40.0, durable=True, closed=True)
        half = read_status(folder.root, now=NOW).throughput
    assert half is not None
    assert (half.over_seconds, half.searches_per_hour) == (1800.0, 2.0)
    assert half.charged_seconds_per_hour == pytest.approx(82.0)


def test_what_failed_before_a_driver_began_is_tried_again(
    folder: StudyFolder, search_row: Callable[..., SearchRow]
) -> None:
    for level in (0, 4):
        searched(folder, search_row, "das", level, 0, status="failed")
        heard(folder, f"das-n{level}-s0", 9000.0, closed=True)
        error(folder, f"das-n{level}-s0", "ValueError: one", ago=9000.0)
    assert counts(read_status(folder.root, now=NOW), "das")[:4] == (0, 0, 2, 2)
    with driver(folder):
        heard(folder, "das-n0-s0", 1.0, attempt=1)
        status = read_status(folder.root, now=NOW)
        assert counts(status, "das")[:4] == (0, 1, 0, 3)
        assert status.failures == ()
        heard(folder, "das-n0-s0", 0.5, attempt=1, sequence=2, closed=True)
        error(folder, "das-n0-s0", "ValueError: two", ago=0.4)
        status = read_status(folder.root, now=NOW)
    assert status.failures == (Failure("das-n0-s0", "search", "ValueError: two"),)


def test_what_was_tried_again_and_stopped_is_no_failure(folder: StudyFolder) -> None:
    error(folder, "das-n0-s0", "ValueError: one", ago=9000.0)
    heard(folder, "das-n0-s0", 9001.0, closed=True)
    heard(folder, "das-n0-s0", 500.0, attempt=1, durable=True)
    status = read_status(folder.root, now=NOW)
    assert (status.state, status.failures, counts(status, "das")[:4]) == ("stopped", (), (0, 0, 0, 4))


def test_a_final_training_that_failed(folder: StudyFolder, search_row: Callable[..., SearchRow]) -> None:
    searched(folder, search_row, "das")
    with driver(folder):
        heard(folder, "das-n0-s0", 5.0, meter="final", closed=True)
        error(folder, "das-n0-s0", "RuntimeError: out of memory", ago=4.0)
        status = read_status(folder.root, now=NOW)
    assert status.failures == (Failure("das-n0-s0", "final", "RuntimeError: out of memory"),)
    assert counts(status, "das")[:4] == (1, 0, 0, 3)
    assert "  das-n0-s0 (final training): RuntimeError: out of memory" in status.lines


TRACEBACK = """Traceback (most recent call last):
  File "a.py", line 1, in one
    fail()
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 2, in two
    fail()
dastune.Error: shape (3, 4)
must be (4, 3)
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TRACEBACK, "dastune.Error: shape (3, 4)"),
        ("\n  \nits node is gone\nmore", "its node is gone"),
        ("\x1b[31m[bold red]boo\x07[/]", "\\x1b[31m[bold red]boo\\x07[/]"),
        ("x" * 500, "x" * 197 + "..."),
        ("", "there is no error file that says why"),
        ("Traceback (most recent call last):\n", "there is no error file that says why"),
    ],
)
def test_reasons(folder: StudyFolder, text: str, reason: str) -> None:
    error(folder, "das-n0-s0", text)
    assert [failure.reason for failure in read_status(folder.root, now=NOW).failures] == [reason]


def test_long_lists_are_cut_in_text_alone(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", "seeds.search=" + str(list(range(MOST_LISTED))))
    with driver(folder):
        for seed in range(MOST_LISTED):
            heard(folder, f"das-n0-s{seed}", 1.0)
            heard(folder, f"das-n4-s{seed}", 100.0 if seed == 3 else 1.0)
        status = read_status(folder.root, now=NOW)
    assert f"  and {MOST_LISTED} more, all in --json" in status.lines
    listed = [line for line in status.lines if line.startswith("  das")]
    assert len(listed) == MOST_LISTED
    assert listed[0].startswith("  das-n4-s3 ")  # silent ones first
    assert len(json.loads(status.to_json())["running"]) == 2 * MOST_LISTED


def test_a_driver_whose_lock_is_not_seen(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock is on another machine; it tells of itself through the ledger."""
    heard(folder, "das-n0-s0", 1.0)
    status = read_status(folder.root, now=NOW)
    assert (status.state, status.unheld) == ("stopped", True)
    assert "another machine" in status.lines[2]

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    folder.lock.touch()
    os.utime(folder.lock, (BEGUN, BEGUN))
    monkeypatch.setattr(fcntl, "flock", flock)
    status = read_status(folder.root, now=NOW)
    assert (status.state, status.driver, len(status.running)) == ("running", None, 1)
    assert read_status(folder.root, now=NOW + 100).state == "stopped"


def test_a_look_changes_nothing_and_frees_the_lock(folder: StudyFolder) -> None:
    def listing() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.root.rglob("*")}

    folder.lock.touch()
    before = listing()
    read_status(folder.root, now=NOW)
    assert listing() == before
    with driver(folder):
        read_status(folder.root, now=NOW)
        # still held by the driver
        with folder.lock.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_rows_that_are_none_are_passed_over(
    folder: StudyFolder, search_row: Callable[..., SearchRow], final_row: Callable[..., FinalRow]
) -> None:
    row, final = asdict(search_row("das")), asdict(final_row(0.9, "das"))
    bad = [
        {**row, "charged_seconds": "many"},
        {**row, "charged_seconds": 1e300},
        {**row, "held_seconds": None},
        {**row, "id": ["das-n0-s0"]},
        {**row, "id": "das-n99-s0"},
        {**row, "steps": 10**400},
        {**row, "status": "well"},
        {key: value for key, value in row.items() if key != "method"},
    ]
    with folder.searches.open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in bad)
        file.write('{"charged_seconds": NaN}\n[]\n\x00\n' + json.dumps(row)[:-9])
    with folder.finals.open("w") as file:
        file.writelines(json.dumps({**final, **change}) + "\n" for change in ({"seconds": -1e300}, {"train_seed": 7}))
        file.write(json.dumps({**final, "a later version": 1}) + "\n")
    assert counts(read_status(folder.root, now=NOW), "das") == (0, 0, 0, 4, 1, 8)


@pytest.mark.parametrize("name", ["searches.jsonl", "finals.jsonl", "ledger.jsonl", "lock", "stop", "errors"])
@pytest.mark.parametrize("what", ["nothing", "folder", "pipe", "noise"])
def test_whatever_is_in_the_folder(folder: StudyFolder, name: str, what: str) -> None:
    path = folder.root / name
    path.unlink(missing_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "noise":
        path.write_bytes(bytes(range(256)) * 40)
    status = read_status(folder.root, now=NOW)
    assert status.state == "not begun"
    json.loads(status.to_json())


def test_numbers_beyond_measure(tmp_path: Path, search_row: Callable[..., SearchRow]) -> None:
    folder = make(tmp_path / "study", "resources.cpus=1.0e-300", budget="1e300 cpu-hours")
    searched(folder, search_row, "none")
    append_lines(folder.finals, [asdict(FinalRow("none-n0-s0", "none", 0, 0, 0, 0.9, 0.1, 1, 9e11, 1.0, 1, 1))])
    with driver(folder):
        heard(folder, "das-n0-s0", -1e11)
        status = read_status(folder.root, now=NOW)
    assert json.loads(status.to_json())["estimated_end"] is None
    assert all(isinstance(line, str) for line in status.lines)


def test_nothing_unprintable_is_printed(tmp_path: Path) -> None:
    folder = make(tmp_path / "a\x1b[2J [bold]b")
    error(folder, "das-n0-s0", "\x9b31m\u202eboo")
    for line in read_status(folder.root, now=NOW).lines:
        assert line.isprintable()


@pytest.mark.parametrize("text", [None, "", "a: [", "\x00", "name: x", "- 1"])
def test_no_study_is_one_message(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(UserError, match="study"):
        read_status(tmp_path)


def test_a_study_file_that_leaves_its_seeds_out_is_none_of_ours(folder: StudyFolder) -> None:
    resolved = yaml.safe_load(folder.study.read_text())
    del resolved["seeds"]
    folder.study.write_text(yaml.safe_dump(resolved))
    with pytest.raises(UserError, match="as `dastune run` writes it"):
        read_status(folder.root)


def test_a_folder_that_cannot_be_read_is_one_message(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        read_status(folder.root)


def test_time_left(search_row: Callable[..., SearchRow], final_row: Callable[..., FinalRow]) -> None:
    rows = [search_row("das", held_seconds=10.0), search_row("das", held_seconds=20.0)]
    finals = [replace(final_row(0.9), seconds=seconds) for seconds in (4.0, 8.0)]
    todo = {"a": "das", "b": "das", "c": "aa"}
    more = {"rows": rows, "charged": {"a": 6.0, "b": 99.0}, "budget": 50.0}
    # das takes 15: a has 6 of them, b all and more; no aa has ended, so its budget counts; 3 final trainings of 6
    assert device_seconds_left(todo, 3, trained=finals, **more) == 9.0 + 0.0 + 50.0 + 18.0  # type: ignore[arg-type]
    assert device_seconds_left(todo, 3, trained=[], **more) is None  # type: ignore[arg-type]
    without = device_seconds_left({"c": "aa"}, 0, rows=[], trained=finals, charged={}, budget=None)
    assert without == 0.0


@pytest.mark.slow
def test_a_real_study_while_it_runs(tmp_path: Path) -> None:
    """A study of 12 searches: its counts add up whenever one looks, only go forward, and end with its rows."""
    changes = ["seeds.search=[0]", "space.noise.levels=[0, 4]", "final.epochs=20", "resources.cpus=1"]
    options = [part for change in changes for part in ("--set", change)]
    command = [sys.executable, "-m", "dastune"]
    root = tmp_path / "digits_noise"
    with (tmp_path / "log").open("w") as log:
        arguments = ["run", "digits_noise", *options, "--budget", "50 steps", "--output", str(tmp_path)]
        run = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)
    looks = []
    try:
        while run.poll() is None:
            look = subprocess.run(
                [*command, "status", str(root), "--json"], capture_output=True, text=True, check=False
            )
            if look.returncode == 2:
                assert "holds no study" in look.stderr
                continue
            looks.append(json.loads(look.stdout))
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 0
    for look in looks:
        totals = look["totals"]
        assert sum(totals[count] for count in ("done", "running", "failed", "waiting")) == 12
        assert (totals["failed"], totals["finals_expected"]) == (0, 12)
        assert len(look["running"]) <= os.cpu_count()  # type: ignore[operator]
        assert not any(search["silent"] for search in look["running"])
    done = [(look["totals"]["done"], look["totals"]["finals_done"]) for look in looks]
    assert done == sorted(done)
    assert any(look["state"] == "running" and look["running"] for look in looks)
    end = read_status(root)
    assert (end.state, end.driver, end.failures, end.running) == ("finished", False, (), ())
    rows = StudyFolder(root).search_rows()
    for of in end.methods:
        mine = [row for row in rows if row.method == of.method]
        assert (of.done, of.finals_done) == (len(mine), len(mine)) == (2, 2)
        assert of.charged_seconds == pytest.approx(sum(row.charged_seconds for row in mine))
        assert of.steps == sum(row.steps for row in mine)
