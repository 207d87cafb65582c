"""One table of a report in four forms: for the page, and as CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from dastune.report.markup import Markup, element, joined, table
from dastune.report.pipes import escaped, flat, pipes

SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹"
FOLDER = "tables"  # of the files, beside the page
FORMS = {"csv": "CSV", "md": "Markdown", "tex": "LaTeX"}

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": "$-$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "<": "$<$",
    ">": "$>$",
    # after the \\ of the row before, these two would be read as its arguments
    "[": "{[}",
    "*": "{*}",
    **{digit: rf"\textsuperscript{{{power}}}" for power, digit in enumerate(SUPERSCRIPT)},
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
        """Return the table for the page, without its title, with the note and its files under it.

        A line break in a cell is kept.
        """
        head = [[element("th", title, scope="col") for title in self.columns]]
        if self.groups:
            over = [element("th", title, colspan=str(count), scope="colgroup") for title, count in self.groups]
            head.insert(0, [element("th"), *over])
        body = [[_broken(text) for text in row] for row in self.rows]
        links = [element("a", form, href=f"{FOLDER}/{self.name}.{extension}") for extension, form in FORMS.items()]
        files = element("p", "This table as ", joined(links, ", "), class_="files")
        return joined([table(head, body), *([element("p", self.note, class_="note")] if self.note else []), files])

    def files(self) -> dict[str, str]:
        """Return the contents of its files, by their paths beside the page."""
        texts = (self.csv(), self.markdown(), self.latex())
        return {f"{FOLDER}/{self.name}.{form}": text for form, text in zip(FORMS, texts, strict=True)}

    def csv(self) -> str:
        """Return the numbers, an unknown one as an empty field; lines end in a line feed."""
        frame = self.frame
        if frame is None:
            frame = pd.DataFrame([[flat(text) for text in row] for row in self.rows], columns=self._flat_columns())
        return str(frame.to_csv(index=False, lineterminator="\n"))

    def markdown(self) -> str:
        """Return title, pipe table and note."""
        note = f"\n{escaped(self.note)}\n" if self.note else ""
        return f"{escaped(self.title)}\n\n{pipes([self._flat_columns(), *self.rows])}{note}"

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


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in flat(text))
