"""Curves are what the journal says, read past damage, in bounded memory; their means against brute force."""

import json
from itertools import count

import numpy as np
import pytest
from scipy.interpolate import interp1d

from dastune.folder import StudyFolder
from dastune.report import curves
from dastune.report.curves import GRID_POINTS, MOST_POINTS, Series, linear, read_curves, stepwise

CLOCK = count(1)  # no two points at one time


def series(*points):
    return Series(np.array([x for x, _ in points], float), np.array([y for _, y in points], float))


def point(key, step, **values):
    values = {name: repr(value) for name, value in values.items()}
    return {"event": "metrics", "key": key, "time": next(CLOCK), "step": step, "values": values}


@pytest.fixture
def read(tmp_path, search_row, final_row):
    """Return a function that reads what a journal of these lines says of two searches and a final training."""

    def reading(*lines, charged=7.9):
        folder = StudyFolder(tmp_path)
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        folder.tracking.write_bytes(b"\n".join(lines))
        searches = [search_row("das", 0, seed, charged_seconds=charged, held_seconds=3600.0) for seed in (0, 1)]
        return read_curves(folder, searches, [final_row(0.9, "das", 0, 0, 1)])

    return reading


def test_a_search_over_charged_seconds_and_a_training_over_epochs(read):
    found = read(
        point("das-n0-s0", 2, val_accuracy=0.5, tau_entropy=2.0),
        point("das-n0-s0", 4, val_accuracy=0.4),
        point("das-n0-s0", 4, val_accuracy=0.6),
        point("das-n0-s0", 7, val_accuracy=0.7, charged_seconds=7.9),
        point("das-n0-s0/t1", 1, train_loss=2.0),
        point("das-n0-s0/t1", 2, train_loss=1.5),
        point("das-n0-s0/t1", 2, train_loss=1.0),
        point("das-n0-s0/t1", 2, test_accuracy=0.9),
    )
    (accuracy,), (loss,) = found.accuracies.values(), found.losses.values()
    assert found.accuracies.keys() == {"das-n0-s0"}
    assert found.losses.keys() == {("das-n0-s0", 1)}
    # a step is whole seconds: each value stands within its second, those of one second in their order
    np.testing.assert_allclose(accuracy.at, [2.5, 4.25, 4.75, 7.9])
    np.testing.assert_allclose(accuracy.values, [0.5, 0.4, 0.6, 0.7])
    np.testing.assert_allclose(loss.at, [1, 2])
    np.testing.assert_allclose(loss.values, [2.0, 1.0])
    assert found.energies == {}


def test_nothing_is_later_than_what_the_search_was_charged(read):
    found = read(*(point("das-n0-s0", step, val_accuracy=0.5) for step in (9, 3, 0, 0)), charged=3.2)
    np.testing.assert_allclose(found.accuracies["das-n0-s0"].at, [0.25, 0.75, 3.2, 3.2])


def test_a_point_that_comes_twice_is_one(read):
    """As for MLflow; two events of one moment may have a value in common, and be its last with the exact charge."""
    first = point("das-n0-s0", 0, val_accuracy=0.5)
    last = {**first, "values": {"val_accuracy": "0.5", "charged_seconds": "0.8"}}
    found = read(first, first, {**first, "values": {"val_accuracy": "0.6"}}, charged=0.8)
    np.testing.assert_allclose(found.accuracies["das-n0-s0"].values, [0.5, 0.6])
    found = read(first, last, charged=0.8)
    np.testing.assert_allclose(found.accuracies["das-n0-s0"].at, [0.8])


def test_energy_is_mean_power_times_held_time(read):
    found = read(
        point("das-n0-s0", 0, **{"system/gpu_0_power_usage_watts": 100.0, "system/gpu_1_power_usage_watts": 300.0}),
        point("das-n0-s0", 5, **{"system/gpu_0_power_usage_watts": 200.0, "system/gpu_0_power_usage_percentage": 9.0}),
        point("das-n0-s1", 5, **{"system/cpu_utilization_percentage": 50.0}),
    )
    assert found.energies == {"das-n0-s0": pytest.approx(0.2)}  # 200 W for an hour


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"event": "metrics", "key": "das-n0-s0", "step": 1, "val',
        b'{"metrics": "' + b"x" * 300_000 + b'"}',
        b"[" * 100_000 + b'"metrics"',
        b'["metrics"]',
        b'"metrics"',
        b"\xff\xfe\x00metrics",
        {"event": "metrics"},
        {"event": "metrics", "key": ["das-n0-s0"], "step": 1, "values": {"val_accuracy": "0.9"}},
        {"event": "metrics", "key": "das-n0-s0", "step": "1", "values": {"val_accuracy": "0.9"}},
        {"event": "metrics", "key": "das-n0-s0", "step": True, "values": {"val_accuracy": "0.9"}},
        {"event": "metrics", "key": "das-n0-s0", "step": -1, "values": {"val_accuracy": "0.9"}},
        {"event": "metrics", "key": "das-n0-s0", "step": 10**400, "values": {"val_accuracy": "0.9"}},
        {"event": "metrics", "key": "das-n0-s0", "step": 1, "values": [0.9]},
        {"event": "metrics", "key": "das-n0-s0", "step": 1, "values": {"val_accuracy": None}},
        {"event": "metrics", "key": "das-n0-s0", "step": 1, "values": {"val_accuracy": {"metrics": 1}}},
        *(point("das-n0-s0", 1, val_accuracy=value) for value in (float("nan"), float("inf"), -0.1, 1.1, "0.9x")),
        point("das-n0-s0", 1, **{"system/gpu_0_power_usage_watts": 1e9}),
        point("das-n0-s0/t1", 1, train_loss=float("nan")),
        point("somebody/else", 1, val_accuracy=0.9, train_loss=1.0),
        {"event": "artifact", "key": "metrics", "path": "x", "folder": "y"},
    ],
)
def test_damage_is_passed_over(read, damaged):
    good = point("das-n0-s0", 2, val_accuracy=0.5)
    found = read(good, damaged, {**good, "time": good["time"] + 1})
    assert found.accuracies.keys() == {"das-n0-s0"}
    np.testing.assert_array_equal(found.accuracies["das-n0-s0"].values, [0.5, 0.5])
    assert not found.losses
    assert not found.energies


def test_no_journal_and_what_is_none(tmp_path, search_row):
    folder = StudyFolder(tmp_path)
    assert read_curves(folder, [search_row()], []) == curves.Curves({}, {}, {})
    folder.tracking.mkdir()
    assert read_curves(folder, [search_row()], []) == curves.Curves({}, {}, {})


@pytest.mark.parametrize("count", [1, 200, 201, 202, 399, 1000, 12_345])
def test_long_series_are_thinned_evenly_with_both_ends(read, count):
    found = read(*(point("das-n0-s0/t1", step, train_loss=step / 4) for step in range(count)))
    loss = found.losses["das-n0-s0", 1]
    assert len(loss.at) == count if count <= MOST_POINTS else MOST_POINTS / 2 <= len(loss.at) <= MOST_POINTS + 1
    assert loss.at[0] == 0
    assert loss.at[-1] == count - 1
    np.testing.assert_array_equal(loss.values, loss.at / 4)
    assert len(set(np.diff(loss.at)[:-1])) <= 1


def random_series(rng, count):
    places = [np.unique(rng.integers(0, 100, 9)) + 0.5 for _ in range(count)]
    return [Series(at, rng.random(len(at))) for at in places]


def value_at(one, time):
    """The last value that a search had told by `time`."""
    told = [value for at, value in zip(one.at, one.values, strict=True) if at <= time]
    return told[-1]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_stepwise_means_against_brute_force(count):
    many = random_series(np.random.default_rng(count), count)
    bundle = stepwise(many, 120.0)
    assert bundle.n == count
    assert bundle.at[0] == max(one.at[0] for one in many)
    assert bundle.at[-1] == 120.0
    assert {at for one in many for at in one.at if at >= bundle.at[0]} <= {*bundle.at}
    for place, time in enumerate(bundle.at):
        values = [value_at(one, time) for one in many]
        assert bundle.mean[place] == pytest.approx(np.mean(values))
        if count > 1:
            assert bundle.sd[place] == pytest.approx(np.std(values, ddof=1))
    assert (bundle.sd is None) is (count == 1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_linear_means_against_scipy(count):
    many = random_series(np.random.default_rng(count), count)
    bundle = linear(many)
    assert bundle.at[0] == max(one.at[0] for one in many)
    assert bundle.at[-1] == min(one.at[-1] for one in many)
    values = [interp1d(one.at, one.values)(bundle.at) for one in many]
    np.testing.assert_allclose(bundle.mean, np.mean(values, axis=0))
    if count > 1:
        np.testing.assert_allclose(bundle.sd, np.std(values, axis=0, ddof=1))


def test_of_nothing_and_of_what_never_meets():
    assert stepwise([], 1.0) is None
    assert linear([]) is None
    apart = [series((0, 1), (1, 1)), series((5, 2), (6, 2))]
    assert linear(apart) is None
    assert stepwise(apart, 6.0).mean[0] == 1.5


def test_a_bundle_has_few_points():
    many = [Series(np.linspace(0, 100, 777) + shift, np.linspace(0, 1, 777)) for shift in (0.0, 0.05)]
    for bundle in (stepwise(many, 101.0), linear(many)):
        assert len(bundle.at) == GRID_POINTS
        np.testing.assert_allclose(bundle.mean, bundle.at.clip(max=100) / 100, atol=0.002)
