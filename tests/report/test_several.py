"""Several studies: each whole in a folder of its own, compared on one page, and none of them written to."""

import re
from html.parser import HTMLParser

import pytest

from dastune.errors import UserError
from dastune.folder import StudyFolder
from dastune.report.page import write_report
from dastune.report.results import read_results
from dastune.report.several import check_output, write_comparison
from dastune.report.table11 import table11


class Page(HTMLParser):
    """Keeps ids and references."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.references = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src"):
                self.references.append(value)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def two(make_study):
    """Two small studies of other budgets and methods."""
    one = make_study(name="one", methods=("das", "none"), levels=(0,), seeds=(0, 1))
    other = make_study(name="other", methods=("rand_augment", "none"), levels=(0,), seeds=(0, 1))
    one.study.write_text(one.study.read_text() + "budget: {gpu_hours: 24}\n")
    other.study.write_text(other.study.read_text() + "budget: {steps: 2000}\n")
    return one, other


def test_two_studies(two, tmp_path):
    before = [contents(folder.root) for folder in two]
    output = tmp_path / "both"
    page = write_comparison(two, output, 2.0)
    assert page == output / "index.html"
    assert [contents(folder.root) for folder in two] == before
    text, found = page.read_text(), Page(page.read_text())
    assert len(found.ids) == len(set(found.ids))
    made = contents(output)
    assert {reference.partition("#")[0] for reference in found.references if reference[0] != "#"} <= set(made)
    assert {reference[1:] for reference in found.references if reference[0] == "#"} <= set(found.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(found.ids)
    assert text.count("<svg") == 2
    assert "Budgets of a search: one: 24 GPU-hours; other: 2,000 steps." in text
    assert "a colour need not mean the same method in two figures" in text
    table = table11([(folder.root.name, read_results(folder)) for folder in two])
    assert made["tables/table11.csv"].decode() == table.csv()
    assert table.html() in text
    write_report(two[0], tmp_path / "alone", 2.0)
    alone = contents(tmp_path / "alone")
    del alone["SHA256SUMS"]
    assert {name: made[f"one/{name}"] for name in alone} == alone


def test_folders_of_one_name_and_of_unsafe_names(make_study, tmp_path):
    folders = []
    for place, name in (
        ("a", "digits"),
        ("b", "digits"),
        ("c", "DIGITS"),
        ("d", "tables"),
        ("e", "<i> x"),
        ("f", "x" * 100),
    ):
        folder = make_study(name=f"{place}/{name}", methods=())
        folders.append(folder)
    page = write_comparison(folders, tmp_path / "out")
    names = sorted(path.name for path in page.parent.iterdir() if path.is_dir())
    assert names == sorted(["digits", "digits-2", "DIGITS-3", "tables-2", "study", "x" * 90])
    assert "<i>" not in page.read_text()
    assert all((page.parent / name / "index.html").is_file() for name in names)
    assert "No results yet." in page.read_text()


def test_a_study_that_is_left_out_later_is_removed(make_study, tmp_path):
    one, two, three = (make_study(name=name, methods=()) for name in ("one", "two", "three"))
    write_comparison([one, two, three], tmp_path / "out")
    (tmp_path / "out" / "three" / "mine.txt").write_text("mine")
    write_comparison([one, two], tmp_path / "out")
    assert contents(tmp_path / "out" / "three") == {"mine.txt": b"mine"}
    write_comparison([two, three], tmp_path / "out")
    assert not (tmp_path / "out" / "one").exists()


def test_a_study_given_twice_is_refused(make_study, tmp_path):
    one = make_study(name="one", methods=())
    (tmp_path / "link").symlink_to(one.root)
    for other in (one, StudyFolder(tmp_path / "link"), StudyFolder(tmp_path / "one" / ".." / "one")):
        with pytest.raises(UserError, match="is given twice"):
            write_comparison([one, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("one", "a study's folder"),
        ("one/report", "a study's folder"),
        ("one/deep/inside", "a study's folder"),
        ("elsewhere/..", "a study's folder"),
        ("link", "a study's folder"),
        ("file", "is a file"),
        ("file/below", "cannot be"),
        ("mine", "holds files, and no report"),
        ("x" * 300, "cannot be used"),
    ],
)
def test_outputs_that_are_not_fit_are_refused(make_study, tmp_path, output, why):
    one = make_study(name="one", methods=())
    two = make_study(name="studies/two", methods=())
    (one.root / "elsewhere").mkdir()
    (tmp_path / "elsewhere").symlink_to(one.root / "elsewhere")
    (tmp_path / "link").symlink_to(one.root)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=why):
        write_comparison([one, two], tmp_path / output)
    assert contents(tmp_path) == before


def test_a_report_is_not_written_into_a_study_beside_it(make_study, tmp_path):
    one, two = make_study(name="runs/one", methods=()), make_study(name="two", methods=())
    output = tmp_path / "out"
    write_comparison([one, two], output)
    for path in (output / "one").rglob("*.*"):
        path.unlink()
    (output / "one" / "study.yaml").write_text("name: one")
    with pytest.raises(UserError, match="a study's folder"):
        write_comparison([one, two], output)
    with pytest.raises(UserError, match="holds files, and no report"):
        check_output(tmp_path / "runs")


def test_an_output_of_before_is_taken_again(make_study, tmp_path):
    one, two = make_study(name="one", methods=()), make_study(name="two", methods=())
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        write_comparison([one, two], tmp_path / "empty")
    check_output(tmp_path / "empty")


def test_what_a_killed_process_left_is_not_in_the_way(tmp_path):
    left = tmp_path / "out" / ".new-1"
    left.mkdir(parents=True)
    (left / "figure9.svg").write_text("half of it")
    check_output(tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files, and no report"):
        check_output(tmp_path / "out")
