"""What can be detected, against simulation and the normal approximation."""

import numpy as np
import pytest
from scipy import stats

from dastune.report.inference import compare
from dastune.report.power import MOST_SEEDS, detectable, noncentrality, seeds_needed


@pytest.mark.parametrize(
    ("freedom", "alpha"), [(1, 0.05), (2, 0.05), (2, 0.05 / 22), (4.7, 0.01), (9, 0.05), (30, 1e-4)]
)
def test_a_shift_that_is_seen_in_80_percent_of_studies(freedom, alpha):
    rng = np.random.default_rng(1)
    many = 200_000
    shifted = rng.standard_normal(many) + noncentrality(freedom, alpha)
    t = shifted / np.sqrt(rng.chisquare(freedom, many) / freedom)
    assert np.mean(t > stats.t.isf(alpha / 2, freedom)) == pytest.approx(0.8, abs=0.005)


def test_far_out_the_limit_goes_on_from_the_exact_number():
    """At one degree of freedom the critical values of these levels lie on both sides of where scipy's series end."""
    near, far = (noncentrality(1, alpha) / stats.t.isf(alpha / 2, 1) for alpha in (6.5e-4, 6.3e-4))
    assert stats.t.isf(6.5e-4 / 2, 1) < 1000 < stats.t.isf(6.3e-4 / 2, 1)
    assert near == pytest.approx(far, rel=1e-4)


def test_many_seeds_need_the_normal_approximation():
    """n = ((1.960 + 0.842) / effect) ** 2, plus about 1.96 ** 2 / 2 for the estimated sd (Guenther)."""
    expected = ((1.959964 + 0.841621) / 0.2) ** 2 + 1.959964**2 / 2
    assert seeds_needed(-0.2, 1.0) == pytest.approx(expected, abs=1)


def test_seeds_needed_is_the_least_number():
    for effect in (0.1, 0.3, 1.0, 5.0):
        for tests in (1, 12):
            seeds = seeds_needed(effect, 1.0, tests)
            if seeds is None:
                assert noncentrality(MOST_SEEDS - 1, 0.05 / tests) > effect * np.sqrt(MOST_SEEDS)
                continue
            tried = [n for n in range(2, seeds + 1, max(1, seeds // 20)) if n < seeds] + [seeds - 1, seeds]
            enough = [noncentrality(n - 1, 0.05 / tests) <= effect * np.sqrt(n) for n in tried if n > 1]
            assert enough == [False] * (len(enough) - 1) + [True]
    assert seeds_needed(0.01, 1.0) is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e9, 1.0) == 2


def test_a_textbook_example():
    """A paired t test of effect 0.5 with power 0.8 needs 34 pairs (as G*Power and statsmodels have it)."""
    assert seeds_needed(0.5, 1.0) == 34


def test_what_a_comparison_could_have_detected():
    x, y = [0.90, 0.92, 0.95], [0.89, 0.93, 0.91]
    (found,) = compare({"x": dict(enumerate(x)), "y": dict(enumerate(y))}, [("x", "y")])
    error = stats.sem(np.subtract(x, y))
    assert detectable(found) == pytest.approx(noncentrality(2, 0.05) * error)
    assert detectable(found, 12) == pytest.approx(noncentrality(2, 0.05 / 12) * error)
    (nothing,) = compare({"x": {0: 0.9}, "y": {0: 0.8}}, [("x", "y")])
    assert detectable(nothing) is None
