"""Reading a journal from any byte, and putting a run's metrics together."""

import json
from pathlib import Path

import pytest

from dastune.tracking.journal import merged, read


def test_whole_lines_are_read(tmp_path: Path) -> None:
    journal = tmp_path / "tracking.jsonl"
    assert list(read(journal, 0)) == []
    first, second = ({"event": "end", "key": key, "time": 7, "status": "FINISHED"} for key in "ab")
    a, b = len(json.dumps(first)) + 1, len(json.dumps(second)) + 1
    journal.write_text(f'{json.dumps(first)}\n{{"torn\n7\n{json.dumps(second)}\n{json.dumps(first)}')
    assert list(read(journal, 0)) == [(a, first), (a + 7, {}), (a + 9, {}), (a + 9 + b, second)]
    assert list(read(journal, a + 9)) == [(a + 9 + b, second)]
    assert list(read(journal, a + 9 + b)) == []


@pytest.mark.parametrize(
    "line",
    [
        '["event", "end"]',
        '{"event": "end", "key": "a", "time": 7}',
        '{"event": [], "key": "a"}',
        '{"event": "end", "key": 7, "time": 7, "status": "FINISHED"}',
        '{"event": "of a later version", "key": "a"}',
        "\\xff",
    ],
)
def test_a_line_that_is_no_event_is_empty(tmp_path: Path, line: str) -> None:
    journal = tmp_path / "tracking.jsonl"
    journal.write_bytes(line.encode().decode("unicode_escape").encode("latin-1") + b"\n")
    assert [event for _, event in read(journal, 0)] == [{}]


@pytest.mark.parametrize("start", [7, 1000])
def test_a_position_of_another_journal_is_none(tmp_path: Path, start: int) -> None:
    journal = tmp_path / "tracking.jsonl"
    event = {"event": "end", "key": "a", "time": 7, "status": "FINISHED"}
    journal.write_text(json.dumps(event) + "\n")
    assert list(read(journal, start)) == [(len(json.dumps(event)) + 1, event)]


def test_only_metrics_and_tags_between_two_events_of_a_run_are_merged() -> None:
    names = ["begin a", "metrics a", "begin b", "metrics b", "tags a", "artifact a", "metrics a", "end a", "metrics a"]
    names.append("metrics b")
    events = [dict(zip(("event", "key"), name.split(), strict=True)) for name in names]
    sent = [
        f"{event['event']} {event['key']} {len(event.get('metrics', []))} {len(event.get('tags', []))}"
        for event in merged(events)
    ]
    assert sent == [
        "begin a 0 0",
        "begin b 0 0",
        "artifact a 0 0",
        "batch a 2 1",
        "end a 0 0",
        "batch b 2 0",
        "batch a 1 0",
    ]


def test_what_was_sent_is_not_read_again(tmp_path: Path) -> None:
    """Before the position there are 100 GB: to read them would take minutes."""
    event = {"event": "end", "key": "a", "time": 7, "status": "FINISHED"}
    journal, start = tmp_path / "tracking.jsonl", 100 * 2**30
    with journal.open("wb") as file:
        file.seek(start - 1)
        file.write(b"\n" + json.dumps(event).encode() + b"\n")
    assert [each for _, each in read(journal, start)] == [event]
