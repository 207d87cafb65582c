"""One table of a report in four forms: for the page, and as CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from dastune.report.markup import Markup, element, joined, table

_MARKDOWN = (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"))
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": "$-$",
    "<": "$<$",
    ">": "$>$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Table:
    """A table: its first column names the rows.

    Attributes:
        name: of its files, without an extension; a safe name.
        title: a line over it.
        columns: titles of the columns.
        rows: as they are shown, as many texts as there are columns in each.
        note: sentences under it; "" for none.
        frame: the numbers behind it, one row a record, in the units its columns are named by; None: the shown texts.
        groups: (title, how many columns) over all columns but the first; () for none.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    frame: pd.DataFrame | None = field(default=None, compare=False)
    groups: Sequence[tuple[str, int]] = ()

    def html(self) -> Markup:
        """Return the table for the page, without its title, with the note under it. A line break in a cell is kept."""
        head = [[element("th", title, scope="col") for title in self.columns]]
        if self.groups:
            over = [element("th", title, colspan=str(count), scope="colgroup") for title, count in self.groups]
            head.insert(0, [element("th"), *over])
        body = [[_broken(text) for text in row] for row in self.rows]
        return joined([table(head, body), *([element("p", self.note, class_="note")] if self.note else [])])

    def csv(self) -> str:
        """Return the numbers, an unknown one as an empty field; lines end in a line feed."""
        frame = self.frame
        if frame is None:
            frame = pd.DataFrame([[_flat(text) for text in row] for row in self.rows], columns=self._flat_columns())
        return str(frame.to_csv(index=False, lineterminator="\n"))

    def markdown(self) -> str:
        """Return title, pipe table and note."""
        lines = ["| " + " | ".join(map(_markdown, row)) + " |" for row in [self._flat_columns(), *self.rows]]
        lines.insert(1, "| --- |" + " ---: |" * (len(self.columns) - 1))
        parts = [_markdown(self.title), "\n".join(lines), *([_markdown(self.note)] if self.note else [])]
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """Return a table environment with booktabs' rules; the title is its caption, the note stands under it."""
        body = [" & ".join(map(_latex, row)) + r" \\" for row in self.rows]
        head = [" & ".join(map(_latex, self.columns)) + r" \\"]
        if self.groups:
            over = [rf"\multicolumn{{{count}}}{{c}}{{{_latex(title)}}}" for title, count in self.groups]
            head.insert(0, " & ".join(["", *over]) + r" \\")
        lines = [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_latex(self.title)}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            r"    \toprule",
            *(f"    {line}" for line in head),
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            *([rf"  \par\smallskip\footnotesize {_latex(self.note)}"] if self.note else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def _flat_columns(self) -> list[str]:
        """Return the titles with their group's before them, for forms that have one line of titles."""
        over = ["", *(title for title, count in self.groups for _ in range(count))]
        if not self.groups:
            return [*self.columns]
        return [f"{group}: {title}" if group else title for group, title in zip(over, self.columns, strict=True)]


def _broken(text: str) -> Markup:
    first, *rest = text.split("\n")
    return joined([first, *(element("small", line) for line in rest)], "")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    """Return names, which are data, such that they neither end a cell nor open a tag."""
    for character, entity in _MARKDOWN:
        text = text.replace(character, entity)
    return _flat(text)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _flat(text))
