"""The page: complete, honest where the study is not, the same twice, and safe with a stranger's folder."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from dastune.errors import UserError
from dastune.folder import StudyFolder, append_line
from dastune.report.page import SECTIONS, write_report
from dastune.report.results import read_results
from dastune.report.stats import cells

VOID = {"meta", "path", "use", "img", "br"}


class Outline(HTMLParser):
    """Checks that tags nest, and keeps tags, ids, references and scripts."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.scripts = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
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

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def outline(page):
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


def page_of(folder):
    return write_report(folder).read_text()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def module_page():
    """Pages that several tests only look at, by name."""
    return {}


@pytest.fixture
def whole(make_study, module_page):
    if "whole" not in module_page:
        folder = make_study()
        module_page["whole"] = (folder, page_of(folder))
    return module_page["whole"]


def test_a_whole_study(whole):
    folder, page = whole
    assert "24 of 24 searches and 48 of 48 final trainings are in." in page
    assert "Partial" not in page
    assert "Nothing failed and nothing is missing." in page
    for cell in cells(folder.search_rows(), folder.final_rows()):
        assert f"{100 * cell.mean:.1f} ± {100 * cell.sd:.1f}" in page
        assert f"{100 * cell.interval[0]:.1f} to {100 * cell.interval[1]:.1f}" in page
    assert "At 4 noise ops, das reaches a mean test accuracy of" in page
    assert "dastune report digits" in page
    assert "versions.numpy" in page


def test_markup_is_sound_and_nothing_comes_from_elsewhere(whole):
    folder, page = whole
    found = outline(page)
    assert found.tags.count("svg") >= 2
    assert len(found.ids) == len(set(found.ids))
    inside = {f"#{name}" for name in found.ids}
    assert {reference for reference in found.references if reference.startswith("#")} <= inside
    outside = {reference for reference in found.references if not reference.startswith(("#", "data:image/png;base64,"))}
    made = set(contents(folder.report))
    assert outside <= made
    assert {name for name in made if name.startswith("tables/")} <= outside
    assert {f"figure9.{extension}" for extension in ("png", "svg", "pdf")} <= outside
    assert {"tables.csv", "tables.md"} <= made


def test_the_one_script_is_ours_and_the_only_one_allowed(whole):
    _, page = whole
    script = files("dastune.report").joinpath("page.js").read_text(encoding="utf-8")
    assert outline(page).scripts == [script]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.split("; ") == [
        "default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", f"script-src 'sha256-{digest}'",
    ]  # fmt: skip


def test_the_contents_lead_to_all_sections_in_order(whole):
    _, page = whole
    links = re.findall(r'<a href="#([a-z0-9]+)">', page[page.index("<nav") : page.index("</nav>")])
    assert links == re.findall(r'<section id="([a-z0-9]+)">', page)
    names = [section.name for section in SECTIONS]
    assert links == [name for name in names if name in links]
    assert set(names) - set(links) <= {"published", "anytime", "table10", "receptive"}  # which need what it lacks


def test_no_two_tables_have_one_name(whole):
    folder, _ = whole
    results = read_results(folder)
    names = [table.name for section in SECTIONS for table in section.tables(results)]
    assert len(names) == len(set(names))
    assert {"table11", "costs", "deviations", "accuracy"} <= set(names)


def test_tex_files_need_no_other_letters(whole):
    folder, _ = whole
    for path in (folder.report / "tables").glob("*.tex"):
        assert path.read_text().isascii(), path.name


def test_every_clip_and_gradient_is_found(whole):
    _, page = whole
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(outline(page).ids)
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", page)


def test_twice_the_same_bytes(whole):
    folder, _ = whole
    first = contents(folder.report)
    write_report(folder)
    assert contents(folder.report) == first


def test_the_list_of_files_is_right(whole):
    folder, _ = whole
    made = contents(folder.report)
    listed = made.pop("SHA256SUMS").decode()
    by_path = sorted(made, key=lambda name: name.split("/"))
    assert listed == "".join(f"{hashlib.sha256(made[name]).hexdigest()}  {name}\n" for name in by_path)


def test_a_fault_leaves_the_report_as_it_was_and_another_output_the_study(make_study, tmp_path):
    folder = make_study(methods=("none",), levels=(0,), seeds=(0,))
    before, elsewhere = contents(folder.root), tmp_path / "out" / "report"
    assert write_report(folder, elsewhere) == elsewhere / "index.html"
    assert contents(folder.root) == before
    made = contents(elsewhere)
    append_line(folder.finals, {"search_id": "x", "train_seed": 0, "new_field": 1})
    with pytest.raises(UserError, match=r"fields.*new_field"):
        write_report(folder, elsewhere)
    assert contents(elsewhere) == made


def test_a_running_study_with_a_failed_search(make_study):
    page = page_of(make_study(levels=(4,), without=("none-n4-s2",), failed=("das-n4-s0",)))
    assert "Partial: 10 of 24 searches and 20 of 48 final trainings are in; 1 failed." in page
    assert "Searches not in yet: 13" in page
    assert "Failed searches, left out of every number: 1" in page
    assert "<li>das-n4-s0</li>" in page
    assert "<li>none-n4-s2</li>" in page
    assert "<li>none-n4-s2, training seed 1</li>" in page
    assert "n=2, 1 failed" in page
    assert "the answer may change" in page


def test_a_single_seed(make_study):
    page = page_of(make_study(methods=("das", "none"), seeds=(1,), levels=(4,)))
    assert "one search seed, so no spread" in page
    assert not re.search(r"\bnan\b", re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL), flags=re.IGNORECASE)


@pytest.mark.parametrize("with_study", [True, False])
def test_an_empty_folder(make_study, tmp_path, with_study):
    folder = make_study(methods=()) if with_study else StudyFolder(tmp_path / "nothing")
    page = page_of(folder)
    outline(page)
    assert "nothing to compare" in page
    assert ("0 of 24 searches" if with_study else "cannot be read from study.yaml") in page


def test_names_are_data(make_study, search_row, final_row):
    folder = make_study(name="a & b <i>", methods=("das",), levels=(0,), seeds=(0,))
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
    folder = make_study(methods=("das",), levels=(0,), seeds=(0,))
    folder.add_search(replace(search_row(seed=8), policy="../../elsewhere.json"))
    folder.add_search(replace(search_row(seed=9), policy="policies/none.json"))
    page = page_of(folder)
    assert "its policy is outside this folder and was not read" in page
    assert "its policy file is missing or cannot be read" in page


def test_colours_follow_the_study_not_the_clock(make_study):
    one = make_study(name="one", levels=(0,), seeds=(0,))
    other = make_study(name="other", levels=(0,), seeds=(0,))
    for path in (other.searches, other.finals):
        path.write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))
    assert one.searches.read_bytes() != other.searches.read_bytes()
    orders = [[cell.method for cell in read_results(folder).cells] for folder in (one, other)]
    assert orders[0] == orders[1] == ["das", "rand_augment", "random", "none"]


def test_needs_none_of_the_heavy_guests():
    code = "import sys, json, dastune.report.page; print(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    assert not modules & {"torch", "ray", "mlflow", "optuna", "matplotlib.pyplot"}
