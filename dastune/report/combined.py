"""tables.csv, tables.md and external.csv: all methods and levels of a study in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dastune.folder import write_atomic
from dastune.report.axis import NOISE, Axis
from dastune.report.external import External
from dastune.report.found import Found
from dastune.report.pipes import escaped, pipes
from dastune.report.stats import Cell
from dastune.report.tables import (
    DEFINITIONS,
    EXTERNAL_NOTE,
    EXTERNAL_TITLE,
    FOUND_NUMBERS,
    NOTHING,
    PLUS_MINUS,
    accuracy_text,
    count_text,
    duration,
    external_rows,
    few_children,
    found_rows,
    levels_of,
    methods_of,
    noise_text,
)

_EXTERNAL_COLUMNS = (
    *("method", "n", "test_accuracy_mean", "test_accuracy_sd", "test_accuracy_low"),
    *("test_accuracy_high", "test_accuracy_by_seed", "trainings", "searches", "failed"),
)


def table_frame(cells: Sequence[Cell], results: Sequence[Found] = (), axis: Axis = NOISE) -> pd.DataFrame:
    """Return one row per cell, with what its searches found.

    Accuracies, shares and distances in [0, 1], entropies in nats, seconds are device-seconds per search.
    """
    by_key = {(result.method, result.level): result for result in results}
    aligned = [by_key.get((cell.method, cell.level)) for cell in cells]
    columns: dict[str, list[Any]] = {
        "method": [cell.method for cell in cells],
        axis.field: [cell.level for cell in cells],
        "n": [cell.n for cell in cells],
        "test_accuracy_mean": [cell.mean for cell in cells],
        "test_accuracy_sd": [cell.sd for cell in cells],
        "test_accuracy_low": [cell.interval[0] if cell.interval else None for cell in cells],
        "test_accuracy_high": [cell.interval[1] if cell.interval else None for cell in cells],
        "test_accuracy_sd_low": [cell.sd_interval[0] if cell.sd_interval else None for cell in cells],
        "test_accuracy_sd_high": [cell.sd_interval[1] if cell.sd_interval else None for cell in cells],
        "test_accuracy_by_seed": [
            " ".join(f"{seed}:{value!r}" for seed, value in cell.accuracies.items()) for cell in cells
        ],
        "trainings": [cell.trainings for cell in cells],
        "val_accuracy": [cell.val_accuracy for cell in cells],
        "charged_seconds": [cell.charged_seconds for cell in cells],
        "held_seconds": [cell.held_seconds for cell in cells],
        "noise_mass": [cell.noise_mass for cell in cells],
        "uniform_noise_share": [cell.uniform_noise_share for cell in cells],
        "space_size_log10": [cell.space_size_log10 for cell in cells],
        "searches": [cell.searches for cell in cells],
        "failed": [cell.failed for cell in cells],
    }
    for name, value in FOUND_NUMBERS.items():
        columns[name] = [None if result is None else value(result) for result in aligned]
    return pd.DataFrame(columns)


def write_csv(cells: Sequence[Cell], results: Sequence[Found], path: Path, axis: Axis = NOISE) -> None:
    """Write `table_frame(cells, results, axis)` to `path`, atomically; an unknown number is an empty field."""
    write_atomic(path, table_frame(cells, results, axis).to_csv(index=False, lineterminator="\n"))


def write_external_csv(published: Sequence[External], path: Path, axis: Axis = NOISE) -> None:
    """Write the published policies to `path`, atomically, with the columns of `table_frame` that they have."""
    frame = table_frame([external.cell for external in published], axis=axis)
    frame = frame[["method", axis.field, *_EXTERNAL_COLUMNS]]
    frame.insert(1, "policy", [external.policy for external in published])
    frame.insert(2, "source", [external.source for external in published])
    write_atomic(path, frame.to_csv(index=False, lineterminator="\n"))


def markdown(
    cells: Sequence[Cell],
    results: Sequence[Found] = (),
    published: Sequence[External] = (),
    note: str = "",
    axis: Axis = NOISE,
) -> str:
    """Return Markdown tables, methods in rows: accuracy with cost, noise mass, then per level what searches found.

    Noise mass is there where the axis is noise ops. Published policies have a table of their own, after the others. Of
    nothing there is no table. `note` is a sentence on all of them, put last.
    """
    parts = [
        _levels_markdown(cells, axis) if cells else "",
        _found_markdown(results, axis) if results else "",
        _external_markdown(published) if published else "",
    ]
    tables = [part for part in parts if part] or ["No results yet.\n"]
    return "\n".join([*tables, *([f"{escaped(note)}\n"] if note else [])])


def _levels_markdown(cells: Sequence[Cell], axis: Axis) -> str:
    levels = levels_of(cells)
    at = {(cell.method, cell.level): cell for cell in cells}
    accuracy = [["method"]]
    noise = [["method"]]
    for level in levels:
        accuracy[0] += [f"{axis.text(level)}: test accuracy, %", f"{axis.text(level)}: charged"]
        noise[0].append(f"{axis.text(level)}: noise mass / uniform share, %")
    for method in methods_of(cells):
        row = [at.get((method, level)) for level in levels]
        accuracy.append([method])
        for cell in row:
            accuracy[-1] += (
                [f"{accuracy_text(cell)} ({count_text(cell)})", duration(cell.charged_seconds)]
                if cell
                else [NOTHING, NOTHING]
            )
        noise.append([method] + [noise_text(cell) if cell else NOTHING for cell in row])
    text = (
        f"Test accuracy in percent, mean {PLUS_MINUS} sd over n search seeds, and charged device time per search.\n\n"
        f"{pipes(accuracy)}"
    )
    if axis is not NOISE:
        return text
    return (
        f"{text}\n"
        "Expected share of noise ops in the found policies, against the share if all ops were equally likely.\n\n"
        f"{pipes(noise)}"
    )


def _found_markdown(results: Sequence[Found], axis: Axis) -> str:
    tables = []
    for level in sorted({result.level for result in results}):
        rows = found_rows([result for result in results if result.level == level])
        tables.append(f"What the searches found, {axis.text(level)}.\n\n{pipes(rows)}")
    definitions = "".join(f"- {definition}\n" for definition in DEFINITIONS)
    few = few_children(results, axis)
    return "\n".join([*tables, definitions, *([f"{escaped(few)}\n"] if few else [])])


def _external_markdown(published: Sequence[External]) -> str:
    return f"{EXTERNAL_TITLE}. {EXTERNAL_NOTE}\n\n{pipes(external_rows(published))}"
