"""What a step of DAS costs beside a plain training step: python benchmarks/das_step.py

WRN-28-2, batches of 96 images of 32 x 32, the 15 ops of das-image, with 1 and 2 threads, in float32 and with bfloat16
autocast where the CPU has it in hardware (the cell itself stays in float32). Printed are medians of the ratio of a step
to the plain step just before it: contenders take turns, so that a busy machine slows all of them down. Peak memory is
that of a process that takes three steps (the kernel's count of resident pages, so on Linux only), above what it held
before them, as a ratio to that of plain steps.

The default takes a forward pass of 64 validation images beside its training step, `alignment_forward` a validation
gradient and one more forward pass of the training batch. The `paper` preset takes two passes: a validation batch
forward and back to the images, without the weights' gradients, then a training step: 5/3 of a plain step at the least.
Bars: 2.0 plain steps for the default, 2.8 for alignment_forward, 2.0 for the paper's with chain-3 and 4 with darts-4
(14 edges); peak memory of 1.3 plain steps, 1.6 for darts-4. Exits 1 where one is missed.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.config.study import Das
from dastune.data.images import Images
from dastune.ops.spaces import SPACES
from dastune.orchestration.setting import warm_up
from dastune.policy.policy import NO_AUGMENTATION
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.table import Setting, build_search
from dastune.training.loop import Task, Training
from dastune.training.optim import Recipe
from dastune.training.precision import Precision, has_bfloat16

BATCH, SIDE, CLASSES, IMAGES = 96, 32, 10, 960
ROUNDS = 5
Step = Callable[[], object]


def task(precision: Precision) -> Task:
    """Return a task of WRN-28-2 on random images."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=np.uint8)
    labels, cpu = np.arange(IMAGES) % CLASSES, torch.device("cpu")
    images = Images(pixels, labels, np.arange(IMAGES), cpu)
    return Task(
        train=images,
        held_out=images,
        classes=CLASSES,
        network="wide_resnet",
        network_options={"depth": 28, "width": 2},
        recipe=Recipe(BATCH, 0.1, 0.9, 1e-4, "cosine"),
        standard=StandardAugmentation(),
        normalise=Normalise((0.5,) * 3, (0.25,) * 3, cpu),
        device=cpu,
        precision=precision,
    )


def plain(precision: Precision) -> Step:
    """A training step without augmentation."""
    return Training(task(precision), NO_AUGMENTATION, 1000, 0).step


def das(precision: Precision, **options: object) -> Step:
    """A step of a differentiable search, at the beginning of its budget."""
    ops = tuple(SpaceOp(op.op, op.low, op.high, op.signed) for op in SPACES["das-image"].ops)
    setting = Setting(task(precision), SearchSpace(ops), child_epochs=1, seed=0)
    search = build_search(Das.model_validate({"method": "das", **options}), setting)
    return lambda: search.step(0.0)


@dataclass(frozen=True)
class Contender:
    """A kind of step, and how often the time and the memory of a plain step it may take."""

    options: dict[str, object]
    time_bar: float
    memory_bar: float

    def step(self, precision: Precision) -> Step:
        """Return its step."""
        return das(precision, **self.options)


CONTENDERS = {
    "default": Contender({}, 2.0, 1.3),
    "alignment_forward": Contender({"estimator": "alignment_forward"}, 2.8, 1.3),
    "paper, chain-3": Contender({"preset": "paper", "topology": "chain-3"}, 2.0, 1.3),
    "paper, darts-4": Contender({"preset": "paper"}, 4.0, 1.6),
}


def main() -> int:
    """Print all figures; return how many bars were missed."""
    warm_up()
    missed = 0
    precisions: list[Precision] = ["float32", "bfloat16"] if has_bfloat16(torch.device("cpu")) else ["float32"]
    for precision in precisions:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            print(f"{precision}, {threads} thread{'s'[: threads > 1]}")
            missed += times(precision)
        print(f"{precision}, memory")
        missed += memory(precision)
    print(f"\n{missed} bars missed" if missed else "\nall bars held")
    return missed


def times(precision: Precision) -> int:
    """Print how many plain steps each contender takes; return how many bars were missed."""
    plain_step = plain(precision)
    steps = {name: contender.step(precision) for name, contender in CONTENDERS.items()}
    seconds: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(ROUNDS + 1):
        for name, step in steps.items():
            before, now = taken(plain_step), taken(step)
            if round_number > 0:  # the first one warms up
                seconds.append(before)
                ratios[name].append(now / before)
    print(f"  {'plain step':32}{1000 * median(seconds):8.0f} ms")
    return sum(told(f"{name}, time", median(ratios[name]), CONTENDERS[name].time_bar) for name in steps)


def taken(step: Step) -> float:
    """Return the seconds that a step takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def memory(precision: Precision) -> int:
    """Print the peak memory of each contender beside a plain step's; return how many bars were missed."""
    plain_mb = peak_mb("plain", precision)
    print(f"  {'plain step':32}{plain_mb:8.0f} MB")
    return sum(
        told(f"{name}, peak memory", peak_mb(name, precision) / plain_mb, contender.memory_bar)
        for name, contender in CONTENDERS.items()
    )


def peak_mb(name: str, precision: Precision) -> float:
    """Return the peak memory of a contender's steps, measured in a process of its own."""
    command = [sys.executable, __file__, name, precision]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak_mb(name: str, precision: Precision) -> float:
    """Return by how much three steps raise the peak memory of this process."""
    warm_up()
    torch.set_num_threads(1)
    step = plain(precision) if name == "plain" else CONTENDERS[name].step(precision)
    before_mb = resident_peak_mb()
    for _ in range(3):
        step()
    return resident_peak_mb() - before_mb


def resident_peak_mb() -> float:
    """Return the most memory that this process has held; getrusage would count the process that started it, too."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def told(what: str, figure: float, bar: float) -> bool:
    """Print a figure beside its bar; return whether it was missed."""
    missed = figure > bar
    print(f"  {what:32}{figure:8.2f}   bar {bar:.1f}{'  MISSED' if missed else ''}", flush=True)
    return missed


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(own_peak_mb(*sys.argv[1:]))
    else:
        sys.exit(bool(main()))
