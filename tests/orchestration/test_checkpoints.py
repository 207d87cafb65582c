"""Checkpoints on a real folder: which one is read, whatever was done to them."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dastune.folder import checkpoint_names, claim_name
from dastune.orchestration.checkpoints import Checkpoints, SupersededError
from dastune.storage import FolderStorage

SEARCH = "das-n0-s0"
FIRST, SECOND = checkpoint_names(SEARCH)


def content(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((50,), float(step)), "nested": {"values": [step, None, "a"]}}


def steps_read(checkpoints: Checkpoints) -> tuple[int | None, tuple[int, int] | None, int]:
    """Return what `load` finds: step and place, and how many faults it tells of."""
    found, at, faults = checkpoints.load()
    if found is not None:
        assert torch.equal(found["weights"], content(found["step"])["weights"])
        assert found["nested"] == content(found["step"])["nested"]
    return found and found["step"], at, len(faults)


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path)


def written(storage: FolderStorage, *steps: int, attempt: int = 0) -> Checkpoints:
    """Write checkpoints, each with its step as the sequence number of its event."""
    checkpoints = Checkpoints(storage, SEARCH, attempt)
    checkpoints.load()
    for step in steps:
        checkpoints.save(content(step), step)
    return checkpoints


def test_where_there_is_none_nothing_is_read(storage: FolderStorage) -> None:
    assert Checkpoints(storage, SEARCH, 0).load() == (None, None, [])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_newest_is_read_and_two_are_kept(count: int, storage: FolderStorage, tmp_path: Path) -> None:
    written(storage, *range(1, count + 1))
    assert steps_read(Checkpoints(storage, SEARCH, 1)) == (count, (0, count), 0)
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == min(count, 2)


def test_attempts_go_on_from_each_other(storage: FolderStorage) -> None:
    """Each attempt counts its events from 1 again; its checkpoints are newer all the same."""
    written(storage, 7, 8, 9)
    written(storage, 1, attempt=1)
    assert steps_read(Checkpoints(storage, SEARCH, 2)) == (1, (1, 1), 0)


def test_a_final_trainings_checkpoint_is_newer_than_its_searchs(storage: FolderStorage) -> None:
    """The events of the final meter are counted from 1, in the same attempt."""
    checkpoints = written(storage, 40, 41)
    checkpoints.save(content(1), 1)
    assert steps_read(Checkpoints(storage, SEARCH, 1)) == (1, (0, 1), 0)


def blobs(root: Path) -> tuple[bytes, bytes]:
    """Write two checkpoints, of steps 1 and 2, and return both as they are in the storage."""
    written(FolderStorage(root), 1, 2)
    return (root / FIRST).read_bytes(), (root / SECOND).read_bytes()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes]:
    root = tmp_path_factory.mktemp("two")
    return root, *blobs(root)


@given(data=st.data())
def test_any_damage_to_the_newest_gives_the_one_before(two: tuple[Path, bytes, bytes], data: st.DataObject) -> None:
    root, older, newest = two
    place = data.draw(st.integers(0, len(newest) - 1) | st.integers(0, 200), "place")
    damaged = bytearray(newest)
    match data.draw(st.sampled_from(["flip", "cut", "zeros", "insert", "garbage"]), "damage"):
        case "flip":
            damaged[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
        case "cut":
            del damaged[place:]
        case "zeros":
            damaged[place:] = bytes(len(damaged) - place)
        case "insert":
            damaged[place:place] = data.draw(st.binary(min_size=1, max_size=9), "inserted")
        case "garbage":
            damaged[:] = data.draw(st.binary(max_size=99), "garbage")
    if bytes(damaged) == newest:
        return
    (root / SECOND).write_bytes(damaged)
    assert steps_read(Checkpoints(FolderStorage(root), SEARCH, 1)) == (1, (0, 1), 1)
    assert (root / FIRST).read_bytes() == older


def test_the_damaged_one_is_written_over(storage: FolderStorage, tmp_path: Path) -> None:
    older, newest = blobs(tmp_path)
    (tmp_path / SECOND).write_bytes(newest[:-1])
    checkpoints = Checkpoints(storage, SEARCH, 1)
    _, _, [fault] = checkpoints.load()
    assert fault.startswith(f"{SECOND} is damaged")
    checkpoints.save(content(3), 1)
    assert (tmp_path / FIRST).read_bytes() == older
    assert steps_read(Checkpoints(storage, SEARCH, 2)) == (3, (1, 1), 0)


def test_where_both_are_damaged_nothing_is_read_and_both_are_told(storage: FolderStorage, tmp_path: Path) -> None:
    _, newest = blobs(tmp_path)
    (tmp_path / FIRST).write_bytes(b"garbage")
    (tmp_path / SECOND).write_bytes(newest.replace(b'"at"', b'"or"'))
    checkpoints = Checkpoints(storage, SEARCH, 1)
    assert steps_read(checkpoints) == (None, None, 2)
    checkpoints.save(content(5), 1)
    assert steps_read(Checkpoints(storage, SEARCH, 2)) == (5, (1, 1), 1)


@pytest.mark.parametrize("of", range(5))
def test_a_full_disk_leaves_what_is_there(
    of: int, storage: FolderStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = written(storage, *range(1, of + 1))
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            checkpoints.save(content(99), 99)
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before
    # Once there is room, it goes on, in place of the older one.
    checkpoints.save(content(of + 1), of + 1)
    checkpoints.save(content(of + 2), of + 2)
    assert steps_read(Checkpoints(storage, SEARCH, 1)) == (of + 2, (0, of + 2), 0)


def full(file: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_attempt_that_was_taken_for_dead_writes_nothing_more(storage: FolderStorage, tmp_path: Path) -> None:
    first = written(storage, 1, 2)
    second = Checkpoints(storage, SEARCH, 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    with pytest.raises(SupersededError, match="attempt 1 has begun while attempt 0"):
        first.save(content(3), 3)
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before
    assert steps_read(second) == (2, (0, 2), 0)
    second.save(content(3), 1)


def test_an_attempt_that_the_driver_does_not_know_of_is_counted(storage: FolderStorage) -> None:
    """The driver died, or lost its folder: it begins with a number that was used."""
    first = written(storage, 1, 2, attempt=4)
    second = Checkpoints(storage, SEARCH, 0)
    assert second.attempt == 5
    with pytest.raises(SupersededError):
        first.save(content(3), 3)


@pytest.mark.parametrize("claim", [b"", b"\x00\x00", b"seven", b"-1"])
def test_a_damaged_claim_is_none(claim: bytes, storage: FolderStorage, tmp_path: Path) -> None:
    checkpoints = written(storage, 1, 2)
    (tmp_path / claim_name(SEARCH)).write_bytes(claim)
    checkpoints.save(content(3), 3)
    assert steps_read(Checkpoints(storage, SEARCH, 1)) == (3, (0, 3), 0)
