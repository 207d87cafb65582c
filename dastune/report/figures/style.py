"""The looks that all figures share, and their files: palette, type, ink, and writing png, svg and pdf."""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from dastune.folder import write_atomic

COLUMN_INCHES = 3.5
INK = "#1b1b1b"
PAPER = "#ffffff"
EDGE = "#fefefe"  # not PAPER, which a page may turn transparent

# Okabe and Ito's palette without black (the ink) and yellow (too light on paper): told apart by the colour-blind
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
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


def save_png(figure: Figure, path: Path) -> None:
    """Write `figure` to `path`, 200 dots per inch; the same figure gives the same bytes."""
    buffer = BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=200, metadata=_METADATA["png"])
    write_atomic(path, buffer.getvalue())


def save(figure: Figure, stem: Path) -> None:
    """Write `figure` to stem.png (200 dots per inch), stem.svg and stem.pdf; the same figure gives the same bytes."""
    with style({"svg.hashsalt": stem.name}):
        for extension, metadata in _METADATA.items():
            buffer = BytesIO()
            figure.savefig(buffer, format=extension, dpi=200, metadata=metadata)
            figure.set_layout_engine("none")  # laid out once, which takes long, and alike in all three
            data = buffer.getvalue()
            write_atomic(stem.with_name(f"{stem.name}.{extension}"), _smaller(data) if extension == "svg" else data)


def _smaller(svg: bytes) -> bytes:
    """Return matplotlib's SVG without what costs bytes: a page of thousands of marks has to stay small.

    Places are cut to a hundredth of a point, indents are left out, and the style that all marks of a group have is said
    once.
    """
    text = re.sub(r"\s*\n\s*", "\n", svg.decode())
    text = re.sub(r'\s(?:d|x|y)="[^"]*', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), text)
    return re.sub(r"<g([^>]*)>((?:\s*<use [^>]*/>)+)\s*</g>", _styled_once, text).encode()


def _styled_once(group: re.Match[str]) -> str:
    """Return a group of marks with their common style on the group, where they have one."""
    styles = set(re.findall(r'\sstyle="[^"]*"', group[2]))
    if len(styles) != 1 or "style=" in group[1]:
        return group[0]
    (style,) = styles
    return f"<g{group[1]}{style}>{group[2].replace(style, '')}\n</g>"


def style(more: Mapping[str, object] | None = None) -> AbstractContextManager[None]:
    """Return a context with our looks alone: the reader's own matplotlibrc must not change a report."""
    return matplotlib.style.context(["default", {**_STYLE, **(more or {})}])


def ascii_only(text: str) -> str:
    """Return `text` in characters that every font has."""
    return text.encode("ascii", "backslashreplace").decode()
