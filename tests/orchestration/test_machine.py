"""Samples of the machine, against what MLflow's own monitors say of it; and a GPU that fails."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow.system_metrics.metrics import gpu_monitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from dastune.orchestration import machine
from dastune.orchestration.machine import Machine


def test_processors_and_memory_are_what_mlflow_measures() -> None:
    theirs = CPUMonitor()
    mine = Machine(torch.device("cpu"))
    sample = mine.sample()
    theirs.collect_metrics()
    told = {f"system/{name}": value for name, value in theirs.aggregate_metrics().items()}
    assert sample.keys() == told.keys()
    assert 0 <= sample["system/cpu_utilization_percentage"] <= 100
    memory = "system/system_memory_usage_percentage"
    assert sample[memory] == pytest.approx(told[memory], abs=5)  # others work on this machine
    total = sample["system/system_memory_usage_megabytes"] / sample[memory] * 100
    lines = Path("/proc/meminfo").read_text().splitlines()
    [kibibytes] = [line.split()[1] for line in lines if line.startswith("MemTotal:")]
    assert total == pytest.approx(int(kibibytes) * 1024 / 1e6, rel=1e-3)


class Nvml(SimpleNamespace):
    """NVML as it is where there are two GPUs, of which the trial has the second one.

    `broken` are the calls that fail.
    """

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self) -> None:
        super().__init__(
            broken=set(),
            nvmlInit=lambda: None,
            nvmlDeviceGetCount=lambda: 1,
            nvmlDeviceGetHandleByIndex=lambda index: "second",  # so that MLflow's monitor looks at that one
            nvmlDeviceGetHandleByUUID={"GPU-1-first": "first", "GPU-2-second": "second"}.__getitem__,
            nvmlDeviceGetUtilizationRates=self._call("use", SimpleNamespace(gpu=87, memory=12)),
            nvmlDeviceGetMemoryInfo=self._call("memory", SimpleNamespace(total=80 * 10**9, used=20 * 10**9)),
            nvmlDeviceGetPowerUsage=self._call("power", 312_500),
            nvmlDeviceGetEnforcedPowerLimit=self._call("limit", 400_000),
        )

    def _call(self, name: str, value: Any) -> Callable[[str], Any]:
        def call(handle: str) -> Any:
            if name in self.broken:
                raise self.NVMLError("driver is gone")
            assert handle == "second"
            return value

        return call


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(gpu_monitor, "pynvml", nvml, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="2-second"))
    machine._nvml.cache_clear()
    yield nvml
    machine._nvml.cache_clear()


def test_a_trials_own_gpu_is_what_mlflow_measures_of_it(nvml: Nvml) -> None:
    theirs = GPUMonitor()
    theirs.collect_metrics()
    told = {f"system/{name}": value for name, value in theirs.aggregate_metrics().items()}
    sample = Machine(torch.device("cuda")).sample()
    of_gpu = {name: value for name, value in sample.items() if "gpu" in name}
    assert of_gpu == {name: value for name, value in told.items() if name != "system/gpu_0_power_usage_percentage"}


@pytest.mark.parametrize(("broken", "left"), [("use", 3), ("memory", 2), ("power", 3)])
def test_what_the_driver_does_not_tell_is_left_out(nvml: Nvml, broken: str, left: int) -> None:
    nvml.broken = {broken}
    sample = Machine(torch.device("cuda")).sample()
    assert sum("gpu" in name for name in sample) == left
    nvml.broken = {"use", "memory", "power"}
    assert not any("gpu" in name for name in Machine(torch.device("cuda")).sample())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_or_its_library_there_is_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine._nvml.cache_clear()
    assert len(Machine(torch.device("cuda")).sample()) == 3
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as where it is not installed
    assert len(Machine(torch.device("cuda")).sample()) == 3
