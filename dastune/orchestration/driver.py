"""The driver of a study: hears its trials, writes down what they tell, and says when to stop."""

import errno
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from dastune.errors import UserError, shortened
from dastune.folder import STOP_NAME, StudyFolder, checkpoint_names, claim_name
from dastune.orchestration.progress import Progress
from dastune.orchestration.records import Records
from dastune.orchestration.reports import Report, Start
from dastune.storage import Storage

STOP_SECONDS = 60.0  # once the study is to stop, trials get so long to end their step and checkpoint
WRITE_SECONDS = 60.0  # a folder that cannot be written is waited for so long

# What the system says where it is the folder that is at fault, not the program.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENXIO)


class Driver:
    """What hears the trials of one execution: shows them, writes them down, and says when it is over.

    A trial waits until its report is taken. Where the folder cannot be written, all wait, for `WRITE_SECONDS`; then the
    study stops with what is there.
    """

    def __init__(
        self,
        folder: StudyFolder,
        storage: Storage,
        records: Records,
        progress: Progress,
        asked: Callable[[], bool],
        mirrored: bool,
    ) -> None:
        self._folder, self._storage, self._records, self._mirrored = folder, storage, records, mirrored
        self._progress, self._asked = progress, asked
        self.unfit: str | None = None
        self._stop_since: float | None = None
        self._look_due = -math.inf

    def start(self, search: str) -> Start:
        return self._records.start(search)

    def hear(self, report: Report) -> None:
        self._progress.hear(report)
        if report.stage == "unfit":
            self.unfit = self.unfit or report.error or ""
            self._request_stop()
        else:
            self._insist(lambda: self._records.hear(report))
        for text in report.notes:
            self._progress.note(text)
        # A mirror may not have its rows yet.
        if report.finals and self._records.finished(report.search) and not self._mirrored:
            self.forget(report.search)

    def forget(self, search: str) -> None:
        """Remove the checkpoints of a search that has come to its end."""
        with suppress(OSError):  # they are in nobody's way
            for name in (*checkpoint_names(search), claim_name(search)):
                self._storage.remove(name)

    def _insist(self, write: Callable[[], None]) -> None:
        begun, told, root = time.monotonic(), False, shown(self._folder.root)
        while True:
            try:
                write()
                return
            except OSError as error:
                if time.monotonic() - begun > WRITE_SECONDS or self.stopping:
                    raise unwritable(self._folder, error) from error
                if not told:
                    self._progress.note(
                        f"{root} cannot be written ({error.strerror or error}); all wait, {WRITE_SECONDS:.0f} s at most"
                    )
                told = True
                time.sleep(1.0)

    def retry(self, search: str, reason: str) -> None:
        self._progress.lost(search)
        self._progress.note(f"{search}: its process died ({last_line(reason)}); it goes on from its last checkpoint")

    def lose(self, search: str, reason: str) -> None:
        self._progress.lost(search)
        self._insist(lambda: self._records.lose(search, reason))
        self._progress.note(f"{search}: its process died again and again; see {shown(self._folder.error(search))}")

    def _request_stop(self) -> None:
        with suppress(OSError):
            self._storage.write(STOP_NAME, b"")
        with suppress(OSError):
            self._folder.stop.touch()  # for `dastune status`, where the storage is elsewhere
        self._stop_since = self._stop_since or time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether the study is to stop: by a signal, by `dastune stop`, or for a node that is not fit for it."""
        now = time.monotonic()
        if self._stop_since is None and now >= self._look_due:
            self._look_due = now + 1.0
            asked = self._asked()
            with suppress(OSError):
                if asked or self._folder.stop.exists():
                    self._progress.note(
                        "stopping: searches write their checkpoints" + (" (again: stop at once)" if asked else "")
                    )
                    self._request_stop()
        return self._stop_since is not None

    def should_stop(self) -> bool:
        if not self.stopping:
            return False
        assert self._stop_since is not None
        return not self._progress.running or time.monotonic() - self._stop_since > STOP_SECONDS


@contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or hang-up into a request to stop, which is yielded.

    The second one is what Ctrl-C is outside the context: an exception, unless the command line has it otherwise.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals are for the main thread alone
        return
    before = {number: signal.getsignal(number) for number in stop_signals()}

    def first(number: int, frame: FrameType | None) -> None:
        asked.append(number)  # and no word: what is interrupted here may be at a word itself
        at_once = before[signal.SIGINT]
        for each in before:
            signal.signal(each, at_once if callable(at_once) else signal.default_int_handler)

    for number in before:
        signal.signal(number, first)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a study to stop; not a hang-up that is ignored (`nohup`)."""
    hang_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hang_up)


def unwritable(folder: StudyFolder, error: OSError) -> UserError:
    """Return what a person is told of a study's folder that takes nothing. Raises `error` if it says something else."""
    elsewhere = error.filename is not None and not Path(str(error.filename)).is_relative_to(folder.root)
    if error.errno not in _UNWRITABLE or elsewhere:
        raise error
    root = shown(folder.root)
    return UserError(
        f"{root}: cannot be written ({error.strerror}); what was written is kept; make room, or give back the right to "
        f"write, then: dastune resume {root}"
    )


def shown(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def last_line(text: str) -> str:
    """Return the last line of a text, safe to print."""
    lines = [line for line in text.splitlines() if line.strip()]
    return shortened(lines[-1].strip(), 200) if lines else "unknown"
