"""What benchmarks/planted.py makes of finished studies, in numbers computed by hand."""

import argparse
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from dastune.folder import FinalRow, SearchRow, StudyFolder, write_atomic
from dastune.policy.policy import Choice, Stages, Step, policy_text

OPTIONS = argparse.Namespace(seeds=[0, 1, 2, 3, 4], digits_seconds=8.0, digits_epochs=150)
ABOVE_TRIVIAL = (0.02, 0.03, 0.025, 0.02, 0.03)  # of das, seed by seed
FIRST = {"rotate": 6, "invert": 3, "identity": 1}
SECOND = {"rotate": 3, "invert": 3, "constant": 4}


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    """Return the benchmark as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "planted.py"
    spec = importlib.util.spec_from_file_location("planted", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def add(folder: StudyFolder, method: str, seed: int, accuracy: float, noise: float, ops: Mapping[str, float]) -> None:
    """Write what a search and its final training leave behind."""
    name = f"{method}-n5-s{seed}"
    steps = {op: Step(op=op, low=0, high=30 if op == "rotate" else 0) for op in ops}
    policy = Stages(stages=(tuple(Choice(weight=weight, step=steps[op]) for op, weight in ops.items()),))
    write_atomic(folder.policy(name), policy_text(policy, {}))
    path = str(folder.policy(name).relative_to(folder.root))
    folder.add_search(SearchRow(name, method, 5, seed, None, 9, 8, 100, 0, noise, 0.25, 1.0, path, "budget"))
    folder.add_final(FinalRow(name, method, 5, seed, 0, accuracy, 0.5, 150, 5.0, 1e3, 10_000, 1_000_000))


@pytest.fixture
def study(tmp_path: Path, planted: ModuleType) -> Callable[..., StudyFolder]:
    """Return a function that writes the finished study of digits-rotate; `ops` is what das finds with seed 3."""

    def make(ops: Mapping[str, float] = FIRST, noise: float = 0.0, without: int | None = None) -> StudyFolder:
        folder = StudyFolder(tmp_path / "digits-rotate")
        resolved = planted.study_of("digits-rotate", OPTIONS).model_dump(mode="json")
        write_atomic(folder.study, yaml.safe_dump(resolved, sort_keys=False))
        for seed, margin in enumerate(ABOVE_TRIVIAL):
            add(folder, "trivial", seed, 0.9 - 0.01 * seed, 0.25, {"identity": 1, "rotate": 1})
            if seed != without:
                found = (ops, noise) if seed == 3 else (FIRST, 0.05)
                add(folder, "das", seed, 0.9 - 0.01 * seed + margin, found[1], found[0])
        return folder

    return make


def test_problems_are_studies_of_their_own(planted: ModuleType) -> None:
    for problem in ("digits-rotate", "digits-invert-rotate", "digits-plain"):
        made = planted.study_of(problem, OPTIONS)
        assert made.name == problem
        assert list(made.methods) == list(planted.METHODS)
        assert made.space.at_level(5).uniform_noise_share == 0.25
        assert made.budget.per_search().seconds == pytest.approx(8)
    assert [item.op for item in planted.study_of("digits-invert-rotate", OPTIONS).data.shift] == ["invert", "rotate"]


@pytest.mark.parametrize(("op", "rank"), [("rotate", 1), ("invert", 2), ("identity", 3), ("equalize", 5)])
def test_ties_count_against_an_op(planted: ModuleType, op: str, rank: int) -> None:
    names = ("identity", "rotate", "invert", "equalize", "solarize")
    assert planted.place({"rotate": 0.6, "invert": 0.3, "identity": 0.1}, op, names) == rank
    assert planted.place(dict.fromkeys(names, 0.2), op, names) == 5


def test_every_bar_is_held(
    planted: ModuleType, study: Callable[..., StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    assert planted.told(planted.Outcome(study()), markdown=False) == 0
    out = capsys.readouterr().out
    assert "digits-rotate: rotate planted; 5 of 20 ops are noise, 5 search seeds" in out
    # mean 0.025, sd 0.005, t(0.975; 4) = 2.7764
    assert "das: margin over trivial +2.50 points, +1.88 to +3.12 (bar: interval above 0)\n" in out
    assert "das: rotate is first with 5 of 5 seeds (bar: all)\n" in out
    assert "das: noise mass 0.050 at most, over 5 seeds" in out
    [das] = [line for line in out.splitlines() if line.startswith("das  ")]
    assert " ".join(das.split()) == "das 90.5 ± 1.5 +2.5 (+1.9 to +3.1) 0.040 (0.050) 1 1 1 1 1 8.0 s"


@pytest.mark.parametrize(
    ("made", "missed", "line"),
    [
        ({"ops": SECOND}, 1, "rotate is first with 4 of 5 seeds (bar: all) MISSED"),
        ({"noise": 0.1}, 1, "noise mass 0.100 at most, over 5 seeds (bar: below 0.1 with all) MISSED"),
        ({"without": 0}, 2, "noise mass 0.050 at most, over 4 seeds (bar: below 0.1 with all) MISSED"),
    ],
)
def test_a_missed_bar_is_told_and_counted(
    planted: ModuleType,
    study: Callable[..., StudyFolder],
    capsys: pytest.CaptureFixture[str],
    made: dict[str, object],
    missed: int,
    line: str,
) -> None:
    assert planted.told(planted.Outcome(study(**made)), markdown=True) == missed
    out = capsys.readouterr().out
    assert f"- das: {line}\n" in out
    assert out.count("MISSED") == missed
    assert "| trivial | 88.0 ± 1.6 | - | 0.250 (0.250) | 2 2 2 2 2 | 8.0 s |" in out
