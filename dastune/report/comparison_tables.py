"""Tables of tests between methods, slopes over levels, components of the spread, and of what could be detected."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import pandas as pd
from scipy import stats

from dastune.report.answer import POINT, Best
from dastune.report.axis import NOISE, Axis
from dastune.report.components import Components
from dastune.report.inference import MOST_PAIRS, Comparison, Family
from dastune.report.intervals import Interval
from dastune.report.points import between, p_text, points, seeds_text, signed
from dastune.report.power import detectable, seeds_needed
from dastune.report.table import Table
from dastune.report.tables import NOTHING, number, percent
from dastune.report.trend import Trend

MOST_ROWS = 100  # of comparisons on the page; a table's CSV has all
FEW_LEVELS = 5

CellText = Callable[[Comparison], str]

DEFINITIONS = (
    "Difference: first minus second method, mean test accuracy in percentage points; under it the 95 % interval of "
    "this one comparison. By the paired t test where both methods share most search seeds, else by Welch's. A "
    "permutation test would need more seeds: of 5 pairs its p is never below 0.06.",
    "p (Holm): after Holm's correction, which keeps false alarms under 5 % for each question at each level (searches "
    "against controls, searches against each other); under it p of this comparison alone.",
    "g: Hedges' g, the difference in sds of single runs; under it how often a run of the first method beats one of the "
    "second, if runs are normal.",
    "sd ratio: sd over seeds of the first through that of the second method; under it p of the Brown-Forsythe test "
    "that they are the same, after Holm's correction. Below 6 seeds this test finds next to nothing.",
    f"Searches are not compared with each other where there are more than {MOST_PAIRS} pairs of them.",
    "A large p does not say that two methods are alike: see what the study could have detected.",
)


def comparison_tables(families: Sequence[Family], axis: Axis = NOISE) -> list[Table]:
    """Return one table of comparisons for each level, the highest first."""
    tables = []
    for level in sorted({family.level for family in families if family.level is not None}, reverse=True):
        mine = [family for family in families if family.level == level]
        columns: dict[str, CellText] = {"difference": _difference, "p (Holm)": _p, "g": _effect, "sd ratio": _sd_ratio}
        tables.append(_comparisons(f"comparisons_{level}", f"Comparisons at {axis.text(level)}", columns, mine))
    return tables


def slope_comparison_table(families: Sequence[Family], axis: Axis = NOISE) -> Table | None:
    """Return the comparisons of slopes; None without any."""
    if not families:
        return None
    columns: dict[str, CellText] = {"difference": lambda item: _difference(item, 2), "p (Holm)": _p}
    title = f"Comparisons of the change with each {axis.step}, points per {axis.per}"
    return _comparisons("slope_comparisons", title, columns, families)


def _comparisons(name: str, title: str, columns: dict[str, CellText], families: Sequence[Family]) -> Table:
    found = [item for family in families for item in family.comparisons]
    shown = found
    if len(found) > MOST_ROWS:
        shown = sorted(found, key=lambda item: 2.0 if item.p is None else item.p)[:MOST_ROWS]
    bases = [f"{'paired' if item.paired else 'Welch'}, n={item.n}" for item in shown]
    alike = len(set(bases)) == 1
    names = [
        f"{item.one} vs {item.other}" + ("" if alike else f"\n{basis}")
        for item, basis in zip(shown, bases, strict=True)
    ]
    rows = [[name, *(text(item) for text in columns.values())] for name, item in zip(names, shown, strict=True)]
    tests = ", ".join(f"{family.tests} {_tests(family.tests)} of {family.question}" for family in families)
    note = f"{f'All: {bases[0]}. ' if alike else ''}Holm's correction over {tests}."
    if len(shown) < len(found):
        note += f" Shown are the {len(shown)} comparisons with the smallest p; the CSV has all {len(found)}."
    records = [{"question": family.question, **_numbers(item)} for family in families for item in family.comparisons]
    return Table(name, title, ["first vs second", *columns], rows, note, pd.DataFrame(records))


def _tests(count: int) -> str:
    return "test" if count == 1 else "tests"


def _numbers(item: Comparison) -> dict[str, object]:
    numbers = vars(item) | {"paired_effect": item.paired_effect}
    return {name: value for name, value in numbers.items() if name != "interval"} | _ends("difference", item.interval)


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _difference(item: Comparison, digits: int = 1) -> str:
    under = "one seed" if item.n < 2 else "same in all seeds" if item.paired else "no spread"
    if item.interval is not None:
        under = between(item.interval, digits)
    return f"{points(item.difference, digits)}\n{under}"


def _p(item: Comparison) -> str:
    return NOTHING if item.p is None or item.p_holm is None else f"{p_text(item.p_holm)}\nalone {p_text(item.p)}"


def _effect(item: Comparison) -> str:
    if item.effect is None:
        return NOTHING
    return f"{signed(item.effect)}\n{percent(float(stats.norm.cdf(item.effect / 2**0.5)), 0)} %"


def _sd_ratio(item: Comparison) -> str:
    return number(item.sd_ratio) + ("" if item.p_sd_holm is None else f"\np {p_text(item.p_sd_holm)}")


def slopes_table(trends: Sequence[Trend], axis: Axis = NOISE) -> Table | None:
    """Return the slope of mean and sd over levels, one row a method; None without any."""
    if not trends:
        return None
    rows = [[trend.method, *_slope_cells(trend), f"{trend.n}\n{_levels(trend, axis)}"] for trend in trends]
    note = (
        f"Percentage points of the mean, and of the sd over seeds, for each {axis.more}, by straight lines; under it "
        "the 95 % interval, with 0 in it where no change is shown. Of the seeds that are at all levels. The interval "
        "of the sd's slope is a generalised one of normal runs."
    )
    records = [
        {
            **{"method": trend.method, "levels": " ".join(map(str, trend.levels)), "n": trend.n},
            **{"mean_slope": trend.mean, **_ends("mean_slope", trend.interval)},
            **{"sd_slope": trend.sd, **_ends("sd_slope", trend.sd_interval)},
        }
        for trend in trends
    ]
    title = f"Change of test accuracy with each {axis.step}"
    return Table("slopes", title, ["method", "mean", "sd", "seeds"], rows, note, pd.DataFrame(records))


def _slope_cells(trend: Trend) -> list[str]:
    under = "one seed" if trend.n < 2 else "same in all seeds" if trend.mean else "same at all levels"
    if trend.interval is not None:
        under = between(trend.interval, 2)
    mean = NOTHING if trend.mean is None else f"{points(trend.mean, 2)}\n{under}"
    sd = NOTHING if trend.sd is None else points(trend.sd, 2)
    return [mean, sd if trend.sd_interval is None else f"{sd}\n{between(trend.sd_interval, 2)}"]


def _levels(trend: Trend, axis: Axis) -> str:
    many = len(trend.levels) > FEW_LEVELS
    return f"at {len(trend.levels)} levels" if many else f"at {', '.join(map(str, trend.levels))} {axis.unit}"


def components_table(components: Sequence[Components], axis: Axis = NOISE) -> Table | None:
    """Return how much searches and final trainings add to the spread; None without any."""
    if not components:
        return None
    levels = sorted({item.level for item in components})
    at = {(item.method, item.level): item for item in components}
    rows = []
    for method in dict.fromkeys(item.method for item in components):
        texts = [_component_cells(at[method, level]) if (method, level) in at else [NOTHING] * 2 for level in levels]
        rows.append([method, *(text for pair in texts for text in pair)])
    note = (
        "Sds in percentage points: between searches, and between final trainings of one policy; under the first its "
        "share of the variance of a single training, with the 95 % interval. Analysis of variance with random effects; "
        "a negative estimate is shown as 0, which does not say that searches are alike."
    )
    records = [
        {axis.field if name == "level" else name: value for name, value in asdict(item).items() if name != "interval"}
        | _ends("share", item.interval)
        for item in components
    ]
    columns = ["method", *["searches", "trainings"] * len(levels)]
    title = "Spread between searches, and between final trainings of one policy"
    groups = [(axis.text(level), 2) for level in levels]
    return Table("variance_components", title, columns, rows, note, pd.DataFrame(records), groups)


def _component_cells(item: Components) -> list[str]:
    share = "" if item.share is None else f"\n{percent(item.share, 0)} %"
    if item.interval is not None:
        share += f" ({percent(item.interval[0], 0)} to {percent(item.interval[1], 0)})"
    return [percent(item.search_sd, 2) + share, percent(item.training_sd, 2)]


def detectable_table(best: Best | None, axis: Axis = NOISE) -> Table | None:
    """Return what the study could have detected between its best search and the others; None without a spread."""
    if best is None or all(item.spread is None for item in best.others):
        return None
    rows, records = [], []
    for item in best.others:
        least = detectable(item)
        if least is None or item.spread is None:
            continue
        tests = best.tests[item.other]
        corrected = detectable(item, tests)
        needed = {
            name: seeds_needed(size, item.spread, over)
            for of, size in (("seen", item.difference), ("point", POINT))
            for name, over in ((f"seeds_{of}", 1), (f"seeds_{of}_holm", tests))
        }
        seen, seen_holm, one, one_holm = map(seeds_text, needed.values())
        columns = [f"{points(item.difference)}\nn={item.n}", f"{percent(least)}\nHolm {percent(corrected)}"]
        rows.append([item.other, *columns, f"{seen}\nHolm {seen_holm}", f"{one}\nHolm {one_holm}"])
        known = {"n": item.n, "seen": item.difference, "detectable": least, "detectable_holm": corrected}
        records.append({"first": item.one, "second": item.other, **known, "tests": tests, **needed})
    note = (
        "Detectable: the true difference, in percentage points, that is found (p < 0.05) in 80 % of studies with these "
        "seeds. Seeds: how many search seeds, of both methods, find a true difference as large as the one seen, or of "
        "1 point. Under each: after Holm's correction. By the noncentral t distribution, with the spread seen taken "
        "for the true one; of few seeds it is a rough guess, and so are these."
    )
    where = axis.text(best.cell.level)
    title = f"What could have been detected: {best.cell.method} against others at {where}"
    titles = ["second method", "seen", "detectable", "seeds for seen", "seeds for 1 point"]
    return Table("detectable", title, titles, rows, note, pd.DataFrame(records))
