"""Tables hold the cells' numbers, in every form."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from dastune.report.combined import markdown, table_frame, write_csv
from dastune.report.stats import cells
from dastune.report.tables import console, duration, percent


@pytest.fixture
def found(search_row, final_row):
    searches = [search_row(method, level, seed) for method in ("das", "none") for level in (0, 4) for seed in (0, 1)]
    searches.append(search_row("das", 4, 2, status="failed"))
    finals = [
        final_row(0.94 + 0.01 * row.search_seed, row.method, row.noise_level, row.search_seed) for row in searches
    ]
    return cells(searches, finals)


def test_frame(found):
    frame = table_frame(found)
    assert list(frame["method"]) == ["das", "das", "none", "none"]
    assert list(frame["noise_level"]) == [0, 4, 0, 4]
    np.testing.assert_allclose(frame["test_accuracy_mean"], 0.945)
    np.testing.assert_allclose(frame["test_accuracy_sd"], 0.01 / np.sqrt(2))
    assert list(frame["failed"]) == [0, 1, 0, 0]
    assert len(table_frame([])) == 0


def test_csv_keeps_every_digit(found, tmp_path):
    write_csv(found, [], tmp_path / "tables.csv")
    read = pd.read_csv(tmp_path / "tables.csv")
    assert list(read["test_accuracy_mean"]) == [cell.mean for cell in found]
    by_seed = dict(pair.split(":") for pair in read["test_accuracy_by_seed"][0].split())
    assert {int(seed): float(value) for seed, value in by_seed.items()} == found[0].accuracies


def test_markdown(found):
    text = markdown(found)
    assert "| das | 94.5 ± 0.7 (n=2) | 10.0 s | 94.5 ± 0.7 (n=2, 1 failed) | 10.0 s |" in text
    assert "| none | 10.5 / 20.0 | 10.5 / 20.0 |" in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(widths[:4]) == {6}
    assert set(widths[4:]) == {4}


def test_markdown_of_one_seed_and_of_odd_names(search_row, final_row):
    odd = "a|b <script>\n# x"
    text = markdown(cells([search_row(odd)], [final_row(0.9, odd)]))
    assert "| a&#124;b &lt;script> # x | 90.0 (n=1) | 10.0 s |" in text


def test_a_cell_that_is_not_in_yet(search_row, final_row):
    text = markdown(cells([search_row("a", 0), search_row("b", 4)], [final_row(0.9, "a", 0)]))
    assert "| a | 90.0 (n=1) | 10.0 s | - | - |" in text
    assert "| b | - | - | - (n=0) | 10.0 s |" in text


def test_console(found):
    out = io.StringIO()
    Console(file=out, width=100).print(console(found))
    assert "94.5 ± 0.7" in out.getvalue()
    assert "n=2, 1 failed; 10.0 s" in out.getvalue()


def test_console_does_not_read_markup_in_names(search_row):
    out = io.StringIO()
    Console(file=out, width=100).print(console(cells([search_row("[bold]x[/]")], [])))
    assert "[bold]x[/]" in out.getvalue()


def test_numbers_for_people():
    assert [duration(value) for value in (None, 10.8, 600.0, 86400.0)] == ["-", "10.8 s", "10.0 min", "24.0 h"]
    assert [percent(value) for value in (None, 0.9412)] == ["-", "94.1"]
