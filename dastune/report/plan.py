"""What a study's YAML promises: which searches and final trainings are to come, and how far it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dastune.config import yaml_file
from dastune.errors import UserError
from dastune.folder import FinalRow, SearchRow, StudyFolder, search_id
from dastune.report.axis import NOISE, REMOVED, Axis
from dastune.report.protocol import value_at

# methods that a search must beat
CONTROLS = ("none", "standard", "uniform", "trivial", "random")

# with final trainings; in thousands, to be counted, listed and drawn
MOST_SEARCHES = 1_000_000
MOST_METHODS = 300

# the method of policies that were found elsewhere, and are no part of the comparison
PUBLISHED = "published"


@dataclass(frozen=True)
class Plan:
    """The grid of a study.

    Attributes:
        methods: label -> kind, in the study's order: the method, or "random" for an auto_augment that draws its
            policies at random.
        searches: the ids of all searches.
        train_seeds: the seeds of the final trainings of each search.
        ops: level -> the ops of the searches' space; empty where the study does not list them.
        published: label -> name of the published policy, for those labels that have one.
        axis: what the study varies.
    """

    methods: dict[str, str]
    searches: tuple[str, ...]
    train_seeds: tuple[int, ...]
    ops: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    axis: Axis = NOISE

    @property
    def compares(self) -> bool:
        """Whether there is a method besides published policies."""
        return any(kind != PUBLISHED for kind in self.methods.values())

    @property
    def finals(self) -> list[tuple[str, int]]:
        """The keys of all final trainings: (search id, training seed)."""
        return [(search, seed) for search in self.searches for seed in self.train_seeds]


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        searches_in, finals_in: how many are in. Failed searches are not; they are in `failed`.
        failed: ids of failed searches.
        cut: ids of searches that the infrastructure ended at their limit of held time, before the budget was used.
        missing_searches, missing_finals: what the plan promises and no row has; None if there is no plan. Final
            trainings of failed searches are not expected.
    """

    searches_in: int
    finals_in: int
    failed: tuple[str, ...]
    cut: tuple[str, ...]
    missing_searches: tuple[str, ...] | None
    missing_finals: tuple[tuple[str, int], ...] | None

    @property
    def complete(self) -> bool:
        """Whether everything the study promises is in. False where the plan is unknown."""
        return not (self.failed or self.missing_searches or self.missing_finals) and self.missing_searches is not None


def read_plan(path: Path) -> Plan | None:
    """Return the plan of the study file at `path`, or None if it is missing or does not say.

    So it is too for more than MOST_SEARCHES of them: a study's file may come from anybody.
    """
    try:
        study = yaml_file.read(path)
        options = {str(label): of if isinstance(of, dict) else {} for label, of in study["methods"].items()}
        noise_levels = [int(level) for level in study["space"]["noise"]["levels"]]
        removed = [int(percent) for percent in value_at(study, "data", "removed_percent") or [0]]
        search_seeds = [int(seed) for seed in study["seeds"]["search"]]
        train_seeds = tuple(int(seed) for seed in study["seeds"]["final"])
        axis, levels = (REMOVED, removed) if removed != [0] and len(noise_levels) == 1 else (NOISE, noise_levels)
        many = len(options) * len(levels) * len(search_seeds) * max(len(train_seeds), 1) > MOST_SEARCHES
    except (UserError, ArithmeticError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if many:
        return None
    methods = {label: _kind(label, of) for label, of in options.items()}
    searches = [
        search_id(label, axis.field, level, seed)
        for label, kind in methods.items()
        for level in (levels[:1] if kind == PUBLISHED else levels)
        for seed in search_seeds
    ]
    published = {label: str(options[label].get("policy", "")) for label, kind in methods.items() if kind == PUBLISHED}
    noise = {level: level if axis is NOISE else noise_levels[0] for level in levels}
    return Plan(methods, tuple(searches), train_seeds, _ops(study["space"], noise), published, axis)


def axis_of(plan: Plan | None, rows: Sequence[SearchRow | FinalRow]) -> Axis:
    """Return what a study varies; where its plan cannot be read, what its rows do."""
    if plan is not None:
        return plan.axis
    removes = any(row.removed_percent for row in rows) and len({row.noise_level for row in rows}) == 1
    return REMOVED if removes else NOISE


def _ops(space: Mapping[str, Any], noise_levels: Mapping[int, int]) -> dict[int, tuple[str, ...]]:
    """Return the ops of each level, given with its noise level, where the study lists them, as a resolved one does."""
    try:
        own, noise = ([str(item["op"]) for item in items] for items in (space["ops"], space["noise"]["ops"]))
    except (KeyError, TypeError):
        return {}
    return {level: (*own, *noise[:of]) for level, of in noise_levels.items()}


def _kind(label: str, options: Mapping[str, Any]) -> str:
    """A method may go by another label: `das_paper: {method: das}`."""
    method = str(options.get("method", label))
    return "random" if method == "auto_augment" and options.get("search") == "random" else method


def progress(plan: Plan | None, searches: list[SearchRow], finals: list[FinalRow]) -> Progress:
    """Return what of `plan` is in the rows."""
    failed = {row.id: None for row in searches if row.status == "failed"}  # in order, and quick to look up
    known = {row.id for row in searches}
    trained = {(row.search_id, row.train_seed) for row in finals if row.search_id not in failed}
    missing_searches = missing_finals = None
    if plan is not None:
        missing_searches = tuple(search for search in plan.searches if search not in known)
        missing_finals = tuple(key for key in plan.finals if key[0] not in failed and key not in trained)
    return Progress(
        searches_in=len(searches) - len(failed),
        finals_in=len(trained),
        failed=tuple(failed),
        cut=tuple(row.id for row in searches if row.status == "held"),
        missing_searches=missing_searches,
        missing_finals=missing_finals,
    )


def rows_in_order(folder: StudyFolder, plan: Plan | None) -> tuple[list[SearchRow], list[FinalRow]]:
    """Read the rows, in the study's order of methods, levels and seeds: nothing depends on what finished first.

    Raises:
        UserError: a row does not have the fields of this version, or there are more than MOST_METHODS methods.
    """
    searches, finals = folder.search_rows(), folder.final_rows()
    if len({row.method for row in searches} | {row.method for row in finals}) > MOST_METHODS:
        raise UserError(f"{folder.root}: has rows of more than {MOST_METHODS} methods; no report can show so many")
    order = {label: place for place, label in enumerate(plan.methods)} if plan else {}

    def place(row: SearchRow | FinalRow) -> tuple[int, int, int, int]:
        return order.get(row.method, len(order)), row.noise_level, row.removed_percent, row.search_seed

    return sorted(searches, key=place), sorted(finals, key=lambda row: (*place(row), row.train_seed))
