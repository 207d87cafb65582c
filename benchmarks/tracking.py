"""What does tracking cost a search? python benchmarks/tracking.py [study] [journal]

Two parts, both by default, with MLflow's sqlite store in the study's folder:

- study: `digits_noise` at one search seed, 18 searches with final trainings of 150 epochs, on this machine, in two
  minutes; 12 of them have a budget of 8 seconds, the others are controls. In the driver, the time that the trials'
  reports take to be put into the journal, for which trials wait, and the CPU time of the thread that sends the journal,
  for which nobody does; both together against the time of a search. The model of the best network, which is made once a
  study in a process of its own, is beside it.
- journal: a made-up journal of --searches searches, as `digits_noise` leaves them, sent to a new store.

Prints each figure with its bar, and exits 1 where one is missed. The bars are for 2 cores that have nothing else to do.
"""

import argparse
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from rich.console import Console

import dastune
from dastune.budget import Ledger, event_from_row
from dastune.config import StudyConfig, load_study
from dastune.folder import FinalRow, SearchRow, StudyFolder, read_lines, write_atomic
from dastune.orchestration.grid import grid
from dastune.orchestration.records import Records
from dastune.orchestration.reports import Point, Report
from dastune.tracking import DatasetInfo, Tracker
from dastune.tracking.sender import Sender

SHARE_BAR = 1.0  # % of the time of a search and its final trainings
SENDER_BAR = 100.0  # ms of CPU time a search
PARTS = ["study", "journal"]
EPOCHS, REPORTS, PICTURE_BYTES = 150, 4, 8000

missed = False


def say(what: str, value: float, unit: str, bar: float | None = None) -> None:
    """Print a figure, and whether it is within its bar."""
    global missed
    over = bar is not None and value > bar
    missed |= over
    limit = "" if bar is None else f" (bar {bar:g}{unit}){' MISSED' if over else ''}"
    print(f"  {what}: {value:.3g}{unit}{limit}", flush=True)


@dataclass
class Clock:
    """How long a part of the driver took, in seconds of wall time and of its own thread's CPU time."""

    wall: float = 0.0
    cpu: float = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.thread_time() - cpu

        return timed


@contextmanager
def clocks() -> Iterator[tuple[Clock, Clock, Clock]]:
    """Time what tracking does in this process: writing the journal, sending it, and, of that, making models."""
    from dastune.tracking.store import Store

    writing, sending, models = Clock(), Clock(), Clock()
    parts: list[tuple[type, str, Clock]] = [
        (Records, "_track", writing),
        (Sender, "_send_rest", sending),
        (Sender, "_send_put_off", sending),
        (Store, "_model", models),
    ]
    before = [getattr(owner, name) for owner, name, _ in parts]
    together = Tracker.together

    @contextmanager
    def timed_together(tracker: Tracker) -> Iterator[None]:
        with together(tracker):
            yield
            begun = time.perf_counter()
        writing.wall += time.perf_counter() - begun  # the lines are durable

    for (owner, name, clock), call in zip(parts, before, strict=True):
        setattr(owner, name, clock.timed(call))
    Tracker.together = timed_together  # type: ignore[method-assign]
    try:
        yield writing, sending, models
    finally:
        for (owner, name, _), call in zip(parts, before, strict=True):
            setattr(owner, name, call)
        Tracker.together = together  # type: ignore[method-assign]


def study_part(root: Path) -> None:
    """Run a small `digits_noise`, and print what its tracking took."""
    study = load_study("digits_noise", overrides=["seeds.search=[0]"])
    with (root / "study.log").open("w") as log, clocks() as (writing, sending, models):
        result = dastune.run(study, output=root, console=Console(file=log))
    searches = len(result.search_rows)
    ledger = Ledger(event_from_row(row) for row in read_lines(result.folder.ledger))
    seconds = {row.id: row.held_seconds + ledger.charge(row.id, "final").held for row in result.search_rows}
    longer = [seconds[row.id] for row in result.search_rows if row.status == "budget"]
    print(f"study: {searches} searches; {len(longer)} of them {fmean(longer):.1f} s with their final trainings:")
    cost = (writing.wall + sending.cpu - models.cpu) / searches
    say("the journal, written", 1000 * writing.wall / searches, " ms a search")
    say("the journal, sent, CPU time", 1000 * (sending.cpu - models.cpu) / searches, " ms a search")
    say("the journal, sent, wall time", 1000 * (sending.wall - models.wall) / searches, " ms a search")
    say(
        "of the time of a search that has a budget, and its final trainings",
        100 * cost / fmean(longer),
        " %",
        SHARE_BAR,
    )
    say("of the time of all, controls that take none included", 100 * cost / fmean(seconds.values()), " %")
    say("the best network's model, once a study", models.wall, " s")
    say("events that MLflow has not had", result.undelivered, "", 0)


def journal_part(searches: int, root: Path) -> None:
    """Make up a study's journal, and print what it takes to write and to send it."""
    study = load_study("digits_noise", overrides=[f"seeds.search={list(range(-(-searches // 18)))}"])
    folder = StudyFolder(root / "journal")
    write_atomic(folder.study, yaml.safe_dump(study.model_dump(mode="json")))
    write_atomic(folder.env, "{}")
    dataset = DatasetInfo("digits", "0" * 32, "sklearn.datasets.load_digits", 1797, 10)
    open_ = {"experiment": "journal", "study_params": {"data": "digits"}, "dataset": dataset, "tags": {}}
    with clocks() as (writing, sending, _):
        tracker = Tracker.open(folder, uri=None, **open_)
        records = Records(study, folder, tracker)
        begun = time.perf_counter()
        made = [item.id for item in grid(study)][:searches]
        for search in made:
            for report in reports_of(study, search):
                records.hear(report)
        heard = time.perf_counter() - begun
        begun = time.perf_counter()
        left = tracker.close(600.0)
        closed = time.perf_counter() - begun
    print(f"journal: {len(made)} made-up searches:")
    say("heard and written, folder and journal", 1000 * heard / len(made), " ms a search")
    say("of that, the journal", 1000 * writing.wall / len(made), " ms a search")
    say("sent, CPU time", 1000 * sending.cpu / len(made), " ms a search", SENDER_BAR)
    say("sent, wall time", 1000 * sending.wall / len(made), " ms a search")
    say("sent after the last search had ended, in all", closed, " s")
    say("events that MLflow has not had", left, "", 0)


def reports_of(study: StudyConfig, search: str) -> Iterator[Report]:
    """Yield what a trial of `digits_noise` tells of a search and its final training."""
    method, level, seed = search.rsplit("-", 2)
    now = int(time.time() * 1000)
    machine = {f"system/{name}": 50.0 for name in ("cpu", "memory_megabytes", "memory_percentage")}
    for number in range(REPORTS):
        values = {"val_accuracy": 0.7, "children": float(number), **machine}
        yield Report(search, "search", 2.0 * number, 10 * number, points=[Point(search, number, values, now + number)])
    end = {"val_accuracy": 0.75, "noise_mass": 0.25, "charged_seconds": 8.0, "held_seconds": 9.0}
    row = SearchRow(
        *(search, method, int(level[1:]), int(seed[1:]), 0.75, 9.0, 8.0, 900, 15, 0.25, 0.2, 30.0),
        *(f"policies/{search}.json", "budget", end),
    )
    yield Report(
        search,
        "searched",
        8.0,
        900,
        points=[Point(search, 8, end, now + REPORTS)],
        row=row,
        policy='{"kind": "stages", "stages": []}',
        picture=b64encode(bytes(PICTURE_BYTES)).decode(),
    )
    key = f"{search}/t0"
    epochs = range(2, EPOCHS + 1, 2)  # those that `LossCurve` makes points of
    losses = [Point(key, epoch, {"train_loss": 1 / epoch}, now + 10 + epoch) for epoch in epochs]
    tested = Point(key, EPOCHS, {"test_accuracy": 0.9, "test_loss": 0.3, "seconds": 5.0}, now + 1000)
    final = FinalRow(search, method, row.noise_level, row.search_seed, 0, 0.9, 0.3, EPOCHS, 5.0, 1e4, 24_000, 10**6)
    yield Report(search, "finished", 8.0, 900, points=[*losses, tested], finals=[final])
    yield Report(search, "ended", 8.0, 900)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="part", help="study, journal; default: both")
    parser.add_argument("--searches", type=int, default=360, help="of the made-up journal")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if "study" in options.parts:
            study_part(Path(temporary))
        if "journal" in options.parts:
            journal_part(options.searches, Path(temporary))
    sys.exit(missed)


if __name__ == "__main__":
    main()
