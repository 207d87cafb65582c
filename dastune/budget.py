"""Budget and the two meters: how many device-seconds a search held, and how many it is charged for.

`held` is (release - grant) x device share, over all attempts: the bill. `charged` is what methods are compared on: held
minus the work lost to infrastructure after the last durable checkpoint, minus the start-up and restore of the attempts
that replaced it. All that a method causes stays in.

The ledger is append-only. Each event carries cumulative accounts of one attempt and a sequence number, so that reading
it is idempotent: of each attempt the highest sequence number counts, however often a line was written. It also names
the checkpoint that its attempt went on from, so that what is charged is the chain of checkpoints that led to where the
search is now; where a damaged checkpoint was passed over, the work since the one before it is lost, and not charged.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Meter = Literal["search", "final"]

HELD_LIMIT = 1.25  # of the budget: a search that infrastructure keeps interrupting ends here

# Sub-accounts that are held but not charged: the start of a process (it serves many searches; which one pays is
# chance), waiting for the driver to take a report, and, in the attempts after the first, what an undisturbed machine
# would not have spent.
FREE_ACCOUNTS = ("process", "report")
REPEATED_ACCOUNTS = ("startup", "restore")

# Two checkpoints are kept, and an attempt's last event is durable, too.
KEPT_DURABLE = 3

# An attempt's origin is the (attempt, sequence) of the checkpoint that it went on from.
Origin = tuple[int, int]
BEGAN_ANEW: Origin = (-1, 0)


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
        origin: what the attempt went on from; None: the last durable event before it.
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
    origin: Origin | None = None

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
        origin: see `LedgerEvent`.
    """

    search: str
    attempt: int
    meter: Meter
    share: float
    clock: Callable[[], float]
    granted: float | None = None
    origin: Origin | None = None
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
        return _charged(self.accounts, first=self._first)

    @property
    def _first(self) -> bool:
        return self.attempt == 0 or self.origin == BEGAN_ANEW

    def event(self, steps: int, *, durable: bool, closed: bool = False) -> LedgerEvent:
        """Return the ledger event of this moment."""
        self._sequence += 1
        return LedgerEvent(
            self.search,
            self.attempt,
            self._sequence,
            self.meter,
            dict(self.accounts),
            steps,
            durable,
            closed,
            time.time(),
            self.origin,
        )


def _working(accounts: Mapping[str, float]) -> float:
    return sum(seconds for account, seconds in accounts.items() if account not in FREE_ACCOUNTS)


def _charged(accounts: Mapping[str, float], *, first: bool) -> float:
    """Return what is charged of an attempt's accounts; `first`: no attempt before it led to where the search is."""
    free = (*FREE_ACCOUNTS, *(() if first else REPEATED_ACCOUNTS))
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
        self._attempts: dict[tuple[str, Meter], dict[int, _Attempt]] = {}
        for event in events:
            self.add(event)

    def add(self, event: LedgerEvent) -> None:
        """Take in one event."""
        attempts = self._attempts.setdefault((event.search, event.meter), {})
        attempts.setdefault(event.attempt, _Attempt()).add(event)

    def charge(self, search: str, meter: Meter = "search") -> Charge:
        """Return what `search` has used on `meter`: durable work is charged, work after the last checkpoint is lost.

        Call it for a search that no process works on at the moment (at a restart, or when it has ended).
        """
        attempts = self._attempts.get((search, meter), {})
        last = [attempts[number].last for number in sorted(attempts)]
        held = sum(event.held for event in last)
        chain = list(_chain(attempts))
        return Charge(
            held=held,
            held_working=sum(_working(event.accounts) for event in last),
            charged=sum(_charged(event.accounts, first=first) for event, first in chain),
            lost=max(0.0, held - sum(event.held for event, _ in chain)),  # sums in another order differ in the last bit
            steps=chain[0][0].steps if chain else 0,
            attempts=max(attempts, default=-1) + 1,
        )


class _Attempt:
    """What is to be kept of an attempt's events: the last one, and the durable ones that another may go on from."""

    def __init__(self) -> None:
        self.last: LedgerEvent
        self._durable: dict[int, LedgerEvent] = {}

    def add(self, event: LedgerEvent) -> None:
        if not hasattr(self, "last") or event.sequence >= self.last.sequence:
            self.last = event
        if event.durable:
            self._durable[event.sequence] = event
            if len(self._durable) > KEPT_DURABLE:
                del self._durable[min(self._durable)]

    def durable(self, until: int | None) -> LedgerEvent | None:
        """Return the last durable event, of those up to the sequence number `until`."""
        sequences = [sequence for sequence in self._durable if until is None or sequence <= until]
        return self._durable[max(sequences)] if sequences else None


def _chain(attempts: Mapping[int, _Attempt]) -> Iterator[tuple[LedgerEvent, bool]]:
    """Yield the durable event of each attempt that led to the present state, backwards, and if it was the first."""
    until: int | None = None
    number = max(attempts, default=-1)
    while number >= 0:
        attempt = attempts.get(number)
        origin = attempt.last.origin if attempt is not None else None
        first = number == 0 or origin == BEGAN_ANEW
        if attempt is not None and (event := attempt.durable(until)) is not None:
            yield event, first
        number, until = (number - 1, None) if origin is None or origin[0] >= number else origin


def event_from_row(row: Mapping[str, Any]) -> LedgerEvent:
    """Return the event of one line of `ledger.jsonl`."""
    origin = row.get("origin")
    origin = None if origin is None else (int(origin[0]), int(origin[1]))
    return LedgerEvent(**{**row, "accounts": dict(row["accounts"]), "origin": origin})
