"""Curves over time, one a method: mean and spread."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from dastune.report.curves import Bundle
from dastune.report.figures.frame import finish, label, looks, plot, shade
from dastune.report.figures.style import style

MARKS = 6  # on a curve, to tell it by


def curves_figure(
    bundles: Sequence[tuple[str, Bundle | None]], labels: tuple[str, str], form: Literal["steps", "straight"]
) -> Figure:
    """Return the mean of each method over time, with mean ± sd shaded.

    Args:
        bundles: (method, what to draw) of all methods, in the study's order; None for one without a curve.
        labels: of the axes, x and y.
        form: "steps" keeps each value until the next, "straight" draws straight lines between them.
    """
    with style():
        figure, axes = plot(*labels)
        legend: dict[str, tuple[str, Artist]] = {}
        drawstyle = "steps-post" if form == "steps" else "default"
        for index, (method, bundle) in enumerate(bundles):
            if bundle is None:
                continue
            spread = [None] * len(bundle.at) if bundle.sd is None else bundle.sd.tolist()
            shade(axes, bundle.at.tolist(), bundle.mean.tolist(), spread, index, len(bundles), steps=form == "steps")
            color, marker, dash = looks(index)
            (line,) = axes.plot(bundle.at, bundle.mean, color=color, marker=marker, markersize=3.6, markeredgewidth=0,
                                linewidth=1.2, linestyle=dash, markevery=marked(bundle), drawstyle=drawstyle, zorder=3,
                                gid=f"mean-{index}")  # fmt: skip
            legend[label(method, legend)] = (str(index), line)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        finish(figure, axes, legend)
    return figure


def marked(bundle: Bundle) -> list[int]:
    """Return which points of a curve carry a mark: MARKS of them, evenly in time, the last among them."""
    targets = np.linspace(bundle.at[0], bundle.at[-1], MARKS)
    return sorted({int(np.abs(bundle.at - target).argmin()) for target in targets})
