"""The answer of a study in sentences made from its numbers, and what the numbers do not show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dastune.report.plan import CONTROLS, PUBLISHED
from dastune.report.stats import Cell, Difference, difference
from dastune.report.tables import levels_of, methods_of, ops_text, percent

Pair = tuple[str, Difference]

# how often all of n paired differences have one sign by chance alone is 2 ** (1 - n); from here on it is under 5 %
ENOUGH_SEEDS = 6


@dataclass(frozen=True)
class Answer:
    """Plain sentences, not yet escaped: what was found, and the limits of it."""

    findings: tuple[str, ...]
    limits: tuple[str, ...]


def answer(cells: Sequence[Cell], kinds: Mapping[str, str] | None = None, partial: bool = False) -> Answer:
    """Return the answer that `cells` give.

    The best budgeted search is the one with the highest mean test accuracy at the highest noise level that has one.
    Published policies are neither compared nor compared with.

    Args:
        cells: as `dastune.report.stats.cells` makes them.
        kinds: method label -> kind (`Plan.methods`), where a label is not the method's own name.
        partial: whether searches or final trainings are still missing.
    """
    kinds = kinds or {}
    tested = [(kinds.get(cell.method, cell.method), cell) for cell in cells if cell.mean is not None]
    known = [cell for kind, cell in tested if kind != PUBLISHED]
    searched = [cell for kind, cell in tested if kind not in (*CONTROLS, PUBLISHED)]
    if tested and not known:
        return Answer(("Only published policies, found elsewhere, have final trainings; nothing is compared.",), ())
    if not known:
        return Answer(("No final training is in yet, so there is nothing to compare.",), ())
    if not searched and kinds and set(kinds.values()) <= {*CONTROLS, PUBLISHED}:
        return Answer(("Only controls are compared in this study: nothing in it learns what to apply.",), ())
    if not searched:
        return Answer(("Only controls have final trainings so far; no search can be compared with them yet.",), ())
    level = levels_of(searched)[-1]
    rivals = [cell for cell in searched if cell.noise_level == level]
    best = max(rivals, key=lambda cell: cell.mean or 0.0)
    controls = [cell for cell in known if cell.noise_level == level and cell not in rivals]
    pairs = [(cell.method, found) for cell in controls if (found := difference(best, cell)) is not None]
    findings = [_best(best, len(rivals)), _against_controls(best, pairs), _over_levels(known, methods_of(searched))]
    limits = [*_few_seeds(best, pairs), *_chosen_by_test(best, rivals)]
    if partial:
        limits.append("Results are still missing or failed (listed at the end of this page); the answer may change.")
    limits.append("This is one data set, one model and one budget; another may order the methods differently.")
    return Answer(tuple(text for text in findings if text), tuple(limits))


def _best(best: Cell, rivals: int) -> str:
    uncertainty = "one search seed, so no spread"
    if best.sd is not None and best.interval is not None:
        low, high = best.interval
        uncertainty = (
            f"sd {percent(best.sd)} over {best.n} search seeds; "
            f"95 % bootstrap interval of the mean {percent(low)} to {percent(high)}"
        )
    among = f"the highest mean of {rivals} budgeted searches" if rivals > 1 else "the only budgeted search with results"
    return (
        f"At {ops_text(best.noise_level)}, {best.method} reaches a mean test accuracy of {percent(best.mean)} %, "
        f"{among} ({uncertainty})."
    )


def _against_controls(best: Cell, pairs: Sequence[Pair]) -> str:
    if not pairs:
        return f"No control ({', '.join(CONTROLS)}) shares a seed with {best.method} there, so its gain is not known."
    return f"{best.method} differs by {_listed(pairs, 'from')}."


def _over_levels(known: Sequence[Cell], searched: Sequence[str]) -> str:
    levels = levels_of(known)
    at = {(cell.method, cell.noise_level): cell for cell in known}
    pairs = []
    for method in searched:
        first, last = at.get((method, levels[0])), at.get((method, levels[-1]))
        found = difference(last, first) if first and last and first is not last else None
        if found is not None:
            pairs.append((method, found))
    if not pairs:
        return ""
    return f"From {levels[0]} to {ops_text(levels[-1])} test accuracy changes by {_listed(pairs, 'for')}."


def _listed(pairs: Sequence[Pair], preposition: str) -> str:
    """Return mean differences with their intervals, and once what these are where it is the same for all."""
    counts = {found.n for _, found in pairs}
    common = len(counts) == 1
    parts = []
    for name, found in pairs:
        brackets = [] if found.interval is None else [f"{_signed(found.interval[0])} to {_signed(found.interval[1])}"]
        brackets += [] if common else [f"n = {found.n}"]
        uncertainty = f" ({', '.join(brackets)})" if brackets else ""
        parts.append(f"{_signed(found.mean)} points{uncertainty} {preposition} {name}")
    basis = f"paired over {counts.pop()} search seeds" if common and counts != {1} else "paired over search seeds"
    intervals = any(found.interval is not None for _, found in pairs)
    return f"{', '.join(parts)}; {basis}" + (", in brackets 95 % bootstrap intervals" if intervals else "")


def _few_seeds(best: Cell, pairs: Sequence[Pair]) -> list[str]:
    counts = {best.n, *(found.n for _, found in pairs)}
    limits = ["Where n = 1 there is no spread, and no difference can be told from chance."] if 1 in counts else []
    few = [n for n in counts if 1 < n < ENOUGH_SEEDS]
    if not few:
        return limits
    n = min(few)
    text = (
        f"With n = {n} seeds small differences cannot be separated: {n} paired differences without any true one "
        f"behind them have the same sign in {percent(2.0 ** (1 - n), 0)} % of studies"
    )
    if n <= 3:
        text += ", and the bootstrap interval is just the range of the values, too narrow to be trusted"
    widths = [found.half_width for _, found in pairs if found.half_width is not None]
    if widths:
        text += f". By the wider t interval a difference here would have to exceed {percent(max(widths))} points"
        text += " for the noisiest of these comparisons" if len(widths) > 1 else ""
    return [*limits, f"{text}."]


def _chosen_by_test(best: Cell, rivals: Sequence[Cell]) -> list[str]:
    if len(rivals) < 2:
        return []
    return [f"{best.method} was picked by the same test accuracies that are shown, which flatters its lead."]


def _signed(share: float) -> str:
    """Return a difference of shares in points, without a minus on nothing."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"
