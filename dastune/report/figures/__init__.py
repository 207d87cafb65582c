"""Figures, for paper and page: the only package that imports matplotlib."""

from dastune.report.figures.curves import curves_figure
from dastune.report.figures.levels import accuracy_figure, noise_mass_figure, sd_figure
from dastune.report.figures.receptive import receptive_figure
from dastune.report.figures.sheets import SHEET_LINES, contact_sheet
from dastune.report.figures.style import EDGE, INK, PAPER, save, save_png

__all__ = [
    "EDGE",
    "INK",
    "PAPER",
    "SHEET_LINES",
    "accuracy_figure",
    "contact_sheet",
    "curves_figure",
    "noise_mass_figure",
    "receptive_figure",
    "save",
    "save_png",
    "sd_figure",
]
