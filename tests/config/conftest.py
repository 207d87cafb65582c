"""A minimal study to break, and the way to load what became of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dastune.config import load_study
from dastune.errors import UserError

MINIMAL = """\
name: small
data: {name: digits}
methods: {none: }
budget: {cpu_hours: 1}
"""


@pytest.fixture
def minimal() -> str:
    """Return a study that says only what it must."""
    return MINIMAL


@pytest.fixture
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], Path]:
    """Return a function that writes `study.yaml` into an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes) -> Path:
        path = Path("study.yaml")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def refused(study_file: Callable[[str | bytes], Path]) -> Callable[..., str]:
    """Return a function that loads a broken study and gives back the message."""

    def load(content: str | bytes, *overrides: str, budget: str | None = None) -> str:
        with pytest.raises(UserError) as caught:
            load_study(study_file(content), overrides=overrides, budget=budget)
        return str(caught.value)

    return load
