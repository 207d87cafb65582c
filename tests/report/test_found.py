"""What searches found, in numbers computed by hand."""

from dataclasses import replace
from itertools import combinations
from math import log

import numpy as np
import pytest

from dastune.folder import StudyFolder, write_atomic
from dastune.policy.policy import Choice, Stages, Step, SubPolicies, SubPolicy, policy_text
from dastune.report.found import Spread, agreement, entropy, findings, total_variation
from dastune.report.page import write_report
from dastune.report.plan import read_plan
from dastune.report.stats import cells
from dastune.report.tables import DEFINITIONS, few_children, found_rows, markdown, table_frame

OPS = (
    "[{op: identity}, {op: rotate}, {op: invert}], noise: {levels: [0, 1], ops: [{op: constant}, {op: pixel_shuffle}]}"
)
STUDY = f"methods: {{das: , none: }}\nspace: {{ops: {OPS}}}\nseeds: {{search: [0, 1, 2], final: [0]}}\n"


def stage(**weights: float) -> Stages:
    steps = {op: Step(op=op, low=0, high=30 if op == "rotate" else 0) for op in weights}
    choices = (Choice(weight=weight, step=steps[op]) for op, weight in weights.items())
    return Stages(stages=(tuple(choices),))


# Over identity, rotate, invert, constant: (0, 3/4, 0, 1/4), (1/4, 1/2, 1/4, 0), (0, 1/2, 1/2, 0).
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


def found(folder):
    return findings(folder, folder.search_rows(), read_plan(folder.study))


def test_entropy_is_in_nats():
    assert entropy({"a": 1.0}) == 0.0
    assert entropy({"a": 0.5, "b": 0.25, "c": 0.25}) == pytest.approx(1.5 * log(2))
    assert entropy(dict.fromkeys("abcde", 0.2)) == pytest.approx(log(5))


def test_total_variation_is_the_share_to_move():
    assert total_variation({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5}) == 0
    assert total_variation({"a": 1.0}, {"b": 1.0}) == 1
    assert total_variation({"a": 0.75, "b": 0.25}, {"b": 0.5, "c": 0.5}) == pytest.approx(0.75)


def test_agreement_is_over_all_pairs():
    one, other, third = {"a": 1.0}, {"a": 0.5, "b": 0.5}, {"b": 1.0}
    assert agreement([one, other, third]) == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert agreement([one, one]) == 1
    assert agreement([one]) is None
    assert agreement([]) is None


def test_agreement_of_many_is_the_mean_over_their_pairs():
    random = np.random.default_rng(0)
    many = [
        dict(zip(random.choice(list("abcdef"), 4, replace=False), random.dirichlet(np.ones(4)), strict=True))
        for _ in range(9)
    ]
    pairs = [1 - total_variation(one, other) for one, other in combinations(many, 2)]
    assert agreement(many) == pytest.approx(sum(pairs) / 36)
    assert agreement([many[0]] * 9) == 1


def test_policies_become_numbers(folder):
    das, none_at_0, none = found(folder)
    assert [(result.method, result.noise_level) for result in (das, none_at_0, none)] == [
        ("das", 1),
        ("none", 0),
        ("none", 1),
    ]
    assert das.noise_mass == Spread(pytest.approx(1 / 12), pytest.approx(0.25 / 3**0.5))
    assert das.uniform_noise_share == 0.25
    entropies = [2 * log(2) - 0.75 * log(3), 1.5 * log(2), log(2)]
    assert das.entropy.mean == pytest.approx(sum(entropies) / 3)
    assert das.uniform_entropy == pytest.approx(log(4))
    # From 1/4 each: (1/4 + 1/2 + 1/4 + 0) / 2, (0 + 1/4 + 0 + 1/4) / 2, (1/4 + 1/4 + 1/4 + 1/4) / 2.
    assert das.distance == Spread(pytest.approx(1.25 / 3), pytest.approx((1 / 48) ** 0.5))
    # Pairs are 1/2, 1/2 and 1/4 apart.
    assert das.agreement == pytest.approx(1 - 1.25 / 3)
    assert das.tau_entropy == Spread(2.0, 1.0)
    assert das.tau_from_start == Spread(0.5, 0.0)


def test_a_control_without_ops(folder):
    _, at_0, at_1 = found(folder)
    for result, ops in ((at_0, 3), (at_1, 4)):
        assert result.entropy == Spread(0.0, 0.0)
        assert result.uniform_entropy == pytest.approx(log(ops))
        assert result.distance.mean == pytest.approx(1 - 1 / ops)
        assert result.agreement == 1
        assert result.tau_entropy == Spread(None, None)


def test_one_seed_has_no_spread_and_no_agreement(folder):
    [row] = [row for row in folder.search_rows() if row.id == "das-n1-s2"]
    [one] = findings(folder, [row], read_plan(folder.study))
    assert one.entropy == Spread(pytest.approx(log(2)), None)
    assert one.agreement is None
    assert found_rows([one])[1] == ["das", "0.0 / 25.0", "0.69 / 1.39", "0.50", "n.a.", "3.00", "0.50"]


def test_what_failed_cannot_be_read_or_is_not_known_is_left_out(folder, search_row):
    rows = [row for row in folder.search_rows() if row.method == "das"]
    failed = replace(rows[0], status="failed", noise_mass=0.0)
    [partly] = findings(folder, [failed, *rows[1:]], None)
    assert partly.noise_mass == Spread(0.0, 0.0)
    assert partly.agreement == pytest.approx(0.75)
    assert (partly.uniform_entropy, partly.distance) == (None, Spread(None, None))
    folder.policy("das-n1-s1").write_text("{}")
    [one] = findings(folder, [failed, *rows[1:]], read_plan(folder.study))
    assert one.entropy == Spread(pytest.approx(log(2)), None)
    assert one.noise_mass.sd == 0.0


def test_tables_hold_them(folder):
    results, made = found(folder), cells(folder.search_rows(), folder.final_rows())
    text = markdown(made, results)
    assert "| das | 8.3 ± 14.4 / 25.0 | 0.77 ± 0.25 / 1.39 | 0.42 ± 0.14 | 0.58 | 2.00 ± 1.00 | 0.50 ± 0.00 |" in text
    assert "| none | 0.0 ± 0.0 / 0.0 | 0.00 ± 0.00 / 1.10 | 0.67 ± 0.00 | 1.00 |\n" in text
    assert text.count("What the searches found, ") == 2
    assert all(definition in text for definition in DEFINITIONS)
    frame = table_frame(made, results)
    assert list(frame["agreement"]) == [result.agreement for result in results]
    assert list(frame["entropy_mean"]) == [result.entropy.mean for result in results]
    assert frame["tau_entropy_mean"].isna().tolist() == [False, True, True]


def test_children_are_counted_and_few_of_them_told(folder, search_row):
    rows = folder.search_rows()
    assert few_children(findings(folder, rows, None)) == ""
    tried = {"aa": [19, 20, 20], "enough": [20, 20, 20], "grid": [4, 4, 4], "short": [0, 0, 0]}
    for method, counts in tried.items():
        for seed, count in enumerate(counts):
            status = "done" if method == "grid" else "budget"
            summary = {"children": float(count)}
            row = replace(search_row(method, 1, seed), children=count, status=status, summary=summary)
            folder.add_search(row)
            write_atomic(folder.root / row.policy, policy_text(POLICIES[seed], {}))
    results = found(folder)
    means = {result.method: result.children for result in results if result.noise_level == 1}
    assert means == {"das": None, "none": None, "aa": pytest.approx(59 / 3), "enough": 20, "grid": 4, "short": 0}
    at_0, at_1 = ([result for result in results if result.noise_level == level] for level in (0, 1))
    assert "children" not in found_rows(at_0)[0]
    assert [row[-1] for row in found_rows(at_1)] == ["children", "-", "-", "19.7", "20.0", "4.0", "0.0"]
    assert few_children(results).startswith(
        "Fewer than 20 children a search: aa 19.7 at 1 noise op, short 0.0 at 1 noise op. "
    )
    for text in (write_report(folder).read_text(), (folder.report / "tables.md").read_text()):
        assert text.count(few_children(results)) == 1
    frame = table_frame(cells(folder.search_rows(), []), results)
    assert frame["children_mean"].tolist()[-4:] == [pytest.approx(59 / 3), 20, 4, 0]


def test_the_page_shows_them_with_what_they_mean(folder):
    page = write_report(folder).read_text()
    assert "<h2>What the searches found</h2>" in page
    assert "<td>8.3 ± 14.4 / 25.0</td><td>0.77 ± 0.25 / 1.39</td><td>0.42 ± 0.14</td><td>0.58</td>" in page
    assert page.count('<th scope="col">agreement</th>') == 2
    assert page.count('<th scope="col">entropy of tau</th>') == 1
    assert "total variation, the share that would have to move" in page


def test_a_study_that_names_its_ops_has_no_uniform_to_compare_with(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    assert read_plan(path).ops == {0: ("identity", "rotate", "invert"), 1: ("identity", "rotate", "invert", "constant")}
    path.write_text("methods: {none: }\nspace: {ops: ra, noise: {levels: [0]}}\nseeds: {search: [0], final: [0]}\n")
    assert read_plan(path).ops == {}
