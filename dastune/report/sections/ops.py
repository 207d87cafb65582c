"""The ops that the found policies apply most, over all search seeds."""

from collections.abc import Mapping, Sequence

import pandas as pd

from dastune.ops.table import OPS
from dastune.report.axis import Axis
from dastune.report.figures import save
from dastune.report.figures.ops import MOST_DOTS, ops_figure
from dastune.report.found import Found
from dastune.report.learned import ALIKE
from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.sections.parts import figure
from dastune.report.stats import sd
from dastune.report.table import Table
from dastune.report.tables import NOTHING, PLUS_MINUS, methods_of, percent

TOP_OPS = 5

_CAPTION = (
    "Bars: mean share of an op in what the policies apply; hollow ones are noise ops. Dots: every search seed (with "
    f"more than {MOST_DOTS}, a line over the range of nine tenths of them). Dashed: all ops equally likely."
)


def frequent(results: Results, methods: Sequence[str]) -> Markup:
    """Return charts of the ops that the policies of `methods` apply most, and the table of all methods."""
    here = [each for each in _highest(results) if each.method in methods]
    alike = [each.method for each in here if each.distance.mean is not None and each.distance.mean < ALIKE]
    charted = [each for each in here if each.method not in alike]
    tables = ops_tables(results)
    if not tables:
        return Markup("")
    parts = [element("h3", tables[0].title)]
    if charted:
        places = {method: place for place, method in enumerate(methods_of(results.cells))}
        space = results.plan.ops.get(charted[0].level, ()) if results.plan else ()
        save(ops_figure(charted, places, space), results.output / "ops")
        words = " ".join(f"{each.method}: {top_ops(each.mean_shares)}." for each in charted)
        label = f"Bar charts of the share of each op in the found policies. {words}"
        parts.append(element("div", figure(results, "ops", label, _CAPTION), class_="broad", tabindex="0"))
    if alike:
        text = f"Not drawn, since their policies treat all ops alike: {', '.join(alike)}."
        parts.append(element("p", text, class_="note"))
    shown = joined(table.html() for table in tables)
    return joined([*parts, element("details", element("summary", "The most frequent ops as a table"), shown)])


def ops_tables(results: Results) -> list[Table]:
    """Return the ops that policies apply most, of each method at the highest level."""
    here = _highest(results)
    if not here:
        return []
    columns = ["method", *(f"{place}." for place in range(1, TOP_OPS + 1))]
    rows = [[each.method, *_top_cells(each)] for each in here]
    note = f"Percent of the ops that a policy applies, mean {PLUS_MINUS} sd over search seeds."
    frame = _ops_frame([each for each in results.found if each.by_seed], results.axis)
    title = f"Most frequent ops over seeds, {results.axis.text(here[0].level)}"
    return [Table("ops", title, columns, rows, note, frame)]


def _highest(results: Results) -> list[Found]:
    """Return what was found at the highest level at which a policy applies anything."""
    found = [each for each in results.found if each.by_seed]
    level = max((each.level for each in found), default=0)
    return [each for each in found if each.level == level]


def _top_cells(found: Found) -> list[str]:
    cells = []
    for op, share in [*found.mean_shares.items()][:TOP_OPS]:
        spread = sd(shares.get(op, 0.0) for shares in found.by_seed.values())
        cells.append(f"{_name(op)}\n{percent(share)}" + ("" if spread is None else f" {PLUS_MINUS} {percent(spread)}"))
    return cells + [NOTHING] * (TOP_OPS - len(cells))


def _ops_frame(found: Sequence[Found], axis: Axis) -> pd.DataFrame:
    """Return the mean share and its sd, in [0, 1], of each op at each level."""
    records = []
    for each in found:
        for op, share in each.mean_shares.items():
            shares = [of.get(op, 0.0) for of in each.by_seed.values()]
            about = {"method": each.method, axis.field: each.level, "op": op, "noise": OPS[op].noise}
            records.append({**about, "n": len(shares), "share_mean": share, "share_sd": sd(shares)})
    return pd.DataFrame(records)


def top_ops(shares: Mapping[str, float]) -> str:
    """Return the ops of the largest shares in words; nothing of none."""
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    top = ", ".join(f"{_name(op)} {percent(share, 0)} %" for op, share in ranked[:TOP_OPS])
    return top + (f", and {len(ranked) - TOP_OPS} more" if len(ranked) > TOP_OPS else "")


def _name(op: str) -> str:
    return f"{op} (noise)" if OPS[op].noise else op
