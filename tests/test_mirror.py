"""The mirror of a study's folder: whatever dies between two of its writes, what is restored was once the folder."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dastune import folder as folder_module
from dastune import mirror as mirror_module
from dastune import storage as storage_module
from dastune.errors import UserError
from dastune.folder import SearchRow, StudyFolder, append_line, read_lines, write_atomic
from dastune.mirror import TABLE, Mirror, holds_study, restore
from dastune.storage import FolderStorage, ObjectStorage

if TYPE_CHECKING:
    from tests.conftest import S3Server

JOURNALS = ("searches.jsonl", "finals.jsonl", "children.jsonl", "tracking.jsonl", "ledger.jsonl")


class Watched(FolderStorage):
    """A storage that notes what is written, and fails, waits or lets others go on before it."""

    def __init__(self, root: Path, before_write: Callable[[], None] = lambda: None) -> None:
        super().__init__(root)
        self.before_write = before_write
        self.written: list[tuple[str, int]] = []
        self.reads = 0
        self.down = False

    def read(self, name: str) -> bytes | None:
        self.reads += 1
        if self.down:
            raise OSError("nobody answers")
        return super().read(name)

    def write(self, name: str, content: bytes) -> None:
        self.before_write()
        if self.down:
            raise OSError("nobody answers")
        super().write(name, content)
        self.written.append((name, len(content)))


def row(number: int, status: Any = "done") -> SearchRow:
    name = f"das-n0-s{number}"
    return SearchRow(name, "das", 0, number, 0.5, 2.0, 1.0, 30, 0, 0.1, 0.2, 1.2, f"policies/{name}.json", status)


def policy_text(number: int) -> str:
    return json.dumps({"policy": number})


def report(folder: StudyFolder, number: int) -> Iterator[None]:
    """Write a report as the driver does, with a stop after each write."""
    write_atomic(folder.pending, json.dumps({"report": number}))
    yield
    write_atomic(folder.policy(row(number).id), policy_text(number))
    yield
    append_line(folder.searches, asdict(row(number)))
    yield
    append_line(folder.ledger, {"search": number, "filling": "-" * 30})
    yield
    append_line(folder.tracking, {"search": number, "filling": "-" * 50})
    yield
    folder.pending.unlink()
    yield


def reports(folder: StudyFolder) -> Iterator[None]:
    for number in count():
        yield from report(folder, number)


def begun(root: Path, text: str = "name: digits\n") -> StudyFolder:
    """Return a folder as a run leaves it before its first report."""
    folder = StudyFolder(root)
    write_atomic(folder.study, text)
    write_atomic(folder.env, "{}")
    return folder


def grown(folder: StudyFolder, searches: int) -> None:
    for number in range(searches):
        for _ in report(folder, number):
            pass


def content(folder: StudyFolder) -> dict[str, bytes]:
    return {str(path.relative_to(folder.root)): path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return begun(tmp_path / "study")


@pytest.fixture
def storage(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "storage")


# What is there after a restore


@pytest.mark.parametrize("searches", [0, 3])
def test_what_is_restored_is_the_folder(folder: StudyFolder, storage: Watched, tmp_path: Path, searches: int) -> None:
    grown(folder, searches)
    write_atomic(folder.error("das-n0-s9"), "Traceback\n")
    write_atomic(folder.children_table("das-n0-s1"), "{}")
    write_atomic(folder.picture("das-n0-s1"), bytes(range(256)))
    write_atomic(folder.report / "figure9.png", bytes(range(256)))
    append_line(folder.children, {"child": 1})
    append_line(folder.finals, {"search_id": "ä"})
    assert not holds_study(storage)
    Mirror(folder, storage).sync()
    assert holds_study(storage)
    there = StudyFolder(tmp_path / "elsewhere" / "study")
    restore(storage, there)
    assert content(there) == content(folder)
    assert there.search_rows() == folder.search_rows()


def test_a_report_that_was_being_written_is_restored_with_it(
    folder: StudyFolder, storage: Watched, tmp_path: Path
) -> None:
    steps = report(folder, 0)
    for _ in range(3):
        next(steps)
    Mirror(folder, storage).sync()
    restore(storage, there := StudyFolder(tmp_path / "there"))
    assert there.pending.read_bytes() == folder.pending.read_bytes()
    assert content(there) == content(folder)


def test_what_is_not_the_mirrors_stays(folder: StudyFolder, storage: Watched, tmp_path: Path) -> None:
    expected = content(folder)
    (tmp_path / "secret").write_text("not of the study")
    folder.policies.mkdir()
    (folder.policies / "linked.json").symlink_to(tmp_path / "secret")
    for name in ("mlflow.db", "mlartifacts/a", "ray/b", "lock", "stop", "checkpoints/c.a.pt", "policies/.d.1.tmp", "e"):
        write_atomic(folder.root / name, "")
    Mirror(folder, storage).sync()
    restore(storage, there := StudyFolder(tmp_path / "there"))
    assert content(there) == expected


def test_a_line_that_was_being_written_is_passed_over(folder: StudyFolder, storage: Watched, tmp_path: Path) -> None:
    grown(folder, 2)
    with folder.searches.open("ab") as file:
        file.write(b'{"id": "das-n0')
    Mirror(folder, storage).sync()
    restore(storage, there := StudyFolder(tmp_path / "there"))
    there.add_search(row(2))
    assert there.search_rows() == [row(0), row(1), row(2)]
    Mirror(there, storage).sync()
    restore(storage, again := StudyFolder(tmp_path / "again"))
    assert again.search_rows() == there.search_rows()


def test_a_file_that_is_gone_is_not_restored(folder: StudyFolder, storage: Watched, tmp_path: Path) -> None:
    write_atomic(folder.error("das-n0-s0"), "Traceback\n")
    mirror = Mirror(folder, storage)
    mirror.sync()
    folder.error("das-n0-s0").unlink()
    mirror.sync()
    restore(storage, there := StudyFolder(tmp_path / "there"))
    assert not there.error("das-n0-s0").exists()


def test_a_file_written_anew_with_the_same_size_is_copied(
    folder: StudyFolder, storage: Watched, tmp_path: Path
) -> None:
    mirror = Mirror(folder, storage)
    mirror.sync()
    write_atomic(folder.study, "name: digitz\n")
    mirror.sync()
    restore(storage, there := StudyFolder(tmp_path / "there"))
    assert there.study.read_text() == "name: digitz\n"


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.integers(0, 8), max_size=60),
    syncs=st.integers(1, 5),
    writes_left=st.integers(0, 40),
    lands=st.booleans(),
)
def test_after_any_loss_what_is_restored_was_once_the_folder(
    steps: list[int], syncs: int, writes_left: int, lands: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The driver writes while the mirror reads and writes; the storage dies at any write, which may have landed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_module.os, "fsync", lambda descriptor: None)  # nothing loses power here
        patch.setattr(mirror_module, "PART_BYTES", 256)
        root = tmp_path_factory.mktemp("loss")
        folder = begun(root / "study")
        driver, left = reports(folder), iter(steps)

        def others_go_on() -> None:
            for _ in range(next(left, 0)):
                next(driver)

        read_content = mirror_module._content

        def interrupted_read(path: Path) -> bytes | None:
            others_go_on()
            found = read_content(path)
            others_go_on()
            return found

        patch.setattr(mirror_module, "_content", interrupted_read)
        storage = Dying(root / "storage", others_go_on, writes_left, lands)
        mirror = Mirror(folder, storage)
        try:
            for _ in range(syncs):
                others_go_on()
                mirror.sync()
        except OSError:
            pass
        storage.writes_left = 10**6
        patch.setattr(mirror_module, "_content", read_content)
        storage.before_write = lambda: None

        if holds_study(storage):
            restore(storage, there := StudyFolder(root / "there"))
            truth, found = folder.search_rows(), there.search_rows()
            assert found == truth[: len(found)]
            for name in JOURNALS:
                now = (folder.root / name).read_bytes() if (folder.root / name).exists() else b""
                then = (there.root / name).read_bytes() if (there.root / name).exists() else b""
                assert now.startswith(then)
            pending = json.loads(there.pending.read_text())["report"] if there.pending.exists() else None
            booked = [line["search"] for line in read_lines(there.ledger)]
            tracked = [line["search"] for line in read_lines(there.tracking)]
            for one in found:
                assert json.loads((there.root / one.policy).read_text()) == {"policy": one.search_seed}
                if one.search_seed != pending:  # which will be heard again
                    assert one.search_seed in booked
                    assert one.search_seed in tracked

        # The next execution goes on with the folder and the storage as they are.
        after = Mirror(folder, storage)
        after.start()
        assert after.close(60) == 0
        restore(storage, again := StudyFolder(root / "again"))
        assert content(again) == content(folder)


class Dying(Watched):
    """A storage whose every write fails after some; the first that fails may have been carried out."""

    def __init__(self, root: Path, before_write: Callable[[], None], writes_left: int, lands: bool) -> None:
        super().__init__(root, before_write)
        self.writes_left, self._lands = writes_left, lands

    def write(self, name: str, content: bytes) -> None:
        self.writes_left -= 1
        if self.writes_left >= 0 or (self.writes_left == -1 and self._lands):
            super().write(name, content)
        if self.writes_left < 0:
            raise OSError("lost in the middle")


# What is sent


def test_of_a_long_journal_only_the_tail_is_sent(
    folder: StudyFolder, storage: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "PART_BYTES", 10_000)
    mirror = Mirror(folder, storage)
    folder.ledger.write_bytes(b'{"search": "filled"}\n' * 5000)
    mirror.sync()
    first = list(storage.written)
    assert sum(size for name, size in first if name.startswith("parts/")) == 105_000
    for _ in range(30):
        storage.written.clear()
        append_line(folder.ledger, {"search": "filled", "more": "-" * 970})
        mirror.sync()
        sent = [(name, size) for name, size in storage.written if name.startswith("parts/")]
        assert 1 <= len(sent) <= 2
        assert all(size <= 10_000 for _, size in sent)
        full = {name for name, size in first if size == 10_000}
        assert not full & {name for name, _ in sent}
        assert [name for name, _ in storage.written if not name.startswith("parts/")] == [TABLE]
    restore(storage, there := StudyFolder(tmp_path / "there"))
    assert there.ledger.read_bytes() == folder.ledger.read_bytes()


def test_what_has_not_changed_is_not_sent(folder: StudyFolder, storage: Watched) -> None:
    grown(folder, 2)
    mirror = Mirror(folder, storage)
    mirror.sync()
    storage.written.clear()
    storage.reads = 0
    mirror.sync()
    assert (storage.written, storage.reads) == ([], 0)
    Mirror(folder, storage).sync()
    assert (storage.written, storage.reads) == ([], 1)


def test_the_next_execution_sends_what_is_new(folder: StudyFolder, storage: Watched, tmp_path: Path) -> None:
    grown(folder, 2)
    Mirror(folder, storage).sync()
    storage.written.clear()
    folder.add_search(row(2))
    before = folder.searches.stat().st_size
    Mirror(folder, storage).sync()
    parts = [(name, size) for name, size in storage.written if name.startswith("parts/")]
    assert [size for _, size in parts] == [before - 2 * before // 3]
    assert [name for name, _ in storage.written] == [parts[0][0], TABLE]
    restore(storage, there := StudyFolder(tmp_path / "there"))
    assert content(there) == content(folder)


# Who may write


def test_a_folder_that_is_behind_its_mirror_is_refused(folder: StudyFolder, storage: Watched, tmp_path: Path) -> None:
    grown(folder, 1)
    Mirror(folder, storage).sync()
    restore(storage, there := StudyFolder(tmp_path / "there"))
    there.add_search(row(1))
    Mirror(there, storage).sync()
    with pytest.raises(UserError, match=r"a later state of it \(searches.jsonl differs\)"):
        Mirror(folder, storage).start()
    with pytest.raises(UserError, match="another study"):
        Mirror(begun(tmp_path / "other"), storage).start()
    restore(storage, now := StudyFolder(tmp_path / "now"))
    assert content(now) == content(there)


def test_of_two_that_write_the_first_ends(folder: StudyFolder, storage: Watched, tmp_path: Path) -> None:
    grown(folder, 1)
    lost = Mirror(folder, storage)
    lost.sync()
    restore(storage, there := StudyFolder(tmp_path / "there"))
    there.add_search(row(1))
    went_on = Mirror(there, storage)
    went_on.sync()
    folder.add_search(row(2))
    with pytest.raises(UserError, match="stop one of the two"):
        lost.sync()
    went_on.sync()
    restore(storage, now := StudyFolder(tmp_path / "now"))
    assert now.search_rows() == [row(0), row(1)]


# The thread


def test_a_storage_that_fails_is_told_once_and_tried_again(
    folder: StudyFolder, storage: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "SYNC_SECONDS", 0.01)
    tried, told = threading.Semaphore(0), []
    storage.before_write = tried.release
    mirror = Mirror(folder, storage, told.append)
    mirror.start()
    assert tried.acquire(timeout=60)
    storage.down = True
    grown(folder, 2)
    for _ in range(5):  # more than it had begun when it went down
        append_line(folder.ledger, {})
        mirror_tries(mirror)
    storage.down = False
    assert mirror.close(60) == 0
    assert len(told) == 1
    assert "nobody answers" in told[0]
    restore(storage, there := StudyFolder(tmp_path / "there"))
    assert content(there) == content(folder)


def mirror_tries(mirror: Mirror) -> None:
    with pytest.raises(OSError, match="nobody answers"):
        mirror.sync()


def test_closing_says_how_much_is_not_there(folder: StudyFolder, storage: Watched) -> None:
    over = threading.Event()
    storage.before_write = lambda: over.wait(60) and None  # type: ignore[func-returns-value]
    grown(folder, 2)
    mirror = Mirror(folder, storage, pytest.fail)
    mirror.start()
    # study.yaml, env.json, two policies, and the journals of searches, tracking and ledger.
    assert mirror.close(0.05) == 7
    over.set()


def test_another_that_goes_on_stops_the_thread(
    folder: StudyFolder, storage: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "SYNC_SECONDS", 0.01)
    told: list[str] = []
    stopped = threading.Event()

    def tell(message: str) -> None:
        told.append(message)
        stopped.set()

    mirror = Mirror(folder, storage, tell)
    mirror.sync()
    restore(storage, there := StudyFolder(tmp_path / "there"))
    there.add_search(row(0))
    Mirror(there, storage).sync()
    mirror.start()
    folder.add_search(row(1))
    assert stopped.wait(60)
    assert mirror.close(60) == 1
    assert len(told) == 1
    assert "stop one of the two" in told[0]


# A restore


def test_where_no_study_is(folder: StudyFolder, storage: Watched, tmp_path: Path) -> None:
    storage.write("checkpoints/das-n0-s0.a.pt", b"")
    with pytest.raises(UserError, match=r"holds no study.*give the --storage"):
        restore(storage, StudyFolder(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


def test_a_study_in_the_folder_is_not_overwritten(folder: StudyFolder, storage: Watched) -> None:
    Mirror(folder, storage).sync()
    write_atomic(folder.study, "name: mine\n")
    with pytest.raises(UserError, match="holds a study already"):
        restore(storage, folder)
    assert folder.study.read_text() == "name: mine\n"


def test_a_restore_that_is_cut_short_is_no_study_and_may_be_repeated(
    folder: StudyFolder, storage: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(folder, 3)
    Mirror(folder, storage).sync()
    there = StudyFolder(tmp_path / "there")
    for reads in count(1):
        monkeypatch.setattr(storage, "read", limited(storage, reads))
        try:
            restore(storage, there)
        except OSError:
            assert not there.study.exists()
        else:
            break
    assert reads > 5
    assert content(there) == content(folder)


def limited(storage: Watched, reads: int) -> Callable[[str], bytes | None]:
    left = iter(range(reads))

    def read(name: str) -> bytes | None:
        if next(left, None) is None:
            raise OSError("lost in the middle")
        return Watched.read(storage, name)

    return read


EVIL_FILES = ["../x", "/x", "policies/../../x", "policies/.x", "checkpoints/x", "policies/a/b", "lock", "ledger.jsonl"]
EVIL_JOURNALS = ["../x.jsonl", "study.yaml", "stop"]
EVIL_BLOBS = ["../x", "study.yaml", "parts/../ledger.jsonl.00000000.000001"]


@pytest.mark.parametrize(
    "change",
    [
        *(lambda table, name=name: table["files"].update({name: "0"}) for name in EVIL_FILES),
        *(lambda table, name=name: table["journals"].update({name: []}) for name in EVIL_JOURNALS),
        *(lambda table, blob=blob: table["journals"]["ledger.jsonl"][0].update(blob=blob) for blob in EVIL_BLOBS),
        lambda table: table["journals"]["ledger.jsonl"][0].update(size="much"),
        lambda table: table["journals"]["ledger.jsonl"][0].update(size=-1),
        lambda table: table["journals"].update({"ledger.jsonl": 3}),
        lambda table: table.pop("files"),
        lambda table: table.update(files=[]),
        lambda table: table.update(version=2),
        lambda table: table.clear(),
    ],
)
def test_a_table_that_no_mirror_wrote_is_refused(
    folder: StudyFolder, storage: Watched, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    grown(folder, 1)
    Mirror(folder, storage).sync()
    table = json.loads(storage.read(TABLE) or b"")
    change(table)
    storage.write(TABLE, json.dumps(table).encode())
    (tmp_path / "x").write_text("outside")
    with pytest.raises(UserError, match=r"damaged|newer dastune"):
        restore(storage, StudyFolder(tmp_path / "there"))
    assert not (tmp_path / "there" / "study.yaml").exists()
    assert (tmp_path / "x").read_text() == "outside"
    with pytest.raises(UserError, match=r"damaged|newer dastune|differs"):
        Mirror(folder, storage).start()


@pytest.mark.parametrize("table", [b"", b"\xff", b"[]", b"null", b"{", b"[" * 100_000])
def test_a_table_that_is_no_table_is_refused(folder: StudyFolder, storage: Watched, table: bytes) -> None:
    storage.write(TABLE, table)
    with pytest.raises(UserError, match="damaged"):
        restore(storage, StudyFolder(folder.root.parent / "there"))


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"{}")])
def test_a_part_that_is_missing_or_changed_is_told(
    folder: StudyFolder, storage: Watched, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    grown(folder, 1)
    Mirror(folder, storage).sync()
    change(next((tmp_path / "storage" / "parts").glob("ledger.*")))
    with pytest.raises(UserError, match=r"parts/ledger.jsonl.* is missing or not as it was written"):
        restore(storage, StudyFolder(tmp_path / "there"))
    assert not (tmp_path / "there" / "study.yaml").exists()


# Through HTTP


def test_in_an_object_store_that_is_away_for_a_while(
    s3: "S3Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "ATTEMPTS", 1)
    folder, storage = begun(tmp_path / "study"), ObjectStorage("s3://studies/prefix/digits")
    mirror = Mirror(folder, storage)
    mirror.sync()
    steps = reports(folder)
    for _ in range(9):
        next(steps)
    s3.stop()
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        mirror.sync()
    s3.start()
    for _ in range(5):
        next(steps)
    mirror.sync()
    restore(ObjectStorage("s3://studies/prefix/digits"), there := StudyFolder(tmp_path / "there"))
    assert content(there) == content(folder)
