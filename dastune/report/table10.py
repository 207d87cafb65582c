"""Table 10 of the DAS paper's supplement: what a clip in place of an image brings, and what it costs.

The paper's own numbers of CIFAR-10 are a table of their own: one number each, without a spread.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from dastune.folder import FinalRow
from dastune.report.points import between, points
from dastune.report.protocol import value_at
from dastune.report.results import Results
from dastune.report.stats import Cell, difference, mean
from dastune.report.table import Table
from dastune.report.tables import NOTHING, accuracy_text, count_text

VIDEO = "das_video"  # the kind of method that makes clips

# (what, the 2-D network, the same augmented by frames, clips whose frames are shuffled, clips)
PUBLISHED_COLUMNS = ("Baseline", "DAS Aug (S)", "Re-shuffle", "Ours")
PUBLISHED_ACCURACIES = (94.12, 94.23, 94.15, 95.12)  # percent, CIFAR-10, ResNet-18
PUBLISHED_PARAMETERS = (11.18, 11.18, 11.20, 11.20)  # million; printed once for each two
PUBLISHED_FLOPS = (37.12, 37.12, 37.12, 37.12)  # million, likewise

_USES = {"clip": "in time", "shuffled": "shuffled"}
_TESTED = {"image": "clean images", "cell": "clips\nof the found cell", "copies": "clips\nof clean copies"}
_NOTE = (
    "Accuracy: mean ± sd over n search seeds. Difference: over the seeds that both have, in points, and its 95 % "
    "interval. FLOPs: of a forward pass; a multiply-add counts as two. The network reads every frame of a clip, so an "
    "image costs it as many times a frame's FLOPs, in training and in tests. Methods that differ only in what they "
    "make of clips find the same cell with the same search seed, where the budget is in steps: together they show one "
    "search a seed. "
)


def makes_clips(results: Results) -> bool:
    """Return whether a method of the study makes clips of images."""
    return VIDEO in results.kinds.values()


def table10(results: Results) -> Table | None:
    """Return the study's own table; None of a study without clips, or without results."""
    cells = results.lowest
    if not makes_clips(results) or not cells:
        return None
    of = {cell.method: [row for row in results.lowest_finals if row.method == cell.method] for cell in cells}
    baseline = _baseline(cells, results.kinds)
    lines: dict[str, Callable[[Cell], str]] = {
        "test accuracy, %": lambda cell: f"{accuracy_text(cell)}\n({count_text(cell)})",
        **({f"above {baseline.method}": lambda cell: _above(cell, baseline)} if baseline else {}),
        "network reads": lambda cell: _reads(of[cell.method], _use(results, cell.method)),
        "tested on": lambda cell: _each({_TESTED[row.evaluation] for row in of[cell.method]}),
        "parameters": lambda cell: _range((row.parameters for row in of[cell.method]), "{:,.0f}"),
        "FLOPs of a frame": lambda cell: _millions(row.flops / max(row.frames, 1) for row in of[cell.method]),
        "FLOPs of an image": lambda cell: _millions(row.flops for row in of[cell.method]),
    }
    return Table(
        name="table10",
        title="What a clip in place of an image brings, after Table 10 of the DAS paper",
        columns=("method", *(cell.method for cell in cells)),
        rows=[[name, *(text(cell) for cell in cells)] for name, text in lines.items()],
        note=_NOTE + _baseline_note(baseline),
        frame=pd.DataFrame.from_records([_record(cell, of[cell.method], baseline) for cell in cells]),
    )


def published10(results: Results) -> Table | None:
    """Return the paper's numbers of the study's data set; None where it has none, or where there is no `table10`."""
    if value_at(results.study, "data", "name") != "cifar10" or table10(results) is None:
        return None
    lines: dict[str, tuple[Sequence[float], str]] = {
        "test accuracy, %": (PUBLISHED_ACCURACIES, ""),
        "parameters": (PUBLISHED_PARAMETERS, " M"),
        "FLOPs, as printed": (PUBLISHED_FLOPS, " M"),
    }
    return Table(
        name="table10_published",
        title="Published figures: Table 10 of the DAS paper, CIFAR-10, ResNet-18; not run here",
        columns=("method", *PUBLISHED_COLUMNS),
        rows=[[name, *(f"{value:.2f}{unit}" for value in values)] for name, (values, unit) in lines.items()],
        groups=[("published", len(PUBLISHED_COLUMNS))],
        note="Published figures (arXiv 2403.15194, supplement, E), one number each, no spread. They were not run here. "
        "Its FLOPs are the same with clips and without: by our count one frame's multiply-adds, half of what FLOPs are "
        "above, and its batch norms. A clip of 8 frames takes 8 times as many.",
    )


def _baseline(cells: Iterable[Cell], kinds: Mapping[str, str]) -> Cell | None:
    """Return what clips are held against: standard augmentation alone, else none at all, if the study has either."""
    found = {kinds.get(cell.method): cell for cell in reversed([*cells])}
    return found.get("standard") or found.get("none")


def _baseline_note(baseline: Cell | None) -> str:
    if baseline is None:
        return "The study has no method standard or none, to hold the others against."
    return f"{baseline.method} is the 2-D network without a searched augmentation."


def _above(cell: Cell, baseline: Cell) -> str:
    found = difference(cell, baseline)
    if cell.method == baseline.method or found is None:
        return NOTHING
    under = f"n={found.n}" if found.interval is None else f"{between(found.interval)}"
    return f"{points(found.mean)}\n{under}"


def _use(results: Results, method: str) -> str:
    """Return what a method makes of its clips; "" where it makes none, or its file does not say."""
    return str(value_at(results.study, "methods", method, "use") or "") if results.kinds.get(method) == VIDEO else ""


def _reads(finals: Sequence[FinalRow], use: str) -> str:
    if use == "frame":
        return "images\none frame of a clip"
    texts = {f"{row.frames} frames" if row.frames > 1 else "images" for row in finals}
    return _each(texts) + (f"\n{_USES[use]}" if use in _USES and texts != {"images"} else "")


def _each(texts: set[str]) -> str:
    return ", ".join(sorted(texts)) or NOTHING


def _millions(values: Iterable[float]) -> str:
    return _range((value / 1e6 for value in values), "{:,.2f} M")


def _range(values: Iterable[float], form: str) -> str:
    """Return a number in a form, or the least and the most where they differ."""
    texts = [form.format(value) for value in sorted({*values})]
    return NOTHING if not texts else texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _record(cell: Cell, finals: Sequence[FinalRow], baseline: Cell | None) -> dict[str, object]:
    """Return a method's numbers: accuracies and differences in [0, 1], FLOPs as means over its final trainings."""
    found = None if baseline is None or cell.method == baseline.method else difference(cell, baseline)
    low, high = (found and found.interval) or (None, None)
    return {
        "method": cell.method,
        "test_accuracy_mean": cell.mean,
        "test_accuracy_sd": cell.sd,
        "n": cell.n,
        "difference": found and found.mean,
        "difference_low": low,
        "difference_high": high,
        "frames": _each({str(row.frames) for row in finals}),
        "evaluation": _each({row.evaluation for row in finals}),
        "parameters": mean(row.parameters for row in finals),
        "flops_per_frame": mean(row.flops / max(row.frames, 1) for row in finals),
        "flops_per_image": mean(row.flops for row in finals),
    }
