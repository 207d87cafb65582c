"""The grid of a study: which searches there are, and which of them are still to be done."""

from dataclasses import dataclass

from dastune.config import StudyConfig
from dastune.config.study import Method, Published
from dastune.folder import StudyFolder


@dataclass(frozen=True)
class Assignment:
    """One search of a study: method x noise level x search seed."""

    label: str
    noise_level: int
    search_seed: int

    @property
    def id(self) -> str:
        """The key of its rows, files and runs."""
        return f"{self.label}-n{self.noise_level}-s{self.search_seed}"

    def options(self, study: StudyConfig) -> Method:
        """Return the method's options."""
        return study.methods[self.label]


def grid(study: StudyConfig) -> list[Assignment]:
    """Return all searches of a study, ordered so that methods and levels progress evenly: seed by seed.

    Published policies are at the first noise level only: a search's noise ops are nothing to them.
    """
    levels = study.space.noise.levels
    return [
        Assignment(label, level, seed)
        for seed in study.seeds.search
        for level in levels
        for label, options in study.methods.items()
        if level == levels[0] or not isinstance(options, Published)
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
