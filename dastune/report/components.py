"""How much of the spread of test accuracies is between searches, and how much between trainings of one policy."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dastune.folder import FinalRow, SearchRow
from dastune.report.axis import NOISE, Axis
from dastune.report.intervals import ALPHA, ROUNDING, Interval


@dataclass(frozen=True)
class Components:
    """Variance components of one method at one level: one-way random effects, by analysis of variance.

    Attributes:
        searches, trainings: how many searches with final trainings, and how many of these.
        search_sd: what a search adds, in accuracy; 0 where its estimated variance is negative (`truncated`), as it
            is in about half of the studies where a search adds nothing.
        training_sd: between final trainings of one policy, which differ by their seed.
        share: of the search in the variance of a single final training, in [0, 1]; None where nothing varies.
        interval: 95 % interval of `share`, of normal data (Searle, Linear Models, 1971, section 9.9); exact where all
            searches have as many trainings; None where a component is not estimable.
    """

    method: str
    level: int
    searches: int
    trainings: int
    search_sd: float
    training_sd: float
    truncated: bool
    share: float | None
    interval: Interval | None


def components(searches: Iterable[SearchRow], finals: Iterable[FinalRow], axis: Axis = NOISE) -> list[Components]:
    """Return the components of each method and level with several searches, one of them trained several times.

    Methods as they first appear, levels ascending; failed searches are left out.
    """
    failed = {row.id for row in searches if row.status == "failed"}
    groups: dict[tuple[str, int], dict[int, list[float]]] = {}
    for row in finals:
        if row.search_id not in failed:
            at = groups.setdefault((row.method, axis.level(row)), {})
            at.setdefault(row.search_seed, []).append(row.test_accuracy)
    order = {method: place for place, method in enumerate(dict.fromkeys(method for method, _ in groups))}
    keys = sorted(groups, key=lambda key: (order[key[0]], key[1]))
    return [
        _components(*key, list(groups[key].values()))
        for key in keys
        if 1 < len(groups[key]) < sum(map(len, groups[key].values()))
    ]


def _components(method: str, level: int, by_search: list[list[float]]) -> Components:
    counts = np.array([len(accuracies) for accuracies in by_search])
    k, n = len(by_search), int(counts.sum())
    per_search = float((n - (counts**2).sum() / n) / (k - 1))  # their common number, where they have one
    within = sum(float(np.var(accuracies)) * len(accuracies) for accuracies in by_search) / (n - k)
    means = [float(np.mean(accuracies)) for accuracies in by_search]
    if within <= ROUNDING**2:  # trainings of a policy are all alike: what varies, is the search
        search = float(np.var(means, ddof=1))
        share = 1.0 if search > ROUNDING**2 else None
        return Components(method, level, k, n, search**0.5, within**0.5, False, share, None)
    ratio = float(stats.f_oneway(*by_search).statistic)  # of mean squares between and within searches
    search = within * (ratio - 1) / per_search
    share = max(search, 0.0) / (max(search, 0.0) + within)
    bounds = ratio / stats.f.ppf([1 - ALPHA / 2, ALPHA / 2], k - 1, n - k)
    low, high = np.maximum((bounds - 1) / (bounds - 1 + per_search), 0.0)
    interval = float(low), float(high)
    return Components(method, level, k, n, max(search, 0.0) ** 0.5, within**0.5, search < 0, share, interval)
