"""Do searches find what is planted? python benchmarks/planted.py [PROBLEM ...] --output DIR [--resume]

A planted problem is a study whose validation and test images go through known ops and whose training images do not
(`data.shift`), so that it is known which op a policy should apply most. Each problem here has 15 ops and 5 noise ops, 7
methods and 5 search seeds, and is a study of its own, in DIR/PROBLEM: real searches, real final trainings. Prints for
each method what it reached and found, then for `das` each figure with its bar; exits 1 where one is missed.

Without a problem: all of them. Processes can run different problems with one DIR at the same time; give each its share
of the CPUs (--slots), for the budget of a search is a time. --report-only DIR reads finished studies and runs nothing.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

import dastune
from dastune.config import StudyConfig
from dastune.errors import UserError
from dastune.folder import SearchRow, StudyFolder
from dastune.policy.policy import op_shares
from dastune.report.found import Shares, read_policy
from dastune.report.plan import read_plan, rows_in_order
from dastune.report.stats import Cell, cells, difference
from dastune.report.tables import accuracy_text, duration

DIGITS_SECONDS, CIFAR_SECONDS = 8.0, 40.0  # that a search is charged
DIGITS_EPOCHS, CIFAR_EPOCHS = 150, 16  # of a final training
CIFAR_IMAGES = 2000  # to train on, as many again to validate on
CIFAR_CHILD_EPOCHS = 3  # so that the budget is enough for about ten children
NOISE_LEVEL = 5
NOISE_BAR = 0.1  # of the largest noise mass over seeds
SEEDS = [0, 1, 2, 3, 4]
METHODS: dict[str, dict[str, object]] = {
    "das": {},
    "das_paper": {"method": "das", "preset": "paper"},
    "auto_augment": {},
    "rand_augment": {"n": [1, 2, 3]},
    "random": {},
    "trivial": {},
    "none": {},
}
SHIFTS: dict[str, list[object]] = {
    "digits-rotate": [{"rotate": {"degrees": 40}}],
    "digits-invert-rotate": ["invert", {"rotate": {"degrees": 40}}],
    "digits-plain": [],
    "cifar-invert": ["invert"],
    "cifar-rotate": [{"rotate": {"degrees": 30}}],
}
STAGES = {"digits-invert-rotate": 2}  # of das: one for each planted op
FIRST = ("digits-rotate", "cifar-invert")  # here das must put the planted op first with every seed


def study_of(problem: str, options: argparse.Namespace) -> StudyConfig:
    """Return the study of a problem."""
    methods = {**METHODS, "das": {"stages": STAGES[problem]} if problem in STAGES else {}}
    data: dict[str, object] = {"name": "digits", "train_images": 150, "shift": SHIFTS[problem]}
    changes: dict[str, object] = {"space.noise.levels": [NOISE_LEVEL], "seeds.search": options.seeds}
    base, seconds, epochs = "digits_noise", options.digits_seconds, options.digits_epochs
    if problem.startswith("cifar"):
        base, seconds, epochs = "cifar10_noise", options.cifar_seconds, options.cifar_epochs
        images = dict.fromkeys(("train_images", "search_images", "validation_images"), CIFAR_IMAGES)
        data = {**data, **images, "name": "cifar10", **({"root": options.cifar_root} if options.cifar_root else {})}
        changes["model"] = {"name": "wide_resnet", "depth": 10, "width": 1}
        methods["standard"] = methods.pop("none")  # on digits the same: they have no standard augmentation
        changes["resources"] = {"cpus": 1, "gpus": 0}
        changes |= {"training.child_epochs": CIFAR_CHILD_EPOCHS, "training.schedule": "step"}
    changes |= {"name": problem, "data": data, "methods": methods, "final.epochs": epochs}
    overrides = [f"{path}={json.dumps(value)}" for path, value in changes.items()]
    return dastune.load_study(base, overrides=overrides, budget=f"{seconds} cpu-seconds")


def run(problem: str, options: argparse.Namespace) -> bool:
    """Run a problem, or go on with it where wanted and begun; return whether a person stopped it."""
    folder = StudyFolder(Path(options.output) / problem)
    if options.resume and folder.study.is_file():
        return dastune.resume(folder.root).interrupted
    return dastune.run(study_of(problem, options), output=options.output).interrupted


class Outcome:
    """What a study's folder says of one problem.

    Attributes:
        planted: the ops of the shift, in order.
        ops: those of the space.
        seeds: how many searches each method has.
        cells: of each method.
    """

    def __init__(self, folder: StudyFolder) -> None:
        study, plan = yaml.safe_load(folder.study.read_text(encoding="utf-8")), read_plan(folder.study)
        if plan is None:
            raise UserError(f"{folder.study}: does not say which searches there are")
        self.name = folder.root.name
        self.planted = [str(item["op"]) for item in study["data"]["shift"]]
        self.ops = plan.ops[NOISE_LEVEL]
        self.seeds = len(plan.searches) // len(plan.methods)
        self._folder = folder
        searches, finals = rows_in_order(folder, plan)
        self.cells = {cell.method: cell for cell in cells(searches, finals)}
        self._rows = [row for row in searches if row.status != "failed"]

    @property
    def setting(self) -> str:
        """How many ops and seeds there are."""
        return f"{NOISE_LEVEL} of {len(self.ops)} ops are noise, {self.seeds} search seeds"

    def ranks(self, method: str, op: str) -> dict[int, int]:
        """Return search seed -> the op's place in the policy's op distribution; ties count against it."""
        return {
            row.search_seed: place(op_shares(read_policy(self._folder, row)), op, self.ops) for row in self._of(method)
        }

    def _of(self, method: str) -> list[SearchRow]:
        return sorted((row for row in self._rows if row.method == method), key=lambda row: row.search_seed)

    def rows(self) -> list[list[str]]:
        """Return titles, then a row for each method."""
        titles = ["method", "accuracy, %", "margin over trivial (95 %)", "noise mass, mean (max)"]
        found = [[*titles, *(f"rank of {op}" for op in self.planted), "charged"]]
        for method, cell in self.cells.items():
            ranks = [" ".join(map(str, self.ranks(method, op).values())) for op in self.planted]
            reached = [accuracy_text(cell), self._margin_text(cell), noise_text(cell)]
            found.append([method, *reached, *ranks, duration(cell.charged_seconds)])
        return found

    def _margin_text(self, cell: Cell) -> str:
        margin = self.margin(cell.method)
        if margin is None or cell.method == "trivial":
            return "-"
        mean, low, high = (100 * value for value in margin)
        return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"

    def margin(self, method: str) -> tuple[float, float, float] | None:
        """Return the accuracy above trivial, paired by seed: mean, and the ends of its 95 % t interval."""
        both = self.cells.get(method), self.cells.get("trivial")
        found = difference(both[0], both[1]) if both[0] and both[1] else None
        if found is None or found.half_width is None:
            return None
        return found.mean, found.mean - found.half_width, found.mean + found.half_width

    def bars(self) -> list[tuple[str, bool]]:
        """Return each figure of das in words, with its bar, and whether it is held."""
        lines = []
        for op in self.planted if self.name in FIRST else []:
            first = sum(rank == 1 for rank in self.ranks("das", op).values())
            lines.append((f"{op} is first with {first} of {self.seeds} seeds (bar: all)", first == self.seeds))
        masses = self.cells["das"].noise_masses if "das" in self.cells else {}
        worst = max(masses.values(), default=1.0)
        text = f"noise mass {worst:.3f} at most, over {len(masses)} seeds (bar: below {NOISE_BAR} with all)"
        lines.append((text, worst < NOISE_BAR and len(masses) == self.seeds))
        if not self.planted:
            return lines
        margin = self.margin("das")
        if margin is None:
            return [*lines, ("margin over trivial not known (bar: interval above 0)", False)]
        mean, low, high = (100 * value for value in margin)
        text = f"margin over trivial {mean:+.2f} points, {low:+.2f} to {high:+.2f} (bar: interval above 0)"
        return [*lines, (text, low > 0)]


def place(shares: Shares, op: str, names: Sequence[str]) -> int:
    """Return 1 if `op` has the largest share of all `names`, 2 for the second ...; ties count against it."""
    return sum(shares.get(name, 0.0) >= shares.get(op, 0.0) for name in names)


def noise_text(cell: Cell) -> str:
    """Return mean and largest noise mass over seeds."""
    if cell.noise_mass is None:
        return "-"
    return f"{cell.noise_mass:.3f} ({max(cell.noise_masses.values()):.3f})"


def told(outcome: Outcome, markdown: bool) -> int:
    """Print all about one problem; return how many bars were missed."""
    rows = outcome.rows()
    print(f"\n{outcome.name}: {', then '.join(outcome.planted) or 'nothing'} planted; {outcome.setting}\n")
    if markdown:
        rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
        print("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")
    else:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for text, held in outcome.bars():
        print(f"{'- ' * markdown}das: {text}{'' if held else ' MISSED'}")
    return sum(not held for _, held in outcome.bars())


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=f"of {', '.join(SHIFTS)}")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", metavar="DIR", help="folder of the studies; a new temporary one if left out")
    where.add_argument("--report-only", metavar="DIR", help="only report on the studies in this folder")
    parser.add_argument("--resume", action="store_true", help="go on with problems that have begun")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--slots", type=int, help="searches at a time, a CPU each; all CPUs if left out")
    parser.add_argument("--cifar-root", metavar="DIR", help="folder with cifar-10-batches-py")
    parser.add_argument("--digits-seconds", type=float, default=DIGITS_SECONDS)
    parser.add_argument("--cifar-seconds", type=float, default=CIFAR_SECONDS)
    parser.add_argument("--digits-epochs", type=int, default=DIGITS_EPOCHS, help="of a final training")
    parser.add_argument("--cifar-epochs", type=int, default=CIFAR_EPOCHS, help="of a final training")
    parser.add_argument("--seeds", type=json.loads, default=SEEDS, metavar="LIST", help="such as [0,1]")
    options = parser.parse_args()
    for problem in options.problems:
        if problem not in SHIFTS:
            parser.error(f"{problem!r} is no problem; give some of {', '.join(SHIFTS)}")
    return options


def main() -> int:
    """Run what is to be run and print what came of it; return how many bars were missed."""
    options = arguments()
    root = Path(options.report_only or options.output or tempfile.mkdtemp(prefix="planted-"))
    problems = options.problems
    if options.report_only is None:
        options.output = root
        print(f"studies are in {root}", file=sys.stderr)
        if options.slots:
            os.environ["RAY_OVERRIDE_RESOURCES"] = json.dumps({"CPU": options.slots})
        for problem in problems or SHIFTS:
            if run(problem, options):
                sys.exit(f"stopped; go on with: python benchmarks/planted.py {problem} --output {root} --resume")
    elif not problems:
        problems = [problem for problem in SHIFTS if (root / problem / "study.yaml").is_file()]
    return sum(told(Outcome(StudyFolder.existing(root / problem)), options.markdown) for problem in problems or SHIFTS)


if __name__ == "__main__":
    try:
        sys.exit(main() > 0)
    except UserError as error:
        sys.exit(f"error: {error}")
