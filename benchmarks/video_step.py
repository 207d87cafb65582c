"""What a search step from image to video costs beside a plain video training step: python benchmarks/video_step.py

ResNet-18 with Gate-Shift-Fuse on a quarter of the channels, ImageNet stem, batches of 24 images of 32 x 32, clips of 8
frames, the 5 ops of das-video, one thread, in float32 and with bfloat16 autocast where the CPU has it in hardware. A
plain step trains the same network on the clips of a discrete cell of one rotation. Printed are medians of the ratio of
a step to the plain step just before it: contenders take turns, so that a busy machine slows all of them down.

The published recipe takes two passes: a validation batch forward and back to the clips, without the weights' gradients,
then a training step: 5/3 of a plain step at the least. Bars: 2.2 plain steps with one edge (chain-1), 3.0 with the
published cell's 14 (darts-4), 2.2 for the default preset, which samples. Exits 1 where one is missed.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.config.study import DasVideo
from dastune.data.images import Images
from dastune.ops.spaces import SPACES
from dastune.orchestration.setting import warm_up
from dastune.policy.policy import Clip, Edge, Step
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.table import Setting, build_search
from dastune.training.loop import Task, Training
from dastune.training.optim import Recipe
from dastune.training.precision import Precision, has_bfloat16

BATCH, SIDE, CLASSES, IMAGES, FRAMES = 24, 32, 10, 240, 8
ROUNDS = 5
CONTENDERS: dict[str, tuple[dict[str, object], float]] = {
    "paper, chain-1": ({"topology": "chain-1"}, 2.2),
    "paper, darts-4": ({}, 3.0),
    "default, chain-1": ({"preset": "default"}, 2.2),
}


def task(precision: Precision) -> Task:
    """Return a task of video networks on random images."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=np.uint8)
    labels, cpu = np.arange(IMAGES) % CLASSES, torch.device("cpu")
    images = Images(pixels, labels, np.arange(IMAGES), cpu)
    return Task(
        train=images,
        held_out=images,
        classes=CLASSES,
        network="resnet",
        network_options={"depth": 18},
        recipe=Recipe(BATCH, 0.1, 0.9, 1e-4, "step"),
        standard=StandardAugmentation(),
        normalise=Normalise((0.5,) * 3, (0.25,) * 3, cpu),
        device=cpu,
        precision=precision,
        frames=FRAMES,
        fusion=0.25,
    )


def plain(precision: Precision) -> Callable[[], object]:
    """Return a plain training step on clips."""
    rotate = Edge(source=0, step=Step(op="rotate", low=8.0, high=8.0, signed=False))
    return Training(task(precision), Clip(frames=FRAMES, nodes=((rotate,),)), 1000, 0).step


def searching(precision: Precision, options: dict[str, object]) -> Callable[[], object]:
    """Return a step of a search, at the beginning of its budget."""
    ops = tuple(SpaceOp(op.op, op.low, op.high, op.signed) for op in SPACES["das-video"].ops)
    setting = Setting(task(precision), SearchSpace(ops), child_epochs=1, seed=0)
    search = build_search(DasVideo.model_validate({"method": "das_video", **options}), setting)
    return lambda: search.step(0.0)


def main() -> int:
    """Print all figures; return how many bars were missed."""
    warm_up()
    torch.set_num_threads(1)
    missed = 0
    precisions: list[Precision] = ["float32", "bfloat16"] if has_bfloat16(torch.device("cpu")) else ["float32"]
    for precision in precisions:
        print(precision)
        missed += times(precision)
    print(f"\n{missed} bars missed" if missed else "\nall bars held")
    return missed


def times(precision: Precision) -> int:
    """Print how many plain steps each contender takes; return how many bars were missed."""
    plain_step = plain(precision)
    steps = {name: searching(precision, options) for name, (options, _) in CONTENDERS.items()}
    seconds: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(ROUNDS + 1):
        for name, step in steps.items():
            before, now = taken(plain_step), taken(step)
            if round_number > 0:  # the first one warms up
                seconds.append(before)
                ratios[name].append(now / before)
    print(f"  {'plain step':32}{1000 * median(seconds):8.0f} ms")
    return sum(told(f"{name}, time", median(ratios[name]), CONTENDERS[name][1]) for name in steps)


def taken(step: Callable[[], object]) -> float:
    """Return the seconds that a step takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def told(what: str, figure: float, bar: float) -> bool:
    """Print a figure beside its bar; return whether it was missed."""
    missed = figure > bar
    print(f"  {what:32}{figure:8.2f}   bar {bar:.1f}{'  MISSED' if missed else ''}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(bool(main()))
