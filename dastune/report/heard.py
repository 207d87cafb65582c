"""What the driver has heard of searches: reads a long ledger once, quickly, also while it is being written.

Most lines of a ledger are heartbeats that newer ones have replaced. They are told apart by how they begin, and only
those that count are read as JSON: half a million lines take about half a second.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dastune.budget import Ledger, LedgerEvent

BLOCK_BYTES = 2**20
KEPT_CHECKPOINTS = 2  # of a search: an attempt goes on from one of the last two
SKIMMED_SECONDS = 600.0  # before `since`: whoever works then, is heard of in so long
MOST = 1e12  # seconds, steps: more is no measurement

_BEGIN = b'{"search": "'
_NAMES = (b"search", b"attempt", b"sequence", b"meter")
_TIME = re.compile(rb'"unix_time": ([0-9]+(?:\.[0-9]+)?)')
_EVENT = TypeAdapter(LedgerEvent)

_Key = tuple[bytes, bytes, bytes]  # search, attempt, meter, as they are written
_Place = tuple[_Key, int]  # and the sequence number
_Line = tuple[int, bytes]  # sequence number, the line


@dataclass(frozen=True)
class Heard:
    """What a ledger says.

    Attributes:
        events: of the searches that were asked for: of each attempt and meter the newest event, and the durable ones
            that a later attempt may have gone on from. Enough for `dastune.budget.Ledger`.
        searches, finals: how many ended since the moment that was asked for.
        charged_seconds, final_seconds: device-seconds that searches and final trainings were charged since then,
            before what turned out lost is taken off.
    """

    events: Mapping[str, tuple[LedgerEvent, ...]]
    searches: int
    finals: int
    charged_seconds: float
    final_seconds: float


def hear(ledger: Path, searches: Collection[str], since: float) -> Heard:
    """Read a ledger; lines that are none are passed over.

    Args:
        searches: ids of those whose events are wanted.
        since: unix time; lines count from the first one on that is as late. The file is in the order in which the
            driver heard, and the clocks of its hosts may differ by a little.

    Raises:
        OSError: the file is there, and cannot be read.
    """
    try:
        return _hear(ledger, searches, since, _place)
    except _NoEventError:  # a line begins as an event, and is none: look at each
        return _hear(ledger, searches, since, _read_place)


class _NoEventError(Exception):
    pass


def _hear(ledger: Path, searches: Collection[str], since: float, place_of: Callable[[bytes], _Place | None]) -> Heard:
    wanted = {search.encode() for search in searches}
    newest: dict[_Key, _Line] = {}
    durable: dict[_Key, dict[int, bytes]] = {}
    before: dict[_Key, _Line] | None = None
    finals: set[tuple[_Key, int]] = set()
    for lines in _blocks(ledger):
        until = next((at for text in reversed(lines) if (at := _time(text)) is not None), -math.inf)
        skimmed = until < since - SKIMMED_SECONDS
        for text in lines:
            if skimmed and text.startswith(_BEGIN) and text[len(_BEGIN) : text.find(b'"', len(_BEGIN))] not in wanted:
                continue
            if (place := place_of(text)) is None:
                continue
            key, sequence = place
            if before is None and until >= since and (_time(text) or 0.0) >= since:
                before = dict(newest)
            known = newest.get(key)
            if known is None or sequence >= known[0]:  # an older one may be told again
                newest[key] = sequence, text
            if key[2] == b"final" and before is not None and b'"durable": true, "closed": true' in text:
                finals.add((key, sequence))
            if key[0] in wanted and b'"durable": true' in text:
                kept = durable.setdefault(key, {})
                kept[sequence] = text
                if len(kept) > KEPT_CHECKPOINTS:
                    del kept[min(kept)]
    ended, charged = 0, {"search": 0.0, "final": 0.0}
    for key, line in newest.items() if before is not None else ():
        earlier = before.get(key) if before is not None else None
        if earlier is not line:
            event = _event(line[1])
            ended += event.meter == "search" and event.durable and event.closed
            was = 0.0 if earlier is None else _charged(_event(earlier[1]))
            charged[event.meter] += max(0.0, _charged(event) - was)
    return Heard(_events(wanted, newest, durable), ended, len(finals), charged["search"], charged["final"])


def _blocks(path: Path) -> Iterator[list[bytes]]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        while lines := file.readlines(BLOCK_BYTES):
            yield lines


def _place(text: bytes) -> _Place | None:
    """Return which attempt and meter a line is of, and its number, by how it begins; None if it is no event."""
    try:
        _, one, _, search, _, two, attempt, three, sequence, four, _, meter, rest = text.split(b'"', 12)
        if (one, two, three, four) == _NAMES and rest.endswith(b"}\n"):
            return (search, attempt[2:-2], meter), int(sequence[2:-2])
    except ValueError:
        pass
    return _read_place(text)  # not as this version writes it, or half a line


def _read_place(text: bytes) -> _Place | None:
    event = _read(text)
    if event is None:
        return None
    return (event.search.encode(), b"%d" % event.attempt, event.meter.encode()), event.sequence


def _time(text: bytes) -> float | None:
    """Return when an event was, if the line says."""
    found = _TIME.search(text)
    return float(found[1]) if found else None


def _read(text: bytes) -> LedgerEvent | None:
    """Return the event of a line, or None if it is none."""
    try:
        event = _EVENT.validate_json(text)
    except ValidationError:
        return None
    numbers = (*event.accounts.values(), event.unix_time, event.steps, event.attempt, event.sequence)
    return event if all(0 <= number < MOST for number in numbers) else None


def _event(text: bytes) -> LedgerEvent:
    event = _read(text)
    if event is None:
        raise _NoEventError
    return event


def _charged(event: LedgerEvent) -> float:
    """Return the device-seconds that the event's attempt is charged, were it to end there."""
    return Ledger([replace(event, durable=True)]).charge(event.search, event.meter).charged


def _events(
    wanted: set[bytes], newest: Mapping[_Key, _Line], durable: Mapping[_Key, Mapping[int, bytes]]
) -> dict[str, tuple[LedgerEvent, ...]]:
    events: dict[str, list[LedgerEvent]] = {}
    for key, line in newest.items():
        if key[0] in wanted:
            texts = {**durable.get(key, {}), line[0]: line[1]}
            events.setdefault(key[0].decode(), []).extend(map(_event, texts.values()))
    return {search: tuple(found) for search, found in events.items()}
