"""What tables are made of: numbers as text, rows of what searches found, published policies; the terminal's table."""

from collections.abc import Callable, Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dastune.errors import printable
from dastune.report.axis import NOISE, Axis
from dastune.report.external import External, apart, externals
from dastune.report.found import Found, Spread
from dastune.report.plan import Plan
from dastune.report.stats import Cell, mean, sd
from dastune.training.estimate import FEW_CHILDREN

NOTHING = "-"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"

EXTERNAL_TITLE = "Published policies, found elsewhere"
EXTERNAL_NOTE = (
    "External: searched for elsewhere, with budgets and networks of their own and often other data, and only trained "
    "and tested here. They are in no figure, and no method is compared with them."
)

DEFINITIONS = (
    "All is mean \N{PLUS-MINUS SIGN} sd over search seeds, of the ops that a policy applies: what is skipped of a "
    "step, by its probability, counts for no op.",
    "Applied: the share of a policy's steps that are not skipped; the column is there if any are.",
    "Noise ops: their share of what is applied, and after the stroke what it is if all ops are equally likely.",
    "Entropy: of the ops' shares, in nats; 0 for a single op, and after the stroke that of all ops equally likely.",
    "From uniform: total variation distance, the share that would have to move to make all ops equally likely.",
    "Agreement: the mean over all pairs of search seeds of 1 - the total variation distance between their ops' shares, "
    "1 if all seeds found the same; after the stroke what it is on average if it is chance which ops a policy prefers, "
    "by how much it does.",
    "Tau's entropy, from its start: where a search learns weights softmax(tau) of its candidates, their entropy "
    "in nats and their total variation distance from where they began, means over the rows of tau at the end.",
    "Children: trainings, whole or ended early, by which a search scored policies; mean over search seeds.",
)

# of what searches found, for files: shares in [0, 1], entropies in nats
FOUND_NUMBERS: dict[str, Callable[[Found], float | None]] = {
    "noise_mass_sd": lambda result: result.noise_mass.sd,
    "entropy_mean": lambda result: result.entropy.mean,
    "entropy_sd": lambda result: result.entropy.sd,
    "uniform_entropy": lambda result: result.uniform_entropy,
    "distance_mean": lambda result: result.distance.mean,
    "distance_sd": lambda result: result.distance.sd,
    "applied_mean": lambda result: result.rate.mean,
    "agreement": lambda result: None if result.agreement is None else result.agreement.observed,
    "chance_agreement": lambda result: None if result.agreement is None else result.agreement.chance,
    "tau_entropy_mean": lambda result: result.tau_entropy.mean,
    "tau_entropy_sd": lambda result: result.tau_entropy.sd,
    "tau_from_start_mean": lambda result: result.tau_from_start.mean,
    "tau_from_start_sd": lambda result: result.tau_from_start.sd,
    "children_mean": lambda result: result.children,
}


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
    """Return titles, then a row per method, of what searches found at one level; see DEFINITIONS."""
    with_rate = any(0 < (result.rate.mean or 0) < 1 - 1e-9 for result in results)
    with_noise = any(result.uniform_noise_share for result in results)
    with_tau = any(result.tau_entropy.mean is not None or result.tau_from_start.mean is not None for result in results)
    with_children = any(result.children is not None for result in results)
    rows = [
        ["method"]
        + ["applied, %"] * with_rate
        + ["noise ops, % / uniform"] * with_noise
        + ["entropy / uniform", "from uniform", "agreement / chance"]
        + ["tau's entropy", "from its start"] * with_tau
        + ["children"] * with_children
    ]
    for result in results:
        noise = Spread(mean(result.noise_shares.values()), sd(result.noise_shares.values()))
        row = [result.method] + [spread_text(result.rate, 1, 100)] * with_rate
        row += [f"{spread_text(noise, 1, 100)} / {percent(result.uniform_noise_share)}"] * with_noise
        row += [
            f"{spread_text(result.entropy)} / {number(result.uniform_entropy)}",
            spread_text(result.distance),
            _agreement_text(result),
        ]
        row += [spread_text(result.tau_entropy), spread_text(result.tau_from_start)] * with_tau
        rows.append(row + [number(result.children, 1)] * with_children)
    return rows


def _agreement_text(result: Found) -> str:
    found = result.agreement
    return NOTHING if found is None else f"{number(found.observed)} / {number(found.chance)}"


def few_children(results: Sequence[Found], axis: Axis = NOISE) -> str:
    """Return a sentence on the searches whose budgets had room for few children, or nothing."""
    few = [
        f"{result.method} {number(result.children, 1)} at {axis.text(result.level)}"
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
    return NOTHING if value is None else f"{value:,.{digits}f}"


def methods_of(cells: Iterable[Cell]) -> list[str]:
    """Return the methods, in order."""
    return list(dict.fromkeys(cell.method for cell in cells))


def levels_of(cells: Iterable[Cell]) -> list[int]:
    """Return the levels, ascending."""
    return sorted({cell.level for cell in cells})


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


def console(cells: Sequence[Cell], plan: Plan | None = None, axis: Axis = NOISE) -> RenderableType:
    """Return methods x levels of `axis` for the terminal: test accuracy, and charged device time under it.

    Published policies, which `plan` tells from methods, are in a table of their own under it.
    """
    own, published = apart(cells, plan)
    tables = [_console_levels(own, axis)] if own else []
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


def _console_levels(cells: Sequence[Cell], axis: Axis) -> Table:
    levels = levels_of(cells)
    at = {(cell.method, cell.level): cell for cell in cells}
    table = Table(
        title=f"Test accuracy by {axis.number}",
        caption=f"percent, mean {PLUS_MINUS} sd over n search seeds; charged device time per search",
    )
    table.add_column("method")
    for level in levels:
        table.add_column(f"{level}{axis.sign}", justify="right")
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
