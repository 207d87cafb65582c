"""How searches and final trainings went: their metric points, read from a study's tracking.jsonl in one pass."""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dastune.folder import FinalRow, SearchRow, StudyFolder
from dastune.report.axis import NOISE, Axis

MOST_POINTS = 200  # of one search or training; of a longer one every second point is kept, every fourth, ...
MOST_LINE_CHARACTERS = 100_000
MOST_SECONDS = 10**15  # more than a row may hold
MOST_WATTS = 1e5  # of one device; more is no reading
GRID_POINTS = 60  # of a mean over several

JOULES_PER_KWH = 3.6e6

_Floats = npt.NDArray[np.float64]


class Series(NamedTuple):
    """Values over time: `at` ascending, in charged device-seconds of a search or epochs of a training."""

    at: _Floats
    values: _Floats


class Bundle(NamedTuple):
    """Several series as one: their mean and sd (ddof = 1; None for a single one) at each of `at`, and how many."""

    at: _Floats
    mean: _Floats
    sd: _Floats | None
    n: int


@dataclass(frozen=True)
class Curves:
    """What tracking.jsonl says of searches and final trainings that have rows; one that it does not know is left out.

    Attributes:
        accuracies: search id -> validation accuracy in [0, 1] over charged device-seconds (to one second or better), as
            the search itself has it: of a black-box search the best child so far, of das a running mean over batches
            of its network, which may fall.
        losses: (search id, training seed) -> training loss in nats over epochs.
        energies: search id -> energy of its devices in kWh: the mean power of those it was measured on, times its held
            device-seconds. Of GPUs that say what they draw; not of CPUs, and not of what was around them.
    """

    accuracies: Mapping[str, Series]
    losses: Mapping[tuple[str, int], Series]
    energies: Mapping[str, float]


def read_curves(folder: StudyFolder, searches: Sequence[SearchRow], finals: Sequence[FinalRow]) -> Curves:
    """Read the points of `searches` and `finals`; whatever is damaged, or of no row, is passed over."""
    accuracies = {row.id: _Points() for row in searches}
    losses = {f"{row.search_id}/t{row.train_seed}": _Points() for row in finals}
    power: dict[str, tuple[float, int]] = {}  # sum of watts, how many
    for key, time, step, values in _metrics(folder.tracking):
        if key in accuracies:
            if (accuracy := _number(values.get("val_accuracy"), 1.0)) is not None:
                charged = _number(values.get("charged_seconds"))  # exact, once the search has ended
                accuracies[key].add(step if charged is None else charged, accuracy, (time, step))
            for watts in _watts(values):
                total, count = power.get(key, (0.0, 0))
                power[key] = (total + watts, count + 1)
        elif key in losses and (loss := _number(values.get("train_loss"))) is not None:
            losses[key].add(step, loss, (time, step))
    return Curves(
        accuracies={row.id: accuracies[row.id].charged(row) for row in searches if len(accuracies[row.id])},
        losses={
            (row.search_id, row.train_seed): points.series()
            for row in finals
            if len(points := losses[f"{row.search_id}/t{row.train_seed}"])
        },
        energies={
            row.id: power[row.id][0] / power[row.id][1] * row.held_seconds / JOULES_PER_KWH
            for row in searches
            if row.id in power
        },
    )


def stepwise(many: Sequence[Series], end: float) -> Bundle | None:
    """Return the mean over series that keep each value until the next, from when all have one to `end`.

    One that ended earlier keeps its last value. None of nothing.
    """
    if not many:
        return None
    begin = max(series.at[0] for series in many)
    changes = np.unique(np.concatenate([series.at for series in many]))
    at = _thinned(np.unique(np.append(changes[changes >= begin], max(end, begin))))
    return _bundle(at, [series.values[np.searchsorted(series.at, at, side="right") - 1] for series in many])


def anytime_bundles(searches: Iterable[SearchRow], curves: Curves, axis: Axis = NOISE) -> dict[tuple[str, int], Bundle]:
    """Return (method, level) -> the validation accuracies of its searches as one; failed ones are left out."""
    rows: dict[tuple[str, int], list[SearchRow]] = {}
    for row in searches:
        if row.status != "failed" and row.id in curves.accuracies:
            rows.setdefault((row.method, axis.level(row)), []).append(row)
    found = {
        key: stepwise([curves.accuracies[row.id] for row in many], max(row.charged_seconds for row in many))
        for key, many in rows.items()
    }
    return {key: bundle for key, bundle in found.items() if bundle is not None}


def linear(many: Sequence[Series]) -> Bundle | None:
    """Return the mean over series that are straight between their points, where all have one. None of nothing."""
    if not many:
        return None
    begin, end = max(series.at[0] for series in many), min(series.at[-1] for series in many)
    at = np.unique(np.concatenate([series.at for series in many]))
    at = _thinned(at[(at >= begin) & (at <= end)])
    return _bundle(at, [np.interp(at, series.at, series.values) for series in many]) if len(at) else None


def _bundle(at: _Floats, rows: Iterable[_Floats]) -> Bundle:
    values = np.array(list(rows))
    return Bundle(at, values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else None, len(values))


def _thinned(at: _Floats) -> _Floats:
    """Return at most GRID_POINTS of `at`, the first and the last among them."""
    if len(at) <= GRID_POINTS:
        return at
    return np.take(at, np.linspace(0, len(at) - 1, GRID_POINTS).round().astype(int))


class _Points:
    """Points of one series as they come, never more than about MOST_POINTS, and always the last.

    A value that comes twice with the same time and step is one point, as it is for MLflow.
    """

    __slots__ = ("_at", "_last", "_seen", "_stride", "_told", "_values")

    def __init__(self) -> None:
        self._at, self._values = array("d"), array("d")
        self._seen, self._stride = 0, 1
        self._last = (0.0, 0.0)
        self._told: tuple[tuple[int, int], float] | None = None  # time and step of the last, and its value

    def __len__(self) -> int:
        return self._seen

    def add(self, at: float, value: float, when: tuple[int, int]) -> None:
        if (when, value) == self._told:
            if (self._at[-1], self._values[-1]) == self._last:
                self._at[-1] = at
            self._last = (at, value)
            return
        if self._seen % self._stride == 0:
            self._at.append(at)
            self._values.append(value)
            if len(self._at) > MOST_POINTS:
                self._at, self._values = self._at[::2], self._values[::2]
                self._stride *= 2
        self._seen += 1
        self._last, self._told = (at, value), (when, value)

    def series(self) -> Series:
        """Return the points in order; of several at one place the one that came last."""
        at, values = self._in_order()
        last = np.append(at[1:] > at[:-1], True)
        return Series(at[last], values[last])

    def charged(self, row: SearchRow) -> Series:
        """Return the points of a search, which know of whole seconds: those of one second are spread over it."""
        at, values = self._in_order()
        _, first, counts = np.unique(at, return_index=True, return_counts=True)
        place = (np.arange(len(at)) - np.repeat(first, counts) + 0.5) / np.repeat(counts, counts)
        whole = (at == np.floor(at)) & (at < row.charged_seconds)
        spread = np.minimum(at + np.where(whole, place, 0.0), row.charged_seconds)
        order = np.argsort(spread, kind="stable")
        return Series(spread[order], values[order])

    def _in_order(self) -> tuple[_Floats, _Floats]:
        at, values = np.array(self._at), np.array(self._values)
        if (self._seen - 1) % self._stride:  # the last is not among those kept
            at, values = np.append(at, self._last[0]), np.append(values, self._last[1])
        order = np.argsort(at, kind="stable")
        return at[order], values[order]


def _metrics(path: Path) -> Iterator[tuple[str, int, int, Mapping[str, Any]]]:
    """Yield key, time, step and values of each event of metrics."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(MOST_LINE_CHARACTERS):
            if '"metrics"' not in line:  # quicker than to parse it
                continue
            try:
                event = json.loads(line)
                kind, key, time = event["event"], event["key"], event["time"]
                step, values = event["step"], event["values"]
            except (ValueError, RecursionError, TypeError, KeyError):
                continue
            whole = type(key) is str and type(time) is int and type(step) is int and type(values) is dict
            if kind == "metrics" and whole and 0 <= step <= MOST_SECONDS:
                yield key, time, step, values


def _number(value: object, most: float = 1e15) -> float | None:
    """Return a number in [0, most], which the journal has as text; None of anything else."""
    if type(value) is not str:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number <= most else None  # neither is true of nan


def _watts(values: Mapping[str, Any]) -> Iterator[float]:
    """Yield what each device drew."""
    for name, value in values.items():
        if name.endswith("_power_usage_watts") and name.startswith("system/gpu_"):
            watts = _number(value, MOST_WATTS)
            if watts is not None:
                yield watts
