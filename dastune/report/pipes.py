"""Tables in Markdown, of pipes. Names are data: they neither end a cell nor open a tag, a link or emphasis."""

import re
from collections.abc import Sequence

from dastune.errors import printable

_ENTITIES = str.maketrans({character: f"&#{ord(character)};" for character in "|[]*`\\"} | {"&": "&amp;", "<": "&lt;"})

_UNDERLINES = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # those within a word are no emphasis


def pipes(rows: Sequence[Sequence[str]]) -> str:
    """Return a table: titles, then rows; the first column names the rows."""
    lines = ["| " + " | ".join(map(escaped, row)) + " |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return a text in one line that Markdown shows as it is."""
    return _UNDERLINES.sub("&#95;", flat(text).translate(_ENTITIES))


def flat(text: str) -> str:
    """Return a text in one line; control characters, which names may hold, as Python writes them."""
    return printable(" ".join(text.split()))
