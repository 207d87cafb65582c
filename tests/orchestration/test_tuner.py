"""Who is to blame when Tune crashes, and how often a search may die."""

import pytest

from dastune.budget import LedgerEvent, Meter
from dastune.orchestration.reports import Report
from dastune.orchestration.tuner import RETRIES, Deaths, _culprits, _told_of_memory

# What Tune raised when Ray 2.60 killed one of two trials for its memory; the middle of it is left out.
CRASH = """\
Caught unexpected exception: 1 worker(s) were killed due to the node running low on memory. Memory on the node \
(IP: 192.0.2.7, ID: f483a0ad7d7aec5876d0c954d0f38a21d073735c3b983fdd9cc9f98d) was 3.57GB used / 23.54GB limit (0.151749)
OOM kill reason: Memory usage 3784253440B exceeded threshold of 3766200832B (14.9% of 25276514304B limit)
Ray killed 1 worker(s) based on the killing policy
Considered workers: [
Selected to kill: (Actor(63559d221a4ea88a990aecee01000000): job ID=01000000, lease ID=01000000cebbc69c434c586b62ea33f27\
51e053ed58c84bb16041a0b5724a09f, task name=ImplicitFunc.__init__, required resources={CPU_group_0_f5c4181039d261dcc9a91\
253e20001000000: 1, bundle_group_f5c4181039d261dcc9a91253e20001000000: 0.001}, pid=25119, actual memory used=1.96GB, wo\
rker ID=c0513dc0e46e7e81b78e84349ba22ac4e9b38c94508367fa3338c4e6)
(Actor(3499040c9119ebe2a09eca1801000000): job ID=01000000, lease ID=00000000571f2d0966cc5441d07fd068dbe4254792be60efb87\
aec4f1b794eba, task name=ImplicitFunc.__init__, required resources={CPU_group_0_5f87422909928b8c5bc36b3d034801000000: 1\
}, pid=25118, actual memory used=0.11GB, worker ID=99d0a3c5668395b64b90130a27b075d0c9ea98f2f334ae2192645063)
]
Total non-selected idle workers: 0
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/ray-observability."""

RUNNING = {"das-n0-s0": "3499040c9119ebe2a09eca1801000000", "random-n0-s0": "63559d221a4ea88a990aecee01000000"}


def test_of_the_searches_that_ran_those_that_ray_killed_are_to_blame() -> None:
    assert _culprits(CRASH, RUNNING) == ["random-n0-s0"]
    second = CRASH.replace("\n(Actor(3499", "\nSelected to kill: (Actor(3499")
    assert sorted(_culprits(second, RUNNING)) == sorted(RUNNING)


@pytest.mark.parametrize("crash", ["The actor died.", CRASH.replace("63559d22", "00000000"), ""])
def test_where_none_is_named_all_are_to_blame(crash: str) -> None:
    assert _culprits(crash, RUNNING) == list(RUNNING)
    assert _culprits(crash, {}) == []


def test_a_person_is_told_of_memory_in_one_line() -> None:
    *rest, last = _told_of_memory(CRASH).splitlines()
    assert rest == CRASH.splitlines()
    assert "3.57GB used of 23.54GB" in last
    assert "--max-concurrent" in last
    assert _told_of_memory("Something else.") == "Something else."


def report(attempt: int, sequence: int, *, durable: bool, meter: Meter = "search", search: str = "a") -> Report:
    event = LedgerEvent(search, attempt, sequence, meter, {}, steps=0, durable=durable)
    return Report(search, "search", charged=0.0, steps=0, ledger=[event])


def test_a_search_is_given_up_after_so_many_deaths_in_a_row() -> None:
    deaths = Deaths()
    for _ in range(RETRIES):
        deaths.add("a")
        deaths.hear(report(0, 1, durable=False))
        assert not deaths.too_many("a")
    deaths.add("a")
    assert deaths.too_many("a")
    assert not deaths.too_many("b")


def test_deaths_with_a_checkpoint_between_are_forgotten() -> None:
    """Each process dies before it tells of its checkpoint; the next one, that loads it, does."""
    deaths = Deaths()
    for attempt in range(5 * RETRIES):
        deaths.hear(report(attempt, 1, durable=True))
        deaths.add("a")
        assert deaths["a"] == 1
    for meter, sequence in (("search", 2), ("final", 1), ("final", 2)):
        deaths.hear(report(5 * RETRIES, sequence, durable=True, meter=meter))
        assert deaths["a"] == 0
        deaths.add("a")


def test_a_checkpoint_that_was_told_before_is_none_between() -> None:
    """A process that goes on from a checkpoint tells of it again; so does one that passes over a damaged one."""
    deaths = Deaths()
    deaths.hear(report(0, 7, durable=True))
    for sequence in (7, 7, 6, 7):
        deaths.hear(report(0, sequence, durable=True))
        deaths.add("a")
    assert deaths.too_many("a")


def test_what_another_search_tells_does_not_count() -> None:
    deaths = Deaths()
    deaths.add("a")
    deaths.hear(report(0, 1, durable=True, search="b"))
    assert deaths["a"] == 1
