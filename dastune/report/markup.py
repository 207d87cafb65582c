"""Pieces of HTML: everything that comes from a study's folder is escaped here, or passed in as already made markup."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from dastune.report.figures import EDGE, INK, PAPER


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def html(text: str) -> Markup:
    """Return `text` as markup: escaped, unless it is markup already."""
    return text if isinstance(text, Markup) else Markup(escape(text, quote=True))


def element(tag: str, *content: str, **attributes: str) -> Markup:
    """Return an element; `class_` and `aria_label` stand for `class` and `aria-label`."""
    given = "".join(f' {name.rstrip("_").replace("_", "-")}="{html(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{given}>{''.join(html(part) for part in content)}</{tag}>")


def joined(parts: Iterable[str], between: str = "\n") -> Markup:
    """Return the parts, one after the other."""
    return Markup(between.join(html(part) for part in parts))


def bullets(lines: Iterable[str]) -> Markup:
    """Return an unordered list."""
    return element("ul", *(element("li", line) for line in lines))


def table(head: Sequence[Sequence[Markup]], body: Sequence[Sequence[str]]) -> Markup:
    """Return a table that scrolls sideways where it is too wide; `head` holds rows of <th>, `body` rows of text.

    The first of each body row is its heading.
    """
    rows = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in body
    ]
    inner = element("thead", *(element("tr", *row) for row in head)) if head else Markup("")
    # focusable, so that it can be scrolled by keyboard
    return element("div", element("table", inner, element("tbody", *rows)), class_="wide", tabindex="0")


def inline_svg(svg: str, name: str, label: str) -> Markup:
    """Return matplotlib's SVG for use inside a page.

    Ids get the prefix `name`, for several figures share one page; ink follows the page's colour, paper is left out, and
    so are prolog and metadata.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(f"fill: {PAPER}", "fill: none").replace(EDGE, "var(--paper)")
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{html(label)}"', 1).strip())
