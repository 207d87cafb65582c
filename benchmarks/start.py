"""How quick the command line is: python benchmarks/start.py.

Prints the median wall time of 7 runs of each command, and exits 1 on a missed bar.
"""

import statistics
import subprocess
import sys
import time

BARS_SECONDS = {"--help": 0.5, "plan digits_noise": 1.0, "plan cifar10_noise": 1.0}


def seconds(arguments: str) -> float:
    """Return the median wall time of `dastune ARGUMENTS`."""
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dastune", *arguments.split()], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


missed = False
for arguments, bar in BARS_SECONDS.items():
    took = seconds(arguments)
    missed |= took > bar
    print(f"dastune {arguments}: {took:.2f} s (bar {bar} s){' MISSED' if took > bar else ''}")
sys.exit(missed)
