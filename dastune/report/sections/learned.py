"""Did the search learn anything? What it is asked, and what its policies are like."""

from dastune.report.learned import RULES, found_table, learned_table
from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.sections.parts import folded
from dastune.report.table import Table
from dastune.report.tables import DEFINITIONS


def what_was_learned(results: Results) -> Markup:
    """Return the tables of the highest level, those of the others folded, and what they mean."""
    parts = [element("h2", "Did the search learn anything?")]
    levels = _tables(results)
    if not levels:
        return joined([*parts, element("p", "No search is in yet.")])
    if unread := sum(found.unread for found in results.found):
        text = f"Policies that are missing or cannot be read: {unread}. They count for none of this."
        parts.append(element("p", text, class_="partial"))
    for place, (level, tables) in enumerate(levels.items()):
        *answers, found = (table.html() for table in tables)
        shown = joined([*answers, element("h3", tables[-1].title), found])
        heading = results.axis.text(level).capitalize()
        folds = element("details", element("summary", heading), shown)
        parts += [folds] if place else [element("h3", heading), shown]
    if any(len(tables) > 1 for tables in levels.values()):
        parts.append(folded("How the questions are answered", RULES, False))
    return joined([*parts, folded("What the columns are", DEFINITIONS, False)])


def learned_tables(results: Results) -> list[Table]:
    """Return, for each level, the highest first, what its searches learned and what they found."""
    return [table for tables in _tables(results).values() for table in tables]


def _tables(results: Results) -> dict[int, list[Table]]:
    axis = results.axis
    levels = sorted({found.level for found in results.found}, reverse=True)
    asked = {row.level for row in results.learned if row.answers}
    return {
        level: [
            *([learned_table(results.learned, level, axis)] if level in asked else []),
            found_table(results.found, level, axis),
        ]
        for level in levels
    }
