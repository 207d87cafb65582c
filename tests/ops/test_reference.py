"""docs/ops.md is what its script makes of the table."""

import importlib.util
from pathlib import Path

from dastune.ops.spaces import SPACES
from dastune.ops.table import OPS

ROOT = Path(__file__).parents[2]


def test_the_reference_is_up_to_date() -> None:
    path = ROOT / "docs" / "make_ops_reference.py"
    spec = importlib.util.spec_from_file_location("make_ops_reference", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
    assert written == script.reference(), "run: python docs/make_ops_reference.py"
    for name in (*OPS, *SPACES):
        assert f"`{name}`" in written
    assert "SamplePairing" in written


def test_the_sheet_is_there_and_small() -> None:
    assert 50_000 < (ROOT / "docs" / "ops.png").stat().st_size < 1_000_000
