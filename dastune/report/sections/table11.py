"""Table 11: what each method chose from, what it cost, and what it found."""

from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.table import Table
from dastune.report.table11 import table11 as table_of


def table11(results: Results) -> Markup:
    """Return the table of this study alone, with the published rows where there are some for its data set."""
    tables = table11_tables(results)
    shown = [table.html() for table in tables] or [element("p", "No results yet.")]
    return joined([element("h2", "Table 11: space, cost and accuracy"), *shown])


def table11_tables(results: Results) -> list[Table]:
    """Return the table, or nothing where there is no result yet."""
    table = table_of([("", results)])
    return [] if table is None else [table]
