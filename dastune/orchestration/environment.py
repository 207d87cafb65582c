"""What a study ran on: versions, commit, devices; the content of env.json and of `dastune doctor`."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("dastune", "torch", "torchvision", "ray", "mlflow", "optuna", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """Return versions, the commit of a checkout, and the devices of this machine, as plain JSON data."""
    import torch

    from dastune.training.precision import resolved

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    kinds = ["cpu", "cuda"] if gpus else ["cpu"]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "precision_auto": {kind: resolved("auto", torch.device(kind)) for kind in kinds},
        "commit": _commit(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def _cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the checkout that dastune runs from, with + if it has changes; None if it is no checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")
