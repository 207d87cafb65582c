"""Figure 8: which pixels of an image the trained networks listen to, the 2-D one and those that read clips."""

from collections.abc import Sequence

import pandas as pd

from dastune.report.figures import receptive_figure, save
from dastune.report.markup import Markup, element, joined
from dastune.report.receptive import Fields
from dastune.report.results import Results
from dastune.report.sections.parts import figure
from dastune.report.table import Table
from dastune.report.table10 import VIDEO
from dastune.report.tables import spread_text

FIGURE = "figure8"
MOST_PANELS = 9

_COLUMNS = ("method", "network reads", "area at half, %", "at a tenth, %", "trainings")


def receptive(results: Results) -> Markup:
    """Return the maps of the first network that reads images and of those of clips, and the areas of all methods."""
    fields, _ = results.receptive_fields
    if not fields:
        return Markup("")
    shown = _shown(fields, results)
    save(receptive_figure([(item.method, _areas(item), item.map_HW) for item in shown]), results.output / FIGURE)
    told = [f"{item.method}: {_areas(item)}." for item in shown]
    label = f"Maps of receptive fields, and their areas. {' '.join(told)}".replace("\n", ", ")
    height, width = fields[0].fields[0].image_px
    caption = (
        "Effective receptive fields of the networks trained here, after Figure 8 of the DAS paper: how much each pixel "
        "of an image moves the centre unit of the last feature map, as the absolute gradient, the mean over test "
        f"images and trainings, scaled to a peak of 1. Each map is a whole image of {width} x {height} px, all are on "
        "one scale. Lines around what is at least half (solid) and a tenth (dashed) of the peak. Under each, the areas "
        "of single trainings, mean ± sd."
    )
    more = " Of the other methods, see the table." if len(shown) < len(fields) else ""
    return joined(
        [
            element("h2", "Receptive fields"),
            figure(results, FIGURE, label, caption + more),
            *(table.html() for table in receptive_tables(results)),
        ]
    )


def receptive_tables(results: Results) -> list[Table]:
    """Return the areas of each method's receptive fields; nothing where none was measured."""
    fields, damaged = results.receptive_fields
    if not fields:
        return []
    images = {field.images for item in fields for field in item.fields}
    note = (
        "Area: share of an image's pixels whose absolute gradient, the mean over "
        f"{' or '.join(map(str, sorted(images)))} test images, is at least half, and at least a tenth, of the largest; "
        "mean ± sd over trainings, each measured by itself. Of a network that reads clips, the gradient of its mean "
        "over frames, through the cell back to the image."
    )
    if damaged:
        note += f" {damaged} files are damaged and left out."
    rows = [
        [
            item.method,
            f"{item.frames} frames" if item.frames > 1 else "images",
            spread_text(item.half, 1, 100),
            spread_text(item.tenth, 1, 100),
            str(len(item.fields)),
        ]
        for item in fields
    ]
    records = [
        (item.method, item.frames, item.half.mean, item.half.sd, item.tenth.mean, item.tenth.sd, len(item.fields))
        for item in fields
    ]
    columns = ["method", "frames", "half_mean", "half_sd", "tenth_mean", "tenth_sd", "trainings"]
    title = "Area of the receptive field, as a share of the image"
    return [Table("receptive_fields", title, _COLUMNS, rows, note, pd.DataFrame(records, columns=columns))]


def _shown(fields: Sequence[Fields], results: Results) -> list[Fields]:
    """Return the first method whose network reads images, and those that make clips, MOST_PANELS at most."""
    plain = next((item for item in fields if item.frames == 1), None)
    others = [item for item in fields if item is not plain and results.kinds.get(item.method) == VIDEO]
    chosen = ([] if plain is None else [plain]) + others
    return (chosen or [*fields])[:MOST_PANELS]


def _areas(item: Fields) -> str:
    return f"half {spread_text(item.half, 1, 100)} %\ntenth {spread_text(item.tenth, 1, 100)} %"
