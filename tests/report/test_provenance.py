"""Provenance: what a study was, what it met, and where it is not as the paper; commands that are safe to paste."""

import html
import json
import re
import shlex

import pytest
import yaml

from dastune.config import load_study
from dastune.report.protocol import budget_text, deviations, model_text
from dastune.report.results import read_results
from dastune.report.sections.provenance import provenance, provenance_tables

WIDE = {"name": "wide_resnet", "depth": 28, "width": 10}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def commands(folder):
    """Return the lines of the box of commands."""
    page = provenance(read_results(folder))
    box = re.search(r"Reproduce this</h3>.*?<pre[^>]*><code>(.*?)</code>", page, flags=re.DOTALL)[1]
    return html.unescape(box).splitlines()


def with_env(folder, **env):
    folder.env.write_text(json.dumps(env))
    return folder


def test_commands(make_study):
    folder = with_env(make_study(methods=()), commit=COMMIT, versions={"dastune": "0.1.0"})
    assert commands(folder) == [
        f"git checkout {COMMIT} && pip install .",
        "dastune run digits/study.yaml --output repeated",
        "dastune report digits",
    ]
    assert commands(with_env(folder, commit=None, versions={"dastune": "0.1.0"}))[0] == "pip install dastune==0.1.0"
    assert len(commands(with_env(folder))) == 2


@pytest.mark.parametrize("name", ["a b", "$(reboot)", "-x", "a'b", "é;ls"])
def test_a_strangers_names_are_quoted(make_study, name):
    folder = with_env(make_study(name=name, methods=()), commit="x; reboot", versions={"dastune": "1; reboot"})
    run, report = commands(folder)
    expected = f"./{name}" if name.startswith("-") else name
    assert shlex.split(run) == ["dastune", "run", f"{expected}/study.yaml", "--output", "repeated"]
    assert shlex.split(report) == ["dastune", "report", expected]


def test_changes_that_are_in_no_commit_are_told(make_study):
    folder = with_env(make_study(methods=()), commit=f"{COMMIT}+")
    assert commands(folder)[0] == f"git checkout {COMMIT} && pip install ."
    assert "The code had changes that are in no commit" in provenance(read_results(folder))


def test_a_resolved_study_can_be_run_from_its_file(make_study):
    """`dastune run NAME/study.yaml` reads what a study writes."""
    folder = make_study(methods=())
    resolved = load_study("digits_noise")
    folder.study.write_text(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False))
    assert load_study(folder.study).model_dump() == resolved.model_dump()


def test_the_paper_s_own_protocol_leaves_only_what_it_does_not_say(make_study):
    study = {
        "data": {"name": "cifar10", "train_images": None, "validation_images": None, "shift": []},
        "model": {"name": "wide_resnet", "depth": 28, "width": 2},
        "space": {"noise": {"levels": [0]}},
        "methods": {"das": {"method": "das", "preset": "paper"}, "none": {"method": "none"}},
        "budget": {"gpu_hours": 24, "cpu_hours": None, "steps": None},
        "seeds": {"search": [0, 1, 2, 3, 4], "final": [0]},
        "final": {"epochs": 90},
    }
    assert deviations(study) == []


def test_each_difference_is_told():
    study = load_study("digits_noise").model_dump(mode="json")
    told = {found.point: found.study for found in deviations(study)}
    assert told == {
        "data": "digits",
        "training images": "150",
        "network": "small_cnn",
        "budget of a search": "0.0022 CPU-hours",
        "runs of a search": "3",
        "what searches train on": "all but the validation images, and 400 others to validate on",
        "noise ops": "levels 0, 4, 8; study.yaml names them",
        "DAS, das": "preset default",
        "epochs of a final training": "150",
    }
    told = {found.point: found.study for found in deviations(load_study("cifar10_noise").model_dump(mode="json"))}
    assert [*told] == ["what searches train on", "noise ops", "DAS, das", "epochs of a final training"]


VIDEO = {
    "data": {"name": "cifar10"},
    "model": {"name": "resnet", "depth": 18, "stem": "imagenet"},
    "methods": {"standard": {}, "das_video": {"preset": "paper", "frames": 8, "evaluation": "cell", "use": "clip"}},
    "budget": {"steps": 100},
    "seeds": {"search": [0], "final": [1]},
    "final": {"epochs": 90, "batch_size": 96, "learning_rate": 0.1, "weight_decay": 1e-4, "schedule": "step"},
}
OPEN = {
    "budget of a search": "100 steps",
    "runs": "searches 0; final trainings of each 1",
    "what networks of clips are tested on": "clips of the found cell",
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {}),
        ({"data": {"name": "digits", "train_images": 9}}, {"data": "digits", "training images": "9"}),
        ({"model": {"name": "wide_resnet", "depth": 10, "width": 1}}, {"network": "WRN-10-1"}),
        ({"model": {**VIDEO["model"], "stem": "small"}}, {"network": "ResNet-18 (small stem)"}),
        ({"final": {**VIDEO["final"], "epochs": 3}}, {"epochs of a final training": "3"}),
        (
            {"final": {**VIDEO["final"], "schedule": "cosine", "weight_decay": 0.0}},
            {"recipe": "batch size 96, learning rate 0.1, weight decay 0, schedule cosine"},
        ),
        (
            {"methods": {"mine": {"method": "das_video", "preset": "default", "frames": 4, "evaluation": "copies"}}},
            {"DAS, mine": "preset default", "frames, mine": "4", "what networks of clips are tested on": "copies"},
        ),
    ],
)
def test_a_study_from_image_to_video_is_held_against_tables_9_and_10(changes, told):
    found = {found.point: found.study for found in deviations({**VIDEO, **changes})}
    assert found == OPEN | told


@pytest.mark.parametrize("name", ["cifar10_video", "cifar100_video", "tiny_imagenet_video", "table10"])
def test_the_shipped_studies_of_clips_are_as_table_9(name):
    assert {found.point for found in deviations(load_study(name).model_dump(mode="json"))} == OPEN.keys()


@pytest.mark.parametrize(
    ("study", "model", "budget"),
    [
        ({"model": {"name": "resnet", "depth": 50}, "budget": {"steps": 9}}, "ResNet-50", "9 steps"),
        ({"model": WIDE, "budget": {"steps": 12000}}, "WRN-28-10", "12,000 steps"),
        ({"model": {"name": "small_cnn", "channels": 4}, "budget": {"gpu_hours": 1.5}}, "small_cnn", "1.5 GPU-hours"),
        ({"model": {"name": "wide_resnet", "depth": "28"}, "budget": {"steps": True}}, "wide_resnet", "not said"),
        ({"model": [], "budget": {"cpu_hours": 10**400}}, "not said", "not said"),
        ({}, "not said", "not said"),
    ],
)
def test_words_for_a_study(study, model, budget):
    assert (model_text(study), budget_text(study)) == (model, budget)


@pytest.mark.parametrize(
    "study",
    [
        {"data": 1, "model": None, "space": [], "methods": [1], "budget": "x", "seeds": {"search": 7}, "final": {}},
        {
            "methods": {"das_video": {"frames": [1], "preset": {}, "use": 3, "evaluation": []}},
            "final": [3],
            "data": {"name": []},
        },
        {"methods": {"das_video": 7, "x": {"method": "das_video"}}, "final": {"epochs": "x", "batch_size": True}},
        {"methods": {1: None, "das": 3, "a": {"method": "das", "preset": [1]}}, "seeds": {"search": [[]] * 999}},
        {"space": {"noise": {"levels": [{"a": "x" * 10**5}] * 50}}, "data": {"train_images": float("inf")}},
    ],
)
def test_any_study_file_is_put_into_short_words(study):
    assert all(len(found.study) < 150 and len(found.point) < 100 for found in deviations(study))


def test_without_a_study_nothing_is_claimed(make_study):
    folder = make_study(methods=())
    folder.study.write_text("[")
    results = read_results(folder)
    assert provenance_tables(results) == []
    page = provenance(results)
    assert "Not known: study.yaml cannot be read." in page
    assert "There is no ledger" in page
