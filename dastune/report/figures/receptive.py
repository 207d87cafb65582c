"""Maps of receptive fields side by side (supplement of the DAS paper, Figure 8)."""

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dastune.errors import printable
from dastune.report.figures.frame import label
from dastune.report.figures.style import style
from dastune.training.receptive_map import HALF, TENTH

PANEL_INCHES, TEXT_INCHES, BAR_INCHES = 1.45, 0.55, 0.55
COLORS = "viridis"  # in even steps to the eye, and told apart by the colour-blind
LINES = {TENTH: "dashed", HALF: "solid"}
LINE = "#ffffff"


def receptive_figure(panels: Sequence[tuple[str, str, NDArray[np.float64]]]) -> Figure:
    """Return maps on one scale of colours, with lines around what is above a tenth and a half of each map's peak.

    Args:
        panels: (method, some lines of text, map_HW in [0, 1]), at least one.
    """
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    rows = ceil(len(panels) / columns)
    size = (columns * PANEL_INCHES + BAR_INCHES, rows * (PANEL_INCHES + TEXT_INCHES))
    with style():
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        taken: dict[str, object] = {}
        for axes, (method, text, map_HW) in zip(grid.flat, panels, strict=False):
            image = axes.imshow(map_HW, cmap=COLORS, vmin=0, vmax=1, interpolation="none")
            inside = {level: dash for level, dash in LINES.items() if map_HW.min() < level < map_HW.max()}
            if inside and min(map_HW.shape) > 1:
                axes.contour(map_HW, [*inside], colors=LINE, linestyles=[*inside.values()], linewidths=0.8)
            name = label(method, taken)
            taken[name] = axes
            axes.set_title(name, fontsize=7, parse_math=False)
            lines = "\n".join(map(printable, text.splitlines()))
            axes.set_xlabel(lines, fontsize=7, parse_math=False)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes in [*grid.flat][len(panels) :]:
            axes.set_axis_off()
        bar = figure.colorbar(image, ax=grid, ticks=[0, *LINES, 1], shrink=0.8, aspect=14 * rows)
        bar.ax.set_yticklabels(["0", "tenth", "half", "peak"])
        bar.outline.set_visible(False)
        for level, dash in LINES.items():
            bar.ax.axhline(level, color=LINE, linestyle=dash, linewidth=0.8)
    return figure
