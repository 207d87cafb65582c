"""What a ledger says, against reading every line of it as JSON."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dastune.budget import BEGAN_ANEW, Ledger, LedgerEvent, Origin
from dastune.report.heard import BLOCK_BYTES, hear

NEVER = float("inf")


def write(path: Path, events: list[LedgerEvent]) -> Path:
    path.write_bytes(b"".join(json.dumps(asdict(event)).encode() + b"\n" for event in events))
    return path


def beat(
    search: str = "das-n0-s0",
    attempt: int = 0,
    sequence: int = 1,
    seconds: float = 1.0,
    *,
    meter: str = "search",
    durable: bool = False,
    closed: bool = False,
    at: float = 1000.0,
    origin: Origin | None = None,
) -> LedgerEvent:
    accounts = {"process": 5.0, "startup": 0.5, "search": seconds}
    return LedgerEvent(search, attempt, sequence, meter, accounts, 7, durable, closed, at, origin)  # type: ignore[arg-type]


@st.composite
def histories(draw: st.DrawFn) -> list[LedgerEvent]:
    """Searches that checkpoint, die, and go on from one of their last two checkpoints; some lines told again."""
    events: list[LedgerEvent] = []
    for search in ("das-n0-s0", "none-n4-s1"):
        mine: list[LedgerEvent] = []
        slots: list[Origin] = []
        for attempt in range(draw(st.integers(1, 4))):
            origin = None if attempt == 0 else draw(st.sampled_from(slots)) if slots else BEGAN_ANEW
            if origin is not None and origin in slots and attempt > 0:
                slots = [origin]  # what is damaged, or was told of twice, is written over
            for sequence in range(1, draw(st.integers(1, 7))):
                durable = draw(st.booleans())
                mine.append(beat(search, attempt, sequence, float(sequence), durable=durable, origin=origin))
                slots = [*slots[-1:], (attempt, sequence)] if durable else slots
        again = [event for event in mine if event.durable][:2]
        events += [*mine, *again]
    return events


@given(histories())
def test_what_is_kept_of_a_ledger_is_charged_as_all_of_it(tmp_path_factory: pytest.TempPathFactory, events) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path_factory.mktemp("heard") / "ledger.jsonl", events)
    found = hear(path, ["das-n0-s0", "none-n4-s1"], NEVER).events
    kept, all_of_it = Ledger([event for mine in found.values() for event in mine]), Ledger(events)
    for search in ("das-n0-s0", "none-n4-s1"):
        assert kept.charge(search) == all_of_it.charge(search)


def test_only_the_searches_that_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "ledger.jsonl", [beat("a-n0-s0"), beat("b-n0-s0")])
    assert hear(path, ["b-n0-s0", "c-n0-s0"], NEVER).events == {"b-n0-s0": (beat("b-n0-s0"),)}


def test_what_ended_and_was_charged_since_then(tmp_path: Path) -> None:
    final = {"meter": "final"}
    events = [
        beat("old-n0-s0", 0, 1, 8.0, at=100.0, durable=True, closed=True),
        beat("das-n0-s0", 0, 1, 10.0, at=900.0),
        # the hour begins
        beat("das-n0-s0", 0, 2, 14.0, at=1000.0, durable=True, closed=True),
        beat("das-n0-s0", 0, 1, 2.0, at=1005.0, **final),
        beat("das-n0-s0", 0, 2, 3.0, at=1006.0, durable=True, closed=True, **final),
        beat("das-n0-s0", 0, 2, 3.0, at=1006.0, durable=True, closed=True, **final),  # told twice
        beat("das-n0-s0", 0, 3, 7.0, at=1009.0, durable=True, closed=True, **final),
        beat("new-n0-s0", 1, 1, 6.0, at=1010.0),
        beat("stopped-n0-s0", 0, 1, 1.0, at=1011.0, closed=True),  # closed, but no end: nothing durable
    ]
    found = hear(write(tmp_path / "ledger.jsonl", events), [], 1000.0)
    assert (found.searches, found.finals) == (1, 2)
    # Of processes nothing is charged, of later attempts no start-up: 4 s of das, 6 s of new, 1.5 s of stopped.
    assert found.charged_seconds == pytest.approx(4.0 + 6.0 + 1.5)
    assert found.final_seconds == pytest.approx(7.5)


def test_a_heartbeat_some_megabytes_before_counts_for_what_is_charged_since(tmp_path: Path) -> None:
    """Lines of searches that nobody asks for are skimmed, except the last ones before."""
    others = [beat("b-n0-s0", 0, n, float(n), at=8950.0) for n in range(1, 2 * BLOCK_BYTES // 200)]
    mine = [beat("a-n0-s0", 0, n, float(n), at=at) for n, at in ((1, 1000.0), (5, 8900.0), (9, 9000.0))]
    found = hear(write(tmp_path / "ledger.jsonl", [*mine[:2], *others, mine[2]]), [], 9000.0)
    assert found.charged_seconds == pytest.approx(9.0 - 5.0)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_half_a_line_is_as_none(tmp_path: Path, end: bytes) -> None:
    whole = [beat(sequence=1, durable=True), beat(sequence=2)]
    line = json.dumps(asdict(beat(sequence=3, origin=(0, 12)))).encode()
    path = tmp_path / "ledger.jsonl"
    for length in range(len(line)):
        write(path, whole)
        with path.open("ab") as file:
            file.write(line[:length] + end)
        found = hear(path, ["das-n0-s0"], 0.0).events["das-n0-s0"]
        assert sorted(found, key=lambda event: event.sequence) == whole
    with path.open("wb") as file:
        file.write(line)
    assert hear(path, ["das-n0-s0"], NEVER).events["das-n0-s0"] == (beat(sequence=3, origin=(0, 12)),)


def _sorted(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True)


def _older(text: str) -> str:
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "origin"})


def _newer(text: str) -> str:
    return json.dumps({**json.loads(text), "node": "x" * 200})


@pytest.mark.parametrize("form", [_sorted, _older, _newer])
def test_lines_of_another_writer_are_read(tmp_path: Path, form: Callable[[str], str]) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(form(json.dumps(asdict(beat(sequence=n)))) + "\n" for n in (1, 3, 2)))
    assert hear(path, ["das-n0-s0"], 0.0).events == {"das-n0-s0": (beat(sequence=3),)}


@pytest.mark.parametrize(
    "change",
    [
        {"accounts": {"search": 1e300}},
        {"accounts": {"search": -1.0}},
        {"accounts": {"search": "many"}},
        {"accounts": []},
        {"steps": 10**400},
        {"attempt": -1},
        {"meter": "gas"},
        {"unix_time": 1e300},
        {"search": ["das-n0-s0"]},
        {"origin": [1]},
    ],
)
def test_lines_that_cannot_be_are_passed_over(tmp_path: Path, change: dict[str, object]) -> None:
    path = write(tmp_path / "ledger.jsonl", [beat()])
    with path.open("a") as file:
        file.write(json.dumps({**asdict(beat(sequence=2)), **change}) + "\n")
        file.write('{"search": "das-n0-s0", "accounts": {"search": NaN}}\n[]\nnull\n\x00\n')
    found = hear(path, ["das-n0-s0"], 0.0)
    assert found.events == {"das-n0-s0": (beat(),)}
    assert found.charged_seconds == 1.5


def test_no_ledger_says_nothing(tmp_path: Path) -> None:
    assert hear(tmp_path / "nowhere.jsonl", ["das-n0-s0"], 0.0).events == {}
