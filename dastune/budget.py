"""Budget and the two meters: how many device-seconds a search held, and how many it is charged for.

`held` is (release - grant) x device share, over all attempts: the bill. `charged` is what methods are compared on: held
minus the work lost to infrastructure after the last durable checkpoint, minus the start-up and restore of the attempts
that replaced it. All that a method causes stays in.

The ledger is append-only. Each event carries cumulative accounts of one attempt and a sequence number, so that reading
it is idempotent: of each attempt the highest sequence number counts, however often a line was written.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Meter = Literal["search", "final"]

HELD_LIMIT = 1.25  # of the budget: a search that infrastructure keeps interrupting ends here

# Sub-accounts that are held but not charged: the start of a process (it serves many searches; which one pays is
# chance), waiting for the driver to take a report, and, in the attempts after the first, what an undisturbed machine
# would not have spent.
FREE_ACCOUNTS = ("process", "report")
REPEATED_ACCOUNTS = ("startup", "restore")


@dataclass(frozen=True)
class Budget:
    """What one search may use: device-seconds, or optimiser steps (exactly one of the two is set)."""

    seconds: float | None = None
    steps: int | None = None

    def spent(self, charged_seconds: float, steps: int) -> float:
        """Return the share of the budget that is used, 1 or more when it is used up."""
        if self.steps is not None:
            return steps / self.steps
        assert self.seconds is not None
        return charged_seconds / self.seconds

    def held_out(self, held_seconds: float) -> bool:
        """Return whether infrastructure has eaten so much that the search must end (never for a budget in steps)."""
        return self.seconds is not None and held_seconds >= HELD_LIMIT * self.seconds


def device_share(cpus: float, gpus: float) -> float:
    """Return the devices a trial holds: its GPUs where it holds any (fractions count as fractions), else CPU slots."""
    return gpus if gpus > 0 else cpus


@dataclass(frozen=True)
class LedgerEvent:
    """One line of the ledger: the state of one meter of one attempt.

    Attributes:
        search: search id.
        attempt: 0, 1, ... for every process that worked on the search.
        sequence: ascending within (search, attempt, meter).
        accounts: device-seconds since grant by sub-account; they sum to what was held.
        steps: optimiser steps of the search, or of the final training, so far, over all attempts.
        durable: the work up to here would survive the process (a checkpoint was written, or the meter was closed).
        closed: the process let go of its devices by itself.
        unix_time: when, by the clock of the process' host; for people, never to be subtracted across hosts.
    """

    search: str
    attempt: int
    sequence: int
    meter: Meter
    accounts: Mapping[str, float]
    steps: int
    durable: bool
    closed: bool = False
    unix_time: float = 0.0

    @property
    def held(self) -> float:
        """Device-seconds held by this attempt up to this event."""
        return sum(self.accounts.values())


@dataclass
class AttemptMeter:
    """Books the device time of one attempt into sub-accounts: every instant belongs to exactly one.

    `mark` is the clock's time up to which all is booked.

    Args:
        clock: monotonic seconds; a fake in tests.
        share: devices held (`device_share`).
        granted: the clock's time from which the devices were held; None: now.
    """

    search: str
    attempt: int
    meter: Meter
    share: float
    clock: Callable[[], float]
    granted: float | None = None
    accounts: dict[str, float] = field(default_factory=dict)
    _sequence: int = 0

    def __post_init__(self) -> None:
        self.mark = self.clock() if self.granted is None else self.granted

    def book(self, account: str) -> None:
        """Book the time since the last call (or the grant) under `account`."""
        now = self.clock()
        self.accounts[account] = self.accounts.get(account, 0.0) + (now - self.mark) * self.share
        self.mark = now

    @property
    def held(self) -> float:
        """Device-seconds booked so far."""
        return sum(self.accounts.values())

    @property
    def held_working(self) -> float:
        """Device-seconds booked so far without FREE_ACCOUNTS: what the limit of held time is applied to."""
        return _working(self.accounts)

    @property
    def charged(self) -> float:
        """What this attempt adds to `charged` so far, in device-seconds."""
        return _charged(self.attempt, self.accounts)

    def event(self, steps: int, *, durable: bool, closed: bool = False) -> LedgerEvent:
        """Return the ledger event of this moment."""
        self._sequence += 1
        accounts = dict(self.accounts)
        return LedgerEvent(
            self.search, self.attempt, self._sequence, self.meter, accounts, steps, durable, closed, time.time()
        )


def _working(accounts: Mapping[str, float]) -> float:
    return sum(seconds for account, seconds in accounts.items() if account not in FREE_ACCOUNTS)


def _charged(attempt: int, accounts: Mapping[str, float]) -> float:
    free = (*FREE_ACCOUNTS, *(REPEATED_ACCOUNTS if attempt > 0 else ()))
    return sum(seconds for account, seconds in accounts.items() if account not in free)


@dataclass(frozen=True)
class Charge:
    """What a search has used up to now, read from the ledger.

    `held`, `charged` and `lost` are in device-seconds; `held_working` is held without FREE_ACCOUNTS.
    `attempts` is how many processes have worked on the search; `steps` counts the durable ones.
    """

    held: float = 0.0
    held_working: float = 0.0
    charged: float = 0.0
    lost: float = 0.0
    steps: int = 0
    attempts: int = 0


class Ledger:
    """Reads events into charges. Events may come repeated and in any order."""

    def __init__(self, events: Iterable[LedgerEvent] = ()) -> None:
        self._events: dict[tuple[str, Meter], dict[int, dict[int, LedgerEvent]]] = {}
        for event in events:
            self.add(event)

    def add(self, event: LedgerEvent) -> None:
        """Take in one event."""
        attempts = self._events.setdefault((event.search, event.meter), {})
        attempts.setdefault(event.attempt, {})[event.sequence] = event

    def charge(self, search: str, meter: Meter = "search") -> Charge:
        """Return what `search` has used on `meter`: durable work is charged, work after the last checkpoint is lost.

        Call it for a search that no process works on at the moment (at a restart, or when it has ended).
        """
        held = held_working = charged = lost = 0.0
        steps = 0
        attempts = self._events.get((search, meter), {})
        for number, by_sequence in sorted(attempts.items()):
            last = by_sequence[max(by_sequence)]
            durable = [event for event in by_sequence.values() if event.durable]
            kept = max(durable, key=lambda event: event.sequence) if durable else None
            held += last.held
            held_working += _working(last.accounts)
            if kept is not None:
                charged += _charged(number, kept.accounts)
                steps = kept.steps
            # A dead attempt's start-up is lost with it unless something durable came of it.
            lost += last.held - (kept.held if kept else 0.0)
        return Charge(held, held_working, charged, lost, steps, max(attempts, default=-1) + 1)


def event_from_row(row: Mapping[str, Any]) -> LedgerEvent:
    """Return the event of one line of `ledger.jsonl`."""
    return LedgerEvent(**{**row, "accounts": dict(row["accounts"])})
