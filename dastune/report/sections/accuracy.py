"""Test accuracy: Figure 9, the table of its numbers, and published policies."""

from dastune.report.markup import Markup, element, joined, table
from dastune.report.results import Results
from dastune.report.sections.parts import described, figure, level_table, link
from dastune.report.stats import Cell
from dastune.report.tables import (
    EXTERNAL_NOTE,
    EXTERNAL_TITLE,
    accuracy_text,
    count_text,
    duration,
    external_rows,
    percent,
)


def accuracy(results: Results) -> Markup:
    """Return Figure 9 and the table of its numbers with what they cost."""
    found = results.cells
    heading = element("h2", "Test accuracy over the number of noise ops")
    label = "Line chart of test accuracy in percent over the number of noise ops in the search space. " + described(
        found, accuracy_text
    )
    caption = (
        "Lines: mean over search seeds (of the mean over training seeds). Shaded: mean ± sd, ddof = 1. Small marks: "
        "every search seed, set aside a little."
    )
    note = (
        "Percent, mean ± sd over n search seeds; under it the 95 % bootstrap interval of the mean. Charged: device "
        "time per search that counts against the budget. Failed searches count as missing."
    )
    return joined(
        [
            heading,
            figure(results, "figure9", label, caption),
            element("h2", "Accuracy and cost"),
            level_table(found, ["accuracy", "charged"], _accuracy_cells),
            element("p", note, " Also as ", link("tables.csv"), " and ", link("tables.md"), ".", class_="note"),
        ]
    )


def _accuracy_cells(cell: Cell) -> list[str]:
    under = count_text(cell)
    if cell.interval is not None:
        under += f"; {percent(cell.interval[0])} to {percent(cell.interval[1])}"
    return [joined([accuracy_text(cell), element("small", under)], ""), duration(cell.charged_seconds)]


def external(results: Results) -> Markup:
    """Return the table of published policies; nothing where the study has none."""
    published = results.published
    if not published:
        return Markup("")
    titles, *body = external_rows(published)
    head = [element("th", title, scope="col") for title in titles]
    note = element("p", EXTERNAL_NOTE, " Also as ", link("external.csv"), ".", class_="note")
    return joined(
        [element("h2", EXTERNAL_TITLE), element("div", table([head], body), class_="facts"), note],
    )
