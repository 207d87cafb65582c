"""Do black-box searches learn while they search? python benchmarks/learning.py STUDY_FOLDER

For each black-box method of a finished study, such as digits_baselines: the validation accuracy of its children, mean
over the first and over the last fifth of those trained whole (children that successive halving stopped are younger, and
are left out), and the test accuracy of what it found. The gain is the last fifth less the first, with its standard
error over searches. Bar, for searches that are to learn (AutoAugment by PPO and by TPE): above two standard
errors.

Exits 1 where a bar is missed.
"""

import math
import sys
from statistics import mean, stdev

from dastune.config import load_study
from dastune.config.study import AutoAugment, BlackBox
from dastune.folder import StudyFolder

STANDARD_ERRORS_BAR = 2.0

folder = StudyFolder.existing(sys.argv[1])
study = load_study(folder.study)
scores: dict[str, dict[str, list[float]]] = {}
for row in folder.child_rows():
    if row.status == "scored" and row.score is not None:
        scores.setdefault(row.method, {}).setdefault(row.search_id, []).append(row.score)
missed = False
for label, options in study.methods.items():
    searches = [by_child for by_child in scores.get(label, {}).values() if len(by_child) >= 5]
    if not isinstance(options, BlackBox) or len(searches) < 2:
        continue
    firsts = [mean(by_child[: len(by_child) // 5]) for by_child in searches]
    lasts = [mean(by_child[-(len(by_child) // 5) :]) for by_child in searches]
    gains = [last - first for first, last in zip(firsts, lasts, strict=True)]
    error = stdev(gains) / math.sqrt(len(gains))
    count = mean(len(by_child) for by_child in searches)
    tested = mean(row.test_accuracy for row in folder.final_rows() if row.method == label)
    learns = isinstance(options, AutoAugment) and options.search != "random" and options.halving is None
    missed |= learns and mean(gains) <= STANDARD_ERRORS_BAR * error
    bar = f" (bar {STANDARD_ERRORS_BAR:g} standard errors)" if learns else ""
    print(
        f"{label}: {count:.0f} children trained whole; first fifth {100 * mean(firsts):.1f} %, "
        f"last fifth {100 * mean(lasts):.1f} %, gain {100 * mean(gains):+.1f} +- {100 * error:.1f}{bar}; "
        f"test {100 * tested:.1f} %"
    )
sys.exit(missed)
