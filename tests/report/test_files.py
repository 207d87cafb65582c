"""Files of a report: replaced together, and nobody else's touched."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from dastune.errors import UserError
from dastune.report.files import is_report, remade


def write(output, **texts):
    """Write files, `a__b` for a/b.txt."""
    with remade(output) as new:
        for name, text in texts.items():
            path = new / f"{name.replace('__', '/')}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def contents(folder):
    """Return name -> text of all files in a folder but the list, hidden ones too."""
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    found.pop("SHA256SUMS", None)
    return found


def test_files_appear_and_the_list_is_sound(tmp_path):
    output = tmp_path / "deep" / "report"
    write(output, a="1", tables__b="2", study__tables__c="3")
    assert contents(output) == {"a.txt": "1", "tables/b.txt": "2", "study/tables/c.txt": "3"}
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=output, check=True)
    assert is_report(output)
    assert not is_report(tmp_path)


def test_what_belongs_no_more_goes_with_its_folders(tmp_path):
    write(tmp_path, a="1", tables__b="2", study__tables__c="3", study__d="4")
    write(tmp_path, a="new")
    assert contents(tmp_path) == {"a.txt": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SHA256SUMS", "a.txt"]


def test_what_a_person_made_or_changed_stays(tmp_path):
    write(tmp_path, a="1", tables__b="2", tables__c="3")
    (tmp_path / "tables" / "mine.txt").write_text("mine")
    (tmp_path / "tables" / "b.txt").write_text("changed")
    write(tmp_path, a="1")
    assert contents(tmp_path) == {"a.txt": "1", "tables/mine.txt": "mine", "tables/b.txt": "changed"}
    write(tmp_path, tables__b="new")  # it belongs again
    assert contents(tmp_path) == {"tables/mine.txt": "mine", "tables/b.txt": "new"}


def test_an_exception_leaves_all_as_it_was(tmp_path):
    write(tmp_path, a="1")
    with pytest.raises(TypeError):
        write(tmp_path, a="2", b=None)
    assert contents(tmp_path) == {"a.txt": "1"}
    assert {path.name for path in tmp_path.rglob("*")} == {"SHA256SUMS", "a.txt"}


def test_the_page_comes_last_and_the_outermost_after_the_others(tmp_path, monkeypatch):
    order, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: order.append(target) or replace(self, target))
    with remade(tmp_path) as new:
        (new / "study").mkdir()
        for name in ("index.html", "study/index.html", "study/z.txt", "z.txt"):
            (new / name).write_text(name)
    assert order[-3:] == [tmp_path / "study" / "index.html", tmp_path / "index.html", tmp_path / "SHA256SUMS"]
    assert (tmp_path / "index.html").read_text() == "index.html"


@pytest.mark.parametrize(
    "name", ["../outside.txt", "{outside}", "a/../../outside.txt", "linked/outside.txt", "link.txt", "."]
)
def test_a_strangers_list_removes_nothing_elsewhere(tmp_path, name):
    outside, output = tmp_path / "outside.txt", tmp_path / "report"
    outside.write_text("keep")
    write(output, a="1")
    (output / "linked").symlink_to(tmp_path)
    (output / "link.txt").symlink_to(outside)
    digest = hashlib.sha256(b"keep").hexdigest()
    (output / "SHA256SUMS").write_text(f"{digest}  {name.format(outside=outside)}\n\x00 no line\n")
    write(output, a="2")
    assert outside.read_text() == "keep"
    assert (output / "link.txt").is_symlink()
    assert (output / "linked").is_symlink()


def test_a_link_is_not_written_through(tmp_path):
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "report"
    elsewhere.mkdir()
    output.mkdir()
    (elsewhere / "file").write_text("keep")
    (output / "a.txt").symlink_to(elsewhere / "file")
    (output / "SHA256SUMS").symlink_to(elsewhere / "file")
    write(output, a="1")
    assert (output / "a.txt").read_text() == "1"
    (output / "tables").symlink_to(elsewhere)
    with pytest.raises(UserError, match="tables: is a link"):
        write(output, a="2", tables__b="2")
    assert contents(elsewhere) == {"file": "keep"}


def test_a_list_without_end_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "SHA256SUMS")
    write(tmp_path, a="1")
    assert (tmp_path / "SHA256SUMS").is_file()


@pytest.mark.parametrize("in_the_way", ["report", "report/a.txt", "report/tables"])
def test_what_is_in_the_way_is_told_in_words(tmp_path, in_the_way):
    place = tmp_path / in_the_way
    place.parent.mkdir(exist_ok=True)
    place.mkdir() if in_the_way == "report/a.txt" else place.write_text("")
    with pytest.raises(UserError, match="the report cannot be written"):
        write(tmp_path / "report", a="1", tables__b="2")
