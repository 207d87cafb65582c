"""The shipped video studies against Table 9 of the DAS paper's supplement, value by value."""

from pathlib import Path
from typing import Any

import pytest

from dastune.config import load_study
from dastune.config.study import Das, DasVideo
from dastune.data.table import DATASETS

SPACES = Path(__file__).parents[2] / "search_spaces"
# Image size, batch size, base learning rate, weight decay, epochs, segments; SGD and step decay in all columns.
TABLE_9: dict[str, tuple[str, int, int, float, float, int, int]] = {
    "cifar10_video": ("cifar10", 32, 96, 0.1, 1e-4, 90, 8),
    "cifar100_video": ("cifar100", 32, 96, 0.1, 1e-4, 90, 8),
    "tiny_imagenet_video": ("tiny_imagenet", 64, 64, 0.1, 5e-4, 90, 8),
    "imagenet_video": ("imagenet", 224, 32, 0.1, 1e-4, 100, 8),
    "table10": ("cifar10", 32, 96, 0.1, 1e-4, 90, 8),
    "figure10": ("cifar100", 32, 96, 0.1, 1e-4, 90, 8),
}


@pytest.mark.parametrize("name", TABLE_9)
def test_video_studies_have_the_recipe_of_table_9(name: str) -> None:
    data, side, batch, rate, decay, epochs, segments = TABLE_9[name]
    study = load_study(SPACES / f"{name}.yaml")
    assert (study.data.name, DATASETS[data].side_px) == (data, side)
    for recipe in (study.training, study.final):
        assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (batch, rate, decay)
        assert (recipe.schedule, recipe.momentum) == ("step", 0.9)
    assert study.final.epochs == epochs
    searched = [options for options in study.methods.values() if isinstance(options, DasVideo)]
    assert searched
    for options in searched:
        assert options.frames == segments
        # Supplement, C: the architect's Adam.
        assert (options.tau_learning_rate, options.tau_weight_decay) == (3e-4, 1e-3)
        assert (options.preset, options.topology, options.fusion) == ("paper", "darts-4", 0.25)


def test_table_10_searches_once_in_effect() -> None:
    methods: dict[str, Any] = {
        label: options.model_dump(exclude={"use"})
        for label, options in load_study(SPACES / "table10.yaml").methods.items()
        if isinstance(options, DasVideo)
    }
    assert methods.keys() == {"das_aug_s", "reshuffled", "ours"}
    assert len({str(options) for options in methods.values()}) == 1
    assert load_study(SPACES / "table10.yaml").budget.steps == 90 * (25_000 // 96)


def test_figure_10_removes_up_to_nine_tenths() -> None:
    study = load_study(SPACES / "figure10.yaml")
    assert study.data.removed_percent[0] == 0
    assert study.data.removed_percent[-1] == 90


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "svhn", "imagenet"])
def test_table_11_has_a_column_for_each_data_set(data: str) -> None:
    sets = [f"data.name={data}"]
    if data == "imagenet":
        sets.append("model={name: resnet, depth: 50}")
    study = load_study(SPACES / "table11.yaml", overrides=sets)
    assert sum(type(options) is Das for options in study.methods.values()) == 2
    assert len(study.space.ops) == 15
    if data == "imagenet":
        assert study.model.label == "resnet-50"
    else:
        assert study.model.label == "wide_resnet-28-2"
