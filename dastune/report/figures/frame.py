"""The plot that figures of methods share: its axes at column width, each method's looks, and the legend under it.

A method's elements are called by its place among the study's methods, such as "mean-0", "seeds-0" and "legend-0", and
so are the groups of the SVG, by which a page's script finds them.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dastune.errors import printable
from dastune.report.figures.style import COLORS, COLUMN_INCHES, INK, MARKERS, ascii_only

PLOT_INCHES = 2.5  # height, without the legend
LEGEND_ROW_INCHES = 0.17
REFERENCE = "all"  # the legend entry of what is no method's
DASHES = ("-", (0, (3.2, 1.4)), (0, (1.1, 1.1)))
FEW = 4  # methods whose bands can overlap and still be told apart


class Looks(NamedTuple):
    """What tells a method from the others: each of the first eighteen differs in colour or dash, and most in marker."""

    color: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]


def looks(index: int) -> Looks:
    """Return the looks of the method at place `index`."""
    return Looks(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], DASHES[index // len(COLORS) % len(DASHES)])


def plot(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Return an empty plot at column width."""
    figure = Figure(figsize=(COLUMN_INCHES, PLOT_INCHES), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    return figure, axes


def shade(
    axes: Axes,
    at: Sequence[float],
    middle: Sequence[float],
    spread: Sequence[float | None],
    index: int,
    methods: int,
    steps: bool = False,
) -> None:
    """Shade middle ± spread, lighter the more methods there are.

    A bar where no neighbour has a spread, nothing where there is none. `steps` keeps each value until the next.
    """
    strength, color = min(1.0, FEW / methods), looks(index).color
    wide: npt.NDArray[np.float64] = np.array([np.nan if value is None else value for value in spread], dtype=float)
    lower, upper = np.array(middle) - wide, np.array(middle) + wide
    axes.fill_between(
        at, lower, upper, color=color, alpha=0.05 + 0.1 * strength, linewidth=0, zorder=1, gid=f"band-{index}",
        step="post" if steps else None,
    )  # fmt: skip
    known = np.pad(~np.isnan(wide), 1)
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    axes.vlines(
        np.array(at)[alone], lower[alone], upper[alone], color=color, alpha=0.2 + 0.2 * strength, linewidth=4,
        zorder=1, gid=f"bars-{index}",
    )  # fmt: skip


def label(method: str, taken: Mapping[str, object]) -> str:
    """Return `method` for the legend: short, in characters that every font has, and distinct from `taken`."""
    text = ascii_only(printable(method))
    text = text if len(text) <= 24 else f"{text[:12]}...{text[-9:]}"
    return text if text not in taken else f"{text} ({len(taken) + 1})"


def finish(figure: Figure, axes: Axes, legend: Mapping[str, tuple[str, Artist]]) -> None:
    """Put the legend under the plot, in as many columns as fit; say so where there is nothing to show.

    Args:
        legend: label -> (place of the method, or REFERENCE, and what to show).
    """
    if not legend:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center")
        return
    for columns in (3, 2, 1):
        box = figure.legend(
            [artist for _, artist in legend.values()], list(legend), loc="outside lower center", ncols=columns,
            frameon=False, handlelength=2.2, columnspacing=1.2,
        )  # fmt: skip
        for text in box.get_texts():
            text.set_parse_math(False)
        if columns == 1 or box.get_window_extent().width <= 0.98 * figure.bbox.width:
            break
        box.remove()
    box.set_gid("legend")
    for (place, _), handle in zip(legend.values(), box.legend_handles, strict=True):
        if handle is not None:
            handle.set_gid(f"legend-{place}")
    figure.set_size_inches(COLUMN_INCHES, PLOT_INCHES + LEGEND_ROW_INCHES * ceil(len(legend) / columns))
