"""Everything that a report knows of one study, read from its folder once."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dastune.config import yaml_file
from dastune.errors import UserError
from dastune.folder import FinalRow, SearchRow, StudyFolder
from dastune.report.devices import DeviceModel, device_models
from dastune.report.external import External, apart, externals
from dastune.report.found import Found, findings
from dastune.report.plan import Plan, Progress, progress, read_plan, rows_in_order
from dastune.report.stats import Cell, cells


@dataclass(frozen=True)
class Results:
    """A study's results, the same for every section, table and figure.

    Attributes:
        output: the folder that the report goes to.
        study: its study.yaml as resolved; empty where that cannot be read.
        plan: what the study promises; None where that cannot be read.
        searches, finals: all rows, in the study's order of methods, those of published policies and failed ones too.
    """

    folder: StudyFolder
    output: Path
    study: Mapping[str, Any]
    plan: Plan | None
    searches: tuple[SearchRow, ...]
    finals: tuple[FinalRow, ...]

    @property
    def name(self) -> str:
        """The name of the study's folder."""
        return self.folder.root.name

    @cached_property
    def state(self) -> Progress:
        """How far the study is."""
        return progress(self.plan, list(self.searches), list(self.finals))

    @cached_property
    def all_cells(self) -> tuple[Cell, ...]:
        """Of each method and noise level, published policies too."""
        return tuple(cells(self.searches, self.finals))

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Of each method and noise level that the study compares."""
        return tuple(apart(self.all_cells, self.plan)[0])

    @cached_property
    def published(self) -> tuple[External, ...]:
        """The published policies that the study has trained."""
        return tuple(externals(apart(self.all_cells, self.plan)[1], self.plan))

    @cached_property
    def own_searches(self) -> tuple[SearchRow, ...]:
        """The rows of what the study compares."""
        return tuple(apart(self.searches, self.plan)[0])

    @cached_property
    def found(self) -> tuple[Found, ...]:
        """What the searches found, of each method and noise level that the study compares."""
        return tuple(findings(self.folder, self.own_searches, self.plan))

    @cached_property
    def models(self) -> tuple[DeviceModel, ...]:
        """The models of the devices that the numbers come from."""
        return device_models(self.folder)

    @property
    def compares(self) -> bool:
        """Whether there is anything but published policies."""
        return bool(self.cells) or (self.plan.compares if self.plan else not self.published)


def read_results(folder: StudyFolder, output: Path | None = None) -> Results:
    """Read a study; `output` is the folder's own report where None.

    Raises:
        UserError: a row does not have the fields of this version.
    """
    plan = read_plan(folder.study)
    searches, finals = rows_in_order(folder, plan)
    try:
        study = yaml_file.read(folder.study)
    except UserError:
        study = {}
    return Results(folder, output or folder.report, study, plan, tuple(searches), tuple(finals))
