"""How final trainings went, and how fast searches and final trainings were."""

import pandas as pd

from dastune.folder import FinalRow
from dastune.report.curves import Bundle, Series, linear
from dastune.report.figures import curves_figure, save
from dastune.report.found import Spread
from dastune.report.interactive import bundle_text, curve_tips
from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results
from dastune.report.sections.parts import figure
from dastune.report.stats import mean, sd
from dastune.report.table import Table
from dastune.report.tables import NOTHING, methods_of, number, spread_text


def training(results: Results) -> Markup:
    """Return training loss over epochs at the highest level, and a table of throughput."""
    tables = [table.html() for table in training_tables(results)]
    if not tables:
        return Markup("")
    return joined([element("h2", "Final trainings"), _losses(results), *tables])


def _losses(results: Results) -> Markup:
    """Return the figure; nothing where no training loss is known."""
    known = results.curves.losses
    series: dict[str, list[Series]] = {}
    rows = [row for row in results.own_finals if (row.search_id, row.train_seed) in known]
    if not rows:
        return Markup("")
    axis = results.axis
    level = max(map(axis.level, rows))
    for row in rows:
        if axis.level(row) == level:
            series.setdefault(row.method, []).append(known[row.search_id, row.train_seed])
    shown: list[tuple[str, Bundle | None]] = [
        (method, linear(series.get(method, []))) for method in methods_of(results.cells)
    ]
    save(curves_figure(shown, ("Epochs of the final training", "Training loss (nats)"), "straight"),
         results.output / "training")  # fmt: skip
    ends = [f"{method} {bundle_text(bundle, -1, number)}" for method, bundle in shown if bundle is not None]
    label = f"Line chart of training loss over epochs, {axis.text(level)}. At the end: {'; '.join(ends)}."
    caption = (
        f"Loss of final trainings on their own augmented images, {axis.text(level)}: mean over search and training "
        "seeds; shaded: mean ± sd. A policy that changes images more has the higher loss: lower is not better."
    )
    tips = curve_tips(shown, lambda epoch: f"epoch {epoch:.0f}", number)
    return figure(results, "training", label, caption, tips)


def training_tables(results: Results) -> list[Table]:
    """Return the throughput of each method's searches and final trainings; nothing without results."""
    speeds: dict[str, list[float]] = {}
    for search in results.own_searches:
        if search.status != "failed" and search.steps and search.charged_seconds > 0:
            speeds.setdefault(search.method, []).append(search.steps / search.charged_seconds)
    trained: dict[str, list[FinalRow]] = {}
    for final in results.own_finals:
        trained.setdefault(final.method, []).append(final)
    rows, records = [], []
    for method in methods_of(results.cells):
        finals = trained.get(method, [])
        images, steps = _spread([final.images_per_second for final in finals]), _spread(speeds.get(method, []))
        parameters, flops = {final.parameters for final in finals}, {final.flops for final in finals}
        rows.append(
            [method, spread_text(images, 0), spread_text(steps, 1), _range(parameters, ","), _range(flops, ",")]
        )
        records.append((method, images.mean, images.sd, steps.mean, steps.sd, _range(parameters), _range(flops)))
    if not rows:
        return []
    columns = ["method", "images_per_second_mean", "images_per_second_sd", "search_steps_per_second_mean"]
    columns += ["search_steps_per_second_sd", "parameters", "flops"]
    titles = ["method", "images/s", "search steps/s", "parameters", "FLOPs"]
    note = (
        f"Mean ± sd over all {results.axis.levels} and seeds. Images/s: of final trainings, augmentation included. "
        "Search steps/s: optimiser steps of searches, of all children, per second charged; none where nothing is "
        "trained to search. FLOPs: of one forward pass of one image"
    )
    clips = any(final.frames > 1 for final in results.own_finals)
    note += ", of all its frames where it is made a clip (see Table 10)." if clips else "."
    return [Table("training", "Throughput", titles, rows, note, pd.DataFrame(records, columns=columns))]


def _spread(values: list[float]) -> Spread:
    return Spread(mean(values), sd(values))


def _range(values: set[int], group: str = "") -> str:
    """Return a number in full, or the least and the most where they differ; `group` stands between thousands."""
    if not values:
        return NOTHING
    least, most = min(values), max(values)
    return f"{least:{group}}" if least == most else f"{least:{group}} to {most:{group}}"
