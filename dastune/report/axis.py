"""What a study varies: noise ops in the search space (Figure 9), or training images removed (Figure 10)."""

from dataclasses import dataclass

from dastune.folder import AxisField, FinalRow, SearchRow


@dataclass(frozen=True)
class Axis:
    """What results are grouped by, level by level, and its words.

    Attributes:
        field: of the rows, and the title of its column in files.
        figure: name of the file of test accuracy over it.
        paper: that figure in the paper.
        label: of an x axis.
        number: what a level is, behind "by" and "over the".
        column: title of a column of levels.
        levels: what there are several of, behind "over all".
        one, many: behind one level, and behind another number of them.
        sign: behind a level in a list of numbers.
        unit: behind a list of levels.
        in_step: how many levels make the step that slopes are for.
        step: behind "with each"; `more`: behind "for each"; `per`: behind "points per".
    """

    field: AxisField
    figure: str
    paper: str
    label: str
    number: str
    column: str
    levels: str
    one: str
    many: str
    sign: str
    unit: str
    in_step: int
    step: str
    more: str
    per: str

    def level(self, row: SearchRow | FinalRow) -> int:
        """Return where on the axis a row is."""
        return row.noise_level if self.field == "noise_level" else row.removed_percent

    def text(self, level: int) -> str:
        """Return a level in words."""
        return f"{level} {self.one if level == 1 else self.many}"


NOISE = Axis(
    field="noise_level",
    figure="figure9",
    paper="Figure 9",
    label="Noise ops in the search space",
    number="number of noise ops",
    column="noise ops",
    levels="noise levels",
    one="noise op",
    many="noise ops",
    sign="",
    unit="ops",
    in_step=1,
    step="noise op",
    more="noise op more",
    per="op",
)
"""What a study varies that says nothing else."""

REMOVED = Axis(
    field="removed_percent",
    figure="figure10",
    paper="Figure 10",
    label="Training data removed (%)",
    number="share of the training data removed",
    column="removed, %",
    levels="shares of the data removed",
    one="% of the data removed",
    many="% of the data removed",
    sign=" %",
    unit="%",
    in_step=10,
    step="10 % of the data removed",
    more="10 % more of the data removed",
    per="10 % removed",
)
