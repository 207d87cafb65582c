"""Tables of cells: a data frame, CSV, Markdown, and a table for the terminal."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dastune.errors import printable
from dastune.folder import write_atomic
from dastune.report.external import External, apart, externals
from dastune.report.found import Found, Spread
from dastune.report.plan import Plan
from dastune.report.stats import Cell
from dastune.training.estimate import FEW_CHILDREN

NOTHING = "-"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"

EXTERNAL_TITLE = "Published policies, found elsewhere"
EXTERNAL_NOTE = (
    "External: searched for elsewhere, with budgets and networks of their own and often other data, and only trained "
    "and tested here. They are in no figure, and no method is compared with them."
)

DEFINITIONS = (
    "Op distribution: each op's expected share of what a policy applies, where a step that is skipped counts as "
    "identity; the other columns are made of it, mean \N{PLUS-MINUS SIGN} sd over search seeds.",
    "Noise mass: the share of noise ops, in percent, and after the stroke what it is if all ops are equally likely.",
    "Entropy: of the op distribution, in nats; 0 for a single op, and after the stroke that of all ops equally likely.",
    "Distance from uniform: total variation, the share that would have to move to make all ops equally likely.",
    "Agreement: the mean over all pairs of search seeds of 1 - the total variation distance between their op "
    "distributions; 1 if all seeds found the same.",
    "Entropy of tau, tau from its start: where a search learns weights softmax(tau) of its candidates, their entropy "
    "in nats and their total variation distance from where they began, means over the rows of tau at the end.",
    "Children: trainings, whole or ended early, by which a search scored policies; mean over search seeds.",
)

_FOUND_NUMBERS: dict[str, Callable[[Found], float | None]] = {
    "noise_mass_sd": lambda result: result.noise_mass.sd,
    "entropy_mean": lambda result: result.entropy.mean,
    "entropy_sd": lambda result: result.entropy.sd,
    "uniform_entropy": lambda result: result.uniform_entropy,
    "distance_mean": lambda result: result.distance.mean,
    "distance_sd": lambda result: result.distance.sd,
    "agreement": lambda result: result.agreement,
    "tau_entropy_mean": lambda result: result.tau_entropy.mean,
    "tau_entropy_sd": lambda result: result.tau_entropy.sd,
    "tau_from_start_mean": lambda result: result.tau_from_start.mean,
    "tau_from_start_sd": lambda result: result.tau_from_start.sd,
    "children_mean": lambda result: result.children,
}

_EXTERNAL_COLUMNS = (
    *("method", "noise_level", "n", "test_accuracy_mean", "test_accuracy_sd", "test_accuracy_low"),
    *("test_accuracy_high", "test_accuracy_by_seed", "trainings", "searches", "failed"),
)


def table_frame(cells: Sequence[Cell], results: Sequence[Found] = ()) -> pd.DataFrame:
    """Return one row per cell, with what its searches found.

    Accuracies, shares and distances in [0, 1], entropies in nats, seconds are device-seconds per search.
    """
    by_key = {(result.method, result.noise_level): result for result in results}
    aligned = [by_key.get((cell.method, cell.noise_level)) for cell in cells]
    columns: dict[str, list[Any]] = {
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
    for name, value in _FOUND_NUMBERS.items():
        columns[name] = [None if result is None else value(result) for result in aligned]
    return pd.DataFrame(columns)


def write_csv(cells: Sequence[Cell], results: Sequence[Found], path: Path) -> None:
    """Write `table_frame(cells, results)` to `path`, atomically; an unknown number is an empty field."""
    write_atomic(path, table_frame(cells, results).to_csv(index=False, lineterminator="\n"))


def write_external_csv(published: Sequence[External], path: Path) -> None:
    """Write the published policies to `path`, atomically, with the columns of `table_frame` that they have."""
    frame = table_frame([external.cell for external in published])[[*_EXTERNAL_COLUMNS]]
    frame.insert(1, "policy", [external.policy for external in published])
    frame.insert(2, "source", [external.source for external in published])
    write_atomic(path, frame.to_csv(index=False, lineterminator="\n"))


def external_rows(published: Sequence[External]) -> list[list[str]]:
    """Return titles, then a row per published policy; see EXTERNAL_NOTE."""
    rows = [["method", "policy", "test accuracy, %", "what it is"]]
    for external in published:
        cell = external.cell
        accuracy = f"{accuracy_text(cell)} ({count_text(cell)})"
        what = external.source or NOTHING
        rows.append([f"{cell.method} (external)", external.policy or NOTHING, accuracy, what])
    return rows


def found_rows(results: Sequence[Found]) -> list[list[str]]:
    """Return titles, then a row per method, of what searches found at one noise level; see DEFINITIONS."""
    with_tau = any(result.tau_entropy.mean is not None or result.tau_from_start.mean is not None for result in results)
    with_children = any(result.children is not None for result in results)
    titles = ["method", "noise mass, %", "entropy", "distance from uniform", "agreement"]
    rows = [titles + ["entropy of tau", "tau from its start"] * with_tau + ["children"] * with_children]
    for result in results:
        row = [
            result.method,
            f"{spread_text(result.noise_mass, 1, 100)} / {percent(result.uniform_noise_share)}",
            f"{spread_text(result.entropy)} / {number(result.uniform_entropy)}",
            spread_text(result.distance),
            "n.a." if result.agreement is None else number(result.agreement),
        ]
        row += [spread_text(result.tau_entropy), spread_text(result.tau_from_start)] * with_tau
        rows.append(row + [number(result.children, 1)] * with_children)
    return rows


def few_children(results: Sequence[Found]) -> str:
    """Return a sentence on the searches whose budgets had room for few children, or nothing."""
    few = [
        f"{result.method} {number(result.children, 1)} at {ops_text(result.noise_level)}"
        for result in results
        if result.children is not None and result.children < FEW_CHILDREN and not result.exhausted
    ]
    if not few:
        return ""
    return (
        f"Fewer than {FEW_CHILDREN} children a search: {', '.join(few)}. A search of so few children is hardly a "
        "search, so this budget says little about what the method can do."
    )


def spread_text(spread: Spread, digits: int = 2, unit: float = 1.0) -> str:
    """Return mean and sd, times `unit`; no sd where there is one seed."""
    if spread.mean is None:
        return NOTHING
    text = number(spread.mean * unit, digits)
    return text if spread.sd is None else f"{text} {PLUS_MINUS} {number(spread.sd * unit, digits)}"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many digits behind the point."""
    return NOTHING if value is None else f"{value:.{digits}f}"


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


def markdown(
    cells: Sequence[Cell], results: Sequence[Found] = (), published: Sequence[External] = (), note: str = ""
) -> str:
    """Return Markdown tables, methods in rows: accuracy with cost, noise mass, then per level what searches found.

    Published policies have a table of their own, after the others. Of nothing there is no table. `note` is a sentence
    on all of them, put last.
    """
    parts = [
        _levels_markdown(cells) if cells else "",
        _found_markdown(results) if results else "",
        _external_markdown(published) if published else "",
    ]
    tables = [part for part in parts if part] or ["No results yet.\n"]
    return "\n".join([*tables, *([f"{_escaped(note)}\n"] if note else [])])


def _levels_markdown(cells: Sequence[Cell]) -> str:
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


def _found_markdown(results: Sequence[Found]) -> str:
    tables = []
    for level in sorted({result.noise_level for result in results}):
        rows = found_rows([result for result in results if result.noise_level == level])
        tables.append(f"What the searches found, {ops_text(level)}.\n\n{_pipes(rows)}")
    definitions = "".join(f"- {definition}\n" for definition in DEFINITIONS)
    few = few_children(results)
    return "\n".join([*tables, definitions, *([f"{_escaped(few)}\n"] if few else [])])


def _external_markdown(published: Sequence[External]) -> str:
    return f"{EXTERNAL_TITLE}. {EXTERNAL_NOTE}\n\n{_pipes(external_rows(published))}"


def _pipes(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(_escaped(text) for text in row) + " |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Method names are data: keep them from ending a Markdown cell or opening a tag."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;")):
        text = text.replace(character, entity)
    return " ".join(text.split())


def console(cells: Sequence[Cell], plan: Plan | None = None) -> RenderableType:
    """Return methods x noise levels for the terminal: test accuracy, and charged device time under it.

    Published policies, which `plan` tells from methods, are in a table of their own under it.
    """
    own, published = apart(cells, plan)
    tables = [_console_levels(own)] if own else []
    if published:
        tables.append(_console_external(externals(published, plan)))
    return Group(*tables)


def _console_external(published: Sequence[External]) -> Table:
    titles, *rows = external_rows(published)
    table = Table(title=EXTERNAL_TITLE)
    for title in titles:
        table.add_column(title)
    for row in rows:
        table.add_row(*map(_plain, row))
    return table


def _console_levels(cells: Sequence[Cell]) -> Table:
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
        table.add_row(_plain(method), *(_console_cell(cell) for cell in row))
    return table


def _plain(text: str) -> Text:
    """Return a name for the terminal: brackets in it are no markup, and control characters do nothing."""
    return Text(printable(text))


def _console_cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text(NOTHING)
    return Text.assemble(accuracy_text(cell), (f"\n{count_text(cell)}; {duration(cell.charged_seconds)}", "dim"))
