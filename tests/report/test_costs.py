"""Costs: device time as the ledger and the rows have it, checked by hand-made ledgers and a second sum."""

import csv
import io
import json
from dataclasses import asdict

import numpy as np
import pytest

from dastune.budget import AttemptMeter
from dastune.folder import append_lines
from dastune.report.costs import costs, costs_table, total
from dastune.report.faults import faults
from dastune.report.results import read_results


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


def attempt(search, number, spans, meter="search", origin=None, durable_at=(), closed=True, durable=True):
    """Return an attempt's events: one after each span (account, seconds)."""
    clock = Clock()
    booked = AttemptMeter(search, number, meter, 1.0, clock, origin=origin)
    events = []
    for place, (account, seconds) in enumerate(spans):
        clock.now += seconds
        booked.book(account)
        last = place == len(spans) - 1
        events.append(booked.event(10, durable=place in durable_at or (last and durable), closed=last and closed))
    return events


def write(folder, *attempts):
    append_lines(folder.ledger, (asdict(event) for events in attempts for event in events))


QUIET = [("process", 3.0), ("startup", 1.0), ("train", 9.0), ("report", 0.5)]


@pytest.fixture
def small(make_study):
    return make_study(methods=("das", "none"), levels=(0,), seeds=(0,))


def of(folder):
    return {cost.method: cost for cost in costs(read_results(folder))}


def test_a_quiet_study_lost_nothing(small):
    write(small, attempt("das-n0-s0", 0, QUIET), attempt("das-n0-s0", 0, [("train", 40.0)], "final"))
    found = of(small)["das"]
    assert (found.searches, found.charged_seconds, found.lost_seconds) == (1, 10.0, 0.0)  # the row's
    assert found.held_seconds == 13.5  # the ledger's: the row was written before the report was taken
    assert found.final_seconds == 40.0  # two trainings of 20 s
    assert found.seconds == 53.5


def test_what_a_death_costs_is_lost(small):
    """The process dies 4 s after its checkpoint; the next one starts, restores for 2 s, and does the rest."""
    write(
        small,
        attempt("das-n0-s0", 0, [("process", 3.0), ("train", 5.0), ("train", 4.0)], durable_at=(1,), closed=False,
                durable=False),
        attempt("das-n0-s0", 1, [("process", 3.0), ("restore", 2.0), ("train", 5.0)]),
    )  # fmt: skip
    found = of(small)["das"]
    assert found.held_seconds == 22.0
    assert found.lost_seconds == pytest.approx(4.0 + 2.0)
    met = faults(read_results(small))
    assert (met.died, met.hung, met.raised, met.damaged, met.stopped) == (1, 0, 0, 0, 0)


def test_a_damaged_checkpoint_loses_the_work_since_the_one_before(small):
    write(
        small,
        attempt("das-n0-s0", 0, [("train", 5.0), ("train", 3.0), ("train", 1.0)], durable_at=(0, 1), closed=False,
                durable=False),
        attempt("das-n0-s0", 1, [("restore", 2.0), ("train", 5.0)], origin=(0, 1)),
    )  # fmt: skip
    assert of(small)["das"].lost_seconds == pytest.approx(3.0 + 1.0 + 2.0)
    met = faults(read_results(small))
    assert (met.died, met.damaged) == (1, 1)


def test_beginning_anew_is_damage_only_where_there_was_a_checkpoint(small):
    write(
        small,
        attempt("das-n0-s0", 0, [("train", 5.0)], closed=False, durable=False),
        attempt("das-n0-s0", 1, [("train", 5.0)], origin=(-1, 0)),
        attempt("none-n0-s0", 0, [("train", 5.0)], closed=False),
        attempt("none-n0-s0", 1, [("train", 5.0)], origin=(-1, 0)),
    )
    met = faults(read_results(small))
    assert (met.died, met.damaged) == (2, 1)
    assert {method: found.lost_seconds for method, found in of(small).items()} == {"das": 5.0, "none": 5.0}


def test_stops_hangs_and_faults_of_a_method_are_told_apart(small):
    write(
        small,
        attempt("das-n0-s0", 0, [("train", 5.0)], durable=False),  # stopped
        attempt("das-n0-s0", 1, [("train", 1.0), ("hung", 900.0)], durable=False),
        attempt("das-n0-s0", 2, [("train", 1.0), ("failed", 0.5)], durable=False),
        attempt("das-n0-s0", 3, [("train", 5.0)]),
    )
    met = faults(read_results(small))
    assert (met.died, met.hung, met.raised, met.damaged, met.stopped) == (0, 1, 1, 0, 1)


def test_a_process_that_nothing_was_heard_of_has_died(small):
    write(small, attempt("das-n0-s0", 1, [("train", 5.0)]))
    assert faults(read_results(small)).died == 1


def test_an_unfinished_search_costs_what_it_has_held(make_study):
    folder = make_study(without=("das-n0-s0",), methods=("das",), levels=(0,), seeds=(0,))
    write(folder, attempt("das-n0-s0", 0, [("process", 3.0), ("train", 5.0)], closed=False, durable=False))
    found = of(folder)["das"]
    assert (found.searches, found.charged_seconds, found.held_seconds, found.lost_seconds) == (1, 5.0, 8.0, 0.0)


def test_without_a_ledger_rows_are_enough(small):
    found = of(small)
    assert [*found] == ["das", "none"]
    assert found["das"].held_seconds == 11.0
    assert found["das"].lost_seconds is None
    assert faults(read_results(small)) is None


def test_the_sum_and_the_price(make_study):
    folder = make_study(failed=("das-n4-s0",))
    results = read_results(folder, price_per_hour=2.5)
    table = costs_table(results, 2.5)
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [row["method"] for row in rows] == ["das", "rand_augment", "random", "none", "all methods"]
    for name in ("searches", "charged_seconds", "held_seconds", "final_seconds", "seconds", "price"):
        values = [float(row[name]) for row in rows]
        np.testing.assert_allclose(values[-1], sum(values[:-1]))
    held = sum(row.held_seconds for row in results.searches) + sum(row.seconds for row in results.finals)
    assert float(rows[-1]["price"]) == pytest.approx(held / 3600 * 2.5)
    assert table.rows[-1][-1] == f"{held / 3600 * 2.5:.2f}"
    assert float(rows[0]["searches"]) == 6  # the failed one, too
    assert "Energy was not measured" in table.note
    assert "price" not in costs_table(results).columns


def test_energy_of_searches_that_were_measured(make_study):
    folder = make_study(methods=("das", "none"), levels=(0,), seeds=(0, 1))
    points = [
        {"event": "metrics", "key": "das-n0-s1", "time": 1, "step": k, "values": {"system/gpu_0_power_usage_watts": w}}
        for k, w in enumerate(("250.0", "350.0"))
    ]
    folder.tracking.write_text("".join(f"{json.dumps(point)}\n" for point in points))
    table = costs_table(read_results(folder))
    kwh = 300.0 * 11.0 / 3.6e6
    assert [row[-1] for row in table.rows] == [f"{kwh:.3g}", "-", f"{kwh:.3g}"]
    assert "of 1 of 4 searches" in table.note


def test_no_search_no_table(make_study):
    assert costs_table(read_results(make_study(methods=()))) is None
    assert total([]) is None


def test_a_damaged_ledger_is_read_as_far_as_it_goes(small):
    write(small, attempt("das-n0-s0", 0, QUIET))
    with small.ledger.open("a") as file:
        file.write('{"search": "das-n0-s0", "attempt": 0\n[]\n\x00\n')
        file.write('{"search": "none-n0-s0", "attempt": 0, "sequence": 1, "meter": "x"}\n')
    assert of(small)["das"].held_seconds == 13.5
