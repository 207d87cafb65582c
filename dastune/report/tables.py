"""Tables of cells: a data frame, CSV, Markdown, and a table for the terminal."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table
from rich.text import Text

from dastune.folder import write_atomic
from dastune.report.stats import Cell

NOTHING = "-"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def table_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return one row per cell. Accuracies and shares in [0, 1], seconds are device-seconds per search."""
    columns = {
        "method": [cell.method for cell in cells],
        "noise_level": [cell.noise_level for cell in cells],
        "n": [cell.n for cell in cells],
        "test_accuracy_mean": [cell.mean for cell in cells],
        "test_accuracy_sd": [cell.sd for cell in cells],
        "test_accuracy_low": [cell.interval[0] if cell.interval else None for cell in cells],
        "test_accuracy_high": [cell.interval[1] if cell.interval else None for cell in cells],
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
    return pd.DataFrame(columns)


def write_csv(cells: Sequence[Cell], path: Path) -> None:
    """Write `table_frame(cells)` to `path`, atomically; an unknown number is an empty field."""
    write_atomic(path, table_frame(cells).to_csv(index=False, lineterminator="\n"))


def methods_of(cells: Iterable[Cell]) -> list[str]:
    """Return the methods, in order."""
    return list(dict.fromkeys(cell.method for cell in cells))


def levels_of(cells: Iterable[Cell]) -> list[int]:
    """Return the noise levels, ascending."""
    return sorted({cell.noise_level for cell in cells})


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] as a number of percent, without the sign."""
    return NOTHING if share is None else f"{100 * share:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Return seconds in a unit that reads well."""
    if seconds is None:
        return NOTHING
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def ops_text(level: int) -> str:
    """Return a noise level in words."""
    return f"{level} noise op" if level == 1 else f"{level} noise ops"


def accuracy_text(cell: Cell) -> str:
    """Return mean and spread in percent, such as "94.1 ± 0.6"; without a spread where there is one seed."""
    if cell.mean is None:
        return NOTHING
    return percent(cell.mean) + ("" if cell.sd is None else f" {PLUS_MINUS} {percent(cell.sd)}")


def count_text(cell: Cell) -> str:
    """Return how many seeds are behind a cell, such as "n=2, 1 failed"."""
    return f"n={cell.n}" + (f", {cell.failed} failed" if cell.failed else "")


def noise_text(cell: Cell) -> str:
    """Return noise mass against its uniform share, in percent."""
    return f"{percent(cell.noise_mass)} / {percent(cell.uniform_noise_share)}"


def markdown(cells: Sequence[Cell]) -> str:
    """Return two Markdown tables, methods in rows, levels in columns: accuracy with cost, then noise mass."""
    levels = levels_of(cells)
    at = {(cell.method, cell.noise_level): cell for cell in cells}
    accuracy = [["method"]]
    noise = [["method"]]
    for level in levels:
        accuracy[0] += [f"{ops_text(level)}: test accuracy, %", f"{ops_text(level)}: charged"]
        noise[0].append(f"{ops_text(level)}: noise mass / uniform share, %")
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
    return (
        f"Test accuracy in percent, mean {PLUS_MINUS} sd over n search seeds, and charged device time per search.\n\n"
        f"{_pipes(accuracy)}\n"
        "Expected share of noise ops in the found policies, against the share if all ops were equally likely.\n\n"
        f"{_pipes(noise)}"
    )


def _pipes(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(_escaped(text) for text in row) + " |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Method names are data: keep them from ending a Markdown cell or opening a tag."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;")):
        text = text.replace(character, entity)
    return " ".join(text.split())


def console(cells: Sequence[Cell]) -> Table:
    """Return methods x noise levels for the terminal: test accuracy, and charged device time under it."""
    levels = levels_of(cells)
    at = {(cell.method, cell.noise_level): cell for cell in cells}
    table = Table(
        title="Test accuracy by number of noise ops",
        caption=f"percent, mean {PLUS_MINUS} sd over n search seeds; charged device time per search",
    )
    table.add_column("method")
    for level in levels:
        table.add_column(str(level), justify="right")
    for method in methods_of(cells):
        row = [at.get((method, level)) for level in levels]
        # Text, not str: brackets in a name are no markup
        table.add_row(Text(method), *(_console_cell(cell) for cell in row))
    return table


def _console_cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text(NOTHING)
    return Text.assemble(accuracy_text(cell), (f"\n{count_text(cell)}; {duration(cell.charged_seconds)}", "dim"))
