"""Figures over the levels of a study's axis, one line a method."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dastune.report.axis import NOISE, Axis
from dastune.report.figures.frame import FEW, REFERENCE, finish, label, looks, plot, shade
from dastune.report.figures.style import EDGE, INK, style
from dastune.report.intervals import Interval
from dastune.report.stats import Cell, mean, sd
from dastune.report.tables import levels_of, methods_of

CROWD = 15  # seeds of one method at one level
MOST_BAR = 2.5
ASIDE = 0.4  # of the way to the next level, over which the seeds of all methods stand side by side

# label -> (place of the method, or REFERENCE, and what to show)
_Legend = dict[str, tuple[str, Artist]]


def accuracy_figure(cells: Sequence[Cell], axis: Axis = NOISE) -> Figure:
    """Return Figure 9, or 10: test accuracy over levels, per method the mean, mean ± sd shaded, and every seed."""
    with style():
        figure, axes = plot(axis.label, "Test accuracy (%)")
        legend = _seeds_and_means(axes, cells, [cell.accuracies for cell in cells])
        _finish(figure, axes, cells, legend)
    return figure


def noise_mass_figure(cells: Sequence[Cell]) -> Figure:
    """Return the share of noise ops in the found policies over the number of noise ops, and the uniform share."""
    with style():
        figure, axes = plot(NOISE.label, "Noise ops in found policies (%)")
        legend = _seeds_and_means(axes, cells, [cell.noise_masses for cell in cells])
        reference = _uniform_line(axes, cells)
        if reference is not None:
            legend["all ops equally likely"] = (REFERENCE, reference)
        _finish(figure, axes, cells, legend)
    return figure


def sd_figure(cells: Sequence[Cell], axis: Axis = NOISE) -> Figure:
    """Return the sd of test accuracy over search seeds, over the levels of `axis`, with its interval as a bar.

    An interval of few seeds is many times as long as the sd: bars are cut, with an arrow, at MOST_BAR times the largest
    sd.
    """
    with style():
        figure, axes = plot(axis.label, "sd of test accuracy (points)")
        methods, levels, legend = methods_of(cells), levels_of(cells), _Legend()
        top = MOST_BAR * 100 * max((cell.sd or 0.0 for cell in cells), default=0.0)
        for index, method in enumerate(methods):
            known = [cell for cell in cells if cell.method == method and cell.sd is not None]
            if not known:
                continue
            # Bars of several methods at one place would hide each other: lines and bars step aside together.
            at = [cell.level + _aside(index, len(methods), levels) for cell in known]
            intervals = [(x, cell.sd_interval) for x, cell in zip(at, known, strict=True)]
            _intervals(axes, intervals, top, index, 0.25 + 0.35 * min(1.0, FEW / len(methods)))
            line = _line(axes, at, [100 * (cell.sd or 0.0) for cell in known], index)
            legend[label(method, legend)] = (str(index), line)
        axes.set_ylim(bottom=0)
        _finish(figure, axes, cells, legend)
    return figure


def _intervals(
    axes: Axes, intervals: Sequence[tuple[float, Interval | None]], top: float, index: int, alpha: float
) -> None:
    """Draw intervals, shares in [0, 1], as bars in percent that end at `top` at the latest."""
    bars = [(x, 100 * limits[0], 100 * limits[1]) for x, limits in intervals if limits is not None]
    cut = [(x, top) for x, _, high in bars if high > top]
    color = looks(index).color
    axes.vlines(
        [x for x, _, _ in bars], [low for _, low, _ in bars], [min(high, top) for _, _, high in bars],
        color=color, alpha=alpha, linewidth=0.9, zorder=2, gid=f"bars-{index}",
    )  # fmt: skip
    axes.plot(*_columns(cut), linestyle="none", marker="^", markersize=2.6, markeredgewidth=0, color=color,
              gid=f"cut-{index}")  # fmt: skip


def _seeds_and_means(axes: Axes, cells: Sequence[Cell], values: Sequence[Mapping[int, float]]) -> _Legend:
    """Draw every method's seeds, mean and mean ± sd in percent.

    Args:
        axes: in percent over levels.
        cells: what `values` are of.
        values: of each cell, search seed -> share in [0, 1].
    """
    methods, levels, legend = methods_of(cells), levels_of(cells), _Legend()
    for index, method in enumerate(methods):
        seeds = {
            cell.level: list(of.values())
            for cell, of in zip(cells, values, strict=True)
            if cell.method == method and of
        }
        if not seeds:
            continue
        aside = _aside(index, len(methods), levels)
        # with one level there are no lines to follow, and the means step aside too
        at = [level + (aside - 0.06 if len(levels) == 1 else 0.0) for level in seeds]
        height = [100 * (mean(of) or 0.0) for of in seeds.values()]
        spread = [None if (wide := sd(of)) is None else 100 * wide for of in seeds.values()]
        shade(axes, at, height, spread, index, len(methods))
        _seeds(axes, seeds, aside, index)
        legend[label(method, legend)] = (str(index), _line(axes, at, height, index))
    return legend


def _aside(index: int, methods: int, levels: Sequence[int]) -> float:
    """Return how far right of its level, in levels, the method at place `index` stands beside the others."""
    gap = min((right - left for left, right in pairwise(levels)), default=4)
    return ASIDE * gap * ((index + 0.5) / methods - 0.5)


def _line(axes: Axes, at: Sequence[float], height: Sequence[float], index: int) -> Line2D:
    color, marker, dash = looks(index)
    (line,) = axes.plot(at, height, color=color, marker=marker, markersize=4.4, markeredgewidth=0, linewidth=1.3,
                        linestyle=dash, zorder=3, gid=f"mean-{index}")  # fmt: skip
    return line


def _seeds(axes: Axes, seeds: Mapping[int, list[float]], aside: float, index: int) -> None:
    """Draw level -> shares as points, on top and edged in white, so that no seed hides under a line.

    Of a crowd they are smaller, and the line is on top.
    """
    crowd = max(map(len, seeds.values())) / CROWD
    shrunk = min(1.0, crowd**-0.5)
    points = [(level + aside, 100 * value) for level, values in seeds.items() for value in values]
    axes.plot(*_columns(points), linestyle="none", marker=looks(index).marker, markersize=3.4 * shrunk,
              color=looks(index).color, zorder=5 if crowd <= 1 else 2, markeredgewidth=0.3 * shrunk,
              markeredgecolor=EDGE, gid=f"seeds-{index}")  # fmt: skip


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _uniform_line(axes: Axes, cells: Sequence[Cell]) -> Line2D | None:
    """Draw the share that noise ops have if all ops are equally likely, the mean over methods at each level."""
    shares: dict[int, list[float]] = {}
    for cell in cells:
        if cell.uniform_noise_share is not None:
            shares.setdefault(cell.level, []).append(100 * cell.uniform_noise_share)
    if not shares:
        return None
    points = [(level, mean(values) or 0.0) for level, values in sorted(shares.items())]
    marker = "" if len(points) > 1 else "_"
    (line,) = axes.plot(*_columns(points), color=INK, linestyle=(0, (4, 3)), linewidth=1, marker=marker,
                        markersize=14, zorder=4, gid="uniform")  # fmt: skip
    return line


def _finish(figure: Figure, axes: Axes, cells: Sequence[Cell], legend: _Legend) -> None:
    levels = levels_of(cells)
    axes.set_xticks(levels)
    if len(levels) == 1:
        axes.set_xlim(levels[0] - 1, levels[0] + 1)
    finish(figure, axes, legend)
