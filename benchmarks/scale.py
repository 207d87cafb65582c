"""Does a study of thousands of searches stay quick? python benchmarks/scale.py [report] [run] [--searches N N ...]

Two parts, both by default, each at every number of searches (1,000 and 4,000 by default):

- report: a made-up study folder with as many finished searches, of six methods at five noise levels, a ledger of 50
  events a search, and policies of every kind; then `dastune report` on it.
- run: a real study of trivial searches (one step on ten images) with their final trainings (one epoch), by
  `dastune.run` in a process of its own, on a Ray cluster in this machine's processes, with MLflow. The cluster declares
  --nodes nodes of --cpus CPUs, each of them a process of 350 MB that runs searches. By default 4, twice the cores that
  the bars were set on: enough to keep the driver busy, and more would only wait for a core, which their meters would
  book as held and so hide what the driver costs.

Prints each figure with its bar, and exits 1 where one is missed. The bars are for 2 cores. A smaller run, to try it:
python benchmarks/scale.py --searches 100.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from rich.console import Console

import dastune
from dastune.budget import AttemptMeter, Ledger, LedgerEvent, event_from_row
from dastune.config import StudyConfig
from dastune.config.defaults import with_defaults
from dastune.folder import FinalRow, SearchRow, StudyFolder, append_lines, read_lines, write_atomic
from dastune.policy.policy import (
    Choice,
    Edge,
    Genotype,
    Policy,
    Stages,
    Step,
    SubPolicies,
    SubPolicy,
    noise_mass,
    policy_text,
)
from dastune.policy.space import SearchSpace

SEARCHES = (1000, 4000)
REPORT_SECONDS_BAR, PAGE_BAR_MB = 20.0, 5.0
OVERHEAD_BAR = 0.2  # device-seconds a search
GROWTH_BAR = 1.2  # of the time of a search, from the first half to the second, and from fewest searches to most
DRIVER_BAR_MB = 700.0
LEDGER_SECONDS_BAR = 20.0
OBJECT_STORE_BYTES = 100 * 2**20  # of a node
PARTS = ["report", "run"]
MADE_UP_EVENTS = 50  # a search
MADE_UP_METHODS = ("das", "das_paper", "auto_augment", "rand_augment", "random", "trivial")
MADE_UP_LEVELS = [0, 2, 4, 6, 8]
REAL_METHODS = ("none", "standard", "uniform", "trivial", "random")
REAL_LEVELS = [0, 2, 4, 8]

missed = False


def say(what: str, value: float, unit: str, bar: float | None = None) -> None:
    """Print a figure, and whether it is within its bar."""
    global missed
    over = bar is not None and value > bar
    missed |= over
    limit = "" if bar is None else f" (bar {bar:g}{unit}){' MISSED' if over else ''}"
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    print(f"  {what}: {shown}{unit}{limit}", flush=True)


def study_of(name: str, methods: Mapping[str, object], levels: list[int], seeds: int) -> StudyConfig:
    """Return a study of digits with `seeds` search seeds."""
    raw = {
        "name": name,
        "data": {"name": "digits", "train_images": 10, "validation_images": 10},
        "model": {"name": "small_cnn", "channels": 4},
        "space": {"ops": "das-image", "noise": {"ops": "default", "levels": levels}},
        "methods": methods,
        "budget": {"steps": 1},
        "seeds": {"search": list(range(seeds)), "final": [0]},
        "training": {"batch_size": 10, "child_epochs": 1},
        "final": {"epochs": 1},
    }
    return StudyConfig.model_validate(with_defaults(raw))


def seeds_for(searches: int, methods: int, levels: int) -> int:
    """Return how many search seeds make `searches`, or a few less."""
    seeds = searches // (methods * levels)
    if seeds == 0:
        sys.exit(f"--searches: {methods} methods at {levels} noise levels are at least {methods * levels}")
    return seeds


# Part one: made-up studies


def made_up(root: Path, searches: int) -> StudyFolder:
    """Write a study as its searches would have left it."""
    methods = {label: {"method": "das"} if label == "das_paper" else {} for label in MADE_UP_METHODS}
    seeds = seeds_for(searches, len(methods), len(MADE_UP_LEVELS))
    study = study_of(f"made_up_{searches}", methods, MADE_UP_LEVELS, seeds)
    folder = StudyFolder(root / study.name)
    folder.policies.mkdir(parents=True)
    write_atomic(folder.study, yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    write_atomic(folder.env, json.dumps({"dastune": "made up"}))
    draw = random.Random(0)
    ids = list(itertools.product(study.seeds.search, MADE_UP_LEVELS, methods))
    rows: list[SearchRow] = []
    finals: list[FinalRow] = []
    events: list[LedgerEvent] = []
    for seed, level, label in ids:
        space = study.space.at_level(level)
        policy = drawn_policy(label, space, draw)
        path = folder.policy(f"{label}-n{level}-s{seed}")
        path.write_text(policy_text(policy, {"study": study.name, "method": label, "search_seed": seed}))
        made = list(ledger_events(f"{label}-n{level}-s{seed}", draw))
        rows.append(search_row(label, level, seed, policy, space, f"policies/{path.name}", made))
        finals.append(final_row(rows[-1], draw))
        events += made
    append_lines(folder.searches, map(asdict, rows))
    append_lines(folder.finals, map(asdict, finals))
    append_lines(folder.ledger, map(asdict, events))
    return folder


def drawn_policy(label: str, space: SearchSpace, draw: random.Random) -> Policy:
    """Return a random policy of the kind and size that the method finds."""
    steps = [op.over_range() for op in space.ops]

    def one(probability: float = 1.0) -> Step:
        return draw.choice(space.ops).at(draw.random(), probability)

    match label:
        case "auto_augment":
            pairs = [(one(draw.random()), one(draw.random())) for _ in range(25)]
            return SubPolicies(sub_policies=tuple(SubPolicy(steps=pair) for pair in pairs))
        case "das_paper":
            nodes = [[Edge(source=draw.randrange(2 + node), step=one()) for _ in range(2)] for node in range(4)]
            return Genotype(inputs=2, nodes=tuple(map(tuple, nodes)))
        case "trivial":
            return Stages(stages=(tuple(Choice(weight=1.0, step=step) for step in steps),))
    stages = [tuple(Choice(weight=draw.random(), step=step) for step in steps) for _ in range(2)]
    return Stages(stages=tuple(stages))


def search_row(
    label: str, level: int, seed: int, policy: Policy, space: SearchSpace, path: str, events: list[LedgerEvent]
) -> SearchRow:
    """Return the row of a search that found `policy` and left `events` in the ledger."""
    name = f"{label}-n{level}-s{seed}"
    charge = Ledger(events).charge(name)
    return SearchRow(
        id=name,
        method=label,
        noise_level=level,
        search_seed=seed,
        val_accuracy=0.9,
        held_seconds=charge.held,
        charged_seconds=charge.charged,
        steps=1000,
        children=20 if label in ("auto_augment", "rand_augment", "random") else 0,
        noise_mass=noise_mass(policy),
        uniform_noise_share=space.uniform_noise_share,
        space_size_log10=30.0,
        policy=path,
        status="budget",
        summary={"tau_entropy": 2.0, "tau_from_start": 0.1} if label.startswith("das") else {},
    )


def final_row(row: SearchRow, draw: random.Random) -> FinalRow:
    """Return the row of a search's final training."""
    return FinalRow(
        search_id=row.id,
        method=row.method,
        noise_level=row.noise_level,
        search_seed=row.search_seed,
        train_seed=0,
        test_accuracy=draw.uniform(0.8, 0.95),
        test_loss=0.2,
        epochs=60,
        seconds=20.0,
        images_per_second=1000.0,
        parameters=10_000,
        flops=1_000_000,
    )


def ledger_events(search: str, draw: random.Random) -> Iterator[LedgerEvent]:
    """Yield what the meter of a search's only attempt says, every two seconds by a made-up clock."""
    now = itertools.accumulate(itertools.repeat(2.0))
    meter = AttemptMeter(search, 0, "search", 1.0, lambda: next(now))
    for account in ("process", "startup"):
        meter.book(account)
    for number in range(1, MADE_UP_EVENTS + 1):
        for account in ("train", "validate", "report"):
            meter.book(account)
        last = number == MADE_UP_EVENTS
        yield meter.event(20 * number, durable=last or draw.random() < 0.2, closed=last)


def report_part(searches: int, root: Path) -> None:
    """Make up a study, and print what its report takes."""
    begun = time.perf_counter()
    folder = made_up(root, searches)
    took = time.perf_counter() - begun
    print(f"report of {len(folder.search_rows()):,} made-up searches, written in {took:.0f} s:", flush=True)
    report_figures(folder)


def report_figures(folder: StudyFolder) -> None:
    """Print what it takes to make the report, and to read the ledger into charges."""
    report = measured([sys.executable, "-m", "dastune", "report", str(folder.root)])
    say("dastune report", report.seconds, " s", REPORT_SECONDS_BAR)
    say("its peak memory", report.peak_mb, " MB")
    say("its page", (folder.report / "index.html").stat().st_size / 1e6, " MB", PAGE_BAR_MB)
    begun = time.perf_counter()
    ledger = Ledger(ledger_of(folder))
    for row in folder.search_rows():
        ledger.charge(row.id)
    size = folder.ledger.stat().st_size / 1e6
    say(f"ledger of {size:,.3g} MB, read", time.perf_counter() - begun, " s", LEDGER_SECONDS_BAR)


def ledger_of(folder: StudyFolder) -> list[LedgerEvent]:
    """Return the events of a ledger."""
    return [event_from_row(row) for row in read_lines(folder.ledger)]


@dataclass(frozen=True)
class Measured:
    """What a command took: wall and CPU seconds, the most memory it had at a time in MB; and what it printed."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    printed: str


def measured(command: list[str]) -> Measured:
    """Run a command to its end."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    took = time.perf_counter() - begun
    return Measured(took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed)


# Part two: real studies


def real_study(searches: int) -> StudyConfig:
    """Return a study of trivial searches."""
    seeds = seeds_for(searches, len(REAL_METHODS), len(REAL_LEVELS))
    return study_of(f"real_{searches}", {method: {} for method in REAL_METHODS}, REAL_LEVELS, seeds)


@contextmanager
def cluster(nodes: int, cpus: int) -> Iterator[str]:
    """Start nodes that declare `cpus` CPUs each, and a head that declares none; yield its address."""
    os.environ.update({"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"})
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            started.add_node(num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES)
        yield started.address
    finally:
        started.shutdown()  # type: ignore[no-untyped-call]


def drive(searches: int, address: str, root: Path) -> None:
    """Run the study to its end; called in a process of its own, so that its memory and time are the driver's."""
    study = real_study(searches)
    with (root / f"{study.name}.log").open("w") as log:
        result = dastune.run(study, output=root, address=address, console=Console(file=log))
    if result.missing:
        sys.exit(f"{len(result.missing)} searches are not finished; see {root}")
    print(result.undelivered)


def run_part(searches: int, nodes: int, cpus: int, root: Path) -> float:
    """Run a study on a cluster, print its figures, and return its wall seconds a search once it is warm."""
    study, slots = real_study(searches), nodes * cpus
    with cluster(nodes, cpus) as address:
        count = len(study.methods) * len(REAL_LEVELS) * len(study.seeds.search)
        print(f"run of {count:,} searches on {nodes} nodes of {cpus} CPUs:", flush=True)
        command = [sys.executable, __file__, "drive", "--searches", str(searches)]
        driver = measured([*command, "--address", address, "--output", str(root)])
    folder = StudyFolder.existing(root / study.name)
    wall, held, waiting = slot_seconds(folder)
    say("dastune.run", driver.seconds, " s")
    say("of that, from the first trial to the last", wall, " s")
    say("a search, in wall time", wall / count, " s")
    say(
        "a search: its devices idle or waiting for the driver",
        (wall * slots - held + waiting) / count,
        " s",
        OVERHEAD_BAR,
    )
    say("a search: of that, held and waiting", waiting / count, " s")
    say("a search: driver's CPU time", driver.cpu_seconds / count, " s")
    first, second = halves(folder)
    say("time a search, second half over first", second / first, "", GROWTH_BAR)
    say("driver's peak memory", driver.peak_mb, " MB", DRIVER_BAR_MB)
    say("MLflow: events it has not had", int(driver.printed), "", 0)
    report_figures(folder)
    return (first + second) / 2


def slot_seconds(folder: StudyFolder) -> tuple[float, float, float]:
    """Return the wall time from the first grant to the last event, what trials held, and what of it they waited."""
    attempts: dict[tuple[str, int, str], LedgerEvent] = {}
    for event in ledger_of(folder):
        key = (event.search, event.attempt, event.meter)
        if key not in attempts or event.sequence > attempts[key].sequence:
            attempts[key] = event
    last = list(attempts.values())
    wall = max(event.unix_time for event in last) - min(event.unix_time - event.held for event in last)
    return wall, sum(event.held for event in last), sum(event.accounts.get("report", 0.0) for event in last)


def halves(folder: StudyFolder) -> tuple[float, float]:
    """Return the wall seconds a search in the first and in the second half, without the tenth in which all starts."""
    ends = sorted(event.unix_time for event in ledger_of(folder) if event.meter == "final" and event.closed)
    warm, middle, end = len(ends) // 10, len(ends) * 11 // 20, len(ends) - 1
    return (ends[middle] - ends[warm]) / (middle - warm), (ends[end] - ends[middle]) / (end - middle)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="part", help="report, run; default: both")
    parser.add_argument("--searches", nargs="+", type=int, default=SEARCHES, help="how many, ascending")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cpus", type=int, default=1, help="of a node; each runs a search")
    parser.add_argument("--output", type=Path, help="keep the studies in this folder")
    parser.add_argument("--address", help=argparse.SUPPRESS)  # of `drive`, which `run` calls
    options = parser.parse_args()
    if options.parts == ["drive"]:
        drive(options.searches[0], options.address, options.output)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = options.output or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        if "report" in options.parts:
            for searches in options.searches:
                report_part(searches, root)
        if "run" in options.parts:
            times = [run_part(searches, options.nodes, options.cpus, root) for searches in options.searches]
            if len(times) > 1:
                what = f"time a search, {options.searches[-1]:,} over {options.searches[0]:,}"
                say(what, times[-1] / times[0], "", GROWTH_BAR)
    sys.exit(missed)


if __name__ == "__main__":
    main()
