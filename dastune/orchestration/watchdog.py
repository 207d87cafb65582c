"""The watchdog of a trial: ends a process whose step does not end, and says where it was."""

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

EXIT_CODE = 70  # EX_SOFTWARE


class Watchdog:
    """Watches the thread that makes it.

    A thread of Python's does the work, and needs Python's lock for it. Where a hanging call keeps that, the process
    is ended by the system's timer of `faulthandler` at twice the limit, with a traceback on standard error alone.

    Args:
        limit_seconds: how long it may take from one call of `alive` to the next.
        on_hang: gets the traceback of the thread that hangs, in the watchdog's own thread, before the process ends.
        end: ends the process; another one in tests.
    """

    def __init__(
        self,
        limit_seconds: float,
        on_hang: Callable[[str], None],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._limit, self._on_hang, self._end = limit_seconds, on_hang, end
        self._watched = threading.get_ident()
        self._deadline: float | None = None
        self._timer_set = -float("inf")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dastune-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.alive()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()
        self._thread.join()

    def alive(self) -> None:
        """Say that a step has ended and the next one begins."""
        now = time.monotonic()
        self._deadline = now + self._limit
        if now - self._timer_set > self._limit / 10:  # setting it starts a thread: not at every step
            faulthandler.dump_traceback_later(2 * self._limit, exit=True, file=sys.__stderr__ or 2)
            self._timer_set = now

    @contextmanager
    def off(self) -> Iterator[None]:
        """Do not watch within this context: the process waits for somebody else."""
        self._deadline = None
        faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self._timer_set = -float("inf")
            self.alive()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit / 10)):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                frames = sys._current_frames().get(self._watched)
                try:
                    self._on_hang("".join(traceback.format_stack(frames)) if frames else "")
                except Exception:
                    traceback.print_exc()  # the word is lost; the process is to end all the same
                self._end(EXIT_CODE)
                return
