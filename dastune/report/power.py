"""What a study could have detected, and how many seeds it would have needed: power of the t test."""

import math
from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from dastune.report.inference import Comparison
from dastune.report.intervals import ALPHA

POWER = 0.8
MOST_SEEDS = 1000
_FAR = 1000.0  # standard errors: so far out only the error of the standard error matters, and scipy's series fail


def detectable(comparison: Comparison, tests: int = 1) -> float | None:
    """Return the smallest true difference that such a comparison finds significant in POWER of all studies.

    Its spread is taken for the true one, though it comes from the same few seeds. None where there is no spread.

    Args:
        tests: how many comparisons Holm's correction is over: the difference is found even if it is the only one.
    """
    if comparison.error is None or comparison.freedom is None:
        return None
    return noncentrality(comparison.freedom, ALPHA / tests) * comparison.error


def seeds_needed(difference: float, spread: float, tests: int = 1) -> int | None:
    """Return how many search seeds, the same for both methods, detect a true `difference` in POWER of all studies.

    Args:
        difference, spread: its size, and the sd of differences over seeds; above 0.
        tests: as in `detectable`.

    Returns:
        At least 2; None for more than MOST_SEEDS.
    """
    effect = abs(difference) / spread

    def enough(seeds: int) -> bool:
        return noncentrality(seeds - 1, ALPHA / tests) <= effect * math.sqrt(seeds)

    if not enough(MOST_SEEDS):
        return None
    few, many = 1, MOST_SEEDS  # too few, enough
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


@lru_cache(maxsize=10_000)
def noncentrality(freedom: float, alpha: float) -> float:
    """Return by how many standard errors a difference must differ from 0 for a two-sided t test to see it.

    That is, p below `alpha` and the right sign, in POWER of all studies.
    """
    critical = float(stats.t.isf(alpha / 2, freedom))
    if critical > _FAR:
        return critical * float(np.sqrt(stats.chi2.ppf(POWER, freedom) / freedom))

    def lacking(shift: float) -> float:
        return float(stats.nct.sf(critical, freedom, shift)) - POWER

    return float(brentq(lacking, 0.0, 2 * critical + 2, xtol=1e-9))
