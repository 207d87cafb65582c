"""What a search learned: verdicts on planted numbers, against scipy's intervals and policies drawn by chance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dastune.config.load import load_study
from dastune.folder import StudyFolder
from dastune.policy.policy import applied_shares
from dastune.report.found import Applied, findings
from dastune.report.learned import Answer, Learned, answer_text, learned, learned_table
from dastune.report.plan import Plan
from dastune.report.results import read_results
from dastune.report.sections.learned import learned_tables, what_was_learned
from dastune.report.stats import cells
from dastune.search.auto_augment import AutoAugmentProposer

OPS = ("rotate", "invert", "identity", "constant")  # a quarter of them is noise
STUDY = Path(__file__).parents[2] / "search_spaces" / "digits_noise.yaml"
PLAN = Plan({}, (), (), {4: OPS})
KINDS = {"das": "das", "chance": "random", "control": "trivial", "nothing": "none"}


@pytest.fixture
def asked(search_row, final_row):
    """Return a function from method -> noise shares, and from method -> accuracies, to question -> answer of each."""

    def ask(noise, accuracies):
        rows = [
            replace(search_row(method, 4, seed), uniform_noise_share=0.25)
            for method in noise
            for seed in range(len(noise[method]))
        ]
        applied = {}
        for row in rows:
            share = noise[row.method][row.search_seed]
            own = dict.fromkeys(("rotate", "invert", "identity"), (1 - share) / 3)
            applied[row.id] = Applied(1.0, own | {"constant": share})
        finals = [
            final_row(value, method, 4, seed) for method, of in accuracies.items() for seed, value in enumerate(of)
        ]
        found = findings(rows, applied, PLAN)
        return {row.method: row.answers for row in learned(found, cells(rows, finals), KINDS)}

    return ask


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ([0.01, 0.02, 0.015], "yes"),
        ([0.4, 0.41, 0.42], "no"),
        ([0.25, 0.251, 0.249], "no"),  # as often as chance: within a tenth of a quarter
        ([0.24, 0.241, 0.239], "no"),  # surely less, by next to nothing
        ([0.01, 0.4, 0.1], "can't tell"),
        ([0.0, 0.0, 0.0], "yes"),
        ([0.0], "can't tell"),
    ],
)
def test_whether_noise_is_avoided(asked, shares, verdict):
    answer = asked({"das": shares}, {})["das"]["noise"]
    assert answer.verdict == verdict
    assert answer.value == pytest.approx(np.mean(shares) - 0.25)
    if len(set(shares)) > 1:
        interval = stats.ttest_1samp(np.array(shares) - 0.25, 0).confidence_interval(0.95)
        assert answer.interval == pytest.approx((interval.low, interval.high))


def test_gains_are_paired_over_seeds(asked):
    accuracies = {
        "das": [0.90, 0.91, 0.92, 0.93],
        "chance": [0.89, 0.90, 0.905, 0.92],
        "control": [0.94, 0.90, 0.95, 0.91],
        "nothing": [0.5, 0.5, 0.5, 0.5],
    }
    shares = [0.2, 0.21, 0.22, 0.23]
    answers = asked(dict.fromkeys(accuracies, shares), accuracies)
    assert list(answers) == ["das", "chance"]  # the others do not search
    assert answers["das"]["random"].verdict == "yes"
    assert answers["das"]["trivial"].verdict == "can't tell"
    assert "random" not in answers["chance"]
    for control, label in (("random", "chance"), ("trivial", "control")):
        interval = stats.ttest_rel(accuracies["das"], accuracies[label]).confidence_interval(0.95)
        answer = answers["das"][control]
        assert answer.value == pytest.approx(np.mean(accuracies["das"]) - np.mean(accuracies[label]))
        assert answer.interval == pytest.approx((interval.low, interval.high))


def test_what_is_worse_than_a_control_does_not_beat_it(asked):
    answers = asked({"das": [0.2] * 3, "control": [0.2] * 3}, {"das": [0.5, 0.51, 0.5], "control": [0.9, 0.9, 0.91]})
    assert answers["das"]["trivial"].verdict == "no"
    assert "random" not in answers["das"]  # the study has none


def test_policies_that_treat_all_ops_alike_prefer_none(asked):
    answers = asked({"das": [0.25, 0.25, 0.25]}, {})["das"]
    assert answers["agreement"] == Answer("no", pytest.approx(1), chance=pytest.approx(1))


def test_seeds_that_prefer_the_same_ops_agree(search_row):
    random = np.random.default_rng(0)
    ops = ("rotate", "invert", "identity", "equalize", "auto_contrast", "posterize", "solarize", "color")
    rows = [search_row("das", 4, seed) for seed in range(4)]
    alike = {row.id: Applied(1.0, dict(zip(ops, random.dirichlet(np.arange(1, 9) ** 2), strict=True))) for row in rows}
    unlike = {row.id: Applied(1.0, dict(zip(ops, random.dirichlet(np.ones(8)), strict=True))) for row in rows}
    plan = Plan({}, (), (), {4: ops})
    verdicts = [learned(findings(rows, each, plan), [], {})[0].answers["agreement"] for each in (alike, unlike)]
    assert [answer.verdict for answer in verdicts] == ["yes", "can't tell"]
    assert verdicts[0].value > verdicts[0].chance


def test_policies_drawn_by_chance_are_at_0_and_seldom_said_to_avoid_noise(search_row):
    """AutoAugment's random policies, which skip half of their steps: 200 studies of 5 seeds."""
    space = load_study(STUDY).space.at_level(8)
    plan = Plan({}, (), (), {8: space.names})
    verdicts, values = [], []
    for study in range(200):
        rows = [
            replace(search_row("random", 8, seed), uniform_noise_share=space.uniform_noise_share) for seed in range(5)
        ]
        applied = {}
        for row in rows:
            policy = AutoAugmentProposer(space, 1000 * study + row.search_seed, search="random").ask()
            shares = applied_shares(policy)
            rate = sum(shares.values())
            applied[row.id] = Applied(rate, {op: share / rate for op, share in shares.items()})
        [answers] = learned(findings(rows, applied, plan), [], {})
        verdicts.append(answers.answers["noise"].verdict)
        values.append(answers.answers["noise"].value)
    assert abs(np.mean(values)) < 4 * np.std(values) / len(values) ** 0.5
    assert verdicts.count("yes") <= stats.binom.ppf(0.999, 200, 0.05)


def test_the_table_says_verdicts_and_numbers():
    rows = [
        Learned("das", 4, {"noise": Answer("yes", -0.2, (-0.25, -0.15)), "agreement": Answer("yes", 0.8, chance=0.5)}),
        Learned("other", 4, {"noise": Answer("can't tell", 0.0004, None)}),
        Learned("das", 0, {"random": Answer("no", -0.01, (-0.02, -0.00001))}),
    ]
    table = learned_table(rows, 4)
    assert table.columns == ["method", "avoids noise ops?", "seeds agree?"]
    assert table.rows == [
        ["das", "yes\n\N{MINUS SIGN}20.0 (\N{MINUS SIGN}25.0 to \N{MINUS SIGN}15.0)", "yes\n0.80, by chance 0.50"],
        ["other", "can't tell\n0.0", "-"],
    ]
    assert table.frame["noise_low"].tolist()[0] == -0.25
    assert table.frame["agreement_by_chance"].tolist()[0] == 0.5
    assert table.frame["agreement_verdict"].isna().tolist() == [False, True]
    assert answer_text(rows[2].answers["random"]).endswith("to 0.0)")


def test_the_page_has_the_highest_level_first(make_study, tmp_path):
    results = read_results(make_study(), tmp_path)
    assert [table.name for table in learned_tables(results)] == ["learned_4", "found_4", "learned_0", "found_0"]
    page = what_was_learned(results)
    assert page.index("4 noise ops") < page.index("<details><summary>0 noise ops")
    assert "How the questions are answered" in page


@pytest.mark.parametrize(
    "without", [(), ("study.yaml",), ("study.yaml", "policies"), ("finals.jsonl",), ("searches.jsonl",)]
)
def test_a_partial_folder(make_study, tmp_path, without):
    folder = make_study(seeds=(0,), levels=(0,), methods=("das",))
    for name in without:
        (folder.root / name).rename(tmp_path / name)
    page = what_was_learned(read_results(folder, tmp_path))
    assert ("No search is in yet." in page) == ("searches.jsonl" in without)
    assert ("missing or cannot be read: 1." in page) == ("policies" in without)


def test_an_empty_folder(tmp_path):
    assert "No search is in yet." in what_was_learned(read_results(StudyFolder(tmp_path / "nothing"), tmp_path))
