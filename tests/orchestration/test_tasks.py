"""The recipes of a study reach the tasks of its searches and final trainings."""

from collections.abc import Callable

import pytest
import torch

from dastune.augment.standard import StandardAugmentation
from dastune.config import StudyConfig
from dastune.data.dataset import Dataset
from dastune.orchestration import setting
from dastune.orchestration.grid import Assignment
from dastune.search.table import Setting
from dastune.training.optim import Recipe

CPU = torch.device("cpu")


def test_searches_and_final_trainings_have_their_own_recipe(
    study_of: Callable[..., StudyConfig], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    found: list[Setting] = []
    monkeypatch.setattr(setting, "build_search", lambda _, its: found.append(its))
    training = {"batch_size": 20, "learning_rate": 0.3, "momentum": 0.5, "weight_decay": 0.2, "schedule": "step"}
    study = study_of(
        methods={"none": None},
        training={**training, "precision": "auto", "gradient_clip": 5, "child_epochs": 1},
        final={"batch_size": 30, "precision": "float32", "epochs": 1},
    )
    assignment = Assignment("none", 0, 0)
    setting.search_of(study, assignment, dataset, CPU)
    task = found[0].task
    assert task.recipe == Recipe(20, 0.3, 0.5, 0.2, "step", 5)
    assert task.precision == "bfloat16"  # what auto means here
    task = setting.final_task(study, assignment, dataset, CPU)
    assert task.recipe == Recipe(30, 0.3, 0.5, 0.2, "step", 5)
    assert task.precision == "float32"


def test_only_none_goes_without_standard_augmentation(study_of: Callable[..., StudyConfig], dataset: Dataset) -> None:
    methods = {"none": None, "standard": None, "trivial": None}
    study = study_of(methods=methods, standard={"crop_px": 2, "flip": True})
    standard = {label: setting.final_task(study, Assignment(label, 0, 0), dataset, CPU).standard for label in methods}
    assert standard["none"] == StandardAugmentation()
    assert standard["standard"] == standard["trivial"] == StandardAugmentation(crop_px=2, flip=True)
