"""The answer's sentences hold the numbers, and the limits that go with them."""

import re

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from dastune.report.answer import answer, best_search
from dastune.report.stats import cells


def made(final_row, accuracies, level=4):
    """Cells of method -> accuracies by seed."""
    return [
        final_row(value, method, level, seed)
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


DAS, RANDOM = [0.95, 0.93, 0.94], [0.93, 0.92, 0.94]  # differences 0.02, 0.01, 0: mean 0.01, sd 0.01


def test_best_search_against_controls(final_row):
    finals = made(
        final_row, {"das": DAS, "auto_augment": [0.92, 0.93, 0.91], "random": RANDOM, "none": [0.8, 0.7, 0.8]}
    )
    found = answer(cells([], finals))
    low, high = stats.t.interval(0.95, 2, 94.0, stats.sem(DAS) * 100)
    assert "At 4 noise ops, das reaches a mean test accuracy of 94.0 %" in found.findings[0]
    assert "highest mean of 2 budgeted searches (sd 1.0 over 3 search seeds" in found.findings[0]
    assert f"95 % interval of the mean {low:.1f} to {high:.1f})" in found.findings[0]
    low, high = stats.ttest_rel(DAS, RANDOM).confidence_interval()
    interval = typeset(f"95 % interval of this one {100 * low:+.1f} to {100 * high:+.1f}, paired over 3 search seeds")
    assert f"das differs by +1.0 points ({interval}) from random, the best of 2 controls" in found.findings[1]
    told = "no difference from a control can be told from chance (p < 0.05, after Holm's correction over 4 comparisons)"
    assert told in found.findings[1]
    assert "picked by the same test accuracies" in found.limits[1]


def typeset(text):
    """Return a text with typographic minus signs, as the page has them."""
    return text.replace("-", "\N{MINUS SIGN}")


def test_what_chance_is_ruled_out_for(final_row):
    rng = np.random.default_rng(0)
    base = 0.9 + 0.001 * rng.standard_normal(6)
    near, far = base + 0.001 * rng.standard_normal(6), base - 0.1 + 0.001 * rng.standard_normal(6)
    some = answer(cells([], made(final_row, {"das": base, "random": near, "none": far})))
    assert stats.ttest_rel(base, near).pvalue > 0.05
    difference = 100 * np.mean(base - far)
    expected = f"its differences from none ({difference:+.1f}) can be told from chance, those from random cannot"
    assert f"{expected} (p < 0.05, after Holm's correction over 2 comparisons)." in some.findings[1]
    every = answer(cells([], made(final_row, {"das": base, "none": far})))
    assert "the only control; this can be told from chance (p < 0.05)." in every.findings[1]


def test_change_over_noise_levels(final_row):
    """Seeds change by -2 and -1 points over 8 ops; t of one degree of freedom is 12.706."""
    finals = made(final_row, {"das": [0.95, 0.93]}, 0) + made(final_row, {"das": [0.93, 0.92]}, 8)
    finals += made(final_row, {"auto_augment": [0.9, 0.8]}, 0) + made(final_row, {"auto_augment": [0.82, 0.72]}, 8)
    found = answer(cells([], finals))
    half = 12.7062 * np.std([-2 / 8, -1 / 8], ddof=1) / np.sqrt(2)
    text = typeset(f"test accuracy of das by -0.19 points ({-1.5 / 8 - half:+.2f} to {-1.5 / 8 + half:+.2f})")
    assert text in found.findings[2]
    slope = 100 * (np.std([0.93, 0.92], ddof=1) - np.std([0.95, 0.93], ddof=1)) / 8
    assert typeset(f"its sd over seeds by {slope:+.2f} (") in found.findings[2]
    assert typeset("accuracy of the other searches: auto_augment -1.00.") in found.findings[2]


def test_one_seed(final_row):
    found = answer(cells([], made(final_row, {"das": [0.9], "none": [0.8]})))
    assert "one search seed, so no spread" in found.findings[0]
    assert "das differs by +10.0 points (one seed) from none, the only control." in found.findings[1]
    assert "Where n = 1 there is no spread" in found.limits[0]
    assert not re.search("nan|None", str(found))


def test_what_could_have_been_detected(final_row):
    found = answer(cells([], made(final_row, {"das": DAS, "random": RANDOM})))
    error = stats.sem(np.subtract(DAS, RANDOM))
    # 3 seeds: 80 % of a noncentral t of 2 degrees of freedom are above 4.303
    shift = brentq(lambda shift: stats.nct.sf(stats.t.isf(0.025, 2), 2, shift) - 0.8, 0, 20)
    assert (
        f"3 seeds tell a true difference of {100 * shift * error:.1f} points from chance in 80 % of studies"
        in found.limits[0]
    )
    # an effect of one sd, seen or 1 point, takes 10 pairs, as tables of power have it
    assert "it takes 10 seeds, for 1 point 10." in found.limits[0]
    many = answer(cells([], made(final_row, {"das": DAS, "random": RANDOM, "none": RANDOM, "auto_augment": RANDOM})))
    assert "after Holm's correction) from chance in 80 %" in many.limits[0]


def test_without_controls_the_next_search_is_what_could_have_been_told_apart(final_row):
    found = answer(cells([], made(final_row, {"das": DAS, "auto_augment": RANDOM})))
    assert "There is no control" in found.findings[1]
    assert found.limits[0].startswith("Between das and auto_augment, 3 seeds tell")


def test_few_shared_seeds(final_row):
    finals = made(final_row, {"das": DAS}) + [
        final_row(value, "none", 4, seed + 7) for seed, value in enumerate(RANDOM)
    ]
    assert "Welch's test, for few seeds are shared) from none" in answer(cells([], finals)).findings[1]
    flat = made(final_row, {"das": DAS}) + [final_row(0.9, "none", 4, seed) for seed in (7, 8, 9)]
    assert (
        "differs by +4.0 points (without a spread) from none, the only control." in answer(cells([], flat)).findings[1]
    )


def test_an_odd_study(final_row):
    """Levels and seeds that do not match, and the same result everywhere."""
    finals = made(final_row, {"das": [0.9] * 3, "none": [0.9] * 3}) + made(final_row, {"random": [0.9]}, level=8)
    found = answer(cells([], finals))
    assert "(sd 0.0 over 3 search seeds)" in found.findings[0]
    assert "das differs by 0.0 points (the same with each of 3 search seeds) from none" in found.findings[1]
    assert not re.search("nan|None", str(found))


def test_labels_of_controls_come_from_the_study(final_row):
    rows = cells([], made(final_row, {"das": [0.9, 0.9], "luck": [0.95, 0.95]}))
    assert ", luck reaches" in answer(rows).findings[0]
    assert ", das reaches" in answer(rows, {"luck": "random"}).findings[0]


def test_published_policies_are_neither_rivals_nor_controls(final_row):
    own = made(final_row, {"das": [0.9, 0.91], "random": [0.89, 0.9]})
    theirs = made(final_row, {"theirs": [0.99, 0.99]}) + made(final_row, {"theirs": [0.98, 0.98]}, level=0)
    kinds = {"theirs": "published"}
    assert answer(cells([], own + theirs), kinds) == answer(cells([], own))
    assert "theirs" in str(answer(cells([], own + theirs)))
    only = answer(cells([], theirs), kinds)
    assert only.findings == ("Only published policies, found elsewhere, have final trainings; nothing is compared.",)
    controls = answer(cells([], made(final_row, {"none": [0.9]}) + theirs), kinds)
    assert "Only controls" in controls.findings[0]


@pytest.mark.parametrize("control", ["none", "standard", "uniform", "trivial", "random"])
def test_controls_are_what_a_search_is_held_against(final_row, control):
    found = answer(cells([], made(final_row, {"das": [0.9, 0.9], control: [0.95, 0.95]})))
    assert "das reaches" in found.findings[0]
    assert f"\N{MINUS SIGN}5.0 points (the same with each of 2 search seeds) from {control}" in found.findings[1]


@pytest.mark.parametrize(("methods", "text"), [({}, "nothing to compare"), ({"none": [0.9]}, "Only controls")])
def test_nothing_to_say(final_row, methods, text):
    assert text in answer(cells([], made(final_row, methods))).findings[0]


def test_a_study_of_controls_waits_for_no_search(final_row):
    tested = cells([], made(final_row, {"none": [0.9], "wide": [0.95]}))
    of_controls = answer(tested, {"none": "none", "wide": "trivial", "theirs": "published"}, partial=False)
    assert of_controls.findings == ("Only controls are compared in this study: nothing in it learns what to apply.",)
    waiting = answer(tested, {"none": "none", "wide": "trivial", "das": "das"}, partial=True)
    assert waiting.findings == ("Only controls have final trainings so far; no search can be compared with them yet.",)


def test_partial(final_row):
    found = answer(cells([], made(final_row, {"das": [0.9, 0.8]})), partial=True)
    assert any("may change" in limit for limit in found.limits)
    assert "There is no control" in found.findings[1]


def test_the_best_search_and_what_it_is_held_against(final_row):
    finals = made(final_row, {"das": DAS, "auto_augment": RANDOM, "random": RANDOM, "none": [0.95, 0.96, 0.97]})
    finals += made(final_row, {"rand_augment": [0.99, 0.98]}, level=0)
    best = best_search(cells([], finals), {})
    assert (best.cell.method, best.cell.level, best.rivals) == ("das", 4, 2)
    assert [(item.one, item.other) for item in best.others] == [
        ("das", "none"),
        ("das", "random"),
        ("das", "auto_augment"),
    ]
    # auto_augment and random have the same numbers, which is no test
    assert best.tests == {"none": 3, "random": 3, "auto_augment": 1}
    other = best_search(cells([], finals), {"das": "uniform"})  # where its comparison is turned round
    assert [(item.other, round(item.difference, 3)) for item in other.controls] == [
        ("none", -0.03), ("das", -0.01), ("random", 0.0),
    ]  # fmt: skip
    assert best_search(cells([], made(final_row, {"none": [0.9]})), {}) is None
