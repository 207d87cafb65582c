"""Everything that a report knows of one study, read from its folder once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dastune.budget import LedgerEvent
from dastune.config import yaml_file
from dastune.errors import UserError
from dastune.folder import FinalRow, SearchRow, StudyFolder
from dastune.report.answer import Answer, Best, answer, best_search
from dastune.report.axis import Axis
from dastune.report.components import Components, components
from dastune.report.curves import Bundle, Curves, anytime_bundles, read_curves
from dastune.report.devices import DeviceModel, device_models
from dastune.report.external import External, apart, externals
from dastune.report.found import Applied, Found, findings, read_applied
from dastune.report.heard import hear
from dastune.report.inference import Family, families
from dastune.report.learned import Learned, learned
from dastune.report.plan import Plan, Progress, axis_of, progress, read_plan, rows_in_order
from dastune.report.receptive import Fields, read_fields
from dastune.report.stats import Cell, cells
from dastune.report.trend import Trend, trends


@dataclass(frozen=True)
class Results:
    """A study's results, the same for every section, table and figure.

    Attributes:
        output: the folder that the report goes to.
        study: its study.yaml as resolved; empty where that cannot be read.
        plan: what the study promises; None where that cannot be read.
        searches, finals: all rows, in the study's order of methods, those of published policies and failed ones too.
        price_per_hour: what a device costs, in any currency; None: nothing is said of it.
    """

    folder: StudyFolder
    output: Path
    study: Mapping[str, Any]
    plan: Plan | None
    searches: tuple[SearchRow, ...]
    finals: tuple[FinalRow, ...]
    price_per_hour: float | None = None

    @property
    def name(self) -> str:
        """The name of the study's folder."""
        return self.folder.root.name

    @property
    def kinds(self) -> Mapping[str, str]:
        """Method label -> kind, as `Plan.methods`; empty where there is no plan."""
        return self.plan.methods if self.plan else {}

    @cached_property
    def state(self) -> Progress:
        """How far the study is."""
        return progress(self.plan, list(self.searches), list(self.finals))

    @cached_property
    def axis(self) -> Axis:
        """What the study varies."""
        return axis_of(self.plan, [*self.searches, *self.finals])

    @cached_property
    def all_cells(self) -> tuple[Cell, ...]:
        """Of each method and level, published policies too."""
        return tuple(cells(self.searches, self.finals, self.axis))

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Of each method and level that the study compares."""
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
    def own_finals(self) -> tuple[FinalRow, ...]:
        """The final trainings of what the study compares."""
        return tuple(apart(self.finals, self.plan)[0])

    @cached_property
    def applied(self) -> Mapping[str, Applied]:
        """Search id -> what its policy applies, of what the study compares; failed searches are left out."""
        return read_applied(self.folder, self.own_searches)

    @cached_property
    def found(self) -> tuple[Found, ...]:
        """What the searches found, of each method and level that the study compares."""
        return tuple(findings(self.own_searches, self.applied, self.plan, self.axis))

    @cached_property
    def learned(self) -> tuple[Learned, ...]:
        """Whether each search learned anything."""
        return tuple(learned(self.found, self.cells, self.kinds))

    @cached_property
    def lowest(self) -> tuple[Cell, ...]:
        """The cells of the lowest level with results, of what the study compares."""
        return tuple(cell for cell in self.cells if cell.level == min(cell.level for cell in self.cells))

    @cached_property
    def lowest_finals(self) -> tuple[FinalRow, ...]:
        """The final trainings of `lowest`."""
        levels = {cell.level for cell in self.lowest}
        return tuple(row for row in self.own_finals if self.axis.level(row) in levels)

    @cached_property
    def receptive_fields(self) -> tuple[list[Fields], int]:
        """The receptive fields of the networks of `lowest_finals`, and how many files of them are damaged."""
        return read_fields(self.folder, self.lowest_finals)

    @cached_property
    def answer(self) -> Answer:
        """The answer in sentences."""
        return answer(self.all_cells, self.kinds, partial=not self.state.complete, axis=self.axis)

    @cached_property
    def best(self) -> Best | None:
        """The best search at the highest level, and what it is held against."""
        return best_search(self.cells, self.kinds)

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The comparisons of methods at each level."""
        return tuple(families(self.cells, self.kinds))

    @cached_property
    def trends(self) -> tuple[Trend, ...]:
        """How each method's accuracy and its spread change along the axis."""
        return tuple(trends(self.cells, self.axis.in_step))

    @cached_property
    def components(self) -> tuple[Components, ...]:
        """How much of the spread is between searches, and between final trainings."""
        return tuple(components(self.own_searches, self.own_finals, self.axis))

    @cached_property
    def anytime(self) -> Mapping[tuple[str, int], Bundle]:
        """(Method, level) -> validation accuracy, in [0, 1], over charged seconds; methods in order."""
        order = {method: place for place, method in enumerate(dict.fromkeys(cell.method for cell in self.cells))}
        found = anytime_bundles(self.own_searches, self.curves, self.axis)
        return {key: found[key] for key in sorted(found, key=lambda key: (order[key[0]], key[1]))}

    @cached_property
    def curves(self) -> Curves:
        """How the searches and final trainings went, those of published policies too."""
        return read_curves(self.folder, self.searches, self.finals)

    @cached_property
    def models(self) -> tuple[DeviceModel, ...]:
        """The models of the devices that the numbers come from."""
        return device_models(self.folder)

    @cached_property
    def ledger(self) -> Mapping[str, tuple[LedgerEvent, ...]]:
        """Search id -> its events in the ledger, as many as `dastune.budget.Ledger` needs; {} if it cannot be read."""
        ids = {row.id for row in self.searches} | {row.search_id for row in self.finals}
        ids |= set(self.plan.searches if self.plan else ())
        known = {name for name in ids if name.isprintable()}  # half a surrogate pair cannot be in it
        try:
            return hear(self.folder.ledger, known, math.inf).events
        except OSError:
            return {}

    @property
    def compares(self) -> bool:
        """Whether there is anything but published policies."""
        return bool(self.cells) or (self.plan.compares if self.plan else not self.published)


def read_results(folder: StudyFolder, output: Path | None = None, price_per_hour: float | None = None) -> Results:
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
    return Results(folder, output or folder.report, study, plan, tuple(searches), tuple(finals), price_per_hour)
