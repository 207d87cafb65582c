"""Tests between methods against scipy's documented examples, brute force and numbers by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from dastune.report.inference import AGAINST_CONTROLS, BETWEEN_SEARCHES, MOST_PAIRS, compare, families, holm, questions
from dastune.report.stats import cells

# scipy.stats.levene's documented example
A = [8.88, 9.12, 9.04, 8.98, 9.00, 9.08, 9.01, 8.85, 9.06, 8.99]
B = [8.88, 8.95, 9.29, 9.44, 9.15, 9.58, 8.36, 9.18, 8.67, 9.05]


def by_seed(values, first=0):
    return {first + seed: float(value) for seed, value in enumerate(values)}


def one(x, y, first=0):
    (found,) = compare({"x": by_seed(x), "y": by_seed(y, first)}, [("x", "y")])
    return found


def test_shared_seeds_are_paired():
    found = one(A, B)
    expected = stats.ttest_rel(A, B)
    assert (found.paired, found.n) == (True, 10)
    assert found.difference == pytest.approx(np.mean(A) - np.mean(B))
    assert found.p == found.p_holm == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert (found.freedom, found.spread) == pytest.approx((9, np.std(np.subtract(A, B), ddof=1)))


def test_the_paired_test_by_hand():
    """Differences 1, 2, 3: mean 2, sd 1, t = 2 sqrt(3) with 2 degrees of freedom, whose tail is closed."""
    found = one([0.02, 0.05, 0.05], [0.01, 0.03, 0.02])
    t = 2 * np.sqrt(3)
    assert found.p == pytest.approx(1 - t / np.sqrt(2 + t**2))
    # Hedges' correction for 2 degrees of freedom: Gamma(1) / (sqrt(1) Gamma(1 / 2)) = 1 / sqrt(pi)
    assert found.paired_effect == pytest.approx(2 / np.sqrt(np.pi))


def test_other_seeds_are_two_samples():
    found = one(A, B[:7], first=100)
    expected = stats.ttest_ind(A, B[:7], equal_var=False)
    assert (found.paired, found.n, found.paired_effect) == (False, 7, None)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert found.freedom == pytest.approx(expected.df)
    assert found.error == pytest.approx(np.hypot(stats.sem(A), stats.sem(B[:7])))


@pytest.mark.parametrize(("first", "paired"), [(4, True), (5, False)])
def test_most_seeds_of_both_must_be_shared_to_pair(first, paired):
    found = one(A, B, first)
    assert found.paired == paired
    if paired:
        assert found.p == pytest.approx(stats.ttest_rel(A[4:], B[:6]).pvalue)


def test_brown_forsythe_is_scipys_documented_example():
    found = one(A, B)
    expected = stats.levene(A, B, center="median").pvalue
    assert found.p_sd == pytest.approx(expected)
    # by hand: the analysis of variance of distances from the median
    x, y = (np.abs(np.array(sample) - np.median(sample)) for sample in (A, B))
    assert found.p_sd == pytest.approx(stats.f_oneway(x, y).pvalue)
    assert found.sd_ratio == pytest.approx(np.std(A, ddof=1) / np.std(B, ddof=1))


def test_hedges_g_by_hand():
    """Means 2 and 5, variances 1 and 4: d = -3 / sqrt(2.5), and J(4) = Gamma(2) / (sqrt(2) Gamma(1.5))."""
    found = one([1, 2, 3], [3, 5, 7])
    correction = 1 / (np.sqrt(2) * np.sqrt(np.pi) / 2)
    assert found.effect == pytest.approx(-3 / np.sqrt(2.5) * correction)


def test_hedges_g_is_unbiased():
    """Against the planted difference of 0.8 sds, over 5,000 pairs of samples of 4."""
    rng = np.random.default_rng(0)
    values = {}
    for place in range(5_000):
        values[f"x{place}"] = by_seed(rng.normal(0.8, 1, 4))
        values[f"y{place}"] = by_seed(rng.normal(0, 1, 4))
    found = [item.effect for item in compare(values, [(f"x{place}", f"y{place}") for place in range(5_000)])]
    assert np.mean(found) == pytest.approx(0.8, abs=4 * np.std(found) / np.sqrt(len(found)))


def test_many_pairs_at_once_are_each_pair_alone():
    rng = np.random.default_rng(2)
    values = {name: by_seed(rng.normal(0.9, 0.01, n), first) for name, n, first in
              (("a", 4, 0), ("b", 4, 0), ("c", 3, 0), ("d", 5, 90), ("e", 1, 0), ("f", 4, 1))}  # fmt: skip
    values["flat"] = dict.fromkeys(range(4), 0.9)
    pairs = [(x, y) for x, y in product(values, values) if x < y]
    together = compare(values, pairs)
    assert [(item.one, item.other) for item in together] == pairs
    for item in together:
        (alone,) = compare(values, [(item.one, item.other)])
        assert (alone.paired, alone.n, alone.interval) == (item.paired, item.n, item.interval)
        assert (alone.p, alone.effect, alone.p_sd, alone.sd_ratio) == (item.p, item.effect, item.p_sd, item.sd_ratio)
    assert [item.p_holm for item in together] == holm([item.p for item in together])
    assert [item.p_sd_holm for item in together] == holm([item.p_sd for item in together])


def test_turned_is_the_comparison_the_other_way_round():
    turned, expected = one(A, B).turned, compare({"x": by_seed(A), "y": by_seed(B)}, [("y", "x")])[0]
    assert (turned.one, turned.other, turned.p, turned.p_sd) == ("y", "x", expected.p, pytest.approx(expected.p_sd))
    for name in ("difference", "interval", "effect", "paired_effect", "sd_ratio", "spread"):
        assert getattr(turned, name) == pytest.approx(getattr(expected, name))


def test_where_nothing_varies_nothing_is_tested():
    same = one([0.9, 0.8, 0.7], [0.9, 0.8, 0.7])
    assert (same.difference, same.p, same.interval, same.spread, same.significant) == (0, None, None, None, False)
    shifted = one([0.9, 0.8, 0.7], [0.8, 0.7, 0.6])  # the same difference in every seed
    assert (shifted.difference, shifted.p, shifted.paired_effect) == (pytest.approx(0.1), None, None)
    assert shifted.effect is not None
    flat = one([0.9] * 4, [0.8] * 4, first=50)
    assert (flat.p, flat.effect, flat.sd_ratio, flat.p_sd) == (None, None, None, None)
    assert one([0.9, 0.8, 0.7], [0.5] * 3).sd_ratio is None
    assert one([0.5] * 3, [0.9, 0.8, 0.7]).sd_ratio == 0


def test_two_values_cannot_tell_sds_apart():
    """Both are as far from their median, so Levene's F is infinite, which says nothing."""
    found = one([0.9, 0.8], [0.9, 0.5])
    assert found.p_sd is None
    assert found.p is not None
    assert found.paired_effect is None


def test_one_seed():
    found = one([0.9], [0.8])
    assert (found.n, found.difference) == (1, pytest.approx(0.1))
    assert (found.p, found.p_holm, found.interval, found.effect, found.sd_ratio) == (None,) * 5


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_holm_is_the_closure_of_bonferroni():
    """A hypothesis is rejected if and only if Bonferroni rejects each set of hypotheses that it is in."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        p = rng.uniform(0, 0.2, 5)
        sets = [np.flatnonzero(chosen) for chosen in product([0, 1], repeat=5) if any(chosen)]
        closure = [max(min(1, len(of) * p[of].min()) for of in sets if place in of) for place in range(5)]
        assert holm(list(p)) == pytest.approx(closure)


def test_what_is_asked():
    kinds = {"das_paper": "das", "luck": "random", "theirs": "published"}
    asked = questions(["das", "das_paper", "luck", "theirs", "none"], kinds)
    assert asked[AGAINST_CONTROLS] == [("das", "luck"), ("das", "none"), ("das_paper", "luck"), ("das_paper", "none")]
    assert asked[BETWEEN_SEARCHES] == [("das", "das_paper")]
    assert questions(["none", "random"], {}) == {}
    assert list(questions(["das", "none"], {})) == [AGAINST_CONTROLS]
    many = [f"m{place}" for place in range(MOST_PAIRS)]
    assert {question: len(pairs) for question, pairs in questions([*many, "none", "random"], {}).items()} == {
        AGAINST_CONTROLS: 2 * MOST_PAIRS
    }


def test_a_family_for_each_level_and_question(final_row):
    rng = np.random.default_rng(4)
    finals = [
        final_row(float(rng.uniform(0.8, 0.9)), method, level, seed)
        for method in ("das", "auto_augment", "random", "none")
        for level in (0, 8)
        for seed in range(5)
    ]
    found = families(cells([], finals), {})
    assert [(family.level, family.question, family.tests) for family in found] == [
        (0, AGAINST_CONTROLS, 4), (0, BETWEEN_SEARCHES, 1), (8, AGAINST_CONTROLS, 4), (8, BETWEEN_SEARCHES, 1),
    ]  # fmt: skip
    for family in found:
        assert [item.p_holm for item in family.comparisons] == holm([item.p for item in family.comparisons])
    assert families([], {}) == []
