"""How many images a second training takes, beside a plain float32 loop: python benchmarks/training.py [THREADS ...]

A whole step each: batch, normalisation, forward, backward, update. dastune's Training runs in the precision that `auto`
means on this CPU, and in float32; the plain loop has the same network, in float32 and torch's default memory layout.
They take turns; figures are medians over rounds, and of how many times faster each round was. Under two minutes.

Bars, for a WRN-28-2 at batches of 96 of 32 x 32, where the CPU has bfloat16 in hardware: twice the plain loop, on one
thread and on two. Exits 1 where one is missed. Other busy processes slow two threads more than one.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.data.images import Images
from dastune.orchestration.setting import warm_up
from dastune.policy.policy import NO_AUGMENTATION
from dastune.training.loop import Batches, Task, Training
from dastune.training.optim import Recipe
from dastune.training.precision import has_bfloat16, resolved

CPU = torch.device("cpu")
BAR = 2.0
NETWORKS = {  # name, options, batch size, side of the images, seconds that it gets, bar
    "WRN-28-2": ("wide_resnet", {"depth": 28, "width": 2}, 96, 32, 32.0, BAR),
    "WRN-10-1": ("wide_resnet", {"depth": 10, "width": 1}, 64, 32, 5.0, 0.0),
    "small_cnn": ("small_cnn", {}, 50, 16, 3.0, 0.0),
}


def main(thread_counts: list[int]) -> int:
    """Print all figures; return how many bars were missed."""
    warm_up()
    missed = 0
    barred = has_bfloat16(CPU)
    print(f"auto is {resolved('auto', CPU)} here" + ": no bars" * (not barred))
    for threads in thread_counts:
        torch.set_num_threads(threads)
        for title, (network, options, batch, side, seconds, bar) in NETWORKS.items():
            print(f"\n{title}, batches of {batch} of {side} x {side}, {threads} thread{'s'[: threads > 1]}")
            missed += compared(task_of(network, options, batch, side), seconds, bar if barred else 0.0)
    print(f"\n{missed} bars missed" if missed else "\nall bars held")
    return missed


def task_of(network: str, options: dict[str, int], batch: int, side: int) -> Task:
    """Return a task of ten batches of random images, not augmented, in float32."""
    random = np.random.default_rng(0)
    pixels = random.integers(256, size=(10 * batch, 3, side, side), dtype=np.uint8)
    images = Images(pixels, random.integers(10, size=10 * batch), np.arange(10 * batch), CPU)
    normalise = Normalise([0.5] * 3, [0.25] * 3, CPU)
    recipe = Recipe(batch, 0.01, 0.9, 1e-4, "cosine")
    return Task(images, images, 10, network, options, recipe, StandardAugmentation(), normalise, CPU)


def compared(task: Task, seconds: float, bar: float) -> bool:
    """Print the speed of the plain loop and of dastune's; return whether the bar of `auto` was missed."""
    precision = resolved("auto", CPU)
    steps: dict[str, Callable[[], object]] = {"plain loop, float32": plain(task)}
    for name in dict.fromkeys(("float32", precision)):
        steps[f"dastune, {name}"] = Training(replace(task, precision=name), NO_AUGMENTATION, 10**6, seed=0).step
    rounds = timed(steps, seconds)
    batch = task.recipe.batch_size
    missed = False
    for name, spent in rounds.items():
        over = median(first / own for first, own in zip(rounds["plain loop, float32"], spent, strict=True))
        barred = bar > 0 and name == f"dastune, {precision}"
        missed |= barred and over < bar
        verdict = f" (bar {bar:g}){' MISSED' * (over < bar)}" * barred
        print(f"  {name:22}{batch / median(spent):9,.0f} images a second   x {over:.2f}{verdict}")
    return missed


def plain(task: Task) -> Callable[[], object]:
    """Return a step of the training loop as one would write it down, in torch's defaults."""
    network = task.new_network(0).to(memory_format=torch.contiguous_format)
    optimiser = task.recipe.optimiser(network)
    batches = Batches(len(task.train), task.recipe.batch_size, seed=0)

    def step() -> None:
        images_BCHW, labels_B = task.train.batch(batches.draw())
        loss = F.cross_entropy(network(task.normalise(images_BCHW)), labels_B)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def timed(steps: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Return the seconds of each step in each round; the first, in which torch makes ready, does not count."""
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            rounds[name].append(time.perf_counter() - start)
    return rounds


if __name__ == "__main__":
    sys.exit(main([int(count) for count in sys.argv[1:]] or [1, 2]) > 0)
