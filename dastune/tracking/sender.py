"""The thread that sends the journal to the store: in order, every line until the store has taken it.

How far a store is stands in the store, and is read again before each batch and after each failure: one that was put
back from a backup, or made anew, in the middle of a study is sent what it lacks. Files go where the store keeps
artifacts, which may fail by itself (a bucket without credentials): then they are put off, and the rest goes on.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dastune.tracking.address import public, remedy
from dastune.tracking.journal import FILES, NOWHERE, Event, Place, RefusedError, merged, read

if TYPE_CHECKING:
    from dastune.tracking.store import Store

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
LOOK_SECONDS = 1.0  # while somebody waits for the end, between looks for how long yet

# A request costs some 5 ms of the driver's time whatever it holds, so the sender gathers before it sends.
GATHER_SECONDS, LINES_AT_ONCE = 3.0, 1000

# One delivery at a time in this process: a tracker closed in the middle of a slow call and its successor on the same
# folder must not both look for a run and both make it.
DELIVERING = threading.Lock()


class _LateError(Exception):
    """The deadline has come."""


class _PutBackError(Exception):
    """The store is not where it was left."""


class Sender:
    """Sends one journal to one store, from `start` to `close`.

    Args:
        warn: told once of each kind of trouble, without secrets; what it raises is passed over.
    """

    def __init__(self, journal: Path, store: "Store", warn: Callable[[str], None]) -> None:
        self._journal, self._store, self._warn = journal, store, warn
        self._told: set[str] = set()
        self._position = 0  # the store has had the lines before it, but for the files put off
        self._noted = NOWHERE  # what the store was last known to say of that
        self._refused: list[tuple[str, str]] = []  # (run, why) since then
        self._put_off: list[tuple[int, Event]] = []  # files, each with a position before its line
        self._put_off_wait_seconds, self._put_off_until = FIRST_WAIT_SECONDS, 0.0
        self._closing, self._deadline, self._patience_seconds = threading.Event(), math.inf, 0.0
        self._busy_until = 0.0  # with something that takes long, and is not stuck
        self._thread = threading.Thread(target=self._send, name="dastune-tracking", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_seconds: float) -> int:
        """Send what is left, and return how many events the store may not have had.

        `timeout_seconds` are for a store that does not get on: they begin anew with each batch and each file that it
        takes. A model that is being made ready is waited for.
        """
        self._patience_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        while self._thread.is_alive() and (left := max(self._deadline, self._busy_until) - time.monotonic()) > 0:
            self._thread.join(min(left, LOOK_SECONDS))
        return sum(1 for _ in read(self._journal, self._position)) + len(self._put_off)

    def _send(self) -> None:
        """Send the journal's rest, again and again; the body of the thread."""
        while time.monotonic() < self._deadline:
            closing = self._closing.wait(GATHER_SECONDS)  # known before the last look, which then sees every event
            try:
                self._send_rest()
                self._send_put_off()
                if closing and not self._put_off:
                    return
            except _LateError:
                return
            except _PutBackError:
                self._noted = NOWHERE
            except Exception as error:  # a journal that cannot be read: it may be again, if the thread is still there
                self._tell("thread", f"tracking has stumbled and goes on: {type(error).__name__}: {error}")
            if closing:
                time.sleep(FIRST_WAIT_SECONDS)

    def _send_rest(self) -> None:
        if self._noted == NOWHERE:
            self._insist(self._store.connect)
            self._noted, self._position = self._store.place, self._store.place.delivered_bytes
            self._put_off.clear()
            self._refused.clear()
        while lines := list(islice(read(self._journal, self._position), LINES_AT_ONCE)):
            self._insist(self._check)
            self._note(self._noted._replace(batch=self._noted.batch + 1))
            put_off: list[tuple[int, Event]] = []
            for event in merged(event for _, event in lines):
                if event.get("event") not in FILES:
                    self._insist(self._store.deliver, event)
                elif self._put_off or put_off or not self._try(event):
                    put_off.append((self._position, event))
            self._position = lines[-1][0]
            self._put_off += put_off
            self._note_delivered()
            self._get_on()

    def _get_on(self) -> None:
        """Note that the store has taken something: whoever waits for the end is to wait anew."""
        if self._closing.is_set():
            self._deadline = time.monotonic() + self._patience_seconds

    def _send_put_off(self) -> None:
        """Try again to send files that could not be sent; the first that fails goes to the end of the line."""
        if not self._put_off or (time.monotonic() < self._put_off_until and not self._closing.is_set()):
            return
        while self._put_off and self._try(self._put_off[0][1]):
            del self._put_off[0]
            self._put_off_wait_seconds = FIRST_WAIT_SECONDS
        if self._put_off:
            self._put_off.append(self._put_off.pop(0))
            self._put_off_until = time.monotonic() + self._put_off_wait_seconds
            self._put_off_wait_seconds = min(2 * self._put_off_wait_seconds, LONGEST_WAIT_SECONDS)
        self._note_delivered()

    def _note_delivered(self) -> None:
        """Note in the store how far it has come, and tell of what it refused on the way."""
        delivered = min([self._position, *(before for before, _ in self._put_off)])
        self._note(self._noted._replace(delivered_bytes=delivered))
        for key, why in self._refused:
            self._tell(key, f"MLflow does not take an event; left out: {key}: {why}")
        self._refused.clear()

    def _note(self, place: Place) -> None:
        if place != self._noted:
            self._insist(self._store.note, place)
            self._noted = place

    def _check(self) -> None:
        self._store.connect()
        if self._store.place != self._noted != NOWHERE:
            raise _PutBackError

    def _insist(self, call: Callable[..., None], *arguments: Any) -> None:
        """Make a call to the store, as often as it takes.

        Raises:
            _LateError: the deadline came first.
            _PutBackError: after a failure the store is another.
        """
        wait_seconds = 0.0
        while time.monotonic() < self._deadline:
            try:
                with DELIVERING:
                    if wait_seconds:
                        self._check()
                    return call(*arguments)
            except RefusedError as refusal:
                return self._refused.append(refusal.args)
            except _PutBackError:
                raise
            except Exception as error:  # whatever stands between here and the store: keep the line, try again
                self._tell_of("MLflow does not answer; the study goes on, its events wait", error)
                wait_seconds = min(2 * wait_seconds or FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
                if self._closing.is_set():  # somebody waits: the tries come closer together
                    time.sleep(FIRST_WAIT_SECONDS)
                else:
                    self._closing.wait(wait_seconds)
        raise _LateError

    def _try(self, event: Event) -> bool:
        """Send a file; return False if it was not taken and may be later."""
        if time.monotonic() >= self._deadline:
            return False
        self._busy_until = time.monotonic() + self._store.longest_seconds(event)
        try:
            with DELIVERING:
                self._store.deliver(event)
            self._get_on()
        except RefusedError as refusal:
            self._refused.append(refusal.args)
        except Exception as error:
            self._tell_of("MLflow does not take files; the study goes on, they wait", error)
            return False
        finally:
            self._busy_until = 0.0
        return True

    def _tell_of(self, trouble: str, error: Exception) -> None:
        """Tell of a trouble once, and once more if a person has to do something about it."""
        remedy_of = remedy(error)
        advice = f"; {remedy_of}" if remedy_of else ""
        self._tell(trouble + advice, f"{trouble} in {self._journal}{advice}: {error}")

    def _tell(self, subject: str, message: str) -> None:
        if subject not in self._told:
            self._told.add(subject)
            with contextlib.suppress(Exception):
                self._warn(public(message))
