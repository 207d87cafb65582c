"""A table says the same in all its forms, whatever its names hold."""

import csv
import html
import io
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dastune.report.table import Table

ODD = "a&b <i>|$x_1^2 ~ 50 % #{y} \\frac [z] *"
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
COLUMNS = ("method", "size", "accuracy, %")
ROWS = (("das", "10¹³", "95.1 ± 0.3\n(n=3)"), ("[bold]", "-", f"{MINUS}1.0"), ("*", ODD, f"≤ 3 {TIMES} 4"))

# what TeX prints for a control sequence or a group, by TeX's own rules
PRINTED = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textbar{}": "|",
    r"$\pm$": "±",
    r"$\times$": TIMES,
    r"$\leq$": "≤",
    r"$\geq$": "≥",
    "$-$": MINUS,
    "$<$": "<",
    "$>$": ">",
    "{[}": "[",
    "{*}": "*",
    **{rf"\textsuperscript{{{digit}}}": sign for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{rf"\{sign}": sign for sign in "&%$#_{}"},
}


def printed(source):
    """Return what TeX prints for `source`, which must hold nothing that TeX would take for a command."""
    out = ""
    while source:
        known = next((name for name in PRINTED if source.startswith(name)), None)
        if known is None:
            assert source[0] not in r"\{}$&#^_~%[*", source
            out, source = out + source[0], source[1:]
        else:
            out, source = out + PRINTED[known], source[len(known) :]
    return out


def tex_rows(source):
    """Return the rows of a tabular as TeX prints them."""
    body = source[source.index(r"\toprule") + 8 : source.index(r"\bottomrule")]
    lines = [line.strip() for line in body.replace(r"\midrule", "").strip().splitlines() if line.strip()]
    assert all(line.endswith(r" \\") for line in lines)
    return [[printed(cell.strip()) for cell in re.split(r"(?<!\\)&", line[:-3])] for line in lines]


def flat(rows):
    return [[" ".join(text.split()) for text in row] for row in rows]


def test_latex():
    source = Table("t", f"Title {ODD}", COLUMNS, ROWS, note=ODD).latex()
    opened, closed = (re.findall(rf"\\{word}{{([a-z]+)}}", source) for word in ("begin", "end"))
    assert opened == closed[::-1] == ["table", "tabular"]
    assert r"\begin{tabular}{lrr}" in source
    assert tex_rows(source) == flat([COLUMNS, *ROWS])
    assert printed(re.search(r"\\caption{(.*)}\n", source)[1]) == f"Title {ODD}"
    assert printed(re.search(r"\\footnotesize (.*)\n", source)[1]) == ODD
    assert source.isascii()


def test_latex_groups():
    source = Table("t", "T", COLUMNS, ROWS, groups=[("a_b", 2)]).latex()
    assert r"& \multicolumn{2}{c}{a\_b} \\" in source


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_latex_and_markdown_of_any_name(name):
    table = Table("t", "T", ("m", "v"), [(name, "1")])
    shown = "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in " ".join(name.split())
    )
    assert tex_rows(table.latex())[1][0] == shown
    line = table.markdown().splitlines()[4]
    assert html.unescape(line.split("|")[1]).strip() == shown.strip()
    assert line.count("|") == 3
    assert "<" not in line


def test_a_row_cannot_be_read_as_an_argument_of_the_one_before():
    for name in ("[2cm]", "*"):
        assert not re.search(r"\\\\\s*[\[*]", Table("t", "T", ("m",), [("a",), (name,)]).latex())


def test_markdown():
    text = Table("t", "Title", COLUMNS, ROWS, note="Note.", groups=[("a|b", 2)]).markdown()
    lines = text.splitlines()
    cells = [[html.unescape(cell.strip()) for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert lines[0] == "Title"
    assert lines[-1] == "Note."
    assert cells == [["method", "a|b: size", "a|b: accuracy, %"], ["---", "---:", "---:"], *flat(ROWS)]


def test_csv_has_the_numbers_where_there_are_some():
    frame = pd.DataFrame({"method": ["a,b"], "mean": [0.1 + 0.2], "n": [None]})
    rows = list(csv.reader(io.StringIO(Table("t", "T", COLUMNS, ROWS, frame=frame).csv())))
    assert rows == [["method", "mean", "n"], ["a,b", "0.30000000000000004", ""]]


def test_csv_of_the_shown_texts():
    rows = list(csv.reader(io.StringIO(Table("t", "T", COLUMNS, ROWS).csv())))
    assert rows == [[*COLUMNS], *flat(ROWS)]


def test_html():
    page = Table("t", "T", COLUMNS, ROWS, note="<b>", groups=[("g", 2)]).html()
    assert "<td>95.1 ± 0.3<small>(n=3)</small></td>" in page
    assert '<th colspan="2" scope="colgroup">g</th>' in page
    assert html.escape(ODD) in page
    assert '<p class="note">&lt;b&gt;</p>' in page
    assert re.findall(r'href="([^"]*)"', page) == ["tables/t.csv", "tables/t.md", "tables/t.tex"]


def test_files_are_what_the_page_links_to():
    table = Table("t", "T", COLUMNS, ROWS)
    made = table.files()
    assert [*made] == re.findall(r'href="([^"]*)"', table.html())
    assert [*made.values()] == [table.csv(), table.markdown(), table.latex()]


@pytest.mark.parametrize("text", ["\ud800", "\x1b[31m", "a\x00b"])
def test_control_characters_are_written_out(text):
    table = Table("t", text, ("m",), [(text,)])
    assert (table.markdown() + table.latex()).replace("\n", "").isprintable()


def test_names_are_no_markdown():
    """Whatever Markdown would take for a link, emphasis, code or the end of a cell is an entity of the character."""
    name = "[a](b) *c* `d` e\\|f <g> & _h_ __i__ j_k"
    line = Table("names", "Names", ["method", "n"], [[name, "1"]]).markdown().splitlines()[-1]
    assert not set("[]*`\\<") & set(line)
    assert html.unescape(line) == f"| {name} | 1 |"
    assert line.count("|") == 3
    assert re.findall(r"\w*_\w*", line) == ["j_k"]
