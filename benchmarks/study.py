"""What a finished study shows of budgets and use of devices: python benchmarks/study.py RUNDIR SLOTS.

Prints the largest relative error of charged device time against the budget, and the share of wall time x slots that was
held, from the first event of a trial to the last. Exits 1 on a missed bar.
"""

import sys

from dastune.budget import Ledger, device_share, event_from_row
from dastune.config import load_study
from dastune.config.study import BlackBox, Das
from dastune.folder import StudyFolder, read_lines

CHARGED_BAR, HELD_BAR = 0.05, 0.9

folder, slots = StudyFolder.existing(sys.argv[1]), int(sys.argv[2])
study = load_study(folder.study)
budget, share = study.budget.per_search().seconds, device_share(study.resources.cpus, study.resources.gpus)
if budget is None:
    sys.exit("the study's budget is in steps; give one with a budget in device time")
rows = [row for row in folder.search_rows() if row.status == "budget"]
worst = max(abs(row.charged_seconds - budget) / budget for row in rows)
searching = {label for label, options in study.methods.items() if isinstance(options, Das | BlackBox)}
ended = [row.id for row in folder.search_rows() if row.status == "done" and row.method in searching]
if ended:
    print(f"ended before the budget, nothing left to try: {', '.join(ended)}")
print(f"charged against budget, worst of {len(rows)} searches: {100 * worst:.2f} % off (bar {100 * CHARGED_BAR:.0f} %)")

events = [event_from_row(row) for row in read_lines(folder.ledger)]
ledger = Ledger(events)
ids = {row.id for row in folder.search_rows()}
held = sum(ledger.charge(search, meter).held for search in ids for meter in ("search", "final"))
# The first event comes when its trial has built its search, `held` device-seconds after the grant.
wall = max(event.unix_time for event in events) - min(event.unix_time - event.held / share for event in events)
used = held / (wall * slots * share)
print(f"held {held:.0f} s of {wall:.0f} s x {slots} slots x {share:g} devices: {used:.2f} (bar {HELD_BAR})")
sys.exit(worst > CHARGED_BAR or used < HELD_BAR)
