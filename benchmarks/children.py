"""What children cost besides their training: python benchmarks/children.py --cifar-root FOLDER [PART ...]

Four parts, all by default. The first three are on one thread, in the time of the processor, to which it is nothing that
other processes take their turns. A folder as torchvision's CIFAR10 has it is needed.

augmentation  steps of children with a policy of AutoAugment's space, with RandAugment(2, 5) and with TrivialAugment,
              as multiples of steps with standard augmentation only; whole groups of batches in turns, the median over
              rounds. Bar: 1.10.
start         from the end of a child's validation to the first step of the next one, in a search of AutoAugment whose
              controller learns from every child: an update by PPO, a new policy, network and optimiser. Bar: 50 ms.
evaluation    tensors of a validation that have or keep a graph (bar: none), and its time as a multiple of that of plain
              forward passes in torch.inference_mode.
packing       images a second of training in all: two processes of one thread at once, and one of two threads. The
              default of a study (`resources.cpus`) should be the faster one. Wants two cores and a quiet machine.

About four minutes. Exits 1 where a bar is missed.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook

from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.config.study import AutoAugment, Resources
from dastune.data.images import Images
from dastune.data.table import DATASETS
from dastune.models.network import Network
from dastune.ops.spaces import SPACES
from dastune.orchestration.setting import warm_up
from dastune.policy.policy import NO_AUGMENTATION, Policy
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.auto_augment import AutoAugmentProposer
from dastune.search.controls import trivial_policy
from dastune.search.rand_augment import rand_augment_policy
from dastune.search.table import Setting, build_search
from dastune.training import loop
from dastune.training.loop import Evaluation, Task, Training
from dastune.training.optim import Recipe
from dastune.training.precision import resolved

CPU = torch.device("cpu")
SPACE = SearchSpace(tuple(SpaceOp(op.op, op.low, op.high, op.signed) for op in SPACES["das-image"].ops))
# Data set, network, its options, batch size, steps of a round (some groups of batches), rounds.
CHILDREN: dict[str, tuple[str, str, dict[str, int], int, int, int]] = {
    "small_cnn, digits": ("digits", "small_cnn", {}, 50, 60, 15),
    "WRN-10-1, CIFAR-10": ("cifar10", "wide_resnet", {"depth": 10, "width": 1}, 96, 10, 7),
    "WRN-28-2, CIFAR-10": ("cifar10", "wide_resnet", {"depth": 28, "width": 2}, 96, 5, 3),
}
AUGMENTATION_BAR = 1.10  # times a step with standard augmentation only
START_BAR_SECONDS = 0.050


def main(parts: list[str], cifar_root: str) -> int:
    """Print all figures; return how many bars were missed."""
    warm_up()
    torch.set_num_threads(1)
    missed = 0
    for part in parts:
        print(f"\n{part}")
        missed += PARTS[part](cifar_root)
    print(f"\n{missed} bars missed" if missed else "\nall bars held")
    return missed


def told(what: str, figure: str, missed: bool, bar: str) -> bool:
    """Print a figure with its bar; return whether it was missed."""
    print(f"  {what}: {figure} (bar {bar}){' MISSED' * missed}", flush=True)
    return missed


def task_of(child: str, cifar_root: str, train: int | None = None, held_out: int = 500) -> Task:
    """Return the task of a child, as the studies that come with dastune have it.

    Args:
        train: images to train on; None: 150 digits, or 4,000 images of CIFAR-10.
        held_out: images to validate on.
    """
    data, network, options, batch, *_ = CHILDREN[child]
    dataset = DATASETS[data].load(**({} if data == "digits" else {"root": cifar_root}))
    train = train or (150 if data == "digits" else 4000)
    held_out = min(held_out, len(dataset.train_labels) - train)
    pixels, labels = dataset.train_pixels, dataset.train_labels
    standard = StandardAugmentation() if data == "digits" else StandardAugmentation(4, True, 16)
    return Task(
        train=Images(pixels, labels, np.arange(train), CPU),
        held_out=Images(pixels, labels, np.arange(train, train + held_out), CPU),
        classes=dataset.classes,
        network=network,
        network_options=options,
        recipe=Recipe(batch, 0.05, 0.9, 1e-4, "cosine"),
        standard=standard,
        normalise=Normalise(dataset.mean, dataset.std, CPU),
        device=CPU,
        precision="float32" if data == "digits" else resolved("auto", CPU),
    )


def augmentation(cifar_root: str) -> int:
    """Print what policies cost a child's steps; return how many bars were missed."""
    return sum(augmented(child, task_of(child, cifar_root)) for child in CHILDREN)


def augmented(child: str, task: Task) -> int:
    """Print what policies cost the steps of one kind of child; return how many bars were missed."""
    policies: dict[str, Policy] = {
        "standard only": NO_AUGMENTATION,
        "AutoAugment": AutoAugmentProposer(SPACE, 0).ask(),
        "RandAugment(2, 5)": rand_augment_policy(SPACE, 2, 0.5),
        "TrivialAugment": trivial_policy(SPACE),
    }
    *_, steps, rounds = CHILDREN[child]
    trainings = {name: Training(task, policy, 10**6, seed=0) for name, policy in policies.items()}
    spent: dict[str, list[float]] = {name: [] for name in trainings}
    for until in range(1, 2 + rounds * steps, steps):
        for name, training in trainings.items():
            begun = time.process_time()
            steps_to(training, until)  # what is made ready in a round is used in it
            spent[name].append((time.process_time() - begun) / steps)
    plain = spent.pop("standard only")[1:]
    print(f"  {child}: {1e3 * median(plain):.2f} ms a step with standard augmentation only")
    missed = 0
    for name, own in spent.items():
        ratio = median(step / base for step, base in zip(own[1:], plain, strict=True))
        missed += told(f"{child}, {name}", f"x {ratio:.3f}", ratio > AUGMENTATION_BAR, f"{AUGMENTATION_BAR:.2f}")
    return missed


def steps_to(training: Training, until: int) -> None:
    """Train until so many steps are done."""
    while training.steps < until:
        training.step(until)


def start(cifar_root: str) -> int:
    """Print how long the next child takes to begin; return how many bars were missed."""
    missed = 0
    for child in CHILDREN:
        seconds = between_children(child, cifar_root)
        figure = f"{1e3 * median(seconds):.1f} ms, at most {1e3 * max(seconds):.1f} ms"
        missed += told(child, figure, median(seconds) > START_BAR_SECONDS, f"{1e3 * START_BAR_SECONDS:.0f} ms")
    return missed


def between_children(child: str, cifar_root: str) -> list[float]:
    """Return the seconds from each child's last batch of validation to the first step of the next."""
    batch = CHILDREN[child][3]
    task = task_of(child, cifar_root, train=batch, held_out=batch)  # one batch of each is a whole child
    options = AutoAugment(method="auto_augment", controller_batch=1)
    search = build_search(options, Setting(task, SPACE, child_epochs=1, seed=0))
    ended: list[float] = []
    begun: list[float] = []
    evaluate, train = Evaluation.step, Training.step

    def evaluated(evaluation: Evaluation) -> None:
        evaluate(evaluation)
        ended.append(time.process_time())

    def trained(training: Training, *until: int) -> torch.Tensor:
        begun.append(time.process_time())
        return train(training, *until)

    with patch.object(Evaluation, "step", evaluated), patch.object(Training, "step", trained):
        while len(begun) < 13:
            search.step(0.0)
    # The first one is the first for torch, too.
    return [start - end for end, start in zip(ended, begun[1:], strict=True)][1:]


def evaluation(cifar_root: str) -> int:
    """Print what a validation keeps and takes; return how many bars were missed."""
    missed = 0
    for child in CHILDREN:
        task = task_of(child, cifar_root)
        network = task.new_network(0)
        kept = with_graph(task, network)
        missed += told(f"{child}, tensors with a graph", str(kept), kept > 0, "0")
        ratios = []
        for _ in range(5):
            begun = time.process_time()
            evaluated(task, network)
            between = time.process_time()
            inferred(task, network)
            ratios.append((between - begun) / (time.process_time() - between))
        print(f"  {child}, time over plain inference: x {median(ratios):.3f}", flush=True)
    return missed


def with_graph(task: Task, network: Network) -> int:
    """Return how many results of layers require a gradient in a validation, and how many tensors are kept for one."""
    kept: list[torch.Tensor] = []

    def note(_module: object, _inputs: object, output: torch.Tensor) -> None:
        kept.extend([output] * output.requires_grad)

    def saved(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with register_module_forward_hook(note), saved_tensors_hooks(saved, lambda tensor: tensor):
        evaluated(task, network)
    return len(kept)


def evaluated(task: Task, network: Network) -> float:
    """Return the accuracy as a search finds it."""
    evaluation = Evaluation(task, network)
    while not evaluation.done:
        evaluation.step()
    return evaluation.accuracy


@torch.inference_mode()
def inferred(task: Task, network: Network) -> float:
    """Return the accuracy as one would write it down."""
    network.eval()
    hits = 0
    for first in range(0, len(task.held_out), loop.EVALUATION_BATCH):
        positions = torch.arange(first, min(first + loop.EVALUATION_BATCH, len(task.held_out)))
        images_BCHW, labels_B = task.held_out.batch(positions)
        hits += int((task.logits(network, images_BCHW).argmax(1) == labels_B).sum())
    network.train()
    return hits / len(task.held_out)


def packing(cifar_root: str) -> int:
    """Print whether two searches of one thread or one of two train more; return 1 if the default is the slower one."""
    slower = 0
    for child, seconds in (("WRN-10-1, CIFAR-10", 6.0), ("WRN-28-2, CIFAR-10", 12.0)):
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(2):
            for threads, found in rates.items():
                found.append(together(child, cifar_root, threads, seconds))
        two, one = median(rates[1]), median(rates[2])
        print(f"  {child}: 2 x 1 thread {two:,.0f} images a second, 1 x 2 threads {one:,.0f}: x {two / one:.2f}")
        slower += (two > one) != (Resources().cpus == 1)
    print(f"  the default, resources.cpus {Resources().cpus:g}, is the {'slower' if slower else 'faster'} one")
    return int(slower > 0)


def together(child: str, cifar_root: str, threads: int, seconds: float) -> float:
    """Return the images a second of as many processes of `threads` threads as two cores hold."""
    count = 2 // threads
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(count)
    pipes = [spawn.Pipe(duplex=False) for _ in range(count)]
    processes = [
        spawn.Process(target=worker, args=(child, cifar_root, threads, seconds, barrier, sender)) for _, sender in pipes
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()  # so that a process that fails is noticed
    rates: list[float] = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join()
    return sum(rates)


def worker(
    child: str, cifar_root: str, threads: int, seconds: float, barrier: Barrier, sender: "Connection[float, float]"
) -> None:
    """Train for so many seconds, at the same time as the others, and send the images a second."""
    warm_up()
    torch.set_num_threads(threads)
    training = Training(task_of(child, cifar_root), AutoAugmentProposer(SPACE, 0).ask(), 10**6, seed=0)
    steps_to(training, 2)
    barrier.wait()
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        training.step()
    sender.send((training.steps - 2) * training.images_per_step / (time.perf_counter() - begun))
    barrier.wait()  # until all are done, so that none trains alone


PARTS: dict[str, Callable[[str], int]] = {
    "augmentation": augmentation,
    "start": start,
    "evaluation": evaluation,
    "packing": packing,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--cifar-root", required=True, help="folder that holds cifar-10-batches-py")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    sys.exit(main(arguments.parts or list(PARTS), arguments.cifar_root) > 0)
