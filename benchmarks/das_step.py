"""What a step of DAS costs beside a plain training step: python benchmarks/das_step.py

WRN-28-2, batches of 96 images of 32 x 32, the 15 ops of das-image, with 1 and 2 threads, in float32 and with bfloat16
autocast where the CPU has it in hardware (the cell itself stays in float32). Printed are medians of the ratio of a step
to the plain step just before it: contenders take turns, so that a busy machine slows all of them down. Peak memory is
that of a process that takes three steps (the kernel's count of resident pages, so on Linux only), above what it held
before them, as a ratio to that of plain steps.

The `paper` preset takes two passes a step: a validation batch forward and back to the images, without the weights'
gradients, then a plain training step: 5/3 of a plain step at the least. Bars: 2.0 plain steps for chain-3 and 4 for
darts-4 (14 edges), and memory for 1.3 and 1.6 of them. Exits 1 where one is missed.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.augment.cell import Cell
from dastune.models.wide_resnet import WideResNet
from dastune.ops.spaces import SPACES
from dastune.orchestration.setting import warm_up
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.policy.topology import named
from dastune.training.precision import has_bfloat16

BATCH, SIDE, CLASSES = 96, 32, 10
ROUNDS = 5
Step = Callable[[], object]


class Network:
    """A network that trains: what all contenders share."""

    def __init__(self, precision: str) -> None:
        torch.manual_seed(0)
        self._bfloat16 = precision == "bfloat16"
        self._format = torch.channels_last if self._bfloat16 else torch.contiguous_format
        self._network = WideResNet(CLASSES).to(memory_format=self._format).train()
        self._optimiser = torch.optim.SGD(self._network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        self.images_BCHW = torch.rand(BATCH, 3, SIDE, SIDE)
        self.labels_B = torch.randint(CLASSES, (BATCH,))

    def loss(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch, normalised."""
        normalised_BCHW = ((images_BCHW - 0.5) / 0.25).contiguous(memory_format=self._format)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16, cache_enabled=False):
            features_BF = self._network.features(normalised_BCHW)
        return F.cross_entropy(self._network.head(features_BF.float()), self.labels_B)

    def train(self, images_BCHW: torch.Tensor) -> None:
        """Take one step of SGD."""
        loss = self.loss(images_BCHW)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()


def plain(precision: str) -> Step:
    """A training step without augmentation."""
    network = Network(precision)
    return lambda: network.train(network.images_BCHW)


def paper(precision: str, topology: str) -> Step:
    """A step of the `paper` preset: tau by a validation batch through the blended cell, then the weights."""
    network = Network(precision)
    ranged = [SpaceOp(op.op, op.low, op.high, op.signed) for op in SPACES["das-image"].ops]
    generator = torch.Generator().manual_seed(0)
    cell = Cell(SearchSpace(tuple(ranged)), named(topology), generator, torch.device("cpu"))
    adam = torch.optim.Adam([cell.tau_EK], lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)

    def step() -> None:
        loss = network.loss(cell.blend(network.images_BCHW, generator))
        [cell.tau_EK.grad] = torch.autograd.grad(loss, [cell.tau_EK])
        adam.step()
        with torch.no_grad():
            images_BCHW = cell.blend(network.images_BCHW, generator)
        network.train(images_BCHW)

    return step


@dataclass(frozen=True)
class Contender:
    """A kind of step, and how often the time and the memory of a plain step it may take."""

    step: Callable[[str], Step]
    time_bar: float
    memory_bar: float


CONTENDERS = {
    "paper, chain-3": Contender(lambda precision: paper(precision, "chain-3"), 2.0, 1.3),
    "paper, darts-4": Contender(lambda precision: paper(precision, "darts-4"), 4.0, 1.6),
}


def main() -> int:
    """Print all figures; return how many bars were missed."""
    warm_up()
    missed = 0
    precisions = ["float32", "bfloat16"] if has_bfloat16(torch.device("cpu")) else ["float32"]
    for precision in precisions:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            print(f"{precision}, {threads} thread{'s'[: threads > 1]}")
            missed += times(precision)
        print(f"{precision}, memory")
        missed += memory(precision)
    print(f"\n{missed} bars missed" if missed else "\nall bars held")
    return missed


def times(precision: str) -> int:
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


def memory(precision: str) -> int:
    """Print the peak memory of each contender beside a plain step's; return how many bars were missed."""
    plain_mb = peak_mb("plain", precision)
    print(f"  {'plain step':32}{plain_mb:8.0f} MB")
    return sum(
        told(f"{name}, peak memory", peak_mb(name, precision) / plain_mb, contender.memory_bar)
        for name, contender in CONTENDERS.items()
    )


def peak_mb(name: str, precision: str) -> float:
    """Return the peak memory of a contender's steps, measured in a process of its own."""
    command = [sys.executable, __file__, name, precision]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak_mb(name: str, precision: str) -> float:
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
