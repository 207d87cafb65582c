"""What a study asks for: the frozen StudyConfig, its defaults, and the only way from YAML to it."""

from dastune.config.load import load_study, parse_budget
from dastune.config.study import StudyConfig

__all__ = ["StudyConfig", "load_study", "parse_budget"]
