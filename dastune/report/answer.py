"""The answer of a study in sentences made from its numbers, and what the numbers do not show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dastune.report.axis import NOISE, Axis
from dastune.report.inference import AGAINST_CONTROLS, Comparison, Family, families
from dastune.report.plan import CONTROLS, PUBLISHED
from dastune.report.points import between, listed, points, seeds_text
from dastune.report.power import detectable, seeds_needed
from dastune.report.stats import Cell
from dastune.report.tables import levels_of, percent
from dastune.report.trend import Trend, trends

POINT = 0.01
MOST_LISTED = 5  # names in a sentence


@dataclass(frozen=True)
class Answer:
    """Plain sentences, not yet escaped: what was found, and the limits of it."""

    findings: tuple[str, ...]
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Best:
    """The budgeted search with the highest mean at the highest level that has one, and what it is held against.

    Attributes:
        rivals: how many budgeted searches there are at that level, itself included.
        controls, searches: it minus each control and each other search there, those with the highest mean first.
        tests: method -> over how many comparisons Holm's correction of its comparison goes.
    """

    cell: Cell
    rivals: int
    controls: tuple[Comparison, ...]
    searches: tuple[Comparison, ...]
    tests: Mapping[str, int]

    @property
    def others(self) -> tuple[Comparison, ...]:
        """Its comparisons with controls, then with other searches."""
        return (*self.controls, *self.searches)


def answer(
    cells: Sequence[Cell], kinds: Mapping[str, str] | None = None, partial: bool = False, axis: Axis = NOISE
) -> Answer:
    """Return the answer that `cells` give.

    Published policies are neither compared nor compared with.

    Args:
        cells: as `dastune.report.stats.cells` makes them.
        kinds: method label -> kind (`Plan.methods`), where a label is not the method's own name.
        partial: whether searches or final trainings are still missing.
        axis: what `cells` are at levels of.
    """
    kinds = kinds or {}
    tested = [cell for cell in cells if cell.mean is not None]
    known = [cell for cell in tested if kinds.get(cell.method, cell.method) != PUBLISHED]
    best = best_search(known, kinds)
    if tested and not known:
        return Answer(("Only published policies, found elsewhere, have final trainings; nothing is compared.",), ())
    if not known:
        return Answer(("No final training is in yet, so there is nothing to compare.",), ())
    if best is None and kinds and set(kinds.values()) <= {*CONTROLS, PUBLISHED}:
        return Answer(("Only controls are compared in this study: nothing in it learns what to apply.",), ())
    if best is None:
        return Answer(("Only controls have final trainings so far; no search can be compared with them yet.",), ())
    slopes = [trend for trend in trends(known, axis.in_step) if kinds.get(trend.method, trend.method) not in CONTROLS]
    findings = (_reached(best, axis), _against_controls(best), _over_levels(best.cell.method, slopes, axis))
    limits = [*_one_seed(best), *_power(best)]
    if best.rivals > 1:
        limits.append(
            f"{best.cell.method} was picked by the same test accuracies that are shown, which flatters its lead."
        )
    if partial:
        limits.append("Results are still missing or failed (listed at the end of this page); the answer may change.")
    limits.append("This is one data set, one model and one budget; another may order the methods differently.")
    return Answer(tuple(text for text in findings if text), tuple(limits))


def best_search(cells: Sequence[Cell], kinds: Mapping[str, str]) -> Best | None:
    """Return the best budgeted search with its comparisons; None where none has a result. `kinds` as in `answer`."""
    searched = [cell for cell in cells if cell.n and kinds.get(cell.method, cell.method) not in (*CONTROLS, PUBLISHED)]
    if not searched:
        return None
    level = levels_of(searched)[-1]
    there = {cell.method: cell.mean or 0.0 for cell in cells if cell.level == level}
    rivals = [cell for cell in searched if cell.level == level]
    best = max(rivals, key=lambda cell: cell.mean or 0.0)
    found = families([cell for cell in cells if cell.level == level], kinds)
    tests: dict[str, int] = {}

    def of(family: Family) -> list[Comparison]:
        mine = [
            item if item.one == best.method else item.turned
            for item in family.comparisons
            if best.method in (item.one, item.other)
        ]
        tests.update(dict.fromkeys((item.other for item in mine), family.tests))
        return sorted(mine, key=lambda item: -there[item.other])

    controls = [item for family in found if family.question == AGAINST_CONTROLS for item in of(family)]
    searches = [item for family in found if family.question != AGAINST_CONTROLS for item in of(family)]
    return Best(best, len(rivals), tuple(controls), tuple(searches), tests)


def _reached(best: Best, axis: Axis) -> str:
    cell = best.cell
    uncertainty = "one search seed, so no spread"
    if cell.sd is not None:
        uncertainty = f"sd {percent(cell.sd)} over {cell.n} search seeds"
    if cell.interval is not None:
        low, high = cell.interval
        uncertainty += f"; 95 % interval of the mean {percent(low)} to {percent(high)}"
    among = "the only budgeted search with results"
    if best.rivals > 1:
        among = f"the highest mean of {best.rivals} budgeted searches"
    return (
        f"At {axis.text(cell.level)}, {cell.method} reaches a mean test accuracy of {percent(cell.mean)} %, "
        f"{among} ({uncertainty})."
    )


def _against_controls(best: Best) -> str:
    method = best.cell.method
    if not best.controls:
        return f"There is no control ({', '.join(CONTROLS)}) to hold {method} against there, so its gain is not known."
    strongest, many = best.controls[0], len(best.controls)
    among = f"the best of {many} controls" if many > 1 else "the only control"
    text = (
        f"{method} differs by {points(strongest.difference)} points{_basis(strongest)} from {strongest.other}, {among}"
    )
    shown = [f"{item.other} ({points(item.difference)})" for item in best.controls if item.significant]
    rest = [item.other for item in best.controls if not item.significant]
    tests = best.tests[strongest.other]
    if not tests:
        return f"{text}."
    if many == 1:
        told = "this can be told from chance" if shown else "this cannot be told from chance"
    elif not shown:
        told = "no difference from a control can be told from chance"
    elif not rest:
        told = "its differences from all controls can be told from chance"
    else:
        told = f"its differences from {_some(shown)} can be told from chance, those from {_some(rest)} cannot"
    correction = f", after Holm's correction over {tests} comparisons" if tests > 1 else ""
    return f"{text}; {told} (p < 0.05{correction})."


def _basis(item: Comparison) -> str:
    """Return the interval of a difference and what it is made from."""
    if item.n < 2:
        return " (one seed)"
    how = f"paired over {item.n} search seeds" if item.paired else "Welch's test, for few seeds are shared"
    if item.interval is None:
        return f" (the same with each of {item.n} search seeds)" if item.paired else " (without a spread)"
    return f" (95 % interval of this one {between(item.interval)}, {how})"


def _some(names: list[str]) -> str:
    return listed(names) if len(names) <= MOST_LISTED else f"{', '.join(names[:MOST_LISTED])} and more"


def _over_levels(best: str, slopes: Sequence[Trend], axis: Axis) -> str:
    """Return Figure 9, or 10, in numbers: slopes of the best search, and of the other searches."""
    own = next((trend for trend in slopes if trend.method == best and trend.mean is not None), None)
    if own is None or own.mean is None:
        return ""
    text = f"Each {axis.more} changes the test accuracy of {best} by {points(own.mean, 2)} points"
    if own.interval is not None:
        text += f" ({between(own.interval, 2)})"
    if own.sd is not None:
        text += f" and its sd over seeds by {points(own.sd, 2)}"
        text += "" if own.sd_interval is None else f" ({between(own.sd_interval, 2)})"
    others = [
        f"{trend.method} {points(trend.mean, 2)}" for trend in slopes if trend is not own and trend.mean is not None
    ]
    return text + (f"; accuracy of the other searches: {_some(others)}." if others else ".")


def _one_seed(best: Best) -> list[str]:
    counts = {best.cell.n, *(item.n for item in best.others)}
    return ["Where n = 1 there is no spread, and no difference can be told from chance."] if 1 in counts else []


def _power(best: Best) -> list[str]:
    """Return what the comparison with the best control, or search where there is none, could have shown."""
    item = best.others[0] if best.others else None
    if item is None or item.spread is None or (least := detectable(item)) is None:
        return []
    tests = best.tests[item.other]
    corrected = f" ({percent(detectable(item, tests))} after Holm's correction)" if tests > 1 else ""
    after = " after the correction" if tests > 1 else ""
    seen, one = (seeds_text(seeds_needed(size, item.spread, tests)) for size in (item.difference, POINT))
    return [
        f"Between {item.one} and {item.other}, {item.n} seeds tell a true difference of {percent(least)} points"
        f"{corrected} from chance in 80 % of studies, and smaller ones less often. For a true difference as large as "
        f"the one seen it takes {seen} seeds{after}, for 1 point {one}."
    ]
