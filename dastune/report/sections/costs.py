"""What the study cost."""

from dastune.report.costs import costs_table
from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.table import Table


def costs(results: Results) -> Markup:
    """Return the table of device time, price and energy by method."""
    shown = [table.html() for table in costs_tables(results)] or [element("p", "No search is in yet.")]
    return joined([element("h2", "Costs"), *shown])


def costs_tables(results: Results) -> list[Table]:
    """Return the table, or nothing where no search has taken any time."""
    table = costs_table(results, results.price_per_hour)
    return [] if table is None else [table]
