"""Trials from image to video: what their rows say, and that one seed finds one cell whatever becomes of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dastune.config import StudyConfig
from dastune.data.dataset import Dataset
from dastune.orchestration import trial as trial_module
from dastune.orchestration.grid import Assignment
from dastune.orchestration.setting import final_task
from dastune.policy.policy import Clip

FRAMES = 3
VIDEO: dict[str, Any] = {
    "method": "das_video",
    "frames": FRAMES,
    "topology": "chain-2",
    "tuning_epochs": 1,
    "search_share": 0.3,
}
METHODS: dict[str, dict[str, Any]] = {
    "standard": {},
    "das_aug_s": {**VIDEO, "use": "frame"},
    "reshuffled": {**VIDEO, "use": "shuffled"},
    "copies": {**VIDEO, "evaluation": "copies"},
    "ours": VIDEO,
}


@pytest.fixture
def study(study_of: Callable[..., StudyConfig]) -> StudyConfig:
    return study_of(
        methods=METHODS,
        model={"name": "wide_resnet", "depth": 10, "width": 1},
        space={"ops": "das-video"},
        budget={"steps": 10},
        seeds={"search": [0], "final": [0]},
        final={"epochs": 1},
    )


def test_trials_of_one_seed_share_a_cell_and_say_what_was_tested(study: StudyConfig, alone: Callable[..., Any]) -> None:
    cells, rows = {}, {}
    for label in METHODS:
        done = alone(study, Assignment(label, 0, 0))
        cells[label] = done.policy
        [rows[label]] = [final for report in done.reports for final in report.finals]
        [picture] = [report.picture for report in done.reports if report.picture]
        assert picture
        [fields] = [report.receptive_fields for report in done.reports if report.receptive_fields]
        assert fields.keys() == {0}
    found = {label: cell for label, cell in cells.items() if label != "standard"}
    assert all(isinstance(cell, Clip) for cell in found.values())
    orders = {"das_aug_s": "one", "reshuffled": "shuffled", "copies": "time", "ours": "time"}
    assert {label: cell.order for label, cell in found.items()} == orders
    assert len({cell.model_copy(update={"order": "time"}) for cell in found.values()}) == 1
    tested = {label: (row.frames, row.evaluation) for label, row in rows.items()}
    assert tested == {
        "standard": (1, "image"),
        "das_aug_s": (1, "image"),
        "reshuffled": (FRAMES, "cell"),
        "copies": (FRAMES, "copies"),
        "ours": (FRAMES, "cell"),
    }
    assert rows["das_aug_s"].flops == rows["standard"].flops
    assert rows["das_aug_s"].parameters == rows["standard"].parameters
    assert rows["ours"].flops > FRAMES * rows["standard"].flops
    # Three modules on 4, 8 and 16 of the 16, 32 and 64 channels.
    assert rows["ours"].parameters - rows["standard"].parameters == 29 * (4 + 8 + 16) + 3 * 40


def test_a_receptive_field_that_cannot_be_measured_is_a_note(
    study: StudyConfig, alone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise ValueError("no pixel moves it")

    monkeypatch.setattr(trial_module, "measured", fails)
    done = alone(study, Assignment("standard", 0, 0))
    [report] = [report for report in done.reports if report.finals]
    assert report.receptive_fields == {}
    [note] = report.notes
    assert "the receptive field of its final training with seed 0 cannot be measured" in note
    assert "ValueError: no pixel moves it" in note
    assert not any("receptive_field_half" in point.values for each in done.reports for point in each.points)


def test_elsewhere_none_is_measured(study_of: Callable[..., StudyConfig], alone: Callable[..., Any]) -> None:
    done = alone(study_of(), Assignment("none", 0, 0))
    assert all(report.receptive_fields == {} for report in done.reports)


def test_only_methods_with_clips_have_networks_that_read_them(study: StudyConfig, dataset: Dataset) -> None:
    frames = {
        label: final_task(study, Assignment(label, 0, 0), dataset, torch.device("cpu")).frames for label in METHODS
    }
    assert frames == {"standard": 1, "das_aug_s": 1, "reshuffled": FRAMES, "copies": FRAMES, "ours": FRAMES}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": {"name": "small_cnn"}}, "needs a network of residual blocks"),
        ({"space": {"ops": ["identity", "invert"]}}, "needs a space whose ops move frames"),
        ({"space": {"ops": "das-video", "noise": {"levels": [0, 1]}}}, "needs a space whose ops move frames"),
        ({"methods": {"das_video": {"topology": {"join": "sum"}}}}, "must be mean for das_video"),
        ({"methods": {"das_video": {"selection": "distribution"}}}, "perturbation"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], fault: str, study_of: Callable[..., StudyConfig]) -> None:
    legal = {"methods": {"das_video": {}}, "model": {"name": "wide_resnet"}, "space": {"ops": "das-video"}}
    study_of(**legal)
    with pytest.raises(ValueError, match=fault):
        study_of(**{**legal, **changes})
