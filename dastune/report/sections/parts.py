"""What sections are made of: figures, tables over levels, folded lists."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dastune.report.markup import Markup, bullets, element, inline_svg, joined, table
from dastune.report.results import Results
from dastune.report.stats import Cell
from dastune.report.tables import NOTHING, levels_of, methods_of, ops_text


def folded(title: str, lines: Sequence[str], unfolded: bool) -> Markup:
    """Return a list under a title that opens it."""
    inner = joined([element("summary", title), bullets(lines)])
    return element("details", inner, open="") if unfolded else element("details", inner)


def figure(results: Results, name: str, label: str, caption: str) -> Markup:
    """Return a figure of the report, with its files to download. `label` says it in words."""
    svg = (results.output / f"{name}.svg").read_text(encoding="utf-8")
    links = joined([link(f"{name}.{extension}") for extension in ("png", "svg", "pdf")], ", ")
    return element("figure", inline_svg(svg, name, label), element("figcaption", caption, " ", links))


def link(file: str) -> Markup:
    """Return a link to a file beside the page."""
    return element("a", file, href=file)


def described(found: Sequence[Cell], text: Callable[[Cell], str]) -> str:
    """Return the numbers of a figure in words, for those who cannot see it."""
    lines = []
    for method in methods_of(found):
        values = ", ".join(f"{text(cell)} at {cell.noise_level}" for cell in found if cell.method == method)
        lines.append(f"{method}: {values}.")
    return " ".join(lines) or "No results yet."


def level_table(found: Sequence[Cell], columns: Sequence[str], values: Callable[[Cell], list[str]]) -> Markup:
    """Return methods x noise levels, each level a group of `columns`, filled by `values`."""
    levels = levels_of(found)
    if not levels:
        return element("p", "No results yet.")
    at = {(cell.method, cell.noise_level): cell for cell in found}
    groups = [element("th", ops_text(level), colspan=str(len(columns)), scope="colgroup") for level in levels]
    names = [element("th", name, scope="col") for _ in levels for name in columns]
    body = []
    for method in methods_of(found):
        row = [method]
        for level in levels:
            cell = at.get((method, level))
            row += values(cell) if cell else [NOTHING] * len(columns)
        body.append(row)
    return table([[element("th"), *groups], [element("th", "method", scope="col"), *names]], body)


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
