"""Pictures of what a policy does to images."""

from collections.abc import Sequence
from itertools import chain
from textwrap import wrap

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from dastune.report.figures.style import ascii_only, style

SHEET_INCHES = 7.2  # width of a contact sheet
SHEET_LINE_INCHES = 0.125
SHEET_CHARACTERS = 118  # in a line
SHEET_LINES = 24


def contact_sheet(images: npt.NDArray[np.uint8], title: str, lines: Sequence[str], beside: str) -> Figure:
    """Return a picture of what a policy does, with its text under it.

    Args:
        images: N x (1 + K) x H x W x 3; of each row the first is the image, the others are what is beside it.
        title: over the images; shown in characters that every font has.
        lines: under them; wrapped, and the first SHEET_LINES of these shown.
        beside: what stands over the others.
    """
    wrapped = list(chain.from_iterable(wrap(line, SHEET_CHARACTERS, subsequent_indent=" " * 14) for line in lines))
    more = len(wrapped) - SHEET_LINES
    shown = wrapped if more <= 0 else [*wrapped[: SHEET_LINES - 1], f"and {more + 1} more lines"]
    canvas, middles = _canvas(images)
    grid = SHEET_INCHES * canvas.shape[0] / canvas.shape[1]
    top, bottom = 3 * SHEET_LINE_INCHES, (len(shown) + 1.5) * SHEET_LINE_INCHES
    height = top + grid + bottom
    with style():
        figure = Figure(figsize=(SHEET_INCHES, height))
        axes = figure.add_axes((0, bottom / height, 1, grid / height))
        axes.imshow(canvas, interpolation="nearest" if images.shape[2] < 64 else "antialiased", aspect="auto")
        axes.set_axis_off()
        under = 1 - 2.8 * SHEET_LINE_INCHES / height
        texts = [figure.text(0.01, 1 - 0.6 * SHEET_LINE_INCHES / height, ascii_only(title), va="top", weight="bold")]
        for middle, label in zip(middles, ("image", beside), strict=True):
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
