"""Slopes over noise ops against scipy's line, by hand, and simulation."""

import numpy as np
import pytest
from scipy import stats

from dastune.report.intervals import mean_interval
from dastune.report.stats import cells
from dastune.report.trend import slope_families, trends


def rows(final_row, method, at):
    """Final trainings of level -> accuracies by seed."""
    return [
        final_row(float(value), method, level, seed)
        for level, values in at.items()
        for seed, value in (values.items() if isinstance(values, dict) else enumerate(values))
    ]


def test_slopes_are_those_of_scipys_line(final_row):
    rng = np.random.default_rng(0)
    at = {level: rng.uniform(0.8, 0.9, 4) for level in (0, 3, 4, 8)}
    (found,) = trends(cells([], rows(final_row, "das", at)))
    levels = list(at)
    expected = [stats.linregress(levels, [at[level][seed] for level in levels]).slope for seed in range(4)]
    assert list(found.slopes.values()) == pytest.approx(expected)
    # the mean of the seeds' slopes is the slope of the means
    assert found.mean == pytest.approx(stats.linregress(levels, [at[level].mean() for level in levels]).slope)
    assert found.interval == pytest.approx(mean_interval(expected))
    assert found.sd == pytest.approx(stats.linregress(levels, [at[level].std(ddof=1) for level in levels]).slope)
    assert (found.levels, found.n) == ((0, 3, 4, 8), 4)
    assert found.sd_interval[0] < found.sd < found.sd_interval[1]


def test_the_interval_of_the_sds_slope_between_two_levels(final_row):
    """A generalised pivot of two sds: simulated here in another way, as sds of samples that are refitted."""
    at = {0: [0.80, 0.81, 0.83, 0.82, 0.85], 10: [0.70, 0.75, 0.79, 0.74, 0.81]}
    (found,) = trends(cells([], rows(final_row, "das", at)))
    rng = np.random.default_rng(6)
    fake = [np.std(at[level], ddof=1) / np.std(rng.standard_normal((400_000, 5)), axis=1, ddof=1) for level in (0, 10)]
    low, high = np.quantile((fake[1] - fake[0]) / 10, [0.025, 0.975])
    assert found.sd_interval == pytest.approx((low, high), abs=0.06 * (high - low))


def test_only_seeds_at_all_levels_count(final_row):
    at = {0: {0: 0.9, 1: 0.8, 5: 0.1}, 4: {0: 0.8, 1: 0.8, 2: 0.7}}
    (found,) = trends(cells([], rows(final_row, "das", at)))
    assert found.slopes == pytest.approx({0: -0.025, 1: 0.0})
    (none,) = trends(cells([], rows(final_row, "das", {0: {0: 0.9}, 4: {1: 0.8}})))
    assert (none.n, none.mean, none.interval, none.sd, none.sd_interval) == (0, None, None, None, None)


def test_one_seed_and_one_level(final_row):
    (found,) = trends(cells([], rows(final_row, "das", {0: [0.9], 4: [0.8]})))
    assert (found.n, found.mean, found.interval, found.sd) == (1, pytest.approx(-0.025), None, None)
    assert trends(cells([], rows(final_row, "das", {0: [0.9, 0.8]}))) == []
    assert trends([]) == []


def test_a_method_that_takes_no_op_does_not_change(final_row):
    (found,) = trends(cells([], rows(final_row, "none", {level: [0.91, 0.93, 0.9] for level in (0, 4, 8)})))
    assert (found.mean, found.interval, found.sd, found.sd_interval) == (0.0, None, 0.0, None)
    assert set(found.slopes.values()) == {0.0}


def test_slopes_of_methods_are_compared(final_row):
    rng = np.random.default_rng(3)
    planted = {"das": -0.001, "random": -0.004, "none": 0.0}
    at = {
        method: {level: 0.9 + slope * level + rng.normal(0, 0.001, 5) for level in (0, 4, 8)}
        for method, slope in planted.items()
    }
    found = trends(cells([], [row for method in at for row in rows(final_row, method, at[method])]))
    (family,) = slope_families(found, {})
    assert [(item.one, item.other) for item in family.comparisons] == [("das", "random"), ("das", "none")]
    das, random = (list(trend.slopes.values()) for trend in found[:2])
    assert family.comparisons[0].p == pytest.approx(stats.ttest_rel(das, random).pvalue)
    # a method that lacks a level has a slope over other levels, which is not to be compared
    short = trends(cells([], [*rows(final_row, "das", at["das"]), *rows(final_row, "none", {0: [0.9], 4: [0.8]})]))
    assert slope_families(short, {}) == []
