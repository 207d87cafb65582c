"""The section of comparisons: numbers of its tables against scipy, and studies that have little to compare."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dastune.folder import StudyFolder
from dastune.report.comparison_tables import MOST_ROWS
from dastune.report.results import read_results
from dastune.report.sections.comparisons import comparisons, comparisons_tables

METHODS = ("das", "auto_augment", "random", "none")
LEVELS = (0, 4, 8)


@pytest.fixture
def study(tmp_path, search_row, final_row):
    """Return a function that writes a study of random accuracies, and its results with them, by (method, level)."""

    def make(methods=METHODS, levels=LEVELS, seeds=4, trainings=2):
        folder, rng, at = StudyFolder(tmp_path / "study"), np.random.default_rng(1), {}
        folder.root.mkdir()
        for method in methods:
            for level in levels:
                planted = at[method, level] = rng.uniform(0.8, 0.9, (seeds, trainings))
                for seed in range(seeds):
                    folder.add_search(search_row(method, level, seed))
                    for train_seed in range(trainings):
                        folder.add_final(final_row(float(planted[seed, train_seed]), method, level, seed, train_seed))
        return read_results(folder), at

    return make


def numbers(table):
    return pd.read_csv(StringIO(table.csv()), keep_default_na=False, na_values=[""])


def test_the_tables_and_their_order(study):
    results, _ = study()
    assert [table.name for table in comparisons_tables(results)] == [
        "comparisons_8", "comparisons_4", "comparisons_0", "slopes", "slope_comparisons", "variance_components",
        "detectable",
    ]  # fmt: skip


def test_every_number_of_a_comparison_is_scipys(study):
    results, at = study()
    for level, table in zip((8, 4, 0), comparisons_tables(results), strict=False):
        frame = numbers(table)
        assert len(frame) == len(table.rows) == 5
        for (_, row), shown in zip(frame.iterrows(), table.rows, strict=True):
            x, y = (at[row[side], level].mean(1) for side in ("one", "other"))
            expected = stats.ttest_rel(x, y)
            low, high = expected.confidence_interval()
            assert (row["p"], row["difference_low"], row["difference_high"]) == pytest.approx(
                (expected.pvalue, low, high)
            )
            assert row["p_sd"] == pytest.approx(stats.levene(x, y, center="median").pvalue)
            assert shown[0] == f"{row['one']} vs {row['other']}"
            assert shown[1] == "{}\n{} to {}".format(
                *(f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}") for value in (np.mean(x - y), low, high))
            ).replace("+0.0", "0.0").replace("\N{MINUS SIGN}0.0", "0.0")
            assert shown[3].endswith(f"{100 * stats.norm.cdf(row['effect'] / np.sqrt(2)):.0f} %")
        # Holm, of 4 comparisons with controls and of one between searches
        smallest = frame[:4]["p"].idxmin()
        assert frame["p_holm"][smallest] == pytest.approx(min(1, 4 * frame["p"][smallest]))
        assert frame["p_holm"][4] == frame["p"][4]
        assert "All: paired, n=4. Holm's correction over 4 tests of searches against controls, 1 test of" in table.note


def test_slopes_and_components_are_those_of_the_rows(study):
    results, at = study()
    tables = {table.name: table for table in comparisons_tables(results)}
    for _, row in numbers(tables["slopes"]).iterrows():
        accuracy = [at[row["method"], level].mean(1) for level in LEVELS]
        assert row["mean_slope"] == pytest.approx(stats.linregress(LEVELS, [x.mean() for x in accuracy]).slope)
        assert row["sd_slope"] == pytest.approx(stats.linregress(LEVELS, [x.std(ddof=1) for x in accuracy]).slope)
        assert row["levels"] == "0 4 8"
    for _, row in numbers(tables["variance_components"]).iterrows():
        by_search = at[row["method"], row["noise_level"]]
        within = by_search.var(axis=1, ddof=1).mean()
        assert row["training_sd"] == pytest.approx(np.sqrt(within))
        assert row["search_sd"] ** 2 == pytest.approx(max(by_search.mean(1).var(ddof=1) - within / 2, 0))


def test_detectable_differences_are_of_the_best_search(study):
    results, at = study()
    table = comparisons_tables(results)[-1]
    best = max(("das", "auto_augment"), key=lambda method: at[method, 8].mean())
    assert f"{best} against others at 8 noise ops" in table.title
    for _, row in numbers(table).iterrows():
        x, y = (at[row[side], 8].mean(1) for side in ("first", "second"))
        shift = row["detectable"] / stats.sem(x - y)
        assert stats.nct.sf(stats.t.isf(0.025, 3), 3, shift) == pytest.approx(0.8)
        assert row["detectable_holm"] > row["detectable"] or row["tests"] == 1


def test_no_table_of_what_is_not_there(study):
    assert [table.name for table in comparisons_tables(study(levels=(4,), trainings=1)[0])] == [
        "comparisons_4",
        "detectable",
    ]


@pytest.mark.parametrize("methods", [(), ("none", "random"), ("das",)])
def test_a_study_with_nothing_to_compare_has_no_comparisons(study, methods):
    results, _ = study(methods=methods, levels=(0,), trainings=1)
    assert comparisons_tables(results) == []
    assert comparisons(results) == ""


def test_one_seed(study):
    results, _ = study(seeds=1, trainings=1)
    markup = comparisons(results)
    assert "one seed" in markup
    assert not re.search(r"\b(nan|None|inf)\b", markup)
    assert "detectable" not in [table.name for table in comparisons_tables(results)]


def test_the_highest_level_is_open_and_the_others_are_folded(study):
    markup = comparisons(study()[0])
    assert "<h3>Comparisons at 8 noise ops</h3>" in markup
    for level in (0, 4):
        assert f"<details><summary>Comparisons at {level} noise ops</summary>" in markup


def test_many_comparisons_are_cut_on_the_page_alone(study):
    results, _ = study(methods=[*(f"search{place}" for place in range(14)), "none"], levels=(0,), trainings=1)
    table = comparisons_tables(results)[0]
    assert len(table.rows) == MOST_ROWS
    frame = numbers(table)
    assert len(frame) == 14 + 14 * 13 / 2
    shown = {row[0].split("\n")[0] for row in table.rows}
    smallest = frame.nsmallest(MOST_ROWS, "p")
    assert shown == {f"{row['one']} vs {row['other']}" for _, row in smallest.iterrows()}
    assert f"the CSV has all {len(frame)}" in table.note


def test_names_are_data(study):
    results, _ = study(methods=["<img src=x>", "none"], levels=(0, 4))
    found = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append(tag)

    Tags().feed(comparisons(results))
    assert "img" not in found
    assert "table" in found


def test_damaged_studies(make_study):
    """Nothing varies between the seeds' differences here, searches failed, and rows are missing."""
    folder = make_study(without=("das-n4-s0", "none-n0-s1"), failed=("random-n4-s2", "rand_augment-n0-s0"))
    results = read_results(folder)
    for partial in (results, replace(results, plan=None)):
        markup = comparisons(partial)
        assert "same in all seeds" in markup
        assert not re.search(r"\b(nan|None|inf)\b", markup)
        for table in comparisons_tables(partial):
            assert table.files()
