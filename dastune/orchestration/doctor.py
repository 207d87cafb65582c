"""What `dastune doctor` tells: versions, devices, Ray, disk, and what of a study would run where."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dastune.config import StudyConfig
from dastune.errors import UserError
from dastune.orchestration.cluster import check_devices, cluster
from dastune.orchestration.environment import environment
from dastune.orchestration.grid import grid

LOW_DISK_BYTES = 5 * 2**30


def examine(study: StudyConfig | None, address: str | None) -> Iterator[str]:
    """Yield lines about this machine, the Ray cluster it would use, and `study` on it."""
    found = environment()
    yield f"python   {found['python']} on {found['platform']}"
    for package, number in found["versions"].items():
        yield f"         {package} {number}"
    yield f"devices  {found['cpus']} CPUs ({found['cpu']})"
    yield f"         GPUs: {', '.join(found['gpus']) or 'none that torch can see'}"
    precisions = (f"{precision} on {device}" for device, precision in found["precision_auto"].items())
    yield f"         precision auto: {', '.join(precisions)}"
    free = shutil.disk_usage(Path.cwd()).free
    warning = " (low: a study with checkpoints may need more)" if free < LOW_DISK_BYTES else ""
    yield f"disk     {free / 2**30:.0f} GiB free in {Path.cwd()}{warning}"
    with cluster(address, object_store_bytes=100 * 2**20) as devices:
        where = address or "local, started and stopped for this check"
        yield f"ray      {len(devices.nodes)} nodes, {devices.cpus:g} CPUs, {devices.gpus:g} GPUs ({where})"
        named = Counter(model for node in devices.nodes for model in node.models)
        if named:
            models = ", ".join(f"{model} on {nodes} node{'s' * (nodes > 1)}" for model, nodes in sorted(named.items()))
            yield f"         as resources.devices may name them: {models}"
        if study is None:
            return
        try:
            check_devices(devices, study)
        except UserError as error:
            yield f"{study.name}: would not run: {error}"
            return
        slots, searches = devices.slots(study.resources), len(grid(study))
        device = "GPU" if study.resources.gpus else "CPU"
        yield f"{study.name}: {searches} searches, {slots} at a time, on {device}s"
