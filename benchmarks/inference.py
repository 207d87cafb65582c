"""Do the report's intervals cover and its tests keep their promises? python benchmarks/inference.py [--studies N]

Simulates studies with planted means and variances and takes them through the code of the report, from rows of final
trainings to intervals and tests: 3 searches and 2 controls at 0, 4 and 8 noise ops with 3, 5, 10 and 20 search seeds.
Every noise op takes 0.2 points of the mean and adds 0.1 points to an sd of 1 point; methods differ in nothing, and the
seeds of methods and levels have nothing in common. Prints each figure with its bar and exits 1 where one is missed. The
same with skewed accuracies (gamma, skewness -1), which has no bar.

A bar is put off by two standard errors of what so many studies can tell.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dastune.folder import FinalRow
from dastune.report.components import components
from dastune.report.inference import compare, families
from dastune.report.intervals import ALPHA, Interval
from dastune.report.power import POWER, detectable
from dastune.report.stats import cells
from dastune.report.trend import slope_families, trends

METHODS = ("das", "auto_augment", "rand_augment", "random", "none")
LEVELS = (0, 4, 8)
MEAN, LOST = 0.9, 0.002  # test accuracy without noise ops, and what each takes
SD, ADDED = 0.01, 0.001  # of test accuracy without noise ops, and what each adds
SEEDS = (3, 5, 10, 20)
COVERS = (0.93, 0.97)
ALARMS = (0.0, 0.05)
TRAININGS, SEARCH_SD, TRAINING_SD = 3, 0.01, 0.01  # where search and training variance are told apart

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Numbers of mean 0 and variance 1."""


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal numbers."""
    return rng.standard_normal(shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers with a long tail below, of skewness -1."""
    return 2 - rng.gamma(4.0, size=shape) / 2


@dataclass
class Tally:
    """How often things happened, by what they are: a list of hits for each study."""

    hits: dict[str, list[list[bool]]] = field(default_factory=dict)
    studies: int = 0

    def begin(self) -> None:
        """Begin with the next study."""
        self.studies += 1

    def add(self, what: str, hit: bool) -> None:
        """Count once more."""
        studies = self.hits.setdefault(what, [])
        if len(studies) < self.studies:
            studies.append([])
        studies[-1].append(hit)

    def covered(self, what: str, interval: Interval | None, truth: float) -> None:
        """Count whether an interval holds the truth."""
        assert interval is not None, what
        self.add(what, interval[0] <= truth <= interval[1])

    def share(self, what: str) -> tuple[float, float]:
        """Return how often it happened, in [0, 1], and the standard error: hits of one study depend on each other."""
        shares = [float(np.mean(hits)) for hits in self.hits[what]]
        return float(np.mean(shares)), float(np.std(shares, ddof=1) / np.sqrt(len(shares)))


def final(method: str, level: int, seed: int, accuracy: float, train_seed: int = 0) -> FinalRow:
    """Return a final training that reached this accuracy."""
    name = f"{method}-n{level}-s{seed}"
    return FinalRow(name, method, level, seed, train_seed, accuracy, 0.2, 30, 20.0, 1000.0, 10_000, 1_000_000)


def study(rng: np.random.Generator, draw: Draw, seeds: int) -> list[FinalRow]:
    """Return a study in which methods do not differ."""
    noise = draw(rng, (len(METHODS), len(LEVELS), seeds))
    return [
        final(method, level, seed, MEAN - LOST * level + (SD + ADDED * level) * noise[i, j, seed])
        for i, method in enumerate(METHODS)
        for j, level in enumerate(LEVELS)
        for seed in range(seeds)
    ]


def look(tally: Tally, rows: Sequence[FinalRow]) -> None:
    """Tally what the report says of one study."""
    found = cells([], rows)
    for cell in found:
        tally.covered("interval of the mean covers", cell.interval, MEAN - LOST * cell.level)
        tally.covered("interval of the sd covers", cell.sd_interval, SD + ADDED * cell.level)
    slopes = trends(found)
    for trend in slopes:
        tally.covered("interval of the mean's slope covers", trend.interval, -LOST)
        tally.covered("interval of the sd's slope covers", trend.sd_interval, ADDED)
    for family in families(found, {}):
        for item in family.comparisons:
            tally.add("test of means: false alarms", item.p is not None and item.p < ALPHA)
            tally.add("test of sds: false alarms", item.p_sd is not None and item.p_sd < ALPHA)
            tally.covered("interval of a difference covers", item.interval, 0.0)
        tally.add(
            f"Holm, means, {family.question}: any false alarm", any(item.significant for item in family.comparisons)
        )
        sds = [item.p_sd_holm for item in family.comparisons if item.p_sd_holm is not None]
        tally.add(f"Holm, sds, {family.question}: any false alarm", min(sds, default=1.0) < ALPHA)
    for family in slope_families(slopes, {}):
        tally.add("Holm, slopes: any false alarm", any(item.significant for item in family.comparisons))


def look_for_differences(tally: Tally, rng: np.random.Generator, seeds: int) -> None:
    """Tally whether a difference that is just detectable is found: alone, and with Holm's correction over 4."""
    for what, controls in (("finds what is detectable", 1), ("finds what is detectable after Holm", 4)):
        noise = SD * rng.standard_normal((controls + 1, seeds))
        names = ["das", *(f"control {place}" for place in range(controls))]
        pairs = [("das", name) for name in names[1:]]
        known = compare({name: dict(enumerate(MEAN + row)) for name, row in zip(names, noise, strict=True)}, pairs)[0]
        # what is detectable is to be known from the true spread here, not from the one seen
        true = detectable(replace(known, error=SD * float(np.sqrt(2 / seeds))), controls)
        assert true is not None
        noise[0] += true
        noise[2:] += true  # so that das differs from the first control only
        values = {name: dict(enumerate(MEAN + row)) for name, row in zip(names, noise, strict=True)}
        tally.add(what, compare(values, pairs)[0].significant)


def look_at_components(tally: Tally, rng: np.random.Generator, seeds: int) -> None:
    """Tally whether the interval of the search's share of the variance covers."""
    of_search = SEARCH_SD * rng.standard_normal(seeds)
    noise = TRAINING_SD * rng.standard_normal((seeds, TRAININGS))
    rows = [
        final("das", 0, seed, MEAN + of_search[seed] + noise[seed, train_seed], train_seed)
        for seed in range(seeds)
        for train_seed in range(TRAININGS)
    ]
    (found,) = components([], rows)
    share = SEARCH_SD**2 / (SEARCH_SD**2 + TRAINING_SD**2)
    tally.covered("interval of the search's share covers", found.interval, share)


def look_at_welch(tally: Tally, rng: np.random.Generator, seeds: int) -> None:
    """Tally false alarms of methods with no seed in common, the sd of one twice that of the other."""
    values = {
        name: {first + seed: MEAN + sd * noise for seed, noise in enumerate(rng.standard_normal(seeds))}
        for name, first, sd in (("das", 0, SD), ("random", 1000, 2 * SD))
    }
    (item,) = compare(values, [("das", "random")])
    assert not item.paired
    tally.add("Welch's test: false alarms", item.p is not None and item.p < ALPHA)


def simulated(draw: Draw, seeds: int, studies: int) -> Tally:
    """Return what came of so many studies; always the same ones."""
    rng, tally = np.random.default_rng([seeds, 7]), Tally()
    for _ in range(studies):
        tally.begin()
        look(tally, study(rng, draw, seeds))
        if draw is normal:
            look_for_differences(tally, rng, seeds)
            look_at_components(tally, rng, seeds)
            look_at_welch(tally, rng, seeds)
    return tally


def bar_of(what: str) -> tuple[float, float]:
    """Return between what a share must be."""
    if "finds" in what:  # step by step, Holm's correction may find more than its first step promises
        return (POWER - 0.02, 1.0 if "Holm" in what else POWER + 0.02)
    if "sd's slope" in what:  # may cover more, for it has to where seeds have something in common at all levels
        return COVERS[0], 1.0
    return COVERS if "covers" in what else ALARMS


def lines(tally: Tally, seeds: int, with_bars: bool) -> Iterator[tuple[str, bool]]:
    """Yield each figure with its bar in words, and whether it is held."""
    for what in tally.hits:
        (share, error), (low, high) = tally.share(what), bar_of(what)
        text = f"{seeds:2d} seeds: {what} {100 * share:.1f} % (+- {200 * error:.1f})"
        if not with_bars:
            yield text, True
            continue
        bar = f"{100 * low:.0f} to {100 * high:.0f} %" if low else f"at most {100 * high:.0f} %"
        held = low - 2 * error <= share <= high + 2 * error
        yield f"{text}, bar: {bar}{'' if held else ' MISSED'}", held


def main() -> int:
    """Print all figures; return how many bars were missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--studies", type=int, default=500, help="simulated, for each number of seeds")
    options = parser.parse_args()
    missed = 0
    for title, draw in (("normal accuracies", normal), ("skewed accuracies, no bars", skewed)):
        print(f"{title}, {options.studies} studies")
        for seeds in SEEDS:
            tally = simulated(draw, seeds, options.studies)
            for text, held in lines(tally, seeds, draw is normal):
                print(text, flush=True)
                missed += not held
    return missed


if __name__ == "__main__":
    sys.exit(main() > 0)
