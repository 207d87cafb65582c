"""How many images a second policies take, beside torchvision and kornia: python benchmarks/ops.py [THREADS ...]

Batches of 512 photographs of 32 x 32 and 64 of 224 x 224. Policies: RandAugment(2, 9) and AutoAugment for CIFAR-10.
dastune applies them as torchvision means them (nearest pixels, shears about the corner: the same pixels), and with its
own geometry (bilinear); torchvision per image, on PIL images and on uint8 tensors; kornia on the batch. The limit is a
bare copy of the batch. Then the differentiable path (gradient to images and magnitudes) of two-op policies, forward and
with backward; peak memory; and where the time goes. All take turns in one process, in which glibc keeps freed memory,
as it does in dastune's own runs. kornia is optional (pip install kornia).

Bars, on one thread: at 32 x 32, 5 times torchvision's faster path and 2.5 times kornia; at 224 x 224, torchvision's
faster path; 10 times dda's differentiable policies as measured on another such machine (1,200 images a second, 450 with
backward); on any number of threads, memory for 6 batches. Exits 1 where one is missed.
"""

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch.profiler import ProfilerActivity, profile
from torchvision.transforms import v2

from dastune.augment.policies import PolicyTransform
from dastune.exchange.torchvision import imported
from dastune.ops.spaces import DASTUNE, SPACES
from dastune.ops.table import OPS
from dastune.orchestration.setting import warm_up
from dastune.policy.policy import Choice, Policy, Stages, SubPolicies
from dastune.policy.space import SpaceOp

SECONDS = 5.0  # that each contestant gets
DDA_FORWARD, DDA_BACKWARD = 1200, 450
MEMORY_BAR = 6.0
Task = Callable[[], object]


def main(thread_counts: list[int]) -> int:
    """Print all figures; return how many bars were missed."""
    warm_up()
    missed = 0
    for threads in thread_counts:
        torch.set_num_threads(threads)
        for count, side, others in ((512, 32, (5.0, 2.5)), (64, 224, (1.0, 1.0))):
            images = photographs(count, side)
            print(f"\n{count} images of {side} x {side}, {threads} thread{'s'[: threads > 1]}, images a second")
            missed += policies(images, *(others if threads == 1 else (0.0, 0.0)))
        missed += differentiable(photographs(512, 32), bars=threads == 1)
    print("\nmemory, above the batch itself")
    for side in (32, 224):
        missed += memory(side)
    torch.set_num_threads(1)
    look_up_tables(photographs(42, 32))
    where_it_goes(photographs(512, 32))
    print(f"\n{missed} bars missed" if missed else "\nall bars held")
    return missed


def photographs(count: int, side: int) -> torch.Tensor:
    """Return crops of scikit-learn's two photographs, uint8 (count, 3, side, side)."""
    photos = [torch.tensor(photo).permute(2, 0, 1) for photo in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for i in range(count):
        photo = photos[i % 2]
        y, x = (int(torch.randint(n - side, (), generator=generator)) for n in photo.shape[1:])
        crops.append(photo[:, y : y + side, x : x + side])
    return torch.stack(crops)


def rand_augment(name: str, n: int, magnitude: float) -> Stages:
    """Return RandAugment over a named space."""
    space = SPACES[name]
    ops = [SpaceOp(ranged.op, ranged.low, ranged.high, ranged.signed) for ranged in space.ops]
    return Stages(stages=(tuple(Choice(weight=1, step=op.at(magnitude)) for op in ops),) * n, geometry=space.geometry)


def policies(photos: torch.Tensor, torchvision_bar: float, kornia_bar: float) -> int:
    """Print a table for each policy; return how many bars were missed."""
    auto_augment = imported("cifar10")
    own = SubPolicies(sub_policies=auto_augment.sub_policies, geometry=DASTUNE)
    aa = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    missed = 0
    for title, torchvision, same, ours in (
        ("RandAugment(2, 9)", v2.RandAugment(2, 9), rand_augment("ra-torchvision", 2, 0.3), rand_augment("ra", 2, 0.3)),
        ("AutoAugment CIFAR-10", aa, auto_augment, own),
    ):
        rates = measured(contestants(title, photos, torchvision, same, ours))
        for name, rate in rates.items():
            print(f"  {title:22}{name:38}{rate:12,.0f}   1/{rates['copy'] / rate:.1f} of the copy")
        fastest = max(rate for name, rate in rates.items() if name.startswith("torchvision"))
        bars = {"torchvision's faster path": (fastest, torchvision_bar), "kornia": (rates.get("kornia"), kornia_bar)}
        for rival, (rate, bar) in bars.items():
            if rate is None:
                print(f"  {title:22}kornia is not installed: no comparison")
                continue
            missed += told(f"{title}, over {rival}", rates["dastune, same pixels as torchvision"] / rate, bar)
            told(f"{title}, bilinear, over {rival}", rates["dastune, bilinear"] / rate, 0)
    return missed


def contestants(
    title: str, photos: torch.Tensor, torchvision: Callable[[Any], object], same: Policy, ours: Policy
) -> dict[str, tuple[Task, int]]:
    """Return what applies one policy to the photographs, and to how many."""
    images, count = photos / 255, len(photos)
    pil = [v2.functional.to_pil_image(photo) for photo in photos]
    few = photos[: max(16, count // 8)]  # for the slowest
    tasks: dict[str, tuple[Task, int]] = {
        "copy": (images.clone, count),
        "torchvision, PIL images": (lambda: [torchvision(image) for image in pil], count),
        "torchvision, uint8 tensors": (lambda: [torchvision(photo) for photo in few], len(few)),
        "dastune, same pixels as torchvision": (applied(same, images), count),
        "dastune, bilinear": (applied(ours, images), count),
    }
    if find_spec("kornia"):
        from kornia.augmentation import auto

        kornia = auto.RandAugment(2, 9) if title.startswith("Rand") else auto.AutoAugment("cifar10")
        tasks["kornia"] = (lambda: kornia(images), count)
    return tasks


def applied(policy: Policy, images: torch.Tensor) -> Task:
    """Return what applies `policy` to the images."""
    transform = PolicyTransform(policy, torch.Generator().manual_seed(0))
    return lambda: transform(images)


def measured(tasks: dict[str, tuple[Task, int]]) -> dict[str, float]:
    """Return images a second of each task, over all its calls: kornia's differ by what it draws for the whole batch.

    They take turns, so that a noisy neighbour meets all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task, _ in tasks.values():
        task()
    while any(sum(spent) < SECONDS for spent in seconds.values()):
        for name, (task, _) in tasks.items():
            if sum(seconds[name]) < SECONDS:
                start = time.perf_counter()
                task()
                seconds[name].append(time.perf_counter() - start)
    return {name: count * len(seconds[name]) / sum(seconds[name]) for name, (_, count) in tasks.items()}


def told(what: str, figure: float, bar: float) -> bool:
    """Print a figure with its bar, 0 being none; return whether it was missed."""
    print(f"  {what}: {figure:.2f}" + (f" (bar {bar:g}){' MISSED' * (figure < bar)}" if bar else ""))
    return bool(bar) and figure < bar


def differentiable(photos: torch.Tensor, bars: bool) -> int:
    """Print the speed of two-op policies with gradients to images and magnitudes, the median over all pairs of ops."""
    images = (photos / 255).requires_grad_()
    seed_B = torch.arange(len(images))
    names = SPACES["das-image-contrast"].names

    def both(pair: tuple[str, str], backward: bool) -> None:
        out = images
        arguments = [torch.full((len(images),), (OPS[n].low + OPS[n].high) / 2, requires_grad=True) for n in pair]
        for name, argument_B in zip(pair, arguments, strict=True):
            out = OPS[name].function(out, argument_B, seed_B)
        if backward:
            torch.autograd.grad(out.sum(), [images, *arguments], allow_unused=True)

    missed = 0
    for backward, dda in ((False, DDA_FORWARD), (True, DDA_BACKWARD)):
        spent = 0.0
        pairs = list(combinations(names, 2))
        both(pairs[0], backward)
        for pair in pairs:
            start = time.perf_counter()
            both(pair, backward)
            spent += time.perf_counter() - start
        rate = len(images) * len(pairs) / spent
        name = "forward and backward" if backward else "forward"
        print(f"  differentiable, all {len(pairs)} pairs of ops, {name}: {rate:,.0f} images a second")
        missed += told(f"over dda's {dda}", rate / dda, 10 if bars else 0)
    return missed


def memory(side: int) -> int:
    """Print how far the memory of tensors rises above what was there before, in batches."""
    images = torch.rand(4096 if side < 100 else 128, 3, side, side)
    missed = 0
    for name in ("ra", "ra-torchvision"):
        transform = applied(rand_augment(name, 3, 0.3), images)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            transform()
        # Every allocation and release, in order.
        held, peak = 0, 0
        events = profiler.profiler.kineto_results.events()
        for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        risen = peak / (images.numel() * images.element_size())
        what = f"RandAugment(3, 9) over {name} at {side} x {side}: {risen:.2f} batches (bar at most {MEMORY_BAR:g})"
        print(f"  {what}{' MISSED' * (risen > MEMORY_BAR)}")
        missed += risen > MEMORY_BAR
    return missed


def look_up_tables(photos: torch.Tensor) -> None:
    """Print what an op of pixels takes beside looking it up by grey level, which is what it could be replaced by."""
    images, count = photos / 255, len(photos)
    argument_B, seed_B = torch.full((count,), 0.5), torch.zeros(count, dtype=torch.int64)
    tables_N = torch.rand(256 * count)
    first_B1 = 256 * torch.arange(count, dtype=torch.int32)[:, None]

    def looked_up() -> torch.Tensor:
        levels_BN = (images.flatten(1) * 255 + 0.5).int().add_(first_B1)
        return tables_N.index_select(0, levels_BN.flatten()).view_as(images)

    tasks: dict[str, tuple[Task, int]] = {"a table for each image": (looked_up, count)}
    for name in ("invert", "brightness", "solarize", "posterize"):
        function = OPS[name].function
        tasks[name] = (lambda f=function: f(images, argument_B, seed_B), count)  # type: ignore[misc]
    print("\nops of pixels, and looking them up, 32 x 32, 1 thread, microseconds an image")
    for name, rate in measured(tasks).items():
        print(f"  {name:24}{1e6 / rate:6.2f}")


def where_it_goes(photos: torch.Tensor) -> None:
    """Print torch's own profile of RandAugment(2, 9), the longest parts first."""
    transform = applied(rand_augment("ra-torchvision", 2, 0.3), photos / 255)
    transform()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(5):
            transform()
    parts = sorted(profiler.key_averages(), key=lambda part: -part.self_cpu_time_total)
    total = sum(part.self_cpu_time_total for part in parts)
    print("\nwhere RandAugment(2, 9) at 32 x 32 spends its time (torch's own parts)")
    for part in parts[:8]:
        print(f"  {part.key:28}{part.self_cpu_time_total / total:6.1%}  {part.count // 5} calls a batch")


if __name__ == "__main__":
    sys.exit(1 if main([int(n) for n in sys.argv[1:]] or [1, 2]) else 0)
