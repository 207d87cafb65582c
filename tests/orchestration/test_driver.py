"""The driver by itself: folders that take nothing, and requests to stop."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from dastune.config import StudyConfig
from dastune.errors import UserError
from dastune.folder import STOP_NAME, StudyFolder
from dastune.orchestration import driver as module
from dastune.orchestration.driver import STOP_SECONDS, WRITE_SECONDS, Driver, signals, unwritable
from dastune.orchestration.records import Records
from dastune.orchestration.reports import Report
from dastune.orchestration.study import resume
from dastune.storage import FolderStorage

FULL = OSError(errno.ENOSPC, "No space left on device")


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FullDisk:
    """Records that cannot write until a moment comes."""

    def __init__(self, clock: Clock, until: float) -> None:
        self._clock, self._until = clock, until
        self.heard: list[Report] = []

    def hear(self, report: Report) -> None:
        if self._clock.now < self._until:
            raise FULL
        self.heard.append(report)

    def finished(self, search: str) -> bool:
        return False


class Lines:
    """A progress that gathers what it is to print."""

    running = True

    def __init__(self) -> None:
        self.notes: list[str] = []

    def hear(self, report: Report) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def folder(root: Path) -> StudyFolder:
    root.mkdir()
    return StudyFolder(root)


def driver_of(
    folder: StudyFolder, records: FullDisk, lines: Lines, asked: Callable[[], bool] = lambda: False
) -> Driver:
    storage = FolderStorage(folder.root)
    return Driver(folder, storage, cast(Records, records), cast(Any, lines), asked, mirrored=False)


REPORT = Report("das-n0-s0", "search", 1.0, 3)


def test_a_disk_that_is_full_for_a_while_is_waited_for(folder: StudyFolder, clock: Clock) -> None:
    records, lines = FullDisk(clock, clock.now + WRITE_SECONDS - 5), Lines()
    driver_of(folder, records, lines).hear(REPORT)
    assert records.heard == [REPORT]
    [note] = lines.notes
    assert f"{folder.root} cannot be written (No space left on device)" in note


def test_a_disk_that_stays_full_ends_the_study_with_what_to_do(folder: StudyFolder, clock: Clock) -> None:
    records, lines = FullDisk(clock, clock.now + 10 * WRITE_SECONDS), Lines()
    begun = clock.now
    with pytest.raises(UserError, match="make room") as told:
        driver_of(folder, records, lines).hear(REPORT)
    assert f"{folder.root}: cannot be written (No space left on device)" in str(told.value)
    assert f"dastune resume {folder.root}" in str(told.value)
    assert "\n" not in str(told.value)
    assert WRITE_SECONDS <= clock.now - begun <= WRITE_SECONDS + 5


def test_who_is_asked_to_stop_does_not_wait_for_the_disk(folder: StudyFolder, clock: Clock) -> None:
    driver = driver_of(folder, FullDisk(clock, clock.now + WRITE_SECONDS), Lines(), asked=lambda: True)
    begun = clock.now
    with pytest.raises(UserError, match="make room"):
        driver.hear(REPORT)
    assert clock.now == begun


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "No such file"), OSError(errno.EACCES, "Permission denied", "/elsewhere/file")]
)
def test_what_is_not_the_folders_fault_is_not_called_so(folder: StudyFolder, error: OSError) -> None:
    with pytest.raises(OSError, match=r"No such file|Permission denied"):
        unwritable(folder, error)
    assert isinstance(unwritable(folder, OSError(errno.EACCES, "Permission denied", str(folder.lock))), UserError)


@pytest.mark.parametrize("how", ["signal", "file"])
def test_a_request_to_stop_reaches_the_trials_and_is_told_once(folder: StudyFolder, clock: Clock, how: str) -> None:
    asked: list[int] = []
    lines = Lines()
    driver = driver_of(folder, FullDisk(clock, 0.0), lines, asked=lambda: bool(asked))
    assert not driver.stopping
    assert not driver.should_stop()
    if how == "signal":
        asked.append(signal.SIGINT)
    else:
        folder.stop.touch()
    clock.sleep(2.0)
    assert driver.stopping
    assert (folder.root / STOP_NAME).exists()  # which trials look for
    assert not driver.should_stop()  # they write their checkpoints
    lines.running = False
    assert driver.should_stop()
    lines.running = True
    clock.sleep(STOP_SECONDS + 1.0)
    assert driver.should_stop()
    [note] = lines.notes
    assert note.startswith("stopping")
    assert ("again" in note) == (how == "signal")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_ends_at_once(
    number: signal.Signals, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may be run by nohup themselves
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, inherited))
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with signals() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    # Who is interrupted amid a word cannot say another: the driver does, when it looks.
    assert capfd.readouterr() == ("", "")


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


HOLD = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True)"


@pytest.fixture
def holder(study: StudyConfig, folder: StudyFolder) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the study's lock."""
    folder.study.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    command = [sys.executable, "-c", f"{HOLD}; sys.stdin.read()", str(folder.lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_holds_while_its_owner_lives_and_not_longer(
    folder: StudyFolder, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(UserError, match="another dastune works on this study"):
        resume(folder.root)
    holder.kill()
    holder.wait()
    with pytest.raises(UserError, match=r"env\.json: is missing"):  # what is looked at behind the lock
        resume(folder.root)
