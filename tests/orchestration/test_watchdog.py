"""The watchdog: what it ends and what it leaves alone."""

import faulthandler
import subprocess
import sys
import threading
from collections.abc import Iterator
from threading import Event

import pytest

from dastune.orchestration.watchdog import EXIT_CODE, Watchdog

SOON = 0.05  # seconds
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def no_timer_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the tests; those of it run in a process of their own."""
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *arguments, **options: None)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class End:
    """An end of the process that a test can wait for."""

    def __init__(self) -> None:
        self.stacks: list[str] = []
        self.codes: list[int] = []
        self.came = Event()

    def note(self, stack: str) -> None:
        self.stacks.append(stack)

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.came.set()


def stuck_somewhere(end: End) -> None:
    assert end.came.wait(PATIENCE)


def test_a_step_that_does_not_end_is_told_with_where_it_is() -> None:
    end = End()
    with Watchdog(SOON, end.note, end):
        stuck_somewhere(end)
    [stack] = end.stacks
    assert "in stuck_somewhere" in stack
    assert __file__ in stack
    assert end.codes == [EXIT_CODE]


def test_the_word_is_left_before_the_process_ends() -> None:
    end, order = End(), []

    def last(code: int) -> None:
        order.append("end")
        end(code)

    with Watchdog(SOON, lambda stack: order.append("word"), last):
        stuck_somewhere(end)
    assert order == ["word", "end"]


def test_a_word_that_cannot_be_left_does_not_keep_the_process() -> None:
    end = End()

    def fail(stack: str) -> None:
        raise OSError("planted")

    with Watchdog(SOON, fail, end):
        stuck_somewhere(end)
    assert end.codes == [EXIT_CODE]


def test_it_is_off_while_the_process_waits_for_somebody_else() -> None:
    """Within `off` the deadline passes unseen; after it the next one counts."""
    end = End()
    with Watchdog(SOON, end.note, end) as watchdog:
        with watchdog.off():
            assert not end.came.wait(4 * SOON)
        stuck_somewhere(end)
    assert len(end.stacks) == 1


def test_steps_that_end_in_time_are_left_alone() -> None:
    end = End()
    with Watchdog(PATIENCE, end.note, end) as watchdog:
        for _ in range(1000):
            watchdog.alive()
    assert end.codes == []


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_after_it_nothing_is_watched(error: type[BaseException] | None) -> None:
    end = End()
    try:
        with Watchdog(SOON, end.note, end):
            if error is not None:
                raise error
    except (ZeroDivisionError, KeyboardInterrupt):
        pass
    assert not end.came.wait(4 * SOON)


def program(step: str, limit: float) -> subprocess.CompletedProcess[str]:
    """Run a step in a process that a watchdog of its own watches."""
    code = f"""
        import re, threading
        from dastune.orchestration.watchdog import Watchdog
        def a_step():
            {step}
        with Watchdog({limit}, lambda stack: print(stack, flush=True)):
            a_step()
        print("done")
    """
    lines = [line.removeprefix("        ") for line in code.splitlines()]
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_process_that_hangs_ends() -> None:
    ended = program("threading.Event().wait()", 0.3)
    assert ended.returncode == EXIT_CODE
    assert "in a_step" in ended.stdout


def test_a_process_that_hangs_in_c_with_pythons_lock_ends() -> None:
    """No thread of Python's runs while this expression is matched."""
    ended = program('re.match("(a+)+$", "a" * 60 + "b")', 0.3)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in a_step" in ended.stderr


def test_a_process_whose_steps_end_is_left_alone() -> None:
    ended = program("pass", 0.3)
    assert (ended.returncode, ended.stdout) == (0, "done\n")
