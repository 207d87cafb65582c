"""Noise ops in the found policies."""

from dastune.report.axis import NOISE
from dastune.report.combined import table_frame
from dastune.report.figures import noise_mass_figure, save
from dastune.report.interactive import level_tips
from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.sections.parts import described, figure, level_table
from dastune.report.stats import Cell
from dastune.report.table import Table
from dastune.report.tables import levels_of, noise_text, percent

_COLUMNS = ("method", "noise_level", "searches", "noise_mass", "uniform_noise_share", "failed")


def noise(results: Results) -> Markup:
    """Return the figure and the table of noise ops in the found policies; nothing of a study without."""
    found = results.cells
    if not _varies(results):
        return Markup("")
    save(noise_mass_figure(found), results.output / "noise_mass")
    label = "Line chart of the share of noise ops in the found policies over their number in the search space. "
    caption = (
        "Expected share of noise ops among the ops that a found policy applies; 0 of one that applies nothing. "
        "Lines: mean over search seeds. Shaded: mean ± sd. Small marks: every search seed. Below the dashed line a "
        "search took fewer of them than chance would."
    )
    tips = level_tips(found, _mean_tip, lambda cell: cell.noise_masses, reference="all ops equally likely")
    return joined(
        [
            element("h2", "Noise ops in the found policies"),
            figure(results, "noise_mass", label + described(found, noise_text, NOISE), caption, tips),
            *(table.html() for table in noise_tables(results)),
        ]
    )


def _varies(results: Results) -> bool:
    """Return whether the study is over noise ops, and has any."""
    return results.axis is NOISE and any(levels_of(results.cells))


def _mean_tip(cell: Cell) -> str:
    return f"{percent(cell.noise_mass)} %, by chance {percent(cell.uniform_noise_share)} %; n={len(cell.noise_masses)}"


def noise_tables(results: Results) -> list[Table]:
    """Return methods x noise levels: the share of noise ops; nothing of a study without."""
    if not _varies(results):
        return []
    title = "Expected share of noise ops in the found policies, by number of noise ops in the space"
    note = "Percent: share in the found policies / share if all ops were equally likely."
    frame = table_frame(results.cells)[[*_COLUMNS]]
    columns = ["found / uniform"]
    return [level_table(NOISE, "noise", title, results.cells, columns, lambda cell: [noise_text(cell)], note, frame)]
