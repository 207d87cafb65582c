"""The answer's sentences hold the numbers, and the limits that go with them."""

import pytest

from dastune.report.answer import answer
from dastune.report.stats import cells, difference


def made(final_row, accuracies, level=4):
    """Cells of method -> accuracies by seed."""
    return [
        final_row(value, method, level, seed)
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def test_best_search_against_controls(final_row):
    finals = made(final_row, {"das": [0.95, 0.93, 0.94], "auto_augment": [0.92] * 3, "random": [0.93, 0.92, 0.94]})
    found = answer(cells([], finals))
    assert "At 4 noise ops, das reaches a mean test accuracy of 94.0 %" in found.findings[0]
    assert "highest mean of 2 budgeted searches (sd 1.0 over 3 search seeds" in found.findings[0]
    assert "das differs by +1.0 points (+0.0 to +2.0) from random; paired over 3 search seeds" in found.findings[1]
    half_width = difference(*cells([], [row for row in finals if row.method != "auto_augment"])).half_width
    assert "n = 3" in found.limits[0]
    assert "25 % of studies" in found.limits[0]
    assert f"exceed {100 * half_width:.1f} points" in found.limits[0]
    assert "picked by the same test accuracies" in found.limits[1]


def test_change_over_noise_levels(final_row):
    finals = made(final_row, {"das": [0.95, 0.93]}, 0) + made(final_row, {"das": [0.93, 0.92]}, 8)
    found = answer(cells([], finals))
    assert "From 0 to 8 noise ops test accuracy changes by -1.5 points (-2.0 to -1.0) for das" in found.findings[2]


def test_one_seed(final_row):
    found = answer(cells([], made(final_row, {"das": [0.9], "none": [0.8]})))
    assert "one search seed, so no spread" in found.findings[0]
    assert "+10.0 points from none" in found.findings[1]
    assert "Where n = 1 there is no spread" in found.limits[0]


def test_no_warning_of_few_seeds_where_there_are_many(final_row):
    values = [0.9 + 0.001 * seed for seed in range(8)]
    found = answer(cells([], made(final_row, {"das": values, "none": values[::-1]})))
    assert not any("seeds" in limit for limit in found.limits)


def test_counts_are_given_where_they_differ(final_row):
    found = answer(
        cells([], made(final_row, {"das": [0.9, 0.91, 0.92], "random": [0.9, 0.9], "none": [0.8, 0.8, 0.8]}))
    )
    assert "n = 2) from random" in found.findings[1]
    assert "n = 3) from none" in found.findings[1]


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
    assert f"-5.0 points (-5.0 to -5.0) from {control}" in found.findings[1]


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
    assert "No control" in found.findings[1]
