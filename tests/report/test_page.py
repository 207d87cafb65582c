"""The page: complete, honest where the study is not, the same twice, and safe with a stranger's folder."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dastune.errors import UserError
from dastune.folder import StudyFolder, append_line
from dastune.report.page import write_report
from dastune.report.stats import cells

FILES = {
    "index.html", "tables.csv", "tables.md", "figure9.png", "figure9.svg", "figure9.pdf", "noise_mass.png",
    "noise_mass.svg", "noise_mass.pdf",
}  # fmt: skip
VOID = {"meta", "path", "use"}


class Outline(HTMLParser):
    """Checks that tags nest, and keeps tags, ids and references."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.references = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "action", "data", "xlink:href"):
                self.references.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def outline(page):
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


def page_of(folder):
    return write_report(folder).read_text()


def test_a_whole_study(make_study):
    folder = make_study()
    page = page_of(folder)
    assert {path.name for path in folder.report.iterdir()} == FILES
    assert "24 of 24 searches and 48 of 48 final trainings are in." in page
    assert "Partial" not in page
    assert "Nothing failed and nothing is missing." in page
    for cell in cells(folder.search_rows(), folder.final_rows()):
        assert f"{100 * cell.mean:.1f} ± {100 * cell.sd:.1f}" in page
        assert f"{100 * cell.interval[0]:.1f} to {100 * cell.interval[1]:.1f}" in page
    assert "At 4 noise ops, das reaches a mean test accuracy of" in page
    assert "rotate 75 %, pixel_shuffle (noise) 25 %" in page
    assert "dastune report digits" in page
    assert "versions.numpy" in page


def test_markup_is_sound_and_nothing_comes_from_elsewhere(make_study):
    found = outline(page_of(make_study()))
    assert found.tags.count("svg") == 2
    assert len(found.ids) == len(set(found.ids))
    inside = {f"#{name}" for name in found.ids}
    assert {reference for reference in found.references if reference.startswith("#")} <= inside
    assert {reference for reference in found.references if not reference.startswith("#")} == FILES - {"index.html"}
    assert "script" not in found.tags
    assert "img" not in found.tags


def test_every_clip_and_gradient_is_found(make_study):
    page = page_of(make_study())
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(outline(page).ids)
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_twice_the_same_bytes(make_study):
    folder = make_study()
    write_report(folder)
    first = {path.name: path.read_bytes() for path in folder.report.iterdir()}
    write_report(folder)
    assert {path.name: path.read_bytes() for path in folder.report.iterdir()} == first


def test_a_running_study_with_a_failed_search(make_study):
    page = page_of(make_study(without=("none-n4-s2",), failed=("das-n4-s0",)))
    assert "Partial: 22 of 24 searches and 44 of 48 final trainings are in; 1 failed." in page
    assert "Failed searches, left out of every number: 1" in page
    assert "<li>das-n4-s0</li>" in page
    assert "<li>none-n4-s2</li>" in page
    assert "<li>none-n4-s2, training seed 1</li>" in page
    assert "n=2, 1 failed" in page
    assert "the answer may change" in page


def test_a_single_seed(make_study):
    page = page_of(make_study(seeds=(1,)))
    assert "one search seed, so no spread" in page
    assert not re.search(r"\bnan\b", page, flags=re.IGNORECASE)


@pytest.mark.parametrize("with_study", [True, False])
def test_an_empty_folder(make_study, tmp_path, with_study):
    folder = make_study(methods=()) if with_study else StudyFolder(tmp_path / "nothing")
    page = page_of(folder)
    outline(page)
    assert "nothing to compare" in page
    assert ("0 of 24 searches" if with_study else "cannot be read from study.yaml") in page


def test_names_are_data(make_study, search_row, final_row):
    folder = make_study(name="a & b <i>", methods=("das",))
    odd = '<img src="http://x" onerror=y>'
    folder.add_search(replace(search_row(odd), policy="policies/none.json"))
    folder.add_final(final_row(0.5, odd))
    page = page_of(folder)
    found = outline(page)
    assert "img" not in found.tags
    assert "b" not in found.tags
    assert "i" not in found.tags
    assert "&lt;img src=&quot;http://x&quot; onerror=y&gt;" in page


def test_policies_outside_the_folder_or_damaged(make_study, search_row):
    folder = make_study()
    folder.add_search(replace(search_row(seed=8), policy="../../elsewhere.json"))
    folder.add_search(replace(search_row(seed=9), policy="policies/none.json"))
    page = page_of(folder)
    assert "its policy is outside this folder and was not read" in page
    assert "its policy file is missing or cannot be read" in page


def test_rows_of_another_version(make_study):
    folder = make_study()
    append_line(folder.finals, {"search_id": "x", "train_seed": 0, "new_field": 1})
    with pytest.raises(UserError, match=r"fields.*new_field"):
        write_report(folder)


def test_colours_follow_the_study_not_the_clock(make_study):
    one = make_study(name="one")
    other = make_study(name="other")
    for path in (other.searches, other.finals):
        path.write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))
    write_report(one)
    write_report(other)
    assert (one.report / "figure9.png").read_bytes() == (other.report / "figure9.png").read_bytes()


def test_needs_none_of_the_heavy_guests():
    code = "import sys, json, dastune.report.page; print(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    assert not modules & {"torch", "ray", "mlflow", "optuna", "matplotlib.pyplot"}
