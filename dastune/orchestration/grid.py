"""The grid of a study: which searches there are, and which of them are still to be done."""

from dataclasses import dataclass

from dastune.config import StudyConfig
from dastune.config.study import Method, Published
from dastune.folder import AxisField, StudyFolder, search_id


@dataclass(frozen=True)
class Assignment:
    """One search of a study: method x level of the study's axis x search seed.

    Attributes:
        removed_percent: of the training images, left out.
        axis: which of `noise_level` and `removed_percent` the study varies; its `level` is part of the id.
    """

    label: str
    noise_level: int
    search_seed: int
    removed_percent: int = 0
    axis: AxisField = "noise_level"

    @property
    def level(self) -> int:
        """Where on the study's axis it is."""
        return self.removed_percent if self.axis == "removed_percent" else self.noise_level

    @property
    def id(self) -> str:
        """The key of its rows, files and runs."""
        return search_id(self.label, self.axis, self.level, self.search_seed)

    def options(self, study: StudyConfig) -> Method:
        """Return the method's options."""
        return study.methods[self.label]


def grid(study: StudyConfig) -> list[Assignment]:
    """Return all searches of a study, ordered so that methods and levels progress evenly: seed by seed.

    Published policies are at the first level only: a search's noise ops are nothing to them, and they are no rivals.
    """
    noise_level, removed_percent = study.space.noise.levels[0], study.data.removed_percent[0]
    removes = study.axis == "removed_percent"
    return [
        Assignment(label, noise_level, seed, level, study.axis)
        if removes
        else Assignment(label, level, seed, removed_percent)
        for seed in study.seeds.search
        for level in study.levels
        for label, options in study.methods.items()
        if level == study.levels[0] or not isinstance(options, Published)
    ]


def unfinished(study: StudyConfig, folder: StudyFolder) -> list[Assignment]:
    """Return the searches that lack their row (or have a failed one) or a final training, in the grid's order."""
    searched = {row.id for row in folder.search_rows() if row.status != "failed"}
    trained = {(row.search_id, row.train_seed) for row in folder.final_rows()}
    return [
        assignment
        for assignment in grid(study)
        if assignment.id not in searched or any((assignment.id, seed) not in trained for seed in study.seeds.final)
    ]
