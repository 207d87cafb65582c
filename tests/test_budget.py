"""The ledger: what is held, what is charged, however often and in whatever order its lines are read."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dastune.budget import (
    BEGAN_ANEW,
    HELD_LIMIT,
    AttemptMeter,
    Budget,
    Ledger,
    LedgerEvent,
    device_share,
    event_from_row,
)

SEARCH = "das-n0-s0"
FREE_OF_CHARGE = {"startup": 5.0, "restore": 3.0, "process": 2.0}


@dataclass
class FakeClock:
    """Monotonic seconds that pass only when told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Worker:
    """Works on one search as a trial does: start-up, restore, steps, and a checkpoint every `interval` steps."""

    share: float = 1.0
    interval: int = 4
    step_seconds: float = 1.0
    clock: FakeClock = field(default_factory=FakeClock)
    events: list[LedgerEvent] = field(default_factory=list)

    def attempt(self, number: int, budget_seconds: float, *, dies_after: int | None = None) -> bool:
        """Work until the budget is charged or the process dies; return whether the search has ended."""
        before = Ledger(self.events).charge(SEARCH)
        meter = AttemptMeter(SEARCH, number, "search", self.share, self.clock)
        for account in ("startup", "restore") if number else ("startup",):
            self.clock.advance(FREE_OF_CHARGE[account])
            meter.book(account)
        steps = before.steps
        self.events.append(meter.event(steps, durable=True))  # what is restored is durable
        for done in range(1_000_000):
            if before.charged + meter.charged >= budget_seconds * self.share:
                self.events.append(meter.event(steps, durable=True, closed=True))
                return True
            if done == dies_after:
                return False
            self.clock.advance(self.step_seconds)
            meter.book("search")
            steps += 1
            durable = (done + 1) % self.interval == 0
            self.events.append(meter.event(steps, durable=durable))
        raise AssertionError("the budget is never reached")


def events() -> st.SearchStrategy[list[LedgerEvent]]:
    """Several attempts, whose accounts only grow."""

    @st.composite
    def draw(draw: st.DrawFn) -> list[LedgerEvent]:
        found = []
        for attempt in range(draw(st.integers(0, 4))):
            accounts: dict[str, float] = {}
            for sequence in range(draw(st.integers(0, 5))):
                account = draw(st.sampled_from(["startup", "restore", "search", "checkpoint", "process"]))
                accounts[account] = accounts.get(account, 0.0) + draw(st.floats(0, 100))
                event = LedgerEvent(
                    SEARCH, attempt, sequence, "search", dict(accounts), sequence, durable=draw(st.booleans())
                )
                found.append(event)
        return found

    return draw()


@given(events())
def test_charged_and_lost_are_parts_of_held(ledger: list[LedgerEvent]) -> None:
    charge = Ledger(ledger).charge(SEARCH)
    assert 0 <= charge.charged + charge.lost <= charge.held + 1e-6


@given(events(), st.randoms(use_true_random=False))
def test_repeated_and_shuffled_lines_change_nothing(ledger: list[LedgerEvent], random: Random) -> None:
    again = ledger + [event for event in ledger if random.random() < 0.5]
    random.shuffle(again)
    assert Ledger(again).charge(SEARCH) == Ledger(ledger).charge(SEARCH)


@given(events())
def test_lines_survive_json(ledger: list[LedgerEvent]) -> None:
    rows = [json.loads(json.dumps(asdict(event))) for event in ledger]
    assert [event_from_row(row) for row in rows] == ledger


@given(
    st.lists(st.tuples(st.sampled_from(["search", "validation", "checkpoint"]), st.floats(0, 50)), max_size=20),
    st.sampled_from([0.25, 1.0, 4.0]),
)
def test_every_instant_belongs_to_one_account(bookings: list[tuple[str, float]], share: float) -> None:
    clock = FakeClock()
    meter = AttemptMeter(SEARCH, 0, "search", share, clock)
    for account, seconds in bookings:
        clock.advance(seconds)
        meter.book(account)
    assert meter.held == pytest.approx((clock.now - 100) * share)
    assert meter.event(3, durable=True).held == pytest.approx(sum(meter.accounts.values()))


def test_time_counts_from_the_grant() -> None:
    clock = FakeClock()
    meter = AttemptMeter(SEARCH, 0, "search", 2.0, clock, granted=clock.now - 7)
    meter.book("startup")
    assert meter.held == 14


def test_an_event_is_a_copy() -> None:
    clock = FakeClock()
    meter = AttemptMeter(SEARCH, 0, "search", 1.0, clock)
    before = meter.event(0, durable=True)
    clock.advance(1)
    meter.book("search")
    after = meter.event(1, durable=True)
    assert (before.held, after.held) == (0, 1)
    assert after.sequence > before.sequence


def test_the_start_of_the_process_is_held_but_never_charged() -> None:
    clock = FakeClock()
    meter = AttemptMeter(SEARCH, 0, "search", 1.0, clock)
    clock.advance(9)
    meter.book("process")
    clock.advance(1)
    meter.book("search")
    assert (meter.held, meter.held_working, meter.charged) == (10, 1, 1)


def test_start_up_is_charged_once() -> None:
    worker = Worker()
    assert not worker.attempt(0, 20, dies_after=0)
    assert Ledger(worker.events).charge(SEARCH).charged == FREE_OF_CHARGE["startup"]
    assert not worker.attempt(1, 20, dies_after=0)
    charge = Ledger(worker.events).charge(SEARCH)
    assert charge.charged == FREE_OF_CHARGE["startup"]
    assert charge.held == 2 * FREE_OF_CHARGE["startup"] + FREE_OF_CHARGE["restore"]
    assert charge.lost == 0


def test_work_after_the_last_checkpoint_is_lost() -> None:
    worker = Worker(interval=4)
    assert not worker.attempt(0, 100, dies_after=7)
    charge = Ledger(worker.events).charge(SEARCH)
    assert (charge.held, charge.charged, charge.lost) == (5 + 7, 5 + 4, 3)
    assert (charge.steps, charge.attempts) == (4, 1)


def test_an_attempt_without_a_checkpoint_is_lost_whole() -> None:
    event = LedgerEvent(SEARCH, 0, 1, "search", {"startup": 5.0, "search": 2.0}, 2, durable=False)
    charge = Ledger([event]).charge(SEARCH)
    assert (charge.held, charge.charged, charge.lost, charge.steps, charge.attempts) == (7, 0, 7, 0, 1)


def kill(deaths: list[int], *, interval: int, share: float) -> Iterator[Worker]:
    """Yield the worker of an unkilled search, and that of one that dies after so many steps of its attempts."""
    for plan in ([], deaths):
        worker = Worker(share=share, interval=interval)
        ended = [worker.attempt(number, 60, dies_after=dies_after) for number, dies_after in enumerate([*plan, None])]
        assert ended[-1]
        yield worker


@given(
    deaths=st.lists(st.integers(0, 11), max_size=6),
    interval=st.integers(1, 8),
    share=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_a_search_killed_k_times_is_charged_like_the_unkilled(deaths: list[int], interval: int, share: float) -> None:
    unkilled, killed = (Ledger(worker.events).charge(SEARCH) for worker in kill(deaths, interval=interval, share=share))
    assert abs(killed.charged - unkilled.charged) <= interval * share
    assert killed.held >= unkilled.held
    assert killed.held == pytest.approx(killed.charged + killed.lost + _repeated(killed.attempts) * share)
    assert abs(killed.steps - unkilled.steps) <= interval


def _repeated(attempts: int) -> float:
    return (attempts - 1) * (FREE_OF_CHARGE["startup"] + FREE_OF_CHARGE["restore"])


def test_searches_and_meters_are_apart() -> None:
    final = LedgerEvent(SEARCH, 0, 1, "final", {"training": 8.0}, 3, durable=True)
    other = LedgerEvent("other", 0, 1, "search", {"search": 4.0}, 2, durable=True)
    ledger = Ledger([final, other])
    assert ledger.charge(SEARCH).held == 0
    assert ledger.charge(SEARCH, "final").charged == 8
    assert ledger.charge("other").charged == 4
    assert ledger.charge("unknown").attempts == 0


def test_budgets_in_seconds_and_in_steps() -> None:
    assert Budget(seconds=10).spent(5, steps=999) == 0.5
    assert Budget(steps=10).spent(999, steps=10) == 1
    assert Budget(seconds=10).held_out(10 * HELD_LIMIT)
    assert not Budget(seconds=10).held_out(10 * HELD_LIMIT - 0.1)
    assert not Budget(steps=10).held_out(1e9)


@pytest.mark.parametrize(("cpus", "gpus", "share"), [(2, 0, 2), (4, 1, 1), (4, 0.25, 0.25), (0.5, 0, 0.5)])
def test_devices_are_gpus_where_there_are_any(cpus: float, gpus: float, share: float) -> None:
    assert device_share(cpus, gpus) == share


def _held(search_seconds: float, **more: float) -> dict[str, float]:
    return {"startup": 1.0, "restore": 0.5, "search": search_seconds, **more}


def test_work_since_the_checkpoint_that_was_gone_on_from_is_lost() -> None:
    """The second checkpoint of attempt 0 is damaged: attempt 1 goes on from the first one."""
    events = [
        LedgerEvent(SEARCH, 0, 1, "search", _held(10), 10, durable=True),
        LedgerEvent(SEARCH, 0, 2, "search", _held(20), 20, durable=True),
        LedgerEvent(SEARCH, 0, 3, "search", _held(23), 23, durable=False),
        LedgerEvent(SEARCH, 1, 1, "search", _held(5), 15, durable=True, origin=(0, 1)),
        LedgerEvent(SEARCH, 1, 2, "search", _held(7), 17, durable=False, origin=(0, 1)),
    ]
    charge = Ledger(events).charge(SEARCH)
    # Start-up and restore are charged once: to the attempt that began.
    assert (charge.charged, charge.steps) == (11.5 + 5, 15)
    assert charge.held == 24.5 + 8.5
    assert charge.lost == 13 + 2


def test_an_attempt_that_began_anew_is_charged_alone_and_for_its_start() -> None:
    events = [
        LedgerEvent(SEARCH, 0, 1, "search", _held(10), 10, durable=True),
        LedgerEvent(SEARCH, 1, 1, "search", _held(4), 4, durable=True, origin=BEGAN_ANEW),
        LedgerEvent(SEARCH, 2, 1, "search", _held(2), 6, durable=True, origin=(1, 1)),
    ]
    charge = Ledger(events).charge(SEARCH)
    assert charge.charged == 1.5 + 4 + 2
    assert charge.lost == 11.5
    meter = AttemptMeter(SEARCH, 1, "search", 1.0, FakeClock(), origin=BEGAN_ANEW, accounts=_held(4))
    assert meter.charged == 5.5
    assert AttemptMeter(SEARCH, 2, "search", 1.0, FakeClock(), origin=(1, 1), accounts=_held(2)).charged == 2


def test_a_ledger_whose_origins_go_in_circles_is_read_to_an_end() -> None:
    events = [LedgerEvent(SEARCH, n, 1, "search", _held(1), 1, durable=True, origin=(n, 1)) for n in (0, 1)]
    assert Ledger(events).charge(SEARCH).held == 5
