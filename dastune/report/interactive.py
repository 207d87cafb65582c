"""What the page's script (page.js) knows of a figure: its methods, and a line of text for each of its marks."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dastune.report.axis import NOISE, Axis
from dastune.report.curves import Bundle
from dastune.report.figures.curves import marked
from dastune.report.stats import Cell
from dastune.report.tables import PLUS_MINUS, methods_of, percent


@dataclass(frozen=True)
class Tips:
    """The words of a figure whose elements are named as `dastune.report.figures.frame` says.

    Attributes:
        methods: in the order of their places.
        marks: name of a group of marks, such as "mean-0", -> a text for each, in the order drawn. One line each.
        reference: the text of the legend's entry that is no method's; "" for none.
    """

    methods: Sequence[str]
    marks: Mapping[str, Sequence[str]]
    reference: str = ""

    def json(self) -> str:
        """Return what page.js reads: the lines of a group are one text, which keeps a page of many marks small."""
        marks = {name: "\n".join(texts) for name, texts in self.marks.items()}
        of = {"methods": list(self.methods), "marks": marks, "reference": self.reference}
        return json.dumps(of, separators=(",", ":"))


def level_tips(
    cells: Sequence[Cell],
    mean_text: Callable[[Cell], str],
    seeds: Callable[[Cell], Mapping[int, float]] | None = None,
    reference: str = "",
    axis: Axis = NOISE,
) -> Tips:
    """Return the tips of a figure over levels.

    Args:
        cells: those that the figure draws: no mark for a cell without `seeds`, or without an sd where `seeds` is None.
        mean_text: what the mark on a method's line says, without the level.
        seeds: search seed -> share in [0, 1] of a cell's points; None where the figure has no points.
    """
    marks: dict[str, list[str]] = {}
    for index, method in enumerate(methods_of(cells)):
        drawn = [
            cell for cell in cells if cell.method == method and (cell.sd is not None if seeds is None else seeds(cell))
        ]
        marks[f"mean-{index}"] = [f"{axis.text(cell.level)}: {mean_text(cell)}" for cell in drawn]
        if seeds is not None:
            marks[f"seeds-{index}"] = [
                f"{axis.text(cell.level)}, seed {seed}: {percent(value)} %"
                for cell in drawn
                for seed, value in seeds(cell).items()
            ]
    return Tips(methods_of(cells), marks, reference)


def curve_tips(
    bundles: Sequence[tuple[str, Bundle | None]],
    when: Callable[[float], str],
    value: Callable[[float], str],
    unit: str = "",
) -> Tips:
    """Return the tips of a figure over time, such as "after 8.0 s: 93.1 ± 0.4 %, n=3".

    Args:
        bundles: those that the figure draws.
        when, value: words for a place on the x axis, and a number for one on the y axis.
        unit: after the number, with its space.
    """
    marks = {}
    for index, (_, bundle) in enumerate(bundles):
        if bundle is not None:
            marks[f"mean-{index}"] = [
                f"{when(bundle.at[k])}: {bundle_text(bundle, k, value, unit)}" for k in marked(bundle)
            ]
    return Tips([method for method, _ in bundles], marks)


def bundle_text(bundle: Bundle, at: int, value: Callable[[float], str], unit: str = "") -> str:
    """Return mean ± sd and n of a bundle's point `at`."""
    spread = "" if bundle.sd is None else f" {PLUS_MINUS} {value(bundle.sd[at])}"
    return f"{value(bundle.mean[at])}{spread}{unit}, n={bundle.n}"
