"""Variance components against a textbook's numbers, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from dastune.report.components import components


def rows(final_row, by_search, method="das", level=0):
    return [
        final_row(float(value), method, level, seed, train_seed)
        for seed, values in enumerate(by_search)
        for train_seed, value in enumerate(values)
    ]


def test_by_hand(final_row):
    """Means 0.2, 0.4, 0.6 of pairs 0.02 apart: mean squares 0.08 and 0.0002, so 0.0399 and 0.0002."""
    (found,) = components([], rows(final_row, [[0.19, 0.21], [0.39, 0.41], [0.59, 0.61]]))
    assert (found.searches, found.trainings, found.truncated) == (3, 6, False)
    assert found.training_sd == pytest.approx(np.sqrt(0.0002))
    assert found.search_sd == pytest.approx(np.sqrt(0.0399))
    assert found.share == pytest.approx(0.0399 / 0.0401)
    # F = 400; the share is (F / f - 1) / (F / f + 1) at the ends of f
    low, high = ((400 / f - 1) / (400 / f + 1) for f in (stats.f.ppf(0.975, 2, 3), stats.f.ppf(0.025, 2, 3)))
    assert found.interval == pytest.approx((low, high))


def test_nothing_between_searches_is_truncated(final_row):
    (found,) = components([], rows(final_row, [[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]))
    assert (found.search_sd, found.share, found.truncated) == (0.0, 0.0, True)
    assert found.interval[0] == 0.0


def test_unequal_numbers_by_the_definition(final_row):
    by_search = [[0.5, 0.52, 0.56], [0.7], [0.6, 0.64]]
    (found,) = components([], rows(final_row, by_search))
    everything = np.concatenate(by_search)
    within = sum(np.sum((np.array(values) - np.mean(values)) ** 2) for values in by_search) / 3
    between = sum(len(values) * (np.mean(values) - everything.mean()) ** 2 for values in by_search) / 2
    common = (6 - (9 + 1 + 4) / 6) / 2
    assert found.training_sd == pytest.approx(np.sqrt(within))
    assert found.search_sd == pytest.approx(np.sqrt((between - within) / common))


def test_the_estimates_are_those_planted(final_row):
    rng = np.random.default_rng(0)
    searches = 0.5 + 0.03 * rng.standard_normal((2000, 1)) + 0.02 * rng.standard_normal((2000, 3))
    (found,) = components([], rows(final_row, searches))
    assert (found.search_sd, found.training_sd) == pytest.approx((0.03, 0.02), rel=0.05)


def test_where_nothing_varies(final_row):
    (alike,) = components([], rows(final_row, [[0.5, 0.5], [0.5, 0.5]]))
    assert (alike.search_sd, alike.training_sd, alike.share, alike.interval) == (0.0, 0.0, None, None)
    (searches,) = components([], rows(final_row, [[0.5, 0.5], [0.7, 0.7]]))
    assert (searches.search_sd, searches.share) == (pytest.approx(np.sqrt(0.02)), 1.0)


def test_one_search_or_one_training_tells_nothing(final_row, search_row):
    assert components([], rows(final_row, [[0.5, 0.6]])) == []
    assert components([], rows(final_row, [[0.5], [0.6], [0.7]])) == []
    failed = [search_row(seed=1, status="failed")]
    assert components(failed, rows(final_row, [[0.5, 0.6], [0.7, 0.8]])) == []


def test_methods_as_they_first_appear_and_levels_ascending(final_row):
    many = [[0.5, 0.6], [0.7, 0.9]]
    finals = [row for method, level in (("b", 4), ("a", 0), ("b", 0)) for row in rows(final_row, many, method, level)]
    assert [(item.method, item.level) for item in components([], finals)] == [("b", 0), ("b", 4), ("a", 0)]
