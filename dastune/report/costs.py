"""What a study cost: device time of searches and final trainings by method, and what that comes to at a price."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from dastune.budget import Charge, Ledger, LedgerEvent, Meter
from dastune.folder import FinalRow, SearchRow, method_of
from dastune.report.protocol import device_unit
from dastune.report.results import Results
from dastune.report.table import Table
from dastune.report.tables import NOTHING, duration, percent

SECONDS_PER_HOUR = 3600.0
METERS: tuple[Meter, ...] = ("search", "final")


@dataclass(frozen=True)
class Cost:
    """What searches took, and their final trainings. Device-seconds.

    Attributes:
        method: its label; "all methods" for the sum of all.
        searches: how many have taken any, failed and unfinished ones too.
        charged_seconds, held_seconds: of the searches, see `dastune.budget`.
        lost_seconds: of all that was held: work that came to nothing, and restores of what was restarted; None where
            there is no ledger.
        final_seconds: what final trainings held, lost work too.
        kwh: energy of the searches' devices, of those searches for which it was measured; None of none.
        measured: how many those are.
    """

    method: str
    searches: int
    charged_seconds: float
    held_seconds: float
    lost_seconds: float | None
    final_seconds: float
    kwh: float | None
    measured: int

    @property
    def seconds(self) -> float:
        """All that was held: the bill."""
        return self.held_seconds + self.final_seconds


def costs(results: Results) -> list[Cost]:
    """Return a cost per method, published policies too, in the study's order; [] of no search."""
    rows = {row.id: row for row in results.searches}
    finals: dict[str, list[FinalRow]] = {}
    for final in results.finals:
        finals.setdefault(final.search_id, []).append(final)
    energies = results.curves.energies
    methods: dict[str, list[Cost]] = {method: [] for method in results.plan.methods} if results.plan else {}
    for search in dict.fromkeys([*rows, *finals, *results.ledger]):
        row, trained = rows.get(search), finals.get(search, [])
        known = row or (trained[0] if trained else None)
        method = known.method if known else method_of(search)
        cost = _of_search(method, search, row, trained, results.ledger.get(search, ()), energies.get(search))
        methods.setdefault(method, []).append(cost)
    return [_sum(method, of) for method, of in methods.items() if of]


def total(found: Sequence[Cost]) -> Cost | None:
    """Return the sum of all, None of nothing."""
    return _sum("all methods", found) if found else None


def _of_search(
    method: str,
    search: str,
    row: SearchRow | None,
    finals: Sequence[FinalRow],
    events: Sequence[LedgerEvent],
    kwh: float | None,
) -> Cost:
    searched, trained = (_charge(search, meter, events, row is not None) for meter in METERS)
    return Cost(
        method=method,
        searches=1,
        charged_seconds=row.charged_seconds if row else searched.charged,
        held_seconds=max(searched.held, row.held_seconds if row else 0.0),
        lost_seconds=_lost(searched) + _lost(trained) if events else None,
        final_seconds=max(trained.held, sum(final.seconds for final in finals)),
        kwh=kwh,
        measured=int(kwh is not None),
    )


def _charge(search: str, meter: Meter, events: Sequence[LedgerEvent], ended: bool) -> Charge:
    """Return what a search is charged; of one that has not ended, the work since its checkpoint is not lost yet."""
    of = [event for event in events if event.meter == meter]
    if of and not ended:
        newest = max(of, key=lambda event: (event.attempt, event.sequence))
        of = [*of, replace(newest, durable=True)]
    return Ledger(of).charge(search, meter)


def _lost(charge: Charge) -> float:
    """Return what is held but not charged, starts of processes and waiting aside, which no fault causes."""
    return max(0.0, charge.held_working - charge.charged)


def _sum(method: str, parts: Sequence[Cost]) -> Cost:
    lost, kwh = (
        [value for part in parts if (value := getattr(part, name)) is not None] for name in ("lost_seconds", "kwh")
    )
    return Cost(
        method=method,
        searches=sum(part.searches for part in parts),
        charged_seconds=sum(part.charged_seconds for part in parts),
        held_seconds=sum(part.held_seconds for part in parts),
        lost_seconds=sum(lost) if lost else None,
        final_seconds=sum(part.final_seconds for part in parts),
        kwh=sum(kwh) if kwh else None,
        measured=sum(part.measured for part in parts),
    )


def costs_table(results: Results, price_per_hour: float | None = None) -> Table | None:
    """Return the table of all costs, None of no search.

    Args:
        price_per_hour: of one device, in any currency; None: no column of prices.
    """
    found = costs(results)
    if (whole := total(found)) is None:
        return None
    measured = whole.measured > 0
    columns = ["method", "searches", "charged", "held", "final trainings", "in all", "of it lost"]
    columns += ["energy of searches, kWh"] * measured + ["price"] * (price_per_hour is not None)
    rows = []
    for cost in [*found, whole]:
        times = (cost.charged_seconds, cost.held_seconds, cost.final_seconds, cost.seconds, cost.lost_seconds)
        rows.append([cost.method, f"{cost.searches:,}", *map(duration, times)])
        rows[-1] += [NOTHING if cost.kwh is None else f"{cost.kwh:.3g}"] * measured
        if price_per_hour is not None:
            rows[-1].append(f"{_price(cost, price_per_hour):,.2f}")
    unit = device_unit(results.study)
    return Table(
        name="costs",
        title=f"Device time ({unit}s), over all {results.axis.levels} and seeds",
        columns=columns,
        rows=rows,
        note=_note(whole, price_per_hour),
        frame=_frame([*found, whole], price_per_hour),
    )


def _price(cost: Cost, price_per_hour: float) -> float:
    return cost.seconds / SECONDS_PER_HOUR * price_per_hour


def _note(whole: Cost, price_per_hour: float | None) -> str:
    share = percent(whole.charged_seconds / whole.held_seconds) if whole.held_seconds > 0 else NOTHING
    text = (
        f"Charged counts against the budget; held is what the searches' devices were taken for, of which {share}"
        "\N{NO-BREAK SPACE}% was charged: the rest is starts of processes, waiting for the driver, and what was lost. "
        "Lost: work that came to nothing when a process or a search died, and restores. Final trainings are on a meter "
        "of their own. Failed and unfinished searches are in all of these."
    )
    if whole.measured:
        text += (
            f" Energy: of {whole.measured:,} of {whole.searches:,} searches, as their GPUs told what they draw; of "
            "what was around them nothing is known."
        )
    else:
        text += " Energy was not measured: no device said what it draws."
    if price_per_hour is not None:
        text += f" Price: all that was held, at {price_per_hour:,.6g} a device hour."
    return text


def _frame(found: Iterable[Cost], price_per_hour: float | None) -> pd.DataFrame:
    records = []
    for cost in found:
        record = {
            "method": cost.method,
            "searches": cost.searches,
            "charged_seconds": cost.charged_seconds,
            "held_seconds": cost.held_seconds,
            "final_seconds": cost.final_seconds,
            "seconds": cost.seconds,
            "lost_seconds": cost.lost_seconds,
            "search_kwh": cost.kwh,
            "searches_measured": cost.measured,
        }
        if price_per_hour is not None:
            record["price"] = _price(cost, price_per_hour)
        records.append(record)
    return pd.DataFrame.from_records(records)
