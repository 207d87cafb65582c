"""A report over the share of the training data removed: a study over noise ops, told as one, has the same numbers."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from dastune.config import yaml_file
from dastune.folder import SearchRow, write_atomic
from dastune.report.axis import NOISE, REMOVED
from dastune.report.combined import table_frame
from dastune.report.figures import accuracy_figure
from dastune.report.page import SECTIONS, write_report
from dastune.report.plan import axis_of, read_plan, rows_in_order
from dastune.report.results import read_results
from dastune.report.several import write_comparison
from dastune.report.stats import cells
from dastune.report.tables import console

LEVELS = (0, 30, 90)
STUDY = """
name: {name}
data: {{name: digits{removed}}}
space: {{ops: [{{op: rotate}}, {{op: invert}}], noise: {{ops: [], levels: {levels}}}}}
methods: {{das: {{}}, rand_augment: {{}}, random: {{}}, none: {{}}}}
seeds: {{search: [0, 1, 2], final: [0, 1]}}
"""


def retold(folder):
    """Turn the rows of a study over noise ops into those of one over what is removed; return it."""
    for path in (folder.searches, folder.finals):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["removed_percent"], row["noise_level"] = row["noise_level"], 0
            for key in {"id", "search_id", "policy"} & row.keys():
                row[key] = re.sub(r"-n(\d+)-s", r"-r\1-s", row[key])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in folder.policies.iterdir():
        path.rename(path.with_name(re.sub(r"-n(\d+)-s", r"-r\1-s", path.name)))
    removed = f", removed_percent: {list(LEVELS)}"
    write_atomic(folder.study, STUDY.format(name=folder.root.name, removed=removed, levels=[0]))
    return folder


@pytest.fixture
def twins(make_study):
    """Return a study over noise ops, and one over the share removed with the same results."""
    noise, removed = (make_study(name, levels=LEVELS) for name in ("noise", "removed"))
    write_atomic(noise.study, STUDY.format(name="noise", removed="", levels=list(LEVELS)))
    return noise, retold(removed)


def text_of(markup):
    """Return what is to be read on a page: its texts and labels, without its study file."""
    markup = re.sub(r"<(style|script)>.*?</\1>", "", markup, flags=re.DOTALL)
    labels = " ".join(re.findall(r'(?:aria-label|data-tips)="([^"]*)"', markup))
    return f"{re.sub('<[^>]*>', ' ', markup)} {labels}".partition("study.yaml")[0]


def test_the_numbers_are_those_of_the_twin(twins):
    noise, removed = map(read_results, twins)
    assert (noise.axis, removed.axis) == (NOISE, REMOVED)
    assert removed.cells == noise.cells
    assert [cell.level for cell in removed.cells] == [*LEVELS] * 4
    assert removed.families == noise.families
    assert removed.components == noise.components
    assert removed.state.complete
    for one, other in zip(noise.found, removed.found, strict=True):
        assert (one.method, one.level, one.by_seed) == (other.method, other.level, other.by_seed)
    assert removed.best == noise.best
    assert removed.best.cell.level == 90


def test_slopes_are_of_ten_percent(twins):
    found = read_results(twins[1])
    for trend in found.trends:
        its = [cell for cell in found.cells if cell.method == trend.method]
        for seed, slope in trend.slopes.items():
            [by_least_squares, _] = np.polyfit(LEVELS, [cell.accuracies[seed] for cell in its], 1)
            assert slope == pytest.approx(10 * by_least_squares, abs=1e-12)
        assert trend.mean == pytest.approx(np.mean(list(trend.slopes.values())), abs=1e-12)
    [sentence] = [text for text in found.answer.findings if text.startswith("Each ")]
    # planted: das loses 0.2 points a level
    assert sentence.startswith(
        "Each 10 % more of the data removed changes the test accuracy of das by \u22122.00 points"
    )
    assert found.answer.findings[0].startswith("At 90 % of the data removed, das reaches a mean test accuracy of ")


def test_the_page_says_nothing_of_noise_levels(twins):
    pages = []
    for folder in twins:
        write_report(folder)
        pages.append(text_of((folder.report / "index.html").read_text()))
    noise, removed = pages
    told = r"\d+ noise ops?\b|number of noise ops|[Nn]oise level|[Ee]ach noise op|\d ops\b|noise_level|Noise ops in the"
    assert len(set(re.findall(told, noise))) > 6
    assert re.findall(told, removed) == []
    for words in (
        "Test accuracy over the share of the training data removed",
        "90 % of the data removed",
        "at 0, 30, 90 %",
    ):
        assert words in removed
    report = twins[1].report
    assert all((report / f"figure10.{ending}").stat().st_size for ending in ("png", "svg", "pdf"))
    assert {path.stem for path in report.glob("*.svg")}.isdisjoint({"figure9", "noise_mass"})
    assert not list((report / "tables").glob("noise*"))
    assert "noise mass" not in (report / "tables.md").read_text()


def frames_of(results):
    """Return all tables of the page as their CSV files have them."""
    tables = [table for section in SECTIONS for table in section.tables(results)]
    frames = {table.name: pd.read_csv(io.StringIO(table.csv())) for table in tables}
    return frames | {"tables": table_frame(results.cells, results.found, results.axis)}


def test_tables_are_those_of_the_twin_but_for_the_column(twins):
    noise, removed = (frames_of(read_results(folder)) for folder in twins)
    assert noise.keys() - removed.keys() == {"noise"}
    for name in removed.keys() - {"deviations"}:
        one, other = noise[name], removed[name]
        if name in ("slopes", "slope_comparisons"):
            slopes = [column for column in one if re.match("mean_slope|sd_slope|difference|error", column)]
            one[slopes] *= 10
        assert ("removed_percent" in other) == ("noise_level" in one)
        assert "noise_level" not in other
        one = one.rename(columns={"noise_level": "removed_percent"}).replace({"noise": "removed"})
        pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-6, obj=name)


def test_the_figure_is_over_percent(twins):
    figure = accuracy_figure(read_results(twins[1]).cells, REMOVED)
    [axes] = figure.axes
    assert axes.get_xlabel() == "Training data removed (%)"
    assert list(axes.get_xticks()) == list(LEVELS)


def test_several_studies_have_a_section_an_axis(twins, tmp_path):
    page = write_comparison(twins, tmp_path / "both").read_text()
    for axis in (NOISE, REMOVED):
        assert page.count(f"<h2>Test accuracy over the {axis.number}</h2>") == 1
    assert page.count("<svg") == 2
    assert len(set(ids := re.findall(r'\bid="([^"]*)"', page))) == len(ids)
    for study, level in (("noise", "0 noise ops"), ("removed", "0 % of the data removed")):
        assert f"{study}: digits, not said, {level}" in page
    frame = pd.read_csv(tmp_path / "both" / "tables" / "table11.csv")
    assert list(frame["noise_level"].notna()) == list(frame["study"] == "noise")
    assert list(frame["removed_percent"].notna()) == list(frame["study"] == "removed")


def test_the_terminals_table(twins):
    out, plan = io.StringIO(), read_plan(twins[1].study)
    searches, finals = rows_in_order(twins[1], plan)
    Console(file=out, width=120).print(console(cells(searches, finals, REMOVED), plan, REMOVED))
    text = out.getvalue()
    assert "Test accuracy by share of the training data removed" in text
    assert re.search(r"method +┃ +0 % ┃ +30 % ┃ +90 %", text)


def test_what_is_varied_without_a_plan(twins, search_row):
    """Rows say it as well, where study.yaml cannot be read; those of older versions have noise levels alone."""
    for folder, axis in zip(twins, (NOISE, REMOVED), strict=True):
        folder.study.write_text("damaged: [")
        found = read_results(folder)
        assert (found.plan, found.axis) == (None, axis)
        assert [cell.level for cell in found.cells] == [*LEVELS] * 4
    assert axis_of(None, []) is NOISE
    older: list[SearchRow] = [search_row(level=level) for level in (0, 4)]
    assert axis_of(None, older) is NOISE


@pytest.mark.parametrize(
    ("removed", "levels", "axis"),
    [
        ("", [0, 4], NOISE),
        (", removed_percent: [0]", [0], NOISE),
        (", removed_percent: [30]", [0, 4], NOISE),
        (", removed_percent: [30]", [0], REMOVED),
        (", removed_percent: []", [0], NOISE),
    ],
)
def test_what_a_plan_varies(removed, levels, axis, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(name="x", removed=removed, levels=levels))
    assert yaml_file.read(path)["data"]["name"] == "digits"
    assert read_plan(path).axis is axis


@pytest.mark.parametrize("data", ["null", "3", "[1]", "{removed_percent: many}", "{removed_percent: [{}]}"])
def test_a_study_file_of_anybodys(data, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"{STUDY.format(name='x', removed='', levels=[0, 4])}\n".replace("{name: digits}", data))
    plan = read_plan(path)
    assert plan is None or plan.axis is NOISE
