"""Table 10: what clips in place of images bring, and what they cost."""

from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.table import Table
from dastune.report.table10 import published10
from dastune.report.table10 import table10 as table_of


def table10(results: Results) -> Markup:
    """Return the study's own table, and the published figures, each under its title; nothing of one without clips."""
    tables = table10_tables(results)
    if not tables:
        return Markup("")
    quoted = [part for table in tables[1:] for part in (element("h3", table.title), table.html())]
    return joined([element("h2", "Table 10: clips in place of images"), tables[0].html(), *quoted])


def table10_tables(results: Results) -> list[Table]:
    """Return the tables; nothing of a study without clips, or where there is no result yet."""
    return [table for table in (table_of(results), published10(results)) if table is not None]
