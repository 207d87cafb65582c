"""What can be told from chance: tests between methods, slopes over levels, components of the spread, power."""

from dastune.report.comparison_tables import (
    DEFINITIONS,
    comparison_tables,
    components_table,
    detectable_table,
    slope_comparison_table,
    slopes_table,
)
from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.sections.parts import folded
from dastune.report.table import Table
from dastune.report.trend import slope_families


def comparisons(results: Results) -> Markup:
    """Return the section: the highest level open, the others folded; nothing where there is no table."""
    opened, closed = _levels(results)
    slopes, compared = _slopes(results)
    parts = [
        *map(_open, opened),
        *map(_closed, closed),
        *([folded("What the columns are", DEFINITIONS, False)] if opened else []),
        *map(_open, slopes),
        *map(_closed, compared),
        *map(_open, _spread_and_power(results)),
    ]
    return joined([element("h2", "Comparisons: what can be told from chance"), *parts]) if parts else Markup("")


def comparisons_tables(results: Results) -> list[Table]:
    """Return the tables of the section, in its order."""
    tables = (*_levels(results), *_slopes(results), _spread_and_power(results))
    return [table for part in tables for table in part]


def _levels(results: Results) -> tuple[list[Table], list[Table]]:
    """Return the comparisons of the highest level, and those of the others."""
    tables = comparison_tables(results.families, results.axis)
    return tables[:1], tables[1:]


def _slopes(results: Results) -> tuple[list[Table], list[Table]]:
    """Return the slopes, and the comparisons between them."""
    compared = slope_comparison_table(slope_families(results.trends, results.kinds), results.axis)
    return _known(slopes_table(results.trends, results.axis)), _known(compared)


def _spread_and_power(results: Results) -> list[Table]:
    axis = results.axis
    return [*_known(components_table(results.components, axis)), *_known(detectable_table(results.best, axis))]


def _known(table: Table | None) -> list[Table]:
    return [] if table is None else [table]


def _open(table: Table) -> Markup:
    return joined([element("h3", table.title), table.html()])


def _closed(table: Table) -> Markup:
    return element("details", element("summary", table.title), table.html())
