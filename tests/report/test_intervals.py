"""Intervals against closed forms, scipy, and numbers by hand."""

import numpy as np
import pytest
from scipy import stats

from dastune.report.intervals import NORMAL_BELOW, RESAMPLES, mean_interval, no_spread, sd_interval, within

SAMPLE = [15.83, 16.01, 16.24, 16.42, 15.33, 15.44, 16.88, 16.31]


@pytest.mark.parametrize("n", [2, 3, 5, NORMAL_BELOW - 1])
def test_few_values_have_the_t_and_the_chi_square_interval(n):
    sample = np.random.default_rng(n).normal(0.5, 0.1, n)
    low, high = stats.t.interval(0.95, n - 1, sample.mean(), stats.sem(sample))
    assert mean_interval(sample) == pytest.approx((low, high))
    sums = np.sum((sample - sample.mean()) ** 2)
    low, high = np.sqrt(sums / stats.chi2.isf([0.025, 0.975], n - 1))
    assert sd_interval(sample) == pytest.approx((low, high))


def test_three_values_by_hand():
    """Mean 0.5, sd 0.4; t of 2 degrees of freedom is 4.3027, chi-square of 2 is -2 log(tail)."""
    half = 4.30265 * 0.4 / np.sqrt(3)
    assert mean_interval([0.1, 0.5, 0.9]) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-5)
    ends = 0.4 / np.sqrt(-np.log([0.025, 0.975]))
    assert sd_interval([0.1, 0.5, 0.9]) == pytest.approx(tuple(ends))


def test_many_values_have_the_expanded_percentile_interval():
    """Hesterberg: alpha' / 2 = Phi(-sqrt(n / (n - 1)) t); resampled here by numpy, with other draws."""
    sample = np.random.default_rng(5).gamma(2, size=12)
    means = np.random.default_rng(8).choice(sample, (200_000, 12)).mean(1)
    tail = stats.norm.cdf(-np.sqrt(12 / 11) * stats.t.isf(0.025, 11))
    assert tail < 0.025
    noise = 4 * np.sqrt(tail * (1 - tail) / RESAMPLES)
    for end, share in zip(mean_interval(sample), (tail, 1 - tail), strict=True):
        least, most = np.quantile(means, [share - noise, share + noise])
        assert least <= end <= most


def test_the_mean_interval_of_normal_quantiles_is_near_the_t_interval():
    sample = stats.norm.ppf((np.arange(10) + 0.5) / 10)
    low, high = stats.t.interval(0.95, 9, 0, stats.sem(sample))
    assert mean_interval(sample) == pytest.approx((low, high), rel=0.06)


def test_many_values_have_bonetts_interval():
    """Worked with plain sums: the trimmed mean of 8 values leaves out 8 / (2 sqrt(4)) = 2 at each end."""
    values = sorted(SAMPLE)
    n, mean = 8, sum(values) / 8
    middle = sum(values[2:6]) / 4
    second = sum((value - mean) ** 2 for value in values)
    fourth = sum((value - middle) ** 4 for value in values)
    c = n / (n - 1.959964)
    error = c * ((n * fourth / second**2 - (n - 3) / n) / (n - 1)) ** 0.5
    variance = c * second / (n - 1)
    low, high = (variance * np.exp(sign * 1.959964 * error) for sign in (-1, 1))
    assert sd_interval(SAMPLE) == pytest.approx((low**0.5, high**0.5), rel=1e-6)


def test_bonetts_interval_nears_the_large_sample_one():
    """Of much normal data the sd is normal with error sd / sqrt(2 n)."""
    sample = np.random.default_rng(1).normal(0, 2, 20_000)
    half = 1.96 / np.sqrt(2 * 20_000)
    low, high = sd_interval(sample) / np.std(sample, ddof=1)
    assert (low, high) == pytest.approx((1 - half, 1 + half), abs=0.1 * half)


@pytest.mark.parametrize("values", [[], [0.3], [0.3, 0.3, 0.3], [0.3] * 20, [0.1 + 0.2, 0.3, 0.3]])
def test_nothing_is_told_from_values_that_do_not_vary(values):
    assert no_spread(tuple(values))
    assert mean_interval(values) is None
    assert sd_interval(values) is None


@pytest.mark.parametrize("n", [2, 7, 8, 40])
def test_a_single_odd_value_has_intervals(n):
    values = [0.3] * (n - 1) + [0.9]
    for low, high in (mean_interval(values), sd_interval(values)):
        assert np.isfinite([low, high]).all()
        assert low < high


def test_the_interval_does_not_change_between_calls():
    values = list(np.random.default_rng(0).normal(size=12))
    first = mean_interval(values)
    mean_interval(values[::-1])
    assert mean_interval(values) == first


def test_an_interval_is_cut_to_what_is_possible():
    assert within((0.9, 1.2), 0.0, 1.0) == (0.9, 1.0)
    assert within((-0.1, 0.2), 0.0, 1.0) == (0.0, 0.2)
    assert within(None, 0.0, 1.0) is None
