"""Statistics against numbers worked by hand, numpy and scipy."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from dastune.report.intervals import mean_interval, sd_interval
from dastune.report.stats import cells, difference, sd


def test_a_cell_by_hand(search_row, final_row):
    searches = [search_row(seed=seed, charged_seconds=10.0 + seed) for seed in (0, 1, 2)]
    finals = [
        final_row(accuracy, seed=seed, train_seed=train)
        for seed, pair in enumerate([(0.90, 0.92), (0.94, 0.94), (0.95, 0.99)])
        for train, accuracy in enumerate(pair)
    ]
    (cell,) = cells(searches, finals)
    assert cell.accuracies == pytest.approx({0: 0.91, 1: 0.94, 2: 0.97})
    assert (cell.n, cell.trainings, cell.searches, cell.failed) == (3, 6, 3, 0)
    assert cell.mean == pytest.approx(0.94)
    assert cell.sd == pytest.approx(0.03)
    assert cell.interval == pytest.approx((0.94 - 0.0745, 1.0), abs=1e-4)  # 4.303 * 0.03 / sqrt(3), and no accuracy > 1
    assert cell.sd_interval == pytest.approx((0.0156, 0.1885), abs=1e-4)  # chi-square of 2: 7.378 and 0.0506
    assert cell.charged_seconds == pytest.approx(11.0)
    assert cell.held_seconds == pytest.approx(11.0)
    assert cell.noise_masses == pytest.approx({0: 0.10, 1: 0.11, 2: 0.12})
    assert cell.noise_mass == pytest.approx(0.11)
    assert cell.uniform_noise_share == pytest.approx(0.2)
    assert cell.space_size_log10 == pytest.approx(30.0)


def test_methods_as_they_first_appear_and_levels_ascending(search_row, final_row):
    rows = [search_row("b", 4), search_row("a", 8), search_row("b", 0), search_row("a", 0)]
    found = cells(rows, [final_row(0.9, "only_trained", 2)])
    keys = [(cell.method, cell.level) for cell in found]
    assert keys == [("b", 0), ("b", 4), ("a", 0), ("a", 8), ("only_trained", 2)]


def test_a_failed_search_is_counted_and_nothing_else_of_it(search_row, final_row):
    searches = [search_row(seed=0), search_row(seed=1, status="failed", charged_seconds=99.0, noise_mass=0.9)]
    (cell,) = cells(searches, [final_row(0.9, seed=0), final_row(0.1, seed=1)])
    assert (cell.searches, cell.failed) == (1, 1)
    assert cell.accuracies == {0: 0.9}
    assert cell.charged_seconds == 10.0
    assert cell.noise_masses == {0: 0.1}


def test_validation_accuracy_leaves_out_the_unknown(search_row):
    known, unknown = search_row(seed=0, val_accuracy=0.8), search_row(seed=1, val_accuracy=None)
    assert cells([known, unknown], [])[0].val_accuracy == 0.8
    assert cells([unknown], [])[0].val_accuracy is None


def test_too_few_seeds_give_none_not_nan(search_row, final_row):
    (cell,) = cells([search_row()], [final_row(0.9)])
    assert (cell.mean, cell.sd, cell.interval, cell.sd_interval) == (0.9, None, None, None)
    (cell,) = cells([search_row()], [])
    assert (cell.mean, cell.sd, cell.interval, cell.n) == (None, None, None, 0)
    assert cells([], []) == []


def test_sd_is_that_of_a_sample():
    values = [0.1, 0.4, 0.35, 0.8]
    assert sd(values) == pytest.approx(np.std(values, ddof=1))


def test_a_difference_is_paired_over_shared_seeds(search_row, final_row):
    finals = [final_row(0.9 + 0.01 * seed, "a", seed=seed) for seed in (0, 1, 2, 3)]
    finals += [final_row(value, "b", seed=seed) for seed, value in ((1, 0.90), (2, 0.88), (3, 0.92), (7, 0.1))]
    a, b = cells([], finals)
    found = difference(a, b)
    assert found.values == pytest.approx({1: 0.01, 2: 0.04, 3: 0.01})
    assert found.mean == pytest.approx(0.02)
    low, high = scipy_stats.ttest_rel([0.91, 0.92, 0.93], [0.90, 0.88, 0.92]).confidence_interval()
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))


def test_no_shared_seed_no_difference(final_row):
    a, b = cells([], [final_row(0.9, "a", seed=0), final_row(0.8, "b", seed=1)])
    assert difference(a, b) is None
    single = difference(a, a)
    assert (single.mean, single.interval, single.half_width, single.n) == (0.0, None, None, 1)


def test_intervals_of_a_cell_are_those_of_its_accuracies(final_row):
    values = [0.90, 0.91, 0.93, 0.905, 0.92]
    (cell,) = cells([], [final_row(value, seed=seed) for seed, value in enumerate(values)])
    assert (cell.interval, cell.sd_interval) == (mean_interval(values), sd_interval(values))
