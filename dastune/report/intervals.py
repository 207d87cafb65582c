"""95 % intervals of a mean and of a standard deviation that cover with the few seeds that studies have."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
NORMAL_BELOW = 8  # values; intervals of fewer assume a normal distribution (benchmarks/inference.py measures both)
RESAMPLES = 9999
BOOTSTRAP_SEED = 0
BATCH_NUMBERS = 1_000_000  # drawn at a time, which bounds the memory of a bootstrap
ROUNDING = 1e-9  # accuracies are counts of images: what differs by less is equal, and has no spread to learn from

INTERVALS_NOTE = (
    f"95 % intervals below {NORMAL_BELOW} seeds: Student's t for a mean, chi-square for an sd; from there on: the "
    "expanded percentile bootstrap for a mean, and for an sd Bonett's, which allows for tails that are not normal."
)

Interval = tuple[float, float]


def mean_interval(values: Iterable[float]) -> Interval | None:
    """Return the 95 % interval of the mean; None for fewer than two values, and where all are equal.

    Below NORMAL_BELOW values it is Student's t. From there on it is the expanded percentile bootstrap (Hesterberg,
    "What Teachers Should Know About the Bootstrap", The American Statistician 69(4), 2015): the percentiles are taken
    further out, such that the interval of normal data is near the t interval. A plain percentile interval of 5 values
    covers 85 %, and that of 3 is their range.
    """
    sample = tuple(float(value) for value in values)
    if no_spread(sample):
        return None
    return _t_interval(sample) if len(sample) < NORMAL_BELOW else _bootstrapped(sample)


def sd_interval(values: Iterable[float]) -> Interval | None:
    """Return the 95 % interval of the standard deviation; None for fewer than two values, and where all are equal.

    Below NORMAL_BELOW values it is that of normal data, by chi-square. From there on it is Bonett's ("Approximate
    confidence interval for standard deviation of nonnormal distributions", Computational Statistics & Data Analysis
    50(3), 2006), which estimates the kurtosis. No bootstrap is used: percentiles of resampled sds of 20
    values cover 85 %, BCa's 89 %.
    """
    sample = np.array(list(values), dtype=float)
    if no_spread(sample):
        return None
    n, sd = len(sample), float(np.std(sample, ddof=1))
    if n < NORMAL_BELOW:
        low, high = np.sqrt((n - 1) / stats.chi2.ppf([1 - ALPHA / 2, ALPHA / 2], n - 1))
        return float(sd * low), float(sd * high)
    normal = float(stats.norm.ppf(1 - ALPHA / 2))
    around = sample - stats.trim_mean(sample, 1 / (2 * np.sqrt(n - 4)))
    kurtosis = n * np.sum(around**4) / np.sum((sample - sample.mean()) ** 2) ** 2
    small = n / (n - normal)
    # of the logarithm of the variance, hence half of it of the sd's
    half = normal * small * np.sqrt(max(kurtosis - (n - 3) / n, 0) / (n - 1)) / 2
    return float(sd * np.sqrt(small) * np.exp(-half)), float(sd * np.sqrt(small) * np.exp(half))


def no_spread(sample: np.ndarray | tuple[float, ...]) -> bool:
    """Return whether there are too few values, or too like ones, to learn a spread from."""
    return len(sample) < 2 or float(np.ptp(sample)) <= ROUNDING


def within(interval: Interval | None, low: float, high: float) -> Interval | None:
    """Return the part of an interval that is possible at all."""
    return None if interval is None else (max(interval[0], low), min(interval[1], high))


def _t_interval(sample: tuple[float, ...]) -> Interval:
    interval = stats.ttest_1samp(sample, 0.0).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


@lru_cache(maxsize=10_000)
def _bootstrapped(sample: tuple[float, ...]) -> Interval:
    """Methods without noise ops have the same numbers at every level, so results are kept."""
    n = len(sample)
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(ALPHA / 2, n - 1))
    result = stats.bootstrap(
        (np.array(sample),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_NUMBERS // n),
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
