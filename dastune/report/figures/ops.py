"""Which ops the found policies apply, one small bar chart a method."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dastune.ops.table import OPS
from dastune.report.figures.frame import label, looks
from dastune.report.figures.style import COLORS, INK, PAPER, style
from dastune.report.found import Found

COLUMNS = 3
MOST_DOTS = 20  # seeds shown one by one; of more, the range that holds nine tenths of them

# inches: the names of ops, a chart, an op in it, what is over and under a chart, between charts, and under them all
_NAMES, _CHART, _ROW, _OVER, _UNDER, _GAP, _FOOT = 1.05, 1.5, 0.125, 0.22, 0.25, 0.22, 0.2


def ops_figure(found: Sequence[Found], places: Mapping[str, int], ops: Sequence[str]) -> Figure:
    """Return the share of each op in what the policies of each method apply: the mean over seeds, and every seed.

    Ops come in the order of their mean share over all charts; noise ops, whose bars are hollow, below the others.

    Args:
        found: one or more of one noise level, with policies that apply something.
        places: method -> its place among the study's methods, for its color.
        ops: of the space; those that policies apply besides are shown too.
    """
    names = _ordered(found, ops)
    columns = min(COLUMNS, len(found))
    rows = ceil(len(found) / columns)
    bars = len(names) * _ROW + 0.05
    width, height = _NAMES + columns * (_CHART + _GAP), rows * (_OVER + bars + _UNDER) + _FOOT
    most = max(share for each in found for shares in each.by_seed.values() for share in shares.values())
    taken: dict[str, object] = {}
    with style({"ytick.labelsize": 6.5, "axes.titlesize": 7.5, "axes.titlepad": 3}):
        figure = Figure(figsize=(width, height))
        for place, each in enumerate(found):
            row, column = divmod(place, columns)
            left, top = _NAMES + column * (_CHART + _GAP), height - row * (_OVER + bars + _UNDER) - _OVER
            axes = figure.add_axes((left / width, (top - bars) / height, _CHART / width, bars / height))
            title = label(each.method, taken)
            taken[title] = None
            axes.set_title(title, parse_math=False)
            _bars(axes, each, names, looks(places[each.method]).color)
            _finish(axes, names, 104 * most, named=column == 0)
            if ops:
                axes.axvline(100 / len(ops), color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        middle = _NAMES + columns * (_CHART + _GAP) / 2
        figure.text(middle / width, 0.05 / height, "Share of the ops that a policy applies (%)", ha="center")
    return figure


def _ordered(found: Sequence[Found], ops: Sequence[str]) -> list[str]:
    known = {op for op in ops if op in OPS} | {op for each in found for op in each.mean_shares}
    total = {op: sum(each.mean_shares.get(op, 0.0) for each in found) for op in known}
    return sorted(known, key=lambda op: (OPS[op].noise, -total[op], op))


def _bars(axes: Axes, found: Found, names: Sequence[str], color: str) -> None:
    means, places = found.mean_shares, np.arange(len(names))
    lengths = np.array([100 * means.get(op, 0.0) for op in names])
    fill = [PAPER if OPS[op].noise else color for op in names]
    axes.barh(places, lengths, height=0.72, linewidth=0.8, edgecolor=color, color=fill, alpha=0.75)
    shares_SK = 100 * np.array([[shares.get(op, 0.0) for op in names] for shares in found.by_seed.values()])
    if 1 < len(shares_SK) <= MOST_DOTS:
        axes.plot(shares_SK.ravel(), np.tile(places, len(shares_SK)), linestyle="none", marker="o", markersize=1.7,
                  color=INK, markeredgewidth=0, alpha=0.7, zorder=3)  # fmt: skip
    elif len(shares_SK) > MOST_DOTS:
        axes.hlines(places, *np.percentile(shares_SK, [5, 95], axis=0), color=INK, linewidth=1, alpha=0.7, zorder=3)


def _finish(axes: Axes, names: Sequence[str], most: float, *, named: bool) -> None:
    """Set the axes; `most` is the end of that of shares, in percent. The bars of some are `named`."""
    axes.set_xlim(0, most)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(*((range(len(names)), names) if named else ((), ())))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    for tick, op in zip(axes.get_yticklabels(), names, strict=False):
        tick.set_color(COLORS[1] if OPS[op].noise else INK)
