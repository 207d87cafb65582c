"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dastune.config import StudyConfig
from dastune.folder import FinalRow, SearchRow
from dastune.orchestration.grid import Assignment
from dastune.orchestration.reports import Report
from dastune.report.status import device_seconds_left
from dastune.report.tables import duration


def _whatever_the_terminal() -> "suppress":
    """Go on without a word where nobody reads: a terminal that hung up, a full disk, a pipe, at which rich exits."""
    return suppress(OSError, SystemExit)


class Progress:
    """Counts reports and shows where a study is. Use as a context.

    Args:
        todo: searches of this execution; others were done before it.
        slots: searches that run at the same time.
        rows, finals: what earlier executions finished.
    """

    def __init__(
        self,
        study: StudyConfig,
        todo: Sequence[Assignment],
        slots: int,
        console: Console,
        *,
        rows: Sequence[SearchRow] = (),
        finals: Sequence[FinalRow] = (),
    ) -> None:
        self._study, self._slots, self._console = study, slots, console
        self._todo = {assignment.id: assignment for assignment in todo}
        self._running: dict[str, Report] = {}
        self._rows = {row.id: row for row in rows if row.id in self._todo and row.status != "failed"}
        self._finals = {(row.search_id, row.train_seed): row for row in finals if row.search_id in self._todo}
        self._finals_expected = len(todo) * len(study.seeds.final)
        self._begun = time.monotonic()
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            with _whatever_the_terminal():
                self._live.stop()

    def hear(self, report: Report) -> None:
        """Take in one report; off a terminal, print a line when a search or a final training has ended."""
        self._running.pop(report.search, None)
        if report.stage not in ("ended", "stopped", "failed", "unfit"):
            self._running[report.search] = report
        if report.row is not None:
            self._rows[report.search] = report.row
        for final in report.finals:
            self._finals[final.search_id, final.train_seed] = final
        if not self._console.is_terminal:
            self._say(report)

    def lost(self, search: str) -> None:
        """Note that the process of a search died."""
        self._running.pop(search, None)

    @property
    def running(self) -> bool:
        """Whether any trial has begun and not ended."""
        return bool(self._running)

    def note(self, text: str) -> None:
        """Print one line beside the table, if it can be printed."""
        with _whatever_the_terminal():
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _say(self, report: Report) -> None:
        at = f"[{duration(time.monotonic() - self._begun)}]"
        if report.error is not None:
            self.note(f"{at} {report.search}: FAILED: {report.error}")
        elif report.row is not None:
            row = report.row
            validation = "" if row.val_accuracy is None else f", validation {row.val_accuracy:.3f}"
            self.note(
                f"{at} searches {len(self._rows)}/{len(self._todo)}: {row.id} charged {row.charged_seconds:.1f} s"
                f"{validation}"
            )
        for final in report.finals:
            self.note(
                f"{at} final trainings {len(self._finals)}/{self._finals_expected}: {final.search_id} "
                f"seed {final.train_seed}: test {final.test_accuracy:.3f}"
            )

    def seconds_left(self) -> float | None:
        """Return an estimate from what ended trials took, or None before any has."""
        share = self._study.resources.gpus or self._study.resources.cpus
        left = device_seconds_left(
            {search: assignment.label for search, assignment in self._todo.items() if search not in self._rows},
            self._finals_expected - len(self._finals),
            rows=self._rows.values(),
            trained=list(self._finals.values()),
            charged={search: report.charged for search, report in self._running.items()},
            budget=self._study.budget.per_search().seconds,
        )
        return None if left is None else left / share / max(self._slots, 1)

    def _table(self) -> RenderableType:
        """The live view: one row a method, then what runs now."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("method", "searches", "final trainings", "validation", "charged"):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for label in self._study.methods:
            mine = {search for search, assignment in self._todo.items() if assignment.label == label}
            rows = [row for search, row in self._rows.items() if search in mine]
            best = max((row.val_accuracy for row in rows if row.val_accuracy is not None), default=None)
            finals = sum(1 for search, _ in self._finals if search in mine)
            expected = len(mine) * len(self._study.seeds.final)
            charged = sum(row.charged_seconds for row in rows)
            budget = self._study.budget.per_search().seconds
            of = f" of {duration(budget * len(mine))}" if budget and charged > 0.1 else ""
            table.add_row(
                label,
                f"{len(rows)}/{len(mine)}",
                f"{finals}/{expected}",
                "" if best is None else f"{100 * best:.1f} %",
                duration(charged) + of,
            )
        return Group(self._headline(), table, *self._running_lines())

    def _headline(self) -> Text:
        elapsed, left = time.monotonic() - self._begun, self.seconds_left()
        rest = "" if left is None else f", about {duration(left)} left"
        return Text(f"{self._study.name}: {duration(elapsed)} elapsed{rest}", style="bold")

    def _running_lines(self) -> list[Text]:
        budget = self._study.budget.per_search()
        lines = []
        for report in list(self._running.values())[: 2 * self._slots]:
            spent = min(budget.spent(report.charged, report.steps), 1.0)
            what = f"{100 * spent:3.0f} % of its budget" if report.stage == "search" else "final training"
            lines.append(Text(f"  {report.search}: {what}", style="dim"))
        return lines
