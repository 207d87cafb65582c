"""A small form of benchmarks/inference.py: coverage and false alarms of simulated studies, and how it counts."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

STUDIES = 30
METHODS, LEVELS = 5, 3


@pytest.fixture(scope="module")
def inference() -> ModuleType:
    """Return the benchmark as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "inference.py"
    spec = importlib.util.spec_from_file_location("inference_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def least(numbers: int, share: float) -> float:
    """Return what a share of so many independent numbers falls below once in 10,000 times."""
    return float(stats.binom.ppf(1e-4, numbers, share)) / numbers


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_and_tests_raise_few_false_alarms(inference: ModuleType, seeds: int) -> None:
    rng, tally = np.random.default_rng(seeds), inference.Tally()
    for _ in range(STUDIES):
        tally.begin()
        inference.look(tally, inference.study(rng, inference.normal, seeds))
    cells, methods = STUDIES * METHODS * LEVELS, STUDIES * METHODS
    assert tally.share("interval of the mean covers")[0] >= least(cells, 0.95)
    assert tally.share("interval of the sd covers")[0] >= least(cells, 0.95)
    assert tally.share("interval of the mean's slope covers")[0] >= least(methods, 0.95)
    assert tally.share("interval of the sd's slope covers")[0] >= least(methods, 0.95)
    for what in tally.hits:
        if "any false alarm" in what:  # once a level, or a study
            assert 1 - tally.share(what)[0] >= least(len(tally.hits[what]), 0.95)


def test_what_is_detectable_is_found_in_80_percent_of_studies(inference: ModuleType) -> None:
    rng, tally = np.random.default_rng(0), inference.Tally()
    for _ in range(200):
        tally.begin()
        inference.look_for_differences(tally, rng, 5)
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], 200, 0.8) / 200
    assert low <= tally.share("finds what is detectable")[0] <= high
    assert tally.share("finds what is detectable after Holm")[0] >= low


def test_a_planted_study_is_what_it_says(inference: ModuleType) -> None:
    for draw in (inference.normal, inference.skewed):
        numbers = draw(np.random.default_rng(0), (200_000,))
        assert (numbers.mean(), numbers.std()) == pytest.approx((0, 1), abs=0.01)
        assert stats.skew(numbers) == pytest.approx(0 if draw is inference.normal else -1, abs=0.05)
    rows = inference.study(np.random.default_rng(1), inference.normal, 4000)
    at_8 = [row.test_accuracy for row in rows if row.method == "das" and row.noise_level == 8]
    assert (np.mean(at_8), np.std(at_8)) == pytest.approx((0.884, 0.018), rel=0.05)


def test_shares_and_their_errors_are_of_studies(inference: ModuleType) -> None:
    tally = inference.Tally()
    for hits in ((True, True), (True, False), (False, False)):
        tally.begin()
        for hit in hits:
            tally.add("interval covers", hit)
    share, error = tally.share("interval covers")
    assert (share, error) == pytest.approx((0.5, np.std([1, 0.5, 0], ddof=1) / np.sqrt(3)))
    ((text, held),) = inference.lines(tally, 3, True)
    assert held  # 50 % of three studies may be 93 %
    assert text == " 3 seeds: interval covers 50.0 % (+- 57.7), bar: 93 to 97 %"


def test_a_missed_bar_is_told(inference: ModuleType) -> None:
    tally = inference.Tally()
    for place in range(1000):
        tally.begin()
        tally.add("interval of the mean covers", place % 10 != 0)
        tally.add("test of means: false alarms", place % 10 == 0)
    told = list(inference.lines(tally, 5, True))
    assert [held for _, held in told] == [False, False]
    assert all(text.endswith(" MISSED") for text, _ in told)
    assert all(held for _, held in inference.lines(tally, 5, False))
