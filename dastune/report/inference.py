"""Tests between methods: differences of means and of sds, corrected for how many were asked. No texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
from scipy import stats
from scipy.special import gammaln

from dastune.report.intervals import ALPHA, CONFIDENCE, ROUNDING, Interval
from dastune.report.plan import CONTROLS, PUBLISHED
from dastune.report.stats import Cell

Values = Mapping[int, float]
"""Search seed -> test accuracy in [0, 1], or whatever else is compared."""

AGAINST_CONTROLS = "searches against controls"
BETWEEN_SEARCHES = "searches against each other"
MOST_PAIRS = 1000  # of searches at one level; more can neither be read nor survive the correction


@dataclass(frozen=True)
class Comparison:
    """One method minus another, in units of what is compared.

    Attributes:
        paired: whether by the paired t test, of differences over shared search seeds; else by Welch's, of two samples.
        n: pairs; of two samples the smaller number of values.
        difference: of the means.
        error, freedom: standard error of `difference` and the degrees of freedom of its t distribution; None where
            there is no spread to learn from, and then so are `interval` and `p`.
        interval: 95 % interval of `difference`, as the test has it, not corrected for other comparisons.
        p, p_holm: two-sided p value, and after Holm's correction over its family.
        effect: Hedges' g (`hedges`).
        sd_ratio: sd of one through sd of the other; None where the other is 0.
        p_sd, p_sd_holm: of the Brown-Forsythe test that the variances are the same.
    """

    one: str
    other: str
    paired: bool
    n: int
    difference: float
    error: float | None = None
    freedom: float | None = None
    interval: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    effect: float | None = None
    sd_ratio: float | None = None
    p_sd: float | None = None
    p_sd_holm: float | None = None

    @property
    def significant(self) -> bool:
        """Whether chance is ruled out at the 5 % level, after Holm's correction."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def turned(self) -> "Comparison":
        """The other minus the one."""
        return replace(
            self,
            one=self.other,
            other=self.one,
            difference=-self.difference,
            interval=self.interval and (-self.interval[1], -self.interval[0]),
            effect=None if self.effect is None else -self.effect,
            sd_ratio=1 / self.sd_ratio if self.sd_ratio else None,
        )

    @property
    def spread(self) -> float | None:
        """The sd of the differences over seeds; of two samples, what it would be if seeds have nothing in common."""
        return None if self.error is None else self.error * float(np.sqrt(self.n))

    @property
    def paired_effect(self) -> float | None:
        """The mean of the differences over seeds in their own sds, without small-sample bias; None of two samples.

        A normal difference is above 0 with probability Phi(paired_effect). None for two pairs: no correction exists.
        """
        if not self.paired or self.spread is None or self.freedom is None or self.freedom < 2:
            return None
        return unbiased(self.freedom) * self.difference / self.spread


@dataclass(frozen=True)
class Family:
    """The comparisons of one question at one level, over which Holm's correction goes; None: of all levels."""

    level: int | None
    question: str
    comparisons: tuple[Comparison, ...]

    @property
    def tests(self) -> int:
        """How many of the comparisons of means could be tested, so how many Holm's correction is for."""
        return sum(comparison.p is not None for comparison in self.comparisons)


def families(cells: Iterable[Cell], kinds: Mapping[str, str]) -> list[Family]:
    """Return the comparisons that a study makes, level by level: its searches with controls, and with each other.

    Published policies are left out.

    Args:
        kinds: method label -> kind (`Plan.methods`), where a label is not the method's own name.
    """
    levels: dict[int, dict[str, Values]] = {}
    for cell in cells:
        if cell.n:
            levels.setdefault(cell.level, {})[cell.method] = cell.accuracies
    return [
        Family(level, question, tuple(compare(values, pairs)))
        for level, values in sorted(levels.items())
        for question, pairs in questions(values, kinds).items()
    ]


def questions(methods: Iterable[str], kinds: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs that each question is about, published policies left out.

    A question without a pair is not asked, nor whether searches differ where there are more than MOST_PAIRS of them.
    """
    kind = {method: kinds.get(method, method) for method in methods}
    searches = [method for method in kind if kind[method] not in (*CONTROLS, PUBLISHED)]
    controls = [method for method in kind if kind[method] in CONTROLS]
    asked = {AGAINST_CONTROLS: [*product(searches, controls)], BETWEEN_SEARCHES: [*combinations(searches, 2)]}
    if len(asked[BETWEEN_SEARCHES]) > MOST_PAIRS:
        del asked[BETWEEN_SEARCHES]
    return {question: pairs for question, pairs in asked.items() if pairs}


def compare(values: Mapping[str, Values], pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Return the comparison of each pair of methods, as one family.

    A pair is compared by the paired t test where the two share most of their seeds, else by Welch's. A permutation test
    needs no normal data, yet with n seeds it has no p below 2 ** (1 - n): 0.25 at 3, 0.06 at 5, and Holm's correction
    over m comparisons asks for 0.05 / m. The t test of 3 to 10 seeds keeps its 5 % with skewed data as well (see
    docs/statistics.md).
    """
    groups: dict[tuple[bool, int, int], list[int]] = {}
    samples = [_samples(values[one], values[other]) for one, other in pairs]
    for place, (paired, x, y) in enumerate(samples):
        groups.setdefault((paired, len(x), len(y)), []).append(place)
    found: dict[int, Comparison] = {}
    for (paired, *_), places in groups.items():  # as many tests as there are of one size at once
        x_KN, y_KM = (
            np.array([samples[place][1] for place in places]),
            np.array([samples[place][2] for place in places]),
        )
        found |= zip(places, _tested([pairs[place] for place in places], paired, x_KN, y_KM), strict=True)
    ordered = [found[place] for place in range(len(pairs))]
    means, sds = holm([item.p for item in ordered]), holm([item.p_sd for item in ordered])
    return [replace(item, p_holm=mean, p_sd_holm=sd) for item, mean, sd in zip(ordered, means, sds, strict=True)]


def _samples(one: Values, other: Values) -> tuple[bool, list[float], list[float]]:
    shared = sorted(one.keys() & other.keys())
    if 2 * len(shared) > max(len(one), len(other)):
        return True, [one[seed] for seed in shared], [other[seed] for seed in shared]
    return False, [*one.values()], [*other.values()]


def _tested(names: Sequence[tuple[str, str]], paired: bool, x_KN: np.ndarray, y_KM: np.ndarray) -> Iterator[Comparison]:
    """Yield the comparison of each of K pairs of samples, without Holm's correction."""
    n = min(x_KN.shape[1], y_KM.shape[1])
    titles = ("error", "freedom", "low", "high", "p", "effect", "sd_ratio", "p_sd")
    columns = {title: np.full(len(names), np.nan) for title in titles}
    if n > 1:
        _test_means(columns, paired, x_KN, y_KM)
        _test_sds(columns, x_KN, y_KM)
    difference_K = x_KN.mean(1) - y_KM.mean(1)
    for place, (one, other) in enumerate(names):
        known = {name: None if np.isnan(column[place]) else float(column[place]) for name, column in columns.items()}
        low, high = known.pop("low"), known.pop("high")
        interval = None if low is None or high is None else (low, high)
        yield Comparison(one, other, paired, n, float(difference_K[place]), interval=interval, **known)


def _test_means(columns: Mapping[str, np.ndarray], paired: bool, x_KN: np.ndarray, y_KM: np.ndarray) -> None:
    """Fill in the effect, and the test of the means where there is a spread; two samples must both have one."""
    columns["effect"][:] = hedges(x_KN, y_KM)
    some_K = _spreads(x_KN - y_KM) if paired else _spreads(x_KN) & _spreads(y_KM)
    if not some_K.any():
        return
    x, y = x_KN[some_K], y_KM[some_K]
    result = stats.ttest_rel(x, y, axis=1) if paired else stats.ttest_ind(x, y, axis=1, equal_var=False)
    low, high = result.confidence_interval(CONFIDENCE)
    error = (high - low) / 2 / stats.t.ppf(1 - ALPHA / 2, result.df)
    found = {"error": error, "freedom": result.df, "low": low, "high": high, "p": result.pvalue}
    for name, column in found.items():
        columns[name][some_K] = column


def _test_sds(columns: Mapping[str, np.ndarray], x_KN: np.ndarray, y_KM: np.ndarray) -> None:
    """Fill in the ratio of sds, and the Brown-Forsythe test (Levene's about the median) where deviations differ."""
    y_some_K = _spreads(y_KM)
    columns["sd_ratio"][y_some_K] = np.std(x_KN[y_some_K], axis=1, ddof=1) / np.std(y_KM[y_some_K], axis=1, ddof=1)
    # with two values in each, and by chance with more, all deviations of a sample are the same: no error to test with
    some_K = _deviations_differ(x_KN) | _deviations_differ(y_KM)
    if some_K.any():
        columns["p_sd"][some_K] = stats.levene(x_KN[some_K], y_KM[some_K], center="median", axis=1).pvalue


def _deviations_differ(x_KN: np.ndarray) -> np.ndarray:
    return _spreads(np.abs(x_KN - np.median(x_KN, axis=1, keepdims=True)))


def _spreads(x_KN: np.ndarray) -> np.ndarray:
    spread_K: np.ndarray = np.ptp(x_KN, axis=1) > ROUNDING
    return spread_K


def hedges(x_KN: np.ndarray, y_KM: np.ndarray) -> np.ndarray:
    """Return Hedges' g of each of K pairs of samples: the difference of means in sds, without small-sample bias.

    The sd is the root of the mean of both variances, which need not be the same; the exact correction is that for the
    degrees of freedom of both samples together (Hedges, Journal of Educational Statistics 6(2), 1981). Normal runs of
    the one are better than runs of the other with probability Phi(g / sqrt(2)).
    """
    freedom = x_KN.shape[1] + y_KM.shape[1] - 2
    sd_K = np.sqrt((np.var(x_KN, axis=1, ddof=1) + np.var(y_KM, axis=1, ddof=1)) / 2)
    difference_K = x_KN.mean(1) - y_KM.mean(1)
    effect_K: np.ndarray = np.divide(
        unbiased(freedom) * difference_K, sd_K, out=np.full(len(sd_K), np.nan), where=sd_K > ROUNDING
    )
    return effect_K


def unbiased(freedom: float) -> float:
    """Return by what a difference in estimated sds is to be multiplied; `freedom` of the estimate, at least 2."""
    return float(np.exp(gammaln(freedom / 2) - gammaln((freedom - 1) / 2)) / np.sqrt(freedom / 2))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected by Holm's step-down method; None, which is no test, counts for nothing.

    Where chance alone is behind all of them, one is below 5 % in at most 5 % of studies (Holm, Scandinavian Journal of
    Statistics 6(2), 1979).
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for before, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - before) * p))
        corrected[place] = largest
    return corrected
