"""What `pip install .` gives."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_code_studies_and_styles(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), "."]
    subprocess.run(command, cwd=CHECKOUT, check=True)
    [wheel] = tmp_path.glob("dastune-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    names = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*") if path.is_file()}
    expected = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "dastune").rglob("*.py")}
    studies = {f"dastune/search_spaces/{path.name}" for path in (CHECKOUT / "search_spaces").glob("*.yaml")}
    assert expected | studies | {"dastune/report/page.css", "dastune/report/page.js", "dastune/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]
    # Run from the wheel's files alone: a packaged study is found by name.
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); from dastune.cli import main; main()"
    plan = subprocess.run(
        [sys.executable, "-c", code, "plan", "digits_noise"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "54 searches" in plan.stdout
