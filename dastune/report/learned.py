"""Did the search learn anything? Four questions to each method at each level, answered by rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from dastune.report.axis import NOISE, Axis
from dastune.report.found import Found
from dastune.report.inference import Comparison, compare
from dastune.report.intervals import CONFIDENCE, Interval, mean_interval
from dastune.report.plan import CONTROLS
from dastune.report.points import between, points
from dastune.report.stats import Cell, mean
from dastune.report.table import Table
from dastune.report.tables import FOUND_NUMBERS, NOTHING, few_children, found_rows, number

Verdict = Literal["yes", "no", "can't tell"]

NO_DIFFERENCE = 0.1  # of the uniform share: a difference no larger is none
ALIKE = 0.01  # distance from uniform: policies no further away prefer no op
SIGNIFICANT = 1 - CONFIDENCE

# the controls that an accuracy is held against; random search is a search itself
RANDOM, TRIVIAL = "random", "trivial"
FIXED = tuple(kind for kind in CONTROLS if kind != RANDOM)  # kinds whose policy no search has found
QUESTIONS = {
    "noise": "avoids noise ops",
    "agreement": "seeds agree",
    RANDOM: "beats random",
    TRIVIAL: "beats trivial",
}

RULES = (
    "Avoids noise ops: the share of noise ops among the ops that a policy applies, less what it is if all ops are "
    "equally likely, in points, and the 95 % interval of its mean over seeds. Yes where the interval lies below 0; no "
    "where it lies above 0, or within a tenth of the uniform share of 0. Policies drawn at random are at 0 on average.",
    "Seeds agree: do they prefer the same ops? How alike the policies of different seeds are, against policies as "
    "uneven as these whose shares are dealt out to the ops at random. Yes where at most 5 % of such deals are as much "
    "alike; no where the policies treat all ops the same (less than 0.01 from uniform).",
    "Beats random, beats trivial: test accuracy less that of the control, in points, and the 95 % interval of this one "
    "difference, as under Comparisons. Yes where the interval lies above 0; no where it lies below. Random search had "
    "the same budget; trivial needs none.",
    "Where neither holds, these seeds can't tell; with one seed they never can. Each answer stands for itself: of "
    "twenty intervals one misses by chance, for which the p values under Comparisons are corrected.",
)


@dataclass(frozen=True)
class Answer:
    """An answer with the number behind it.

    Attributes:
        value: the mean difference that the question is about; for agreement what was observed. In [-1, 1].
        interval: 95 %, of `value`; None for agreement, and where too few seeds are in.
        chance: the agreement expected by chance; None for the other questions.
    """

    verdict: Verdict
    value: float
    interval: Interval | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Learned:
    """The answers for one method at one level, by question; those that cannot be asked are not there."""

    method: str
    level: int
    answers: Mapping[str, Answer]


def learned(found: Iterable[Found], cells: Sequence[Cell], kinds: Mapping[str, str]) -> list[Learned]:
    """Return the answers for all methods that search, in the order of `found`.

    Args:
        cells: the test accuracies.
        kinds: method's label -> what it is; itself where it is not there.
    """
    gains = {control: _gains(control, cells, kinds) for control in (RANDOM, TRIVIAL)}
    result = []
    for each in found:
        kind, key = kinds.get(each.method, each.method), (each.method, each.level)
        if kind in FIXED:
            continue
        answers: dict[str, Answer | None] = {"noise": _of_noise(each), "agreement": _of_agreement(each)}
        for control, known_gains in gains.items():
            if kind != control:
                answers[control] = _of_gain(known_gains.get(key))
        known = {question: answer for question, answer in answers.items() if answer is not None}
        result.append(Learned(*key, known))
    return result


def _of_noise(found: Found) -> Answer | None:
    uniform = found.uniform_noise_share
    if not uniform or not found.noise_shares:
        return None
    differences = [share - uniform for share in found.noise_shares.values()]
    interval = _interval(differences)
    value = mean(differences) or 0.0
    if interval is None:
        return Answer("can't tell", value)
    low, high = interval
    if max(-low, high) <= NO_DIFFERENCE * uniform or low > 0:
        return Answer("no", value, interval)
    return Answer("yes" if high < 0 else "can't tell", value, interval)


def _of_agreement(found: Found) -> Answer | None:
    agreement = found.agreement
    if agreement is None or agreement.p_value is None:
        return None
    if found.distance.mean is not None and found.distance.mean < ALIKE:
        return Answer("no", agreement.observed, chance=agreement.chance)
    verdict: Verdict = "yes" if agreement.p_value <= SIGNIFICANT + 1e-9 else "can't tell"
    return Answer(verdict, agreement.observed, chance=agreement.chance)


def _gains(control: str, cells: Iterable[Cell], kinds: Mapping[str, str]) -> dict[tuple[str, int], Comparison]:
    """Return (method, level) -> its comparison with the first control of a kind, by the test of all others."""
    levels: dict[int, dict[str, Mapping[int, float]]] = {}
    for cell in cells:
        if cell.n:
            levels.setdefault(cell.level, {})[cell.method] = cell.accuracies
    found: dict[tuple[str, int], Comparison] = {}
    for level, values in levels.items():
        other = next((method for method in values if kinds.get(method, method) == control), None)
        if other is not None:
            pairs = [(method, other) for method in values if method != other]
            found |= {(item.one, level): item for item in compare(values, pairs)}
    return found


def _of_gain(gain: Comparison | None) -> Answer | None:
    if gain is None:
        return None
    if gain.interval is None:
        return Answer("can't tell", gain.difference)
    low, high = gain.interval
    verdict: Verdict = "yes" if low > 0 else "no" if high < 0 else "can't tell"
    return Answer(verdict, gain.difference, gain.interval)


def _interval(values: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the mean; of two or more equal values that value, for one None."""
    interval = mean_interval(values)
    return (values[0], values[0]) if interval is None and len(values) > 1 else interval


def learned_table(rows: Sequence[Learned], level: int, axis: Axis = NOISE) -> Table:
    """Return the answers at one level, with the numbers under them, without questions that nobody was asked."""
    here = [row for row in rows if row.level == level]
    asked = [question for question in QUESTIONS if any(question in row.answers for row in here)]
    return Table(
        name=f"learned_{level}",
        title=f"Did the search learn anything? {axis.text(level).capitalize()}",
        columns=["method", *(f"{QUESTIONS[question]}?" for question in asked)],
        rows=[[row.method, *(answer_text(row.answers.get(question)) for question in asked)] for row in here],
        note="Points, with 95 % intervals over search seeds; agreement between seeds, and what it is by chance.",
        frame=_frame(here, asked, axis),
    )


def answer_text(answer: Answer | None) -> str:
    """Return verdict, and under it the number that it comes from."""
    if answer is None:
        return NOTHING
    if answer.chance is not None:
        return f"{answer.verdict}\n{number(answer.value)}, by chance {number(answer.chance)}"
    text = f"{answer.verdict}\n{points(answer.value)}"
    return text if answer.interval is None else f"{text} ({between(answer.interval)})"


def _frame(rows: Sequence[Learned], asked: Sequence[str], axis: Axis) -> pd.DataFrame:
    records = []
    for row in rows:
        record: dict[str, object] = {"method": row.method, axis.field: row.level}
        for question in asked:
            answer = row.answers.get(question)
            record[f"{question}_verdict"] = answer and answer.verdict
            record[f"{question}_value"] = answer and answer.value
            if question == "agreement":
                record["agreement_by_chance"] = answer and answer.chance
            else:
                record[f"{question}_low"], record[f"{question}_high"] = (answer and answer.interval) or (None, None)
        records.append(record)
    return pd.DataFrame(records)


def found_table(found: Iterable[Found], level: int, axis: Axis = NOISE) -> Table:
    """Return what the searches of one level found; `DEFINITIONS` say what its columns are."""
    here = [each for each in found if each.level == level]
    columns, *rows = found_rows(here)
    about = [{"method": each.method, axis.field: level} for each in here]
    numbers = [{name: value(each) for name, value in FOUND_NUMBERS.items()} for each in here]
    frame = pd.DataFrame([{**one, **other} for one, other in zip(about, numbers, strict=True)])
    title = f"What the searches found, {axis.text(level)}"
    return Table(f"found_{level}", title, columns, rows, few_children(here, axis), frame)
