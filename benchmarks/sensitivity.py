"""How much hangs on the constants of DAS' default, which were chosen on digits? python benchmarks/sensitivity.py

One constant after the other is made three times smaller or larger (a running mean's memory, in steps, too), and the
search is run on a planted problem: digits rotated by up to 40 degrees (400 steps, 2 seeds), and, given --cifar-root,
inverted CIFAR-10 (2,000 images, WRN-10-1, 250 steps, 1 seed). 15 ops and 5 noise ops. Prints the planted op's weight
and the noise mass, mean over seeds. Bar: the planted op has the largest weight with every seed; exits 1 where not.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import mean

import torch

import dastune
from dastune.config import StudyConfig
from dastune.data.dataset import Dataset
from dastune.data.table import DATASETS
from dastune.orchestration.grid import Assignment
from dastune.orchestration.setting import search_of, warm_up
from dastune.policy.policy import noise_mass, op_shares
from dastune.search import alignment, outer_gradient

NOISE_LEVEL, FACTOR = 5, 3.0
DECAYS = ("GRADIENT_DECAY", "MOMENT_DECAY")
CONSTANTS = (*DECAYS, "RIDGE", "LOSS_OFFSET")
OPTIONS = {"tau_learning_rate": 0.03, "validation_batch": 64}
PROBLEMS = {"rotate": ("digits_noise", 400, 2), "invert": ("cifar10_noise", 250, 1)}  # study, steps, seeds


@contextmanager
def constant(name: str, value: float) -> Iterator[None]:
    """Let a constant of the alignment rewards be `value`."""
    before = getattr(alignment, name)
    holders = [module for module in (alignment, outer_gradient) if hasattr(module, name)]
    try:
        for module in holders:
            setattr(module, name, value)
        yield
    finally:
        for module in holders:
            setattr(module, name, before)


def scaled(name: str, factor: float) -> float:
    """Return a constant times `factor`; of a running mean, with a memory of so many times the steps."""
    value = float(getattr(alignment, name))
    return 1 - (1 - value) / factor if name in DECAYS else value * factor


def study_of(planted: str, options: Mapping[str, float], cifar_root: str | None) -> StudyConfig:
    """Return the study of a planted problem, with options of `das`."""
    base, _, _ = PROBLEMS[planted]
    data: dict[str, object] = {"name": "digits", "train_images": 150}
    changes: dict[str, object] = {"space.noise.levels": [NOISE_LEVEL], "methods": {"das": dict(options)}}
    if planted == "invert":
        data = {"name": "cifar10", "train_images": 2000, "validation_images": 2000, "root": cifar_root}
        changes |= {"model": {"name": "wide_resnet", "depth": 10, "width": 1}, "resources": {"cpus": 1, "gpus": 0}}
        changes["training.schedule"] = "step"
    changes["data"] = {**data, "shift": [{"rotate": {"degrees": 40}} if planted == "rotate" else "invert"]}
    overrides = [f"{path}={json.dumps(value)}" for path, value in changes.items()]
    return dastune.load_study(base, overrides=overrides, budget="60 cpu-seconds")


def told(what: str, planted: str, study: StudyConfig, dataset: Dataset) -> bool:
    """Run the search with each seed and print what it found; return whether the planted op was ever not the first."""
    found = []
    _, steps, seeds = PROBLEMS[planted]
    for seed in range(seeds):
        search = search_of(study, Assignment("das", NOISE_LEVEL, seed), dataset, torch.device("cpu"))
        for step in range(steps):
            search.step(step / steps)
        shares = op_shares(search.best())
        found.append((shares[planted], max(shares, key=lambda op: shares[op]) == planted, noise_mass(search.best())))
    first = sum(is_first for _, is_first, _ in found)
    figures = f"weight {mean(f[0] for f in found):.2f}, noise mass {mean(f[2] for f in found):.3f}"
    print(f"{planted:8}{what:32}first {first} of {seeds} (bar: all), {figures}", flush=True)
    return first < seeds


def main() -> int:
    """Run all; return how many bars were missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar-root", metavar="DIR", help="folder with cifar-10-batches-py")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    missed = 0
    for planted in PROBLEMS if options.cifar_root else ["rotate"]:
        plain = study_of(planted, {}, options.cifar_root)
        dataset = DATASETS[plain.data.name].load(**plain.data.load_options())
        missed += told("as it is", planted, plain, dataset)
        for factor in (1 / FACTOR, FACTOR):
            for name in CONSTANTS:
                with constant(name, scaled(name, factor)):
                    missed += told(f"{name} {scaled(name, 1.0):.3g}", planted, plain, dataset)
            for name, value in OPTIONS.items():
                changed = round(value * factor) if isinstance(value, int) else value * factor
                study = study_of(planted, {name: changed}, options.cifar_root)
                missed += told(f"{name} {changed:.3g}", planted, study, dataset)
    return missed


if __name__ == "__main__":
    sys.exit(main() > 0)
