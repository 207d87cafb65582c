"""From rows to numbers: one Cell per method and level, and paired differences between cells. No plotting."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dastune.folder import FinalRow, SearchRow
from dastune.report.axis import NOISE, Axis
from dastune.report.intervals import ALPHA, Interval, mean_interval, sd_interval, within

MOST_SD = 0.5  # of a number in [0, 1]


@dataclass(frozen=True)
class Cell:
    """What is known of one method at one level of the study's axis. Accuracies and shares are in [0, 1].

    Attributes:
        accuracies: search seed -> test accuracy, the mean over the training seeds of that search.
        mean, sd: of `accuracies`; sd with ddof = 1. None where too few.
        interval, sd_interval: 95 % intervals of the mean and of the sd (`dastune.report.intervals`), cut to what is
            possible; None where too few, and where all accuracies are equal.
        trainings: final trainings behind `accuracies`, over all search and training seeds.
        val_accuracy, charged_seconds, held_seconds, uniform_noise_share, space_size_log10: means over the searches
            that did not fail; None if there are none, or if none has the value.
        noise_masses: search seed -> share of noise ops among what the found policy applies; `noise_mass` is the mean.
        searches: finished searches that did not fail.
        failed: searches that failed. They count as missing: no number of theirs is in any other field.
    """

    method: str
    level: int
    accuracies: Mapping[int, float]
    mean: float | None
    sd: float | None
    interval: Interval | None
    sd_interval: Interval | None
    trainings: int
    val_accuracy: float | None
    charged_seconds: float | None
    held_seconds: float | None
    noise_masses: Mapping[int, float]
    noise_mass: float | None
    uniform_noise_share: float | None
    space_size_log10: float | None
    searches: int
    failed: int

    @property
    def n(self) -> int:
        """The number of search seeds with a test accuracy."""
        return len(self.accuracies)


@dataclass(frozen=True)
class Difference:
    """One cell minus another, paired over the search seeds that both have. Accuracies, in [0, 1].

    Attributes:
        values: search seed -> difference.
        mean, interval: of `values`; see `mean_interval`.
        half_width: half the width of the 95 % t interval of the mean; None for fewer than two seeds.
    """

    values: Mapping[int, float]
    mean: float
    interval: Interval | None
    half_width: float | None

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.values)


def cells(searches: Iterable[SearchRow], finals: Iterable[FinalRow], axis: Axis = NOISE) -> list[Cell]:
    """Return one Cell per method and level of `axis`: methods as they first appear, levels ascending.

    Searches are read first, then finals: a method known only by its finals comes last.
    """
    searches, finals = list(searches), list(finals)
    methods = list(dict.fromkeys([row.method for row in searches] + [row.method for row in finals]))
    found: dict[tuple[str, int], list[SearchRow]] = {}
    trained: dict[tuple[str, int], list[FinalRow]] = {}
    for search in searches:
        found.setdefault((search.method, axis.level(search)), []).append(search)
    for final in finals:
        trained.setdefault((final.method, axis.level(final)), []).append(final)
    keys = sorted(found.keys() | trained.keys(), key=lambda key: (methods.index(key[0]), key[1]))
    return [_cell(*key, found.get(key, []), trained.get(key, [])) for key in keys]


def _cell(method: str, level: int, searches: list[SearchRow], finals: list[FinalRow]) -> Cell:
    failed = {row.id for row in searches if row.status == "failed"}
    good = [row for row in searches if row.id not in failed]
    by_seed: dict[int, list[float]] = {}
    for final in finals:
        if final.search_id not in failed:
            by_seed.setdefault(final.search_seed, []).append(final.test_accuracy)
    accuracies = {seed: float(np.mean(values)) for seed, values in sorted(by_seed.items())}
    noise_masses = {row.search_seed: row.noise_mass for row in sorted(good, key=lambda row: row.search_seed)}

    def mean_of(value: Callable[[SearchRow], float | None]) -> float | None:
        return mean([known for row in good if (known := value(row)) is not None])

    return Cell(
        method=method,
        level=level,
        accuracies=accuracies,
        mean=mean(accuracies.values()),
        sd=sd(accuracies.values()),
        interval=within(mean_interval(accuracies.values()), 0.0, 1.0),
        sd_interval=within(sd_interval(accuracies.values()), 0.0, MOST_SD),
        trainings=sum(len(values) for values in by_seed.values()),
        val_accuracy=mean_of(lambda row: row.val_accuracy),
        charged_seconds=mean_of(lambda row: row.charged_seconds),
        held_seconds=mean_of(lambda row: row.held_seconds),
        noise_masses=noise_masses,
        noise_mass=mean(noise_masses.values()),
        uniform_noise_share=mean_of(lambda row: row.uniform_noise_share),
        space_size_log10=mean_of(lambda row: row.space_size_log10),
        searches=len(good),
        failed=len(failed),
    )


def mean(values: Iterable[float]) -> float | None:
    """Return the mean, or None of nothing."""
    values = list(values)
    return float(np.mean(values)) if values else None


def sd(values: Iterable[float]) -> float | None:
    """Return the standard deviation with ddof = 1, or None for fewer than two values."""
    values = list(values)
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def difference(one: Cell, other: Cell) -> Difference | None:
    """Return `one` minus `other`, paired over search seeds, or None if they share no seed."""
    values = {
        seed: one.accuracies[seed] - other.accuracies[seed] for seed in one.accuracies if seed in other.accuracies
    }
    middle = mean(values.values())
    if middle is None:
        return None
    spread = sd(values.values())
    half_width = None
    if spread is not None:
        quantile = float(stats.t.ppf(1 - ALPHA / 2, len(values) - 1))
        half_width = quantile * spread / float(np.sqrt(len(values)))
    return Difference(values, middle, mean_interval(values.values()), half_width)
