"""Published policies are shown, and nowhere beside what a study compares."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from dastune.folder import write_atomic
from dastune.policy.references import REFERENCES
from dastune.report.page import write_report
from dastune.report.plan import read_plan, rows_in_order
from dastune.report.stats import cells
from dastune.report.tables import console

SOURCE = REFERENCES["aa-svhn"].source


@pytest.fixture
def study_of(make_study, search_row, final_row):
    """Return a function that writes a study of `methods` and the published policy `theirs`, better than all others."""

    def make(methods):
        folder = make_study(methods=methods, seeds=(0, 1))
        listed = ", ".join(f"{method}: {{}}" for method in methods)
        write_atomic(
            folder.study,
            f"methods: {{theirs: {{method: published, policy: aa-svhn}}, {listed}}}\n"
            "space: {noise: {levels: [0, 4]}}\nseeds: {search: [0, 1], final: [0, 1]}\n",
        )
        for seed in (0, 1):
            folder.add_search(search_row("theirs", 0, seed, "done", children=0))
            for train_seed in (0, 1):
                folder.add_final(final_row(0.99 + 0.002 * seed, "theirs", 0, seed, train_seed))
        return folder

    return make


def sections_of(page):
    """Title -> the text of the section, tags left out."""
    parts = re.split(r"<h2>(.*?)</h2>", page)
    return dict(zip(parts[1::2], (re.sub(r"<[^>]*>", " ", part) for part in parts[2::2]), strict=True))


@pytest.fixture(scope="module")
def kept():
    """The report that several tests look at, once it is written."""
    return []


@pytest.fixture
def reported(study_of, kept):
    if not kept:
        folder = study_of(("das", "none"))
        write_report(folder)
        kept.append(folder)
    return kept[0]


def test_the_page_has_them_in_a_table_of_their_own(reported):
    page = (reported.report / "index.html").read_text()
    assert "10 of 10 searches and 20 of 20 final trainings are in." in page
    found = sections_of(page)
    theirs = found["Published policies, found elsewhere"]
    assert "theirs (external)" in theirs
    assert "aa-svhn" in theirs
    assert SOURCE in theirs
    assert "99.1 ± 0.1 (n=2)" in theirs
    elsewhere = [title for title, text in found.items() if "theirs" in text]
    assert elsewhere == ["Published policies, found elsewhere", "Costs", "Provenance"]
    assert "theirs" not in page[: page.index("<h2>")]
    assert all("theirs:" not in label for label in re.findall(r'aria-label="([^"]*)"', page))
    assert "figure9" in found["Test accuracy over the number of noise ops"]


def test_files_keep_them_apart(reported):
    folder = reported
    assert set(pd.read_csv(folder.report / "tables.csv")["method"]) == {"das", "none"}
    (row,) = pd.read_csv(folder.report / "external.csv").to_dict("records")
    assert (row["method"], row["policy"], row["source"]) == ("theirs", "aa-svhn", SOURCE)
    assert (row["noise_level"], row["n"], row["trainings"]) == (0, 2, 4)
    assert row["test_accuracy_mean"] == pytest.approx(0.991)
    assert row["test_accuracy_sd"] == pytest.approx(np.sqrt(2) * 0.001)
    own, theirs = (folder.report / "tables.md").read_text().split("Published policies, found elsewhere")
    assert "theirs" not in own
    assert f"| theirs (external) | aa-svhn | 99.1 ± 0.1 (n=2) | {SOURCE} |" in theirs
    assert "| method | policy | test accuracy, % | what it is |" in theirs


def test_the_figures_are_as_without_them(reported, make_study):
    without = make_study(name="without", methods=("das", "none"), seeds=(0, 1))
    write_report(without)
    for name in ("figure9.png", "noise_mass.png"):
        assert (reported.report / name).read_bytes() == (without.report / name).read_bytes()


def test_the_terminal_shows_them_under_the_others(study_of):
    folder = study_of(("das", "none"))
    plan = read_plan(folder.study)
    found = cells(*rows_in_order(folder, plan))
    out = io.StringIO()
    Console(file=out, width=200).print(console(found, plan))
    own, theirs = out.getvalue().split("Published policies, found elsewhere")
    assert "theirs" not in own
    assert "das" in own
    assert "theirs (external)" in theirs
    assert SOURCE in theirs


@pytest.mark.parametrize(("methods", "text"), [(("none", "random"), "Only controls"), ((), "nothing is compared")])
def test_a_study_of_nothing_to_compare_makes_a_page(study_of, methods, text):
    folder = study_of(methods)
    page = write_report(folder).read_text()
    assert text in page
    assert "theirs (external)" in page
    assert "Nothing failed and nothing is missing." in page
    out = io.StringIO()
    plan = read_plan(folder.study)
    Console(file=out, width=200).print(console(cells(*rows_in_order(folder, plan)), plan))
    assert ("Test accuracy by number of noise ops" in out.getvalue()) == bool(methods)


def test_a_study_of_published_policies_has_no_figures_and_nothing_empty(study_of):
    folder = study_of(())
    page = write_report(folder).read_text()
    assert {path.name for path in folder.report.iterdir()} == {
        *("index.html", "tables.md", "external.csv", "tables", "SHA256SUMS"),
    }
    assert list(sections_of(page)) == [
        *("Published policies, found elsewhere", "Costs", "Provenance", "Failed or missing"),
    ]
    assert "2 of 2 searches and 4 of 4 final trainings are in." in page
    assert "<svg" not in page
    assert "No search is in yet" not in page
    assert "No results yet" not in page
    assert "noise op" not in sections_of(page)["Published policies, found elsewhere"]
    assert (folder.report / "tables.md").read_text().startswith("Published policies, found elsewhere. ")


def test_what_is_to_come_has_its_place_before_it_is_in(study_of):
    folder = study_of(("das",))
    lines = folder.searches.read_text().splitlines(keepends=True)
    folder.searches.write_text("".join(line for line in lines if '"theirs"' in line))
    folder.finals.write_text("")
    page = write_report(folder).read_text()
    assert "No search is in yet." in page
    assert "figure9.svg" in page


def test_without_a_study_file_the_name_tells(search_row, final_row):
    found = cells([search_row("published")], [final_row(0.99, "published")])
    out = io.StringIO()
    Console(file=out, width=200).print(console(found))
    assert "published (external)" in out.getvalue()
