"""What sections are made of: figures, tables over levels, folded lists."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dastune.report.axis import Axis
from dastune.report.interactive import Tips
from dastune.report.markup import Markup, bullets, element, inline_svg, joined
from dastune.report.results import Results
from dastune.report.stats import Cell
from dastune.report.table import Table
from dastune.report.tables import NOTHING, levels_of, methods_of


def folded(title: str, lines: Sequence[str], unfolded: bool) -> Markup:
    """Return a list under a title that opens it."""
    inner = joined([element("summary", title), bullets(lines)])
    return element("details", inner, open="") if unfolded else element("details", inner)


def figure(results: Results, name: str, label: str, caption: str, tips: Tips | None = None) -> Markup:
    """Return a figure of the report, which is in its files already, with links to them.

    `label` says it in words. `tips` let the page's script switch its methods, and tell what its marks are.
    """
    svg = (results.output / f"{name}.svg").read_text(encoding="utf-8")
    links = joined([link(f"{name}.{extension}") for extension in ("png", "svg", "pdf")], ", ")
    about = {} if tips is None else {"data_figure": name, "data_tips": tips.json()}
    return element("figure", inline_svg(svg, name, label), element("figcaption", caption, " ", links), **about)


def link(file: str) -> Markup:
    """Return a link to a file beside the page."""
    return element("a", file, href=file)


def described(found: Sequence[Cell], text: Callable[[Cell], str], axis: Axis) -> str:
    """Return the numbers of a figure in words, for those who cannot see it."""
    lines = []
    for method in methods_of(found):
        values = ", ".join(f"{text(cell)} at {cell.level}{axis.sign}" for cell in found if cell.method == method)
        lines.append(f"{method}: {values}.")
    return " ".join(lines) or "No results yet."


def level_table(
    axis: Axis,
    name: str,
    title: str,
    found: Sequence[Cell],
    columns: Sequence[str],
    values: Callable[[Cell], list[str]],
    note: str,
    frame: pd.DataFrame,
) -> Table:
    """Return methods x levels of `axis`, each level a group of `columns`, filled by `values`; see `Table`."""
    levels = levels_of(found)
    at = {(cell.method, cell.level): cell for cell in found}
    rows = []
    for method in methods_of(found):
        row = [method]
        for level in levels:
            cell = at.get((method, level))
            row += values(cell) if cell else [NOTHING] * len(columns)
        rows.append(row)
    groups = [(axis.text(level), len(columns)) for level in levels]
    return Table(name, title, ["method", *(title for _ in levels for title in columns)], rows, note, frame, groups)


def text_of(path: Path) -> str:
    """Return a file's text; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def facts_of(path: Path) -> list[tuple[str, str]]:
    """Return the leaves of a JSON file as (dotted name, text); nothing where it cannot be read."""
    try:
        return list(_flat(json.loads(text_of(path))))
    except (ValueError, RecursionError):
        return []


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings as (dotted name, text)."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value)
