"""The machine that a search runs on: how busy its processors and its GPU are, and how full their memories."""

from contextlib import suppress
from functools import cache
from typing import Any

import psutil
import torch


class Machine:
    """Samples the node of this process, and the GPU that it computes on, with all that runs there.

    Of GPUs the first is meant, which is a trial's only one; its samples need nvidia-ml-py (the extra `gpu`). Where that
    is not installed, or does not answer, there is nothing of the GPU in a sample; nothing is raised.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin to count; `device` is what the process computes on."""
        psutil.cpu_percent()  # each call tells of the time since the last one
        self._gpu = _gpu(device)

    def sample(self) -> dict[str, float]:
        """Return metrics by the names that MLflow's own system metrics have.

        Percentages, megabytes (10^6 bytes) and watts; of the processors over the time since the last sample, of all
        else at this moment.
        """
        memory = psutil.virtual_memory()
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / 1e6,
            "system/system_memory_usage_percentage": 100 * memory.used / memory.total,
            **({} if self._gpu is None else _gpu_sample(self._gpu)),
        }


@cache
def _nvml() -> Any:
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def _gpu(device: torch.device) -> Any:
    """Return NVML's handle of a device, or None; found by its UUID, since torch counts the visible ones only."""
    if device.type != "cuda":
        return None
    with suppress(Exception):  # not installed, no driver, a part of a GPU that NVML knows by another name
        return _nvml().nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return None


def _gpu_sample(gpu: Any) -> dict[str, float]:
    nvml, sample = _nvml(), {}
    with suppress(Exception):  # one that is not told on this device, or a driver that is gone
        sample["system/gpu_0_utilization_percentage"] = float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
    with suppress(Exception):
        memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
        sample["system/gpu_0_memory_usage_megabytes"] = memory.used / 1e6
        sample["system/gpu_0_memory_usage_percentage"] = 100 * memory.used / memory.total
    with suppress(Exception):
        sample["system/gpu_0_power_usage_watts"] = nvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return sample
