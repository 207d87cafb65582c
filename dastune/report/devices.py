"""Which devices a study's searches ran on, as its env.json says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dastune.folder import StudyFolder


@dataclass(frozen=True)
class DeviceModel:
    """One model of device: `count` GPUs or CPU slots on `nodes` nodes."""

    device: str
    model: str
    count: int
    nodes: int

    def __str__(self) -> str:
        unit = f"{self.device}s" if self.device == "GPU" else "CPU slots"
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        return f"{self.model} ({self.count} {unit if self.count != 1 else unit[:-1]} on {nodes})"


def device_models(folder: StudyFolder) -> tuple[DeviceModel, ...]:
    """Return the models of the devices that searches could get; nothing where the folder does not say."""
    try:
        rows = json.loads(folder.env.read_text(encoding="utf-8"))["nodes"] if folder.env.is_file() else []
        return tuple(
            DeviceModel(str(row["device"]), str(row["model"]), int(row["count"]), int(row["nodes"])) for row in rows
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ()  # a folder of an earlier version, or not of ours


def ran_on(models: Sequence[DeviceModel]) -> str:
    """Return a sentence on what searches ran on; nothing where that is not known."""
    return f"Searches ran on {', '.join(map(str, models))}." if models else ""


def unlike(models: Sequence[DeviceModel]) -> str:
    """Return a sentence on what unlike devices do to the numbers; nothing where they were alike."""
    if len(models) < 2:
        return ""
    return (
        f"Searches ran on unlike devices: {', '.join(map(str, models))}. An hour on one is not an hour on another, so "
        "device times, and what searches reached in a budget of hours, are only roughly comparable."
    )
