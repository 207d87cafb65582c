"""Tracking: the driver appends events to a journal in the study's folder, a thread delivers them to MLflow."""

from dastune.tracking.address import store_uri, ui_command, ui_environment
from dastune.tracking.journal import DatasetInfo, EndStatus
from dastune.tracking.tracker import Tracker

__all__ = ["DatasetInfo", "EndStatus", "Tracker", "store_uri", "ui_command", "ui_environment"]
