"""What a study promises, and what of it is in."""

import pytest

from dastune.report.plan import progress, read_plan


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "methods: {das_paper: {method: das}, none: }\n"
        "space: {noise: {levels: [0, 8]}}\n"
        "seeds: {search: [3], final: [0, 1]}\n"
    )
    return path


def test_plan(study):
    plan = read_plan(study)
    assert plan.methods == {"das_paper": "das", "none": "none"}
    assert plan.searches == ("das_paper-n0-s3", "das_paper-n8-s3", "none-n0-s3", "none-n8-s3")
    assert len(plan.finals) == 8


def test_kinds_tell_controls_and_published_policies(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "methods: {luck: {method: auto_augment, search: random}, aa: {method: auto_augment, search: tpe},\n"
        "  auto_augment: {}, theirs: {method: published, policy: aa-svhn}}\n"
        "space: {noise: {levels: [8, 0]}}\n"
        "seeds: {search: [3, 4], final: [0]}\n"
    )
    plan = read_plan(path)
    assert plan.methods == {"luck": "random", "aa": "auto_augment", "auto_augment": "auto_augment",
                            "theirs": "published"}  # fmt: skip
    assert plan.published == {"theirs": "aa-svhn"}
    assert [search for search in plan.searches if "theirs" in search] == ["theirs-n8-s3", "theirs-n8-s4"]
    assert len(plan.searches) == 3 * 4 + 2


@pytest.mark.parametrize("text", ["", "[1]", "a: [", "methods: 3", "methods: {das: {}}\nspace: {noise: 4}", "\x00"])
def test_a_study_that_does_not_say(tmp_path, text):
    (tmp_path / "study.yaml").write_text(text)
    assert read_plan(tmp_path / "study.yaml") is None
    assert read_plan(tmp_path / "nowhere.yaml") is None


def test_progress(study, search_row, final_row):
    searches = [
        search_row("das_paper", 0, 3),
        search_row("das_paper", 8, 3, "failed"),
        search_row("none", 0, 3, "held"),
    ]
    finals = [
        final_row(0.9, "das_paper", 0, 3, 0),
        final_row(0.9, "das_paper", 0, 3, 1),
        final_row(0.9, "none", 0, 3, 0),
    ]
    state = progress(read_plan(study), searches, finals)
    assert (state.searches_in, state.finals_in, state.complete) == (2, 3, False)
    assert state.failed == ("das_paper-n8-s3",)
    assert state.cut == ("none-n0-s3",)
    assert state.missing_searches == ("none-n8-s3",)
    assert state.missing_finals == (("none-n0-s3", 1), ("none-n8-s3", 0), ("none-n8-s3", 1))


def test_complete_only_when_the_plan_is_known(study, search_row, final_row):
    searches = [search_row(method, level, 3) for method in ("das_paper", "none") for level in (0, 8)]
    finals = [final_row(0.9, row.method, row.noise_level, 3, seed) for row in searches for seed in (0, 1)]
    assert progress(read_plan(study), searches, finals).complete
    assert not progress(None, searches, finals).complete
