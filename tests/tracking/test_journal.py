"""Reading a journal from any byte, and putting a run's metrics together."""

import json
from pathlib import Path

import pytest

from dastune.tracking.journal import merged, read


def test_whole_lines_are_read(tmp_path: Path) -> None:
    journal = tmp_path / "tracking.jsonl"
    assert list(read(journal, 0)) == []
    journal.write_text('{"key": "a"}\n{"torn\n7\n{"key": "b"}\n{"key": "c"}')
    assert list(read(journal, 0)) == [(13, {"key": "a"}), (20, {}), (22, {}), (35, {"key": "b"})]
    assert list(read(journal, 22)) == [(35, {"key": "b"})]
    assert list(read(journal, 35)) == []


@pytest.mark.parametrize("start", [7, 1000])
def test_a_position_of_another_journal_is_none(tmp_path: Path, start: int) -> None:
    journal = tmp_path / "tracking.jsonl"
    journal.write_text(json.dumps({"key": "a"}) + "\n")
    assert list(read(journal, start)) == [(13, {"key": "a"})]


def test_only_metrics_between_two_events_of_a_run_are_merged() -> None:
    names = ["begin a", "metrics a", "begin b", "metrics b", "metrics a", "end a", "metrics a", "metrics b"]
    events = [dict(zip(("event", "key"), name.split(), strict=True)) for name in names]
    sent = [f"{event['event']} {event['key']} {len(event.get('points', []))}" for event in merged(events)]
    assert sent == ["begin a 0", "begin b 0", "metrics a 2", "end a 0", "metrics b 2", "metrics a 1"]
