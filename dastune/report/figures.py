"""Figures of cells, for paper and page, and pictures of policies: the only module that imports matplotlib."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from itertools import chain, pairwise
from math import ceil
from pathlib import Path
from textwrap import wrap

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dastune.errors import printable
from dastune.folder import write_atomic
from dastune.report.stats import Cell, mean, sd
from dastune.report.tables import levels_of

COLUMN_INCHES = 3.5
PLOT_INCHES = 2.5  # height, without the legend
LEGEND_ROW_INCHES = 0.17
INK = "#1b1b1b"
PAPER = "#ffffff"
EDGE = "#fefefe"  # not PAPER, which a page may turn transparent

SHEET_INCHES = 7.2  # width of a contact sheet
SHEET_LINE_INCHES = 0.125
SHEET_CHARACTERS = 118  # in a line
SHEET_LINES = 24

# Okabe and Ito's palette without black (the ink) and yellow (too light on paper): told apart by the colour-blind
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
CROWD = 15  # seeds of one method at one level
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}

# None keeps dates and versions out of the files, so that the same rows give the same bytes
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


# (method, noise level) -> search seed -> share in [0, 1]
_Values = dict[tuple[str, int], Mapping[int, float]]


def figure9(cells: Sequence[Cell]) -> Figure:
    """Return test accuracy over the number of noise ops: per method the mean, mean ± sd shaded, and every seed."""
    with _style():
        figure, axes = _axes("Test accuracy (%)")
        legend = _draw(axes, {(cell.method, cell.noise_level): cell.accuracies for cell in cells})
        _finish(figure, axes, cells, legend)
    return figure


def noise_mass_figure(cells: Sequence[Cell]) -> Figure:
    """Return the share of noise ops in the found policies over the number of noise ops, and the uniform share."""
    with _style():
        figure, axes = _axes("Noise ops in found policies (%)")
        legend = _draw(axes, {(cell.method, cell.noise_level): cell.noise_masses for cell in cells})
        reference = _uniform_line(axes, cells)
        if reference is not None:
            legend["all ops equally likely"] = reference
        _finish(figure, axes, cells, legend)
    return figure


def contact_sheet(images: npt.NDArray[np.uint8], title: str, lines: Sequence[str]) -> Figure:
    """Return a picture of what a policy does, with its text under it.

    Args:
        images: N x (1 + K) x H x W x 3; of each row the first is the image, the others are draws of the policy.
        title: over the images; shown in characters that every font has.
        lines: under them; wrapped, and the first SHEET_LINES of these shown.
    """
    wrapped = list(chain.from_iterable(wrap(line, SHEET_CHARACTERS, subsequent_indent=" " * 14) for line in lines))
    more = len(wrapped) - SHEET_LINES
    shown = wrapped if more <= 0 else [*wrapped[: SHEET_LINES - 1], f"and {more + 1} more lines"]
    canvas, middles = _canvas(images)
    grid = SHEET_INCHES * canvas.shape[0] / canvas.shape[1]
    top, bottom = 3 * SHEET_LINE_INCHES, (len(shown) + 1.5) * SHEET_LINE_INCHES
    height = top + grid + bottom
    with _style():
        figure = Figure(figsize=(SHEET_INCHES, height))
        axes = figure.add_axes((0, bottom / height, 1, grid / height))
        axes.imshow(canvas, interpolation="nearest" if images.shape[2] < 64 else "antialiased", aspect="auto")
        axes.set_axis_off()
        under = 1 - 2.8 * SHEET_LINE_INCHES / height
        texts = [figure.text(0.01, 1 - 0.6 * SHEET_LINE_INCHES / height, _ascii(title), va="top", weight="bold")]
        for middle, label in zip(middles, ("image", "draws of the policy"), strict=True):
            texts.append(figure.text(middle, under, label, ha="center"))
        below = (bottom - 0.5 * SHEET_LINE_INCHES) / height
        texts.append(
            figure.text(0.01, below, "\n".join(shown), va="top", family="monospace", size=6.8, linespacing=1.3)
        )
        for text in texts:
            text.set_parse_math(False)
    return figure


def _canvas(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], tuple[float, float]]:
    """Return the images side by side on white, and the middles of the first column and of the others, in [0, 1]."""
    rows, columns, height, width, _ = images.shape
    gap = max(1, round(0.05 * width))
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + 3 * gap, 3), 255, np.uint8)
    lefts = [gap + column * (width + gap) + (gap if column else 0) for column in range(columns)]
    for row in range(rows):
        top = gap + row * (height + gap)
        for column, left in enumerate(lefts):
            canvas[top : top + height, left : left + width] = images[row, column]
    middles = ((lefts[0] + width / 2), (lefts[1] + lefts[-1] + width) / 2)
    return canvas, (middles[0] / canvas.shape[1], middles[1] / canvas.shape[1])


def save_png(figure: Figure, path: Path) -> None:
    """Write `figure` to `path`, 200 dots per inch; the same figure gives the same bytes."""
    buffer = BytesIO()
    with _style():
        figure.savefig(buffer, format="png", dpi=200, metadata=_METADATA["png"])
    write_atomic(path, buffer.getvalue())


def save(figure: Figure, stem: Path) -> None:
    """Write `figure` to stem.png (200 dots per inch), stem.svg and stem.pdf; the same figure gives the same bytes."""
    with _style({"svg.hashsalt": stem.name}):
        for extension, metadata in _METADATA.items():
            buffer = BytesIO()
            figure.savefig(buffer, format=extension, dpi=200, metadata=metadata)
            write_atomic(stem.with_name(f"{stem.name}.{extension}"), buffer.getvalue())


def _style(more: Mapping[str, object] | None = None) -> AbstractContextManager[None]:
    """The reader's own matplotlibrc must not change a report."""
    return matplotlib.style.context(["default", {**_STYLE, **(more or {})}])


def _axes(y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(COLUMN_INCHES, PLOT_INCHES), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("Noise ops in the search space")
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    return figure, axes


def _draw(axes: Axes, values: _Values) -> dict[str, Line2D]:
    """Draw every method's seeds, mean and mean ± sd in percent, and return label -> legend entry."""
    methods = list(dict.fromkeys(method for method, _ in values))
    levels = sorted({level for _, level in values})
    gap = min((right - left for left, right in pairwise(levels)), default=4)
    legend: dict[str, Line2D] = {}
    for index, method in enumerate(methods):
        seeds = {level: list(of.values()) for (name, level), of in values.items() if name == method and of}
        if not seeds:
            continue
        # side by side around the level, within a quarter of the way to the next one
        offset = gap / 4 * ((index + 0.5) / len(methods) - 0.5)
        # with one level there are no lines to follow, and the means step aside too
        mean_offset = offset - 0.06 if len(levels) == 1 else 0.0
        legend[_label(method, legend)] = _curve(axes, seeds, index, (mean_offset, offset))
    return legend


def _curve(axes: Axes, seeds: Mapping[int, list[float]], index: int, offsets: tuple[float, float]) -> Line2D:
    """Draw one method and return its mean line.

    Args:
        axes: in percent over noise ops.
        seeds: level -> shares in [0, 1].
        index: the method's place among all, for its looks.
        offsets: how far, in noise ops, its means and its seeds stand right of their level.
    """
    color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
    points = [(level + offsets[1], 100 * value) for level, values in seeds.items() for value in values]
    at = [level + offsets[0] for level in seeds]
    height = [100 * (mean(values) or 0.0) for values in seeds.values()]
    _bands(axes, at, height, [sd(values) for values in seeds.values()], color)
    (line,) = axes.plot(at, height, color=color, marker=marker, markersize=4.4, markeredgewidth=0, linewidth=1.3,
                        linestyle="-" if index < len(COLORS) else "--", zorder=3, gid=f"mean-{index}")  # fmt: skip
    # on top and edged in white, so that no seed hides under a line; of a crowd smaller, and the line is on top
    crowd = max(map(len, seeds.values())) / CROWD
    shrunk = min(1.0, crowd**-0.5)
    axes.plot(*_columns(points), linestyle="none", marker=marker, markersize=3.4 * shrunk, color=color,
              zorder=5 if crowd <= 1 else 2, markeredgewidth=0.3 * shrunk, markeredgecolor=EDGE,
              gid=f"seeds-{index}")  # fmt: skip
    return line


def _bands(axes: Axes, at: list[float], height: list[float], spread: list[float | None], color: str) -> None:
    """Shade height ± spread (in [0, 1]); a bar where no neighbour has a spread, nothing where there is none."""
    wide = np.array([np.nan if value is None else 100 * value for value in spread])
    lower, upper = np.array(height) - wide, np.array(height) + wide
    axes.fill_between(at, lower, upper, color=color, alpha=0.13, linewidth=0, zorder=1)
    known = np.pad(~np.isnan(wide), 1)
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    axes.vlines(np.array(at)[alone], lower[alone], upper[alone], color=color, alpha=0.4, linewidth=4, zorder=1)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _uniform_line(axes: Axes, cells: Sequence[Cell]) -> Line2D | None:
    """Draw the share that noise ops have if all ops are equally likely, the mean over methods at each level."""
    shares: dict[int, list[float]] = {}
    for cell in cells:
        if cell.uniform_noise_share is not None:
            shares.setdefault(cell.noise_level, []).append(100 * cell.uniform_noise_share)
    if not shares:
        return None
    points = [(level, mean(values) or 0.0) for level, values in sorted(shares.items())]
    marker = "" if len(points) > 1 else "_"
    (line,) = axes.plot(*_columns(points), color=INK, linestyle=(0, (4, 3)), linewidth=1, marker=marker,
                        markersize=14, zorder=4, gid="uniform")  # fmt: skip
    return line


def _label(method: str, taken: Mapping[str, object]) -> str:
    """Return `method` for the legend: short, in characters that every font has, and distinct from `taken`."""
    label = _ascii(printable(method))
    label = label if len(label) <= 24 else f"{label[:12]}...{label[-9:]}"
    return label if label not in taken else f"{label} ({len(taken) + 1})"


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _finish(figure: Figure, axes: Axes, cells: Sequence[Cell], legend: Mapping[str, Line2D]) -> None:
    levels = levels_of(cells)
    axes.set_xticks(levels)
    if len(levels) == 1:
        axes.set_xlim(levels[0] - 1, levels[0] + 1)
    if not legend:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center")
        return
    for columns in (3, 2, 1):
        box = figure.legend(
            list(legend.values()), list(legend), loc="outside lower center", ncols=columns, frameon=False,
            handlelength=2.2, columnspacing=1.2,
        )  # fmt: skip
        for text in box.get_texts():
            text.set_parse_math(False)
        if columns == 1 or box.get_window_extent().width <= figure.bbox.width:
            break
        box.remove()
    figure.set_size_inches(COLUMN_INCHES, PLOT_INCHES + LEGEND_ROW_INCHES * ceil(len(legend) / columns))
