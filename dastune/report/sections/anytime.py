"""What searches knew of their result while they ran."""

import numpy as np
import pandas as pd

from dastune.report.curves import Bundle
from dastune.report.figures import curves_figure, save
from dastune.report.interactive import bundle_text, curve_tips
from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.sections.parts import figure
from dastune.report.table import Table
from dastune.report.tables import NOTHING, duration, methods_of, number, percent

SHARES = {"a quarter": 0.25, "half": 0.5, "three quarters": 0.75, "the end": 1.0}
UNITS = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))  # from so many seconds on

_WHAT = (
    "A black-box search knows its best child so far: the best of many on few validation images, which flatters it. das "
    "knows a running accuracy of its own network over validation batches, which may fall. The curves show how fast a "
    "search gets on; between methods that know different things their heights are not comparable."
)


def anytime(results: Results) -> Markup:
    """Return validation accuracy over charged time at the highest level, and a table of all levels."""
    known = results.anytime
    if not known:
        return Markup("")
    level = max(level for _, level in known)
    where = results.axis.text(level)
    longest = max(float(bundle.at[-1]) for (_, at), bundle in known.items() if at == level)
    unit, name = next((unit, name) for least, unit, name in UNITS if longest >= least)
    shown = [(method, _in_unit(known.get((method, level)), unit)) for method in methods_of(results.cells)]
    save(curves_figure(shown, (f"Charged per search ({name})", "Validation accuracy (%)"), "steps"),
         results.output / "anytime")  # fmt: skip
    ends = [f"{method} {bundle_text(bundle, -1, _one_digit)}" for method, bundle in shown if bundle is not None]
    label = (
        f"Line chart of validation accuracy in percent over charged device time, {where}. At the end: "
        f"{'; '.join(ends)}."
    )
    caption = (
        f"Validation accuracy as each search has it, over what it was charged, {where}. Mean over search "
        f"seeds, from when all have a value; shaded: mean ± sd. {_WHAT}"
    )
    tips = curve_tips(shown, lambda at: f"after {duration(unit * at)}", _one_digit, " %")
    heading = element("h2", "Validation accuracy over charged time")
    tables = [table.html() for table in anytime_tables(results)]
    return joined([heading, figure(results, "anytime", label, caption, tips), *tables])


def anytime_tables(results: Results) -> list[Table]:
    """Return methods x levels: validation accuracy at shares of what searches were charged; nothing without points."""
    rows, records = [], []
    for (method, level), bundle in results.anytime.items():
        end = float(bundle.at[-1])
        row = [method, str(level), duration(end)]
        for share in SHARES.values():
            at = int(np.searchsorted(bundle.at, share * end, side="right")) - 1
            row.append(NOTHING if at < 0 else bundle_text(bundle, at, percent).replace(", ", "\n"))
            values = (None, None) if at < 0 else (bundle.mean[at], None if bundle.sd is None else bundle.sd[at])
            records.append((method, level, share * end, *values, bundle.n))
        rows.append(row)
    if not rows:
        return []
    columns = ["method", results.axis.field, "charged_seconds", "val_accuracy_mean", "val_accuracy_sd", "n"]
    titles = ["method", results.axis.column, "charged", *(f"at {share}" for share in SHARES)]
    note = "Percent, mean ± sd over n search seeds, at shares of the longest search's charged time."
    title = "Validation accuracy over charged time"
    return [Table("anytime", title, titles, rows, note, pd.DataFrame(records, columns=columns))]


def _in_unit(bundle: Bundle | None, seconds: float) -> Bundle | None:
    """Return a bundle in percent, over time in units of so many seconds."""
    if bundle is None:
        return None
    spread = None if bundle.sd is None else 100 * bundle.sd
    return Bundle(bundle.at / seconds, 100 * bundle.mean, spread, bundle.n)


def _one_digit(value: float) -> str:
    return number(value, 1)
