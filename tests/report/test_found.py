"""What searches found, in numbers computed by hand."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, permutations
from math import log

import numpy as np
import pytest
from scipy.stats import binom

from dastune.folder import StudyFolder, write_atomic
from dastune.policy.policy import Choice, Stages, Step, SubPolicies, SubPolicy, policy_text
from dastune.report.combined import table_frame
from dastune.report.found import (
    Agreement,
    Applied,
    Spread,
    agreement,
    chance_agreement,
    entropy,
    findings,
    read_applied,
    total_variation,
)
from dastune.report.markup import html
from dastune.report.plan import Plan, read_plan
from dastune.report.results import read_results
from dastune.report.sections.learned import what_was_learned
from dastune.report.stats import cells
from dastune.report.tables import DEFINITIONS, few_children, found_rows

OPS = (
    "[{op: identity}, {op: rotate}, {op: invert}], noise: {levels: [0, 1], ops: [{op: constant}, {op: pixel_shuffle}]}"
)
STUDY = f"methods: {{das: , none: }}\nspace: {{ops: {OPS}}}\nseeds: {{search: [0, 1, 2], final: [0]}}\n"


def stage(**weights: float) -> Stages:
    steps = {op: Step(op=op, low=0, high=30 if op == "rotate" else 0) for op in weights}
    choices = (Choice(weight=weight, step=steps[op]) for op, weight in weights.items())
    return Stages(stages=(tuple(choices),))


# Over identity, rotate, invert, constant: (0, 3/4, 0, 1/4), (0, 2/3, 1/3, 0), (0, 1/2, 1/2, 0).
POLICIES = {
    0: stage(rotate=3, constant=1),
    1: SubPolicies(
        sub_policies=(SubPolicy(steps=(Step(op="rotate", high=30), Step(op="invert", probability=0.5)), weight=1),)
    ),
    2: stage(rotate=2, invert=2),
}


@pytest.fixture
def folder(tmp_path, search_row, final_row):
    folder = StudyFolder(tmp_path / "study")
    write_atomic(folder.study, STUDY)
    for method, level in (("das", 1), ("none", 1), ("none", 0)):
        for seed, policy in POLICIES.items():
            if method == "none" and seed == 2:
                continue
            noise = 0.25 if method == "das" and seed == 0 else 0.0
            summary = {"tau_entropy": 1.0 + seed, "tau_from_start": 0.5} if method == "das" else {}
            row = replace(
                search_row(method, level, seed),
                noise_mass=noise,
                uniform_noise_share=level / 4,
                summary=summary,
                children=0,
            )
            folder.add_search(row)
            folder.add_final(final_row(0.9, method, level, seed))
            write_atomic(folder.root / row.policy, policy_text(Stages() if method == "none" else policy, {}))
    return folder


def found(folder, rows=None, plan=True):
    rows = folder.search_rows() if rows is None else rows
    return findings(rows, read_applied(folder, rows), read_plan(folder.study) if plan else None)


def array(*many):
    """Return shares as rows of an array."""
    ops = sorted({op for shares in many for op in shares})
    return np.array([[shares.get(op, 0.0) for op in ops] for shares in many])


def test_entropy_is_in_nats():
    assert entropy({"a": 1.0}) == 0.0
    assert entropy({"a": 0.5, "b": 0.25, "c": 0.25}) == pytest.approx(1.5 * log(2))
    assert entropy(dict.fromkeys("abcde", 0.2)) == pytest.approx(log(5))


def test_total_variation_is_the_share_to_move():
    assert total_variation({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5}) == 0
    assert total_variation({"a": 1.0}, {"b": 1.0}) == 1
    assert total_variation({"a": 0.75, "b": 0.25}, {"b": 0.5, "c": 0.5}) == pytest.approx(0.75)


def test_total_variation_does_not_depend_on_the_order_of_sets():
    """Which differs from process to process; the exact sum, rounded once, does not."""
    for one, other in combinations(random_shares(np.random.default_rng(1)), 2):
        exact = sum(Fraction(abs(one.get(op, 0.0) - other.get(op, 0.0))) for op in one.keys() | other.keys())
        assert total_variation(one, other) == float(exact) / 2


def test_agreement_is_over_all_pairs():
    one, other, third = {"a": 1.0}, {"a": 0.5, "b": 0.5}, {"b": 1.0}
    assert agreement(array(one, other, third)) == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert agreement(array(one, one)) == 1


def random_shares(random, seeds=9):
    """Return the shares of four of six ops in each of several policies."""
    return [
        dict(zip(random.choice(list("abcdef"), 4, replace=False), random.dirichlet(np.ones(4)), strict=True))
        for _ in range(seeds)
    ]


def test_agreement_of_many_is_the_mean_over_their_pairs():
    many = random_shares(np.random.default_rng(0))
    pairs = [1 - total_variation(one, other) for one, other in combinations(many, 2)]
    assert agreement(array(*many)) == pytest.approx(sum(pairs) / 36)
    assert agreement(array(*[many[0]] * 9)) == 1
    assert agreement(np.stack([array(*many)] * 2)) == pytest.approx([sum(pairs) / 36] * 2)


def test_agreement_by_chance_is_the_mean_over_all_ways_to_deal_shares_out():
    one, other = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.7, 0.1, 0.1, 0.1])
    every = [np.minimum(one, dealt).sum() for dealt in permutations(other)]
    assert chance_agreement(np.stack([one, other])) == pytest.approx(np.mean(every))
    random = np.random.default_rng(1)
    shares = array(*random_shares(random, seeds=4))
    dealt = agreement(random.permuted(np.broadcast_to(shares, (20_000, *shares.shape)), axis=-1))
    assert chance_agreement(shares) == pytest.approx(dealt.mean(), abs=4 * dealt.std() / 20_000**0.5)
    assert chance_agreement(np.full((3, 5), 0.2)) == pytest.approx(1)


@pytest.mark.parametrize("planted", [False, True])
def test_the_p_value_finds_what_is_planted_and_cries_wolf_seldom(search_row, planted):
    """200 studies of three searches, whose policies prefer ops by chance, or all the same one by 30 points."""
    random, low = np.random.default_rng(2), 0
    ops = ["invert", "equalize", "auto_contrast", "identity", "constant", "pixel_shuffle", "row_shuffle", "rotate"]
    plan = Plan({}, (), (), {0: tuple(ops)})
    for _ in range(200):
        applied, rows = {}, [search_row(seed=seed) for seed in range(3)]
        for row in rows:
            shares = random.dirichlet(np.ones(8))
            if planted:
                shares = 0.7 * shares + 0.3 * np.eye(8)[3]
            applied[row.id] = Applied(1.0, dict(zip(ops, shares, strict=True)))
        [one] = findings(rows, applied, plan)
        low += one.agreement.p_value <= 0.05
    if planted:
        assert low > 150
    else:
        assert 0 < low <= binom.ppf(0.999, 200, 0.05)


def test_policies_become_numbers(folder):
    das, none_at_0, none = found(folder)
    assert [(result.method, result.level) for result in (das, none_at_0, none)] == [
        ("das", 1),
        ("none", 0),
        ("none", 1),
    ]
    assert das.noise_mass == Spread(pytest.approx(1 / 12), pytest.approx(0.25 / 3**0.5))
    assert das.uniform_noise_share == 0.25
    assert das.rate == Spread(pytest.approx(11 / 12), pytest.approx(0.25 / 3**0.5))
    assert das.noise_shares == {0: 0.25, 1: 0.0, 2: 0.0}
    assert das.mean_shares == pytest.approx({"rotate": 23 / 36, "invert": 5 / 18, "constant": 1 / 12})
    assert das.unread == 0
    entropies = [2 * log(2) - 0.75 * log(3), log(3) - 2 / 3 * log(2), log(2)]
    assert das.entropy.mean == pytest.approx(sum(entropies) / 3)
    assert das.uniform_entropy == pytest.approx(log(4))
    # From 1/4 each: (1/4 + 1/2 + 1/4 + 0) / 2, (1/4 + 5/12 + 1/12 + 1/4) / 2, (1/4 + 1/4 + 1/4 + 1/4) / 2.
    assert das.distance == Spread(pytest.approx(0.5), pytest.approx(0))
    # Pairs are 1/3, 1/2 and 1/6 apart.
    assert das.agreement.observed == pytest.approx(2 / 3)
    assert das.tau_entropy == Spread(2.0, 1.0)
    assert das.tau_from_start == Spread(0.5, 0.0)


def test_a_control_without_ops(folder):
    _, at_0, at_1 = found(folder)
    for result, ops in ((at_0, 3), (at_1, 4)):
        assert result.rate == Spread(0.0, 0.0)
        assert result.entropy == result.distance == result.tau_entropy == Spread(None, None)
        assert result.uniform_entropy == pytest.approx(log(ops))
        assert result.agreement is None
        assert result.noise_shares == result.mean_shares == {}


def test_policies_that_prefer_no_op_are_uniform_however_much_they_skip(folder, search_row):
    """UniformAugment skips half of its steps."""
    steps = [Step(op=op, high=30 if op == "rotate" else 0) for op in ("identity", "rotate", "invert", "constant")]
    stage = tuple(Choice(weight=1, step=step.model_copy(update={"probability": 0.5})) for step in steps)
    rows = [replace(search_row("uniform", 1, seed), uniform_noise_share=0.25) for seed in range(2)]
    for row in rows:
        write_atomic(folder.root / row.policy, policy_text(Stages(stages=(stage, stage)), {}))
    [uniform] = found(folder, rows)
    assert uniform.rate.mean == pytest.approx(0.5)
    assert uniform.distance.mean == pytest.approx(0)
    assert uniform.entropy.mean == pytest.approx(log(4))
    assert uniform.noise_shares == pytest.approx({0: 0.25, 1: 0.25})
    assert (uniform.agreement.observed, uniform.agreement.chance) == pytest.approx((1, 1))
    assert uniform.agreement.p_value == 1


def test_one_seed_has_no_spread_and_no_agreement(folder):
    [row] = [row for row in folder.search_rows() if row.id == "das-n1-s2"]
    [one] = found(folder, [row])
    assert one.entropy == Spread(pytest.approx(log(2)), None)
    assert one.agreement is None
    assert found_rows([one])[1] == ["das", "0.0 / 25.0", "0.69 / 1.39", "0.50", "-", "3.00", "0.50"]


def test_what_failed_cannot_be_read_or_is_not_known_is_left_out(folder, search_row):
    rows = [row for row in folder.search_rows() if row.method == "das"]
    failed = replace(rows[0], status="failed", noise_mass=0.0)
    [partly] = found(folder, [failed, *rows[1:]], plan=False)
    assert partly.noise_mass == Spread(0.0, 0.0)
    assert partly.agreement == Agreement(pytest.approx(5 / 6), None, None)
    assert (partly.uniform_entropy, partly.distance) == (None, Spread(None, None))
    folder.policy("das-n1-s1").write_text("{}")
    [one] = found(folder, [failed, *rows[1:]])
    assert one.entropy == Spread(pytest.approx(log(2)), None)
    assert one.noise_mass.sd == 0.0
    assert one.unread == 1


def test_tables_hold_them(folder):
    results, made = found(folder), cells(folder.search_rows(), folder.final_rows())
    titles, das, none = found_rows([results[0], results[2]])
    assert titles[:4] == ["method", "applied, %", "noise ops, % / uniform", "entropy / uniform"]
    chance = results[0].agreement.chance
    assert das == [
        *("das", "91.7 ± 14.4", "8.3 ± 14.4 / 25.0", "0.63 ± 0.07 / 1.39", "0.50 ± 0.00", f"0.67 / {chance:.2f}"),
        *("2.00 ± 1.00", "0.50 ± 0.00"),
    ]
    assert none == ["none", "0.0 ± 0.0", "- / 25.0", "- / 1.39", "-", "-", "-", "-"]
    frame = table_frame(made, results)
    assert frame["agreement"].tolist()[0] == results[0].agreement.observed
    assert frame["entropy_mean"].tolist()[0] == results[0].entropy.mean
    assert frame["tau_entropy_mean"].isna().tolist() == [False, True, True]


def test_without_noise_ops_there_is_no_column_of_them(folder):
    at_0 = [result for result in found(folder) if result.level == 0]
    assert found_rows(at_0)[0] == ["method", "entropy / uniform", "from uniform", "agreement / chance"]


def test_children_are_counted_and_few_of_them_told(folder, search_row):
    rows = folder.search_rows()
    assert few_children(found(folder, rows, plan=False)) == ""
    tried = {"aa": [19, 20, 20], "enough": [20, 20, 20], "grid": [4, 4, 4], "short": [0, 0, 0]}
    for method, counts in tried.items():
        for seed, count in enumerate(counts):
            status = "done" if method == "grid" else "budget"
            summary = {"children": float(count)}
            row = replace(search_row(method, 1, seed), children=count, status=status, summary=summary)
            folder.add_search(row)
            write_atomic(folder.root / row.policy, policy_text(POLICIES[seed], {}))
    results = found(folder)
    means = {result.method: result.children for result in results if result.level == 1}
    assert means == {"das": None, "none": None, "aa": pytest.approx(59 / 3), "enough": 20, "grid": 4, "short": 0}
    at_0, at_1 = ([result for result in results if result.level == level] for level in (0, 1))
    assert "children" not in found_rows(at_0)[0]
    assert [row[-1] for row in found_rows(at_1)] == ["children", "-", "-", "19.7", "20.0", "4.0", "0.0"]
    assert few_children(results).startswith(
        "Fewer than 20 children a search: aa 19.7 at 1 noise op, short 0.0 at 1 noise op. "
    )
    assert what_was_learned(read_results(folder)).count(few_children(results)) == 1
    frame = table_frame(cells(folder.search_rows(), []), results)
    assert frame["children_mean"].tolist()[-4:] == [pytest.approx(59 / 3), 20, 4, 0]


def test_the_page_shows_them_with_what_they_mean(folder):
    page = what_was_learned(read_results(folder))
    assert "<td>8.3 ± 14.4 / 25.0</td><td>0.63 ± 0.07 / 1.39</td><td>0.50 ± 0.00</td>" in page
    assert page.count('<th scope="col">agreement / chance</th>') == 2
    assert page.count('<th scope="col">tau&#x27;s entropy</th>') == 1
    assert all(html(definition) in page for definition in DEFINITIONS)


def test_a_study_that_names_its_ops_has_no_uniform_to_compare_with(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    assert read_plan(path).ops == {0: ("identity", "rotate", "invert"), 1: ("identity", "rotate", "invert", "constant")}
    path.write_text("methods: {none: }\nspace: {ops: ra, noise: {levels: [0]}}\nseeds: {search: [0], final: [0]}\n")
    assert read_plan(path).ops == {}
