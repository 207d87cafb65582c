"""Table 11 of the DAS paper: methods x data sets, with the size of the space and what the search cost.

The paper's own rows stand below in the columns of its data sets. It gives one number each, without a spread. Its rows
of the baseline, AutoAugment and RandAugment are the numbers of RandAugment's paper (arXiv 1909.13719, means of ten
runs).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dastune.report.protocol import budget_text, data_text, model_text, value_at
from dastune.report.results import Results
from dastune.report.stats import Cell
from dastune.report.table import SUPERSCRIPT, Table
from dastune.report.tables import NOTHING, accuracy_text, count_text, duration, levels_of, methods_of

COLUMNS = ("space", "charged", "held", "test accuracy, %")

WRITTEN_OUT_LOG10 = 3.0  # smaller spaces are written out

_RAISED = str.maketrans("0123456789", SUPERSCRIPT)


@dataclass(frozen=True)
class Published:
    """A row of the paper's table.

    Attributes:
        space_size_log10: of its search space; 0 for none.
        accuracies: data set -> test accuracy in percent, as it is printed.
    """

    method: str
    space_size_log10: float
    accuracies: Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """A study in the table.

    Attributes:
        label: what tells it from other studies; "" where there is one.
        level: the lowest level with results; the paper's table has no noise ops, and all training data.
        cells: of that level, by method.
    """

    label: str
    results: Results
    level: int
    cells: Mapping[str, Cell]

    @property
    def title(self) -> str:
        """What the study is of, in a line."""
        study = self.results.study
        of = f"{data_text(study)}, {model_text(study)}, {self.results.axis.text(self.level)}"
        return f"{self.label}: {of}" if self.label else of


PAPER_MODELS = {"cifar10": "WRN-28-2", "cifar100": "WRN-28-2", "svhn": "WRN-28-2", "imagenet": "ResNet-50"}


def _row(method: str, space_size_log10: float, *accuracies: str) -> Published:
    return Published(method, space_size_log10, dict(zip(PAPER_MODELS, accuracies, strict=True)))


PUBLISHED_ROWS = (
    _row("Baseline", 0, "94.90", "75.40", "96.70", "76.30"),
    _row("AutoAugment", 32, "95.90", "78.50", "98.00", "77.60"),
    _row("RandAugment", 2, "95.80", "78.30", "98.30", "77.60"),
    _row("DAS", 13, "96.10", "78.90", "98.30", "77.90"),
)


def table11(studies: Sequence[tuple[str, Results]]) -> Table | None:
    """Return the table of some studies, each with what tells it from the others; None where none has a result yet."""
    columns = [column for label, results in studies if (column := _column(label, results)) is not None]
    if not columns:
        return None
    methods = dict.fromkeys(method for column in columns for method in methods_of(column.results.cells))
    rows = [[method, *(text for column in columns for text in _own(column.cells.get(method)))] for method in methods]
    for published in PUBLISHED_ROWS if any(_data(column) in PAPER_MODELS for column in columns) else ():
        texts = [text for column in columns for text in _quoted(published, _data(column))]
        rows.append([f"{published.method}, published", *texts])
    return Table(
        name="table11",
        title="Methods and data sets, after Table 11 of the DAS paper: size of the search space, device time of a "
        "search, and test accuracy of what it found",
        columns=("method", *COLUMNS * len(columns)),
        rows=rows,
        note=_note(columns),
        frame=_frame(columns),
        groups=[(column.title, len(COLUMNS)) for column in columns],
    )


def _column(label: str, results: Results) -> Column | None:
    levels = levels_of(results.cells)
    if not levels:
        return None
    cells = {cell.method: cell for cell in results.cells if cell.level == levels[0]}
    return Column(label, results, levels[0], cells)


def _data(column: Column) -> str:
    return str(value_at(column.results.study, "data", "name"))


def _own(cell: Cell | None) -> list[str]:
    if cell is None:
        return [NOTHING] * len(COLUMNS)
    return [
        _size(cell.space_size_log10),
        duration(cell.charged_seconds),
        duration(cell.held_seconds),
        f"{accuracy_text(cell)}\n({count_text(cell)})",
    ]


def _quoted(published: Published, data: str) -> list[str]:
    if data not in published.accuracies:
        return [NOTHING] * len(COLUMNS)
    accuracy = f"{published.accuracies[data]}\n({PAPER_MODELS[data]})"
    size = _power(published.space_size_log10) if published.space_size_log10 else "no choice"
    return [size, NOTHING, NOTHING, accuracy]


def _size(log10: float | None) -> str:
    """Return how many policies there are to choose from."""
    if log10 is None:
        return NOTHING
    if log10 <= 0:
        return "no choice"
    return f"{10**log10:.0f}" if log10 < WRITTEN_OUT_LOG10 else _power(log10)


def _power(log10: float) -> str:
    return f"10{f'{log10:.0f}'.translate(_RAISED)}"


def _note(columns: Sequence[Column]) -> str:
    each = [budget_text(column.results.study) for column in columns]
    named = [f"{column.label}: {budget}" for column, budget in zip(columns, each, strict=True)]
    budgets = named if len(set(each)) > 1 else each[:1]
    text = (
        "Space: how many policies a search chose from. Charged, held: device time of a search; see Costs. Accuracy: "
        f"mean ± sd over n search seeds. Budget of a search: {'; '.join(budgets)}."
    )
    if any(_data(column) in PAPER_MODELS for column in columns):
        text += (
            " Published rows: Table 11 of the DAS paper (arXiv 2403.15194, supplement), one number each, no spread; "
            "its baseline, AutoAugment and RandAugment are the numbers of RandAugment's paper (arXiv 1909.13719). "
            "They were not run here, and had other epochs and budgets, which are not stated: they are no rivals of the "
            "rows above."
        )
    absent = sorted({data_text(column.results.study) for column in columns if _data(column) not in PAPER_MODELS})
    if absent:
        text += f" The paper's table has CIFAR-10, CIFAR-100, SVHN and ImageNet: none is published for {_or(absent)}."
    return text


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)


def _frame(columns: Sequence[Column]) -> pd.DataFrame:
    """Return a record per study and method, published ones too; accuracies in [0, 1], device-seconds of a search."""
    records = []
    for column in columns:
        study = {
            "study": column.label or column.results.name,
            "data": data_text(column.results.study),
            "model": model_text(column.results.study),
            column.results.axis.field: column.level,
        }
        for method, cell in column.cells.items():
            records.append(
                {
                    **study,
                    "method": method,
                    "published": False,
                    "space_size_log10": cell.space_size_log10,
                    "charged_seconds": cell.charged_seconds,
                    "held_seconds": cell.held_seconds,
                    "test_accuracy_mean": cell.mean,
                    "test_accuracy_sd": cell.sd,
                    "n": cell.n,
                }
            )
    for data in dict.fromkeys(_data(column) for column in columns if _data(column) in PAPER_MODELS):
        for row in PUBLISHED_ROWS:
            records.append(
                {
                    "study": "",
                    "data": data,
                    "model": PAPER_MODELS[data],
                    **dict.fromkeys((column.results.axis.field for column in columns), 0),
                    "method": row.method,
                    "published": True,
                    "space_size_log10": row.space_size_log10,
                    "test_accuracy_mean": float(f"{row.accuracies[data]}e-2"),
                }
            )
    frame = pd.DataFrame.from_records(records)
    frame["n"] = frame["n"].astype("Int64")
    return frame
