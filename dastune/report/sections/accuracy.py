"""Test accuracy: Figure 9 or 10, the table of its numbers, its spread over seeds, and published policies."""

from dastune.report.combined import table_frame
from dastune.report.figures import accuracy_figure, save, sd_figure
from dastune.report.interactive import level_tips
from dastune.report.intervals import INTERVALS_NOTE
from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.sections.parts import described, figure, level_table
from dastune.report.stats import Cell
from dastune.report.table import Table
from dastune.report.tables import (
    EXTERNAL_NOTE,
    EXTERNAL_TITLE,
    accuracy_text,
    count_text,
    duration,
    external_rows,
    percent,
)

_COLUMNS = (
    *("n", "test_accuracy_mean", "test_accuracy_sd", "test_accuracy_low"),
    *("test_accuracy_high", "test_accuracy_by_seed", "trainings", "charged_seconds", "failed"),
)


def accuracy(results: Results) -> Markup:
    """Return Figure 9 or 10, the table of its numbers with what they cost, and the sd over seeds."""
    found, axis = results.cells, results.axis
    save(accuracy_figure(found, axis), results.output / axis.figure)
    words = described(found, accuracy_text, axis)
    label = f"Line chart of test accuracy in percent over the {axis.number}. {words}"
    caption = (
        "Lines: mean over search seeds (of the mean over training seeds). Shaded: mean ± sd, ddof = 1. Small marks: "
        "every search seed, set aside a little."
    )
    tips = level_tips(found, _mean_tip, lambda cell: cell.accuracies, axis=axis)
    parts = [
        element("h2", f"Test accuracy over the {axis.number}"),
        figure(results, axis.figure, label, caption, tips),
        element("h2", "Accuracy and cost"),
        *([table.html() for table in accuracy_tables(results)] or [element("p", "No results yet.")]),
    ]
    return joined([*parts, _spread(results)])


def accuracy_tables(results: Results) -> list[Table]:
    """Return methods x levels: accuracy, and what a search was charged; nothing without results."""
    note = (
        "Percent, mean ± sd over n search seeds; under it the 95 % interval of the mean. Charged: device time per "
        f"search that counts against the budget. Failed searches count as missing. {INTERVALS_NOTE}"
    )
    if not results.cells:
        return []
    axis = results.axis
    frame = table_frame(results.cells, axis=axis)[["method", axis.field, *_COLUMNS]]
    title = f"Test accuracy and cost of a search, by {axis.number}"
    return [level_table(axis, "accuracy", title, results.cells, ["accuracy", "charged"], _accuracy_cells, note, frame)]


def _accuracy_cells(cell: Cell) -> list[str]:
    return [f"{accuracy_text(cell)}\n{count_text(cell)}{_interval(cell)}", duration(cell.charged_seconds)]


def _interval(cell: Cell) -> str:
    return "" if cell.interval is None else f"; {percent(cell.interval[0])} to {percent(cell.interval[1])}"


def _mean_tip(cell: Cell) -> str:
    interval = "" if cell.interval is None else f"; 95 % interval of the mean{_interval(cell).removeprefix(';')}"
    return f"{accuracy_text(cell)} %, {count_text(cell)}{interval}"


def _spread(results: Results) -> Markup:
    """Return the figure of the sd over seeds; nothing where no cell has one."""
    found = [cell for cell in results.cells if cell.sd is not None]
    if not found:
        return Markup("")
    save(sd_figure(results.cells, results.axis), results.output / "spread")
    words = described(found, lambda cell: percent(cell.sd), results.axis)
    label = (
        "Line chart of the sd of test accuracy over search seeds, in percentage points, over the "
        f"{results.axis.number}. {words}"
    )
    caption = (
        "How much the result depends on the seed: sd of test accuracy over search seeds, in percentage points, and its "
        "95 % interval as a bar; one that ends in an arrow goes on. Methods are set aside a little. Of few seeds an sd "
        "is a rough guess."
    )
    tips = level_tips(results.cells, _sd_tip, axis=results.axis)
    return joined(
        [
            element("h2", "Spread over search seeds"),
            figure(results, "spread", label, caption, tips),
        ]
    )


def _sd_tip(cell: Cell) -> str:
    limits = cell.sd_interval
    interval = "" if limits is None else f"; 95 % interval {percent(limits[0])} to {percent(limits[1])}"
    return f"sd {percent(cell.sd, 2)} points, {count_text(cell)}{interval}"


def external(results: Results) -> Markup:
    """Return the table of published policies; nothing where the study has none."""
    tables = external_tables(results)
    return joined([element("h2", EXTERNAL_TITLE), *(table.html() for table in tables)]) if tables else Markup("")


def external_tables(results: Results) -> list[Table]:
    """Return the published policies; nothing where the study has none."""
    if not results.published:
        return []
    titles, *rows = external_rows(results.published)
    return [Table("external", EXTERNAL_TITLE, titles, rows, EXTERNAL_NOTE)]
