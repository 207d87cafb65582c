"""What a study's searches met with, read from its ledger: processes that died, steps that hung, damaged checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass

from dastune.budget import LedgerEvent
from dastune.report.results import Results

HUNG, FAILED = "hung", "failed"  # accounts of what ended by a step that did not end, and by a fault of the method


@dataclass(frozen=True)
class Faults:
    """How often what happened, over all searches and their final trainings.

    Attributes:
        died: processes that did not let go of their devices by themselves and were replaced, or given up.
        hung: steps that did not end within the study's limit.
        raised: faults of a method, which ended the search or a final training of it; it may have been tried again.
        damaged: times that a checkpoint could not be read and an older one was used, or none.
        stopped: processes that were asked to stop, and did.
    """

    died: int
    hung: int
    raised: int
    damaged: int
    stopped: int


def faults(results: Results) -> Faults | None:
    """Return what the ledger tells; None where there is none, or it cannot be read."""
    if not results.ledger:
        return None
    failed = {row.id for row in results.searches if row.status == "failed"}
    found = [_of_search(events, search in failed) for search, events in results.ledger.items()]
    return Faults(*(sum(counts) for counts in zip(*found, strict=True)))


def _of_search(events: Sequence[LedgerEvent], failed: bool) -> tuple[int, int, int, int, int]:
    newest: dict[int, LedgerEvent] = {}  # of each attempt; final trainings come after the search
    for event in sorted(events, key=lambda event: (event.meter == "final", event.sequence)):
        newest[event.attempt] = event
    last = max(newest)
    gone = [event for attempt, event in newest.items() if not event.closed and (failed or attempt != last)]
    unheard = last + 1 - len(newest)  # died before anything was heard of them
    hung, raised = (sum(end in event.accounts for event in newest.values()) for end in (HUNG, FAILED))
    damaged = sum(_passed_over(event, events) for event in _newest_searches(events))
    orderly = [event for event in newest.values() if event.closed and not event.durable]
    stopped = sum(HUNG not in event.accounts and FAILED not in event.accounts for event in orderly)
    return len(gone) + unheard, hung, raised, damaged, stopped


def _newest_searches(events: Sequence[LedgerEvent]) -> list[LedgerEvent]:
    """Return the newest event of each attempt at the search itself; only there origins are told."""
    newest: dict[int, LedgerEvent] = {}
    for event in sorted(events, key=lambda event: event.sequence):
        if event.meter == "search":
            newest[event.attempt] = event
    return list(newest.values())


def _passed_over(event: LedgerEvent, events: Sequence[LedgerEvent]) -> bool:
    """Return whether an attempt went on from a checkpoint that was not the last one before it."""
    before = [
        (other.attempt, other.sequence)
        for other in events
        if other.meter == "search" and other.durable and other.attempt < event.attempt
    ]
    return event.origin is not None and bool(before) and event.origin < max(before)
