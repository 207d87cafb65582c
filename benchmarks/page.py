"""Is a report's page made, loaded and painted quickly? python benchmarks/page.py [--searches N N ...] [--study RUNDIR].

Makes up studies as benchmarks/scale.py does (90 and 4,000 searches by default; 90 is a little more than the demo), with
the points of curves and a picture for each policy, and makes the page of each with `dastune report`, with pictures and
without. Then opens it from disk in Chromium, 5 times in a new profile, and takes the median time to the first text on
the screen (first contentful paint). With --study also the page of a copy of that study.

Prints each figure with its bar, and exits 1 where one is missed. The bars are for 2 cores.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from scale import made_up

from dastune.data.embedded import digits
from dastune.folder import SearchRow, StudyFolder
from dastune.orchestration.pictures import policy_picture, sample_images
from dastune.policy.policy import load_policy

NAMES = ("chromium", "chromium-browser", "google-chrome")
SEARCHES = (90, 4000)
SMALL = 200  # searches; the bars of the demo are for fewer
SMALL_SECONDS_BAR, LARGE_SECONDS_BAR = 10.0, 20.0
PAGE_BAR_MB, PAGE_WITH_PICTURES_BAR_MB = 3.0, 5.0
PAINT_BAR_SECONDS, TIMES = 1.0, 5
POINTS = 40  # of a curve

PAINTED = """() => new Promise((done) => new PerformanceObserver((list) => {
  const entry = list.getEntriesByName('first-contentful-paint')[0];
  if (entry) done(entry.startTime);
}).observe({ type: 'paint', buffered: true }))"""

missed = False


def say(what: str, value: float, unit: str, bar: float) -> None:
    """Print a figure, and whether it is within its bar."""
    global missed
    missed |= value > bar
    print(f"  {what}: {value:.3g}{unit} (bar {bar:g}{unit}){' MISSED' if value > bar else ''}", flush=True)


def add_curves(folder: StudyFolder) -> None:
    """Write the points that searches and final trainings would have logged."""
    draw, now = random.Random(0), itertools.count(1)
    with folder.tracking.open("w") as file:
        for row in folder.search_rows():
            for point in range(POINTS):
                share = (point + 1) / POINTS
                loss, accuracy = 2 * (1 - share) + draw.random(), min(0.3 + 0.5 * share + 0.1 * draw.random(), 1.0)
                for key, step, name, value in (
                    (row.id, int(share * row.charged_seconds), "val_accuracy", accuracy),
                    (f"{row.id}/t0", point, "train_loss", loss),
                ):
                    event = {"event": "metrics", "key": key, "time": next(now), "step": step}
                    file.write(json.dumps({**event, "values": {name: repr(value)}}) + "\n")


def add_pictures(folder: StudyFolder) -> None:
    """Draw the picture of each policy of a small study; in a large one, of each method's first at each level."""
    images, drawn = sample_images(digits()), dict[tuple[str, int], bytes]()
    rows = folder.search_rows()
    folder.pictures.mkdir()
    for row in rows:
        key = (row.method, row.noise_level)
        if len(rows) <= SMALL or key not in drawn:
            drawn[key] = policy_picture(load_policy(folder.policy(row.id)), images, row.search_seed)
        folder.picture(row.id).write_bytes(drawn[key])


def measure(browser: Browser, folder: StudyFolder, bar_seconds: float, bar_mb: float) -> None:
    """Make the report of a study, and print what it and its page take."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dastune", "report", str(folder.root)], stdout=subprocess.DEVNULL, check=True)
    say("dastune report", time.perf_counter() - begun, " s", bar_seconds)
    page = folder.report / "index.html"
    say("its page", page.stat().st_size / 1e6, " MB", bar_mb)
    times = []
    for _ in range(TIMES):
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(page.as_uri())
        times.append(opened.evaluate(PAINTED) / 1000)
        context.close()
    say("first paint from disk", statistics.median(times), " s", PAINT_BAR_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, nargs="+", default=SEARCHES)
    parser.add_argument("--study", type=Path, help="a finished study's folder, which is left as it is")
    options = parser.parse_args()
    found = next(filter(None, map(shutil.which, NAMES)), None)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=sandbox)
        folders = [made_up(Path(home), searches) for searches in options.searches]
        if options.study:
            copy = Path(home) / "copy" / options.study.name
            shutil.copytree(options.study, copy, ignore=shutil.ignore_patterns("ray", "lock", "mlartifacts"))
        for folder in folders:
            rows: list[SearchRow] = folder.search_rows()
            bar_seconds = SMALL_SECONDS_BAR if len(rows) <= SMALL else LARGE_SECONDS_BAR
            add_curves(folder)
            print(f"{len(rows):,} made-up searches:", flush=True)
            measure(browser, folder, bar_seconds, PAGE_BAR_MB if len(rows) <= SMALL else PAGE_WITH_PICTURES_BAR_MB)
            add_pictures(folder)
            print(f"{len(rows):,} made-up searches, with pictures:", flush=True)
            measure(browser, folder, bar_seconds, PAGE_WITH_PICTURES_BAR_MB)
        if options.study:
            print(f"{options.study.name}:", flush=True)
            measure(browser, StudyFolder(copy), SMALL_SECONDS_BAR, PAGE_WITH_PICTURES_BAR_MB)
        browser.close()
    sys.exit(missed)


if __name__ == "__main__":
    main()
