"""What a study ran on: versions, commit, devices; the content of env.json and of `dastune doctor`."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dastune.errors import UserError

PACKAGES = ("dastune", "torch", "torchvision", "ray", "mlflow", "optuna", "numpy", "scipy")
TORCH_SECONDS = 120.0  # for torch to start in a process of its own and tell its devices

_TELL = "import json; from dastune.orchestration.environment import seen_by_torch; print(json.dumps(seen_by_torch()))"


def environment() -> dict[str, Any]:
    """Return versions, the commit of a checkout, and the devices of this machine, as plain JSON data.

    Raises:
        UserError: torch does not start.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        **_told_by_torch(),
        "commit": _commit(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def _told_by_torch() -> dict[str, Any]:
    """Return `seen_by_torch` of another process: torch takes some 500 MB of memory, which a driver has no use for."""
    command = [sys.executable, "-P", "-c", _TELL]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TORCH_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise UserError(
            f"torch does not start on this machine ({said}); go on once this works: {sys.executable} -c 'import torch'"
        ) from error
    seen: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return seen


def seen_by_torch() -> dict[str, Any]:
    """Return the GPUs that torch sees, its CUDA where there are some, and what precision "auto" means on each device.

    Imports torch.
    """
    import torch

    from dastune.training.precision import resolved

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    kinds = ["cpu", "cuda"] if gpus else ["cpu"]
    return {
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "precision_auto": {kind: resolved("auto", torch.device(kind)) for kind in kinds},
    }


def cpu_name() -> str:
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
