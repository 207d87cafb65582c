"""A study's folder: atomic writes, whole lines, rows once per key, safe names."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dastune.errors import UserError
from dastune.folder import (
    ChildRow,
    FinalRow,
    SearchRow,
    StudyFolder,
    append_line,
    append_lines,
    checkpoint_names,
    claim_name,
    read_lines,
    safe_name,
    write_atomic,
)

SEARCH = SearchRow(
    "das-n0-s1", "das", 0, 1, 0.9, 12.0, 10.0, 300, 0, 0.1, 0.2, 1.2, "policies/das-n0-s1.json", "budget"
)
FINAL = FinalRow("das-n0-s1", "das", 0, 1, 0, 0.95, 0.2, 30, 60.0, 1000.0, 9_000, 100_000)

CHILD = ChildRow("ra-n0-s1", "ra", 0, 1, 0, 0.5, 3.25, 2.0, "scored", {"kind": "stages", "stages": []})


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path)


@pytest.mark.parametrize("content", ["text: ä\n", b"\x00bytes\xff"])
def test_write_atomic_makes_folders_and_replaces(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, "old, and longer than what follows")
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_without_a_summary_is_of_an_earlier_version(folder: StudyFolder) -> None:
    earlier = {key: value for key, value in asdict(SEARCH).items() if key != "summary"}
    append_line(folder.searches, earlier)
    assert folder.search_rows() == [SEARCH]
    told = replace(SEARCH, id="das-n0-s2", summary={"tau_entropy": 2.5})
    folder.add_search(told)
    assert folder.search_rows() == [SEARCH, told]


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [{"a": 1}, {"text": "ä\nb"}, {"nested": {"x": [1.5, None]}}]
    for row in rows:
        append_line(path, row)
    assert list(read_lines(path)) == rows
    assert len(path.read_bytes().splitlines()) == 3


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path / "none")) == []


@pytest.mark.parametrize("kept", range(0, 18))
def test_a_torn_line_costs_itself_only(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "rows.jsonl"
    append_line(path, {"number": 1})
    append_line(path, {"text": "ä", "number": 2})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + kept])
    append_line(path, {"number": 3})
    assert [row["number"] for row in read_lines(path)] == [1, 3]


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"12\n", b"[1]\n", b"null\n", b"\n", b"{\n"])
def test_lines_that_are_no_rows_are_passed_over(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(junk)
    append_line(path, {"number": 1})
    assert list(read_lines(path)) == [{"number": 1}]


def test_rows_cannot_hold_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_line(tmp_path / "rows.jsonl", {"loss": float("nan")})
    assert list(read_lines(tmp_path / "rows.jsonl")) == []


def test_a_failed_search_may_be_done_again(folder: StudyFolder) -> None:
    folder.add_search(replace(SEARCH, status="failed"))
    folder.add_search(SEARCH)
    assert folder.search_rows() == [SEARCH]


def test_a_line_written_twice_is_one_row(folder: StudyFolder) -> None:
    folder.add_final(FINAL)
    folder.finals.write_bytes(folder.finals.read_bytes() * 2)
    assert folder.final_rows() == [FINAL]


def test_of_a_child_heard_again_the_last_row_counts(folder: StudyFolder) -> None:
    assert folder.child_rows() == []
    second = replace(CHILD, child=1, score=None, status="cut")
    folder.add_children([CHILD, second])
    folder.add_children([replace(CHILD, search_id="aa-n0-s1")])
    again = replace(second, score=0.25, epochs=2.5, status="stopped")
    folder.add_children([again])
    folder.add_children([])
    assert folder.child_rows("ra-n0-s1") == [CHILD, again]
    assert folder.child_rows("das-n0-s1") == []
    assert [(row.search_id, row.child) for row in folder.child_rows()] == [
        *(("aa-n0-s1", 0), ("ra-n0-s1", 0)),
        ("ra-n0-s1", 1),
    ]
    assert len(folder.children.read_bytes().splitlines()) == 4


def test_children_are_appended_at_once_and_unread(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = folder.root / "one_by_one.jsonl"
    rows = [replace(CHILD, child=child) for child in range(50)]
    for row in rows:
        append_line(one_by_one, asdict(row))
    synchronised: list[int] = []
    monkeypatch.setattr(os, "fsync", synchronised.append)
    monkeypatch.setattr("dastune.folder.read_lines", None)
    folder.add_children(rows[:20])
    synchronised.clear()
    folder.add_children(rows[20:])
    assert len(synchronised) == 1
    assert folder.children.read_bytes() == one_by_one.read_bytes()


def test_no_lines_make_no_file(tmp_path: Path) -> None:
    append_lines(tmp_path / "rows.jsonl", [])
    assert not list(tmp_path.iterdir())


def test_paths_of_a_search(folder: StudyFolder) -> None:
    assert folder.policy("das-n0-s1") == folder.root / "policies" / "das-n0-s1.json"
    assert folder.error("das-n0-s1") == folder.root / "errors" / "das-n0-s1.txt"
    assert checkpoint_names("das-n0-s1") == ("checkpoints/das-n0-s1.a.pt", "checkpoints/das-n0-s1.b.pt")
    assert claim_name("das-n0-s1") == "checkpoints/das-n0-s1.attempt"
    assert folder.children_table("das-n0-s1") == folder.root / "children" / "das-n0-s1.json"
    with pytest.raises(UserError, match="no safe folder name"):
        folder.policy("../x")


def test_an_existing_study(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        StudyFolder.existing(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: holds no study (no study.yaml); give the folder that `dastune run` made, such as "
        "runs/NAME"
    )
    (tmp_path / "study.yaml").touch()
    assert StudyFolder.existing(tmp_path).root == tmp_path


@pytest.mark.parametrize("name", ["a", "0", "a.b", "A-b_c.9", "x" * 100])
def test_safe_names(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a.", "a/b", "a\\b", "a b", "ä", "a\n", "x" * 101, "a:b"])
def test_unsafe_names(name: str) -> None:
    with pytest.raises(UserError) as caught:
        safe_name(name)
    assert str(caught.value) == (
        f"{name!r} is no safe folder name; use 1 to 100 letters, digits, '-', '_' and '.', with a letter or digit "
        "first and no '.' last"
    )
