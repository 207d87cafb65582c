"""What in DAS matters? python benchmarks/das_ablation.py [STUDY ...] --output DIR

Runs search_spaces/das_ablation.yaml on digits, on digits whose validation and test images are rotated, and on 4,000
images of CIFAR-10 (digits, digits-rotate, cifar10; all if none is named), and prints for each a Markdown table: final
accuracy, noise mass and charged time of every variant, mean and standard deviation over search seeds. Studies that have
begun are gone on with. Bars: the charged time of every search within 5 % of the budget, and the noise mass of `das` at
4 noise ops below half the uniform share with every seed. Exits 1 where one is missed.
"""

import argparse
import json
import sys
from pathlib import Path

import dastune
from dastune.config import StudyConfig
from dastune.folder import StudyFolder
from dastune.report.plan import read_plan, rows_in_order
from dastune.report.stats import Cell, cells

CIFAR = {
    "name": "das_ablation_cifar10",
    "model": {"name": "wide_resnet", "depth": 10, "width": 1},
    "standard": {"crop_px": 4, "flip": True},
    "training": {"batch_size": 96, "learning_rate": 0.1, "schedule": "step", "child_epochs": 1},
    "final": {"epochs": 2},
}
STUDIES: dict[str, dict[str, object]] = {
    "digits": {"name": "das_ablation"},
    "digits-rotate": {"name": "das_ablation_rotate", "data.shift": [{"rotate": {"degrees": 40}}]},
    "cifar10": CIFAR,
}
CIFAR_SECONDS = 10
CHARGED_BAR = 0.05


def study_of(name: str, cifar_root: str | None) -> StudyConfig:
    """Return one of the three studies."""
    changes = dict(STUDIES[name])
    if name == "cifar10":
        root = {"root": cifar_root} if cifar_root else {}
        changes["data"] = {"name": "cifar10", "train_images": 4000, "validation_images": 2000, **root}
    overrides = [f"{path}={json.dumps(value)}" for path, value in changes.items()]
    budget = f"{CIFAR_SECONDS} cpu-seconds" if name == "cifar10" else None
    return dastune.load_study("das_ablation", overrides=overrides, budget=budget)


def told(folder: StudyFolder) -> int:
    """Print the table of a study, then its figures with bars; return how many bars were missed."""
    plan, study = read_plan(folder.study), dastune.load_study(folder.study)
    assert plan is not None
    searches, finals = rows_in_order(folder, plan)
    found = {(cell.method, cell.level): cell for cell in cells(searches, finals)}
    levels = study.space.noise.levels
    titles = [f"{what}, {level} noise ops" for level in levels for what in ("accuracy, %", "noise mass")]
    print("| " + " | ".join(["variant", *titles, "charged, s"]) + " |")
    print("| --- |" + " ---: |" * (len(titles) + 1))
    for method in plan.methods:
        row = [found[method, level] for level in levels if (method, level) in found]
        values = [value for cell in row for value in (accuracy(cell), f"{cell.noise_mass or 0:.3f}")]
        print("| " + " | ".join([method, *values, f"{max(cell.charged_seconds or 0 for cell in row):.2f}"]) + " |")

    budget = study.budget.per_search().seconds
    assert budget is not None
    off = max(abs(row.charged_seconds / budget - 1) for row in searches if row.status == "budget")
    print(f"\ncharged against the budget: {100 * off:.2f} % off at most (bar {100 * CHARGED_BAR:.0f} %)")
    das = found["das", levels[-1]]
    worst, share = max(das.noise_masses.values()), das.uniform_noise_share or 0.0
    bar = f"bar {share / 2:.3f}, half the uniform share"
    print(f"noise mass of das at {levels[-1]} noise ops: {worst:.3f} at most ({bar})")
    return (off > CHARGED_BAR) + (worst >= share / 2)


def accuracy(cell: Cell) -> str:
    """Return mean and standard deviation over seeds, in percent."""
    return f"{100 * cell.mean:.1f} ± {100 * (cell.sd or 0):.1f}" if cell.mean is not None else "-"


def main() -> int:
    """Run what is to be run and print what came of it; return how many bars were missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of the studies")
    parser.add_argument("--cifar-root", metavar="DIR", help="folder with cifar-10-batches-py")
    options = parser.parse_args()
    if unknown := set(options.studies) - set(STUDIES):
        parser.error(f"{', '.join(sorted(unknown))}: no such study; give some of {', '.join(STUDIES)}")
    missed = 0
    for name in options.studies or STUDIES:
        folder = StudyFolder(options.output / str(STUDIES[name]["name"]))
        if folder.study.is_file():
            dastune.resume(folder.root)
        else:
            dastune.run(study_of(name, options.cifar_root), output=options.output)
        print(f"\n{name}\n")
        missed += told(folder)
    return missed


if __name__ == "__main__":
    sys.exit(main() > 0)
