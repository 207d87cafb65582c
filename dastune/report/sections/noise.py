"""Noise ops in the found policies."""

from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.sections.parts import described, figure, level_table
from dastune.report.tables import noise_text


def noise(results: Results) -> Markup:
    """Return the figure and the table of noise ops in the found policies."""
    found = results.cells
    label = "Line chart of the share of noise ops in the found policies over their number in the search space. "
    caption = (
        "Expected share of noise ops among the ops that a found policy applies. Below the dashed line a search took "
        "fewer of them than chance would."
    )
    return joined(
        [
            element("h2", "Noise ops in the found policies"),
            figure(results, "noise_mass", label + described(found, noise_text), caption),
            level_table(found, ["found / uniform"], lambda cell: [noise_text(cell)]),
            element("p", "Percent: share in the found policies / share if all ops were equally likely.", class_="note"),
        ]
    )
