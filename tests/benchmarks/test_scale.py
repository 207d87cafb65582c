"""What benchmarks/scale.py makes up, and how it reads a ledger, in numbers computed by hand."""

import importlib.util
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from dastune.budget import Ledger, LedgerEvent, event_from_row
from dastune.config import load_study
from dastune.folder import StudyFolder, append_lines, read_lines
from dastune.orchestration.grid import unfinished
from dastune.policy.policy import load_policy, noise_mass


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    """Return the benchmark as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "scale.py"
    spec = importlib.util.spec_from_file_location("scale", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_made_up_study_is_a_finished_one(scale: ModuleType, tmp_path: Path) -> None:
    folder = scale.made_up(tmp_path, 65)  # 6 methods at 5 levels with 2 seeds are 60
    rows = folder.search_rows()
    assert len(rows) == 60
    assert unfinished(load_study(folder.study), folder) == []
    events = [event_from_row(row) for row in read_lines(folder.ledger)]
    assert len(events) == 50 * 60
    ledger = Ledger(events)
    # Two seconds each of process and start-up, then 50 times of train, validate and report.
    # Process and report are free.
    for row in rows:
        charge = ledger.charge(row.id)
        assert (charge.held, charge.charged) == (2 * 152, 2 * 101)
        assert (row.held_seconds, row.charged_seconds) == (2 * 152, 2 * 101)
        assert noise_mass(load_policy(folder.root / row.policy)) == row.noise_mass
    kinds = {row.method: load_policy(folder.root / row.policy).kind for row in rows}
    assert set(kinds.values()) == {"sub_policies", "stages", "genotype"}


def test_slots_and_halves_are_read_from_the_ledger(scale: ModuleType, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    # One slot: each search is granted at its number, held for half a second, and waits for 0.1 s of it.
    times = [float(number) for number in range(20)]
    append_lines(
        folder.ledger,
        (
            asdict(LedgerEvent(f"x-n0-s{at:g}", 0, 1, "final", {"train": 0.4, "report": 0.1}, 1, True, True, at + 0.5))
            for at in times
        ),
    )
    wall, held, waiting = scale.slot_seconds(folder)
    assert wall == pytest.approx(19.5)
    assert held == pytest.approx(10)
    assert waiting == pytest.approx(2)
    assert scale.halves(folder) == pytest.approx((1, 1))
