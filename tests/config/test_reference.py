"""docs/study.md is what its script makes of the models."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_is_up_to_date() -> None:
    path = ROOT / "docs" / "make_study_reference.py"
    spec = importlib.util.spec_from_file_location("make_study_reference", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert written == script.reference(), "run: python docs/make_study_reference.py"
    for field in script.UNITS:
        assert f"{field}` |" in written, f"UNITS names {field!r}, which no field has"
