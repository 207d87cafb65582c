"""Who sees shifted images: searches validate on them, final trainings are tested on them, and none trains on them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dastune.config import StudyConfig
from dastune.data.dataset import Dataset, cut_parts
from dastune.data.images import Images
from dastune.orchestration import setting
from dastune.orchestration.grid import Assignment
from dastune.orchestration.setting import final_task, search_of
from dastune.search.table import Setting

CPU = torch.device("cpu")
IMAGES = 40


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """Return the settings that searches are built with from now on."""
    seen: list[Setting] = []

    def build(options: object, its: Setting) -> None:
        seen.append(its)

    monkeypatch.setattr(setting, "build_search", build)
    return seen


def shifted_study(study_of: Callable[..., StudyConfig], *shift: object) -> StudyConfig:
    data = {"name": "digits", "train_images": IMAGES, "validation_images": 400, "shift": list(shift)}
    return study_of(data=data, methods={"none": None})


def grey_levels(images: Images) -> torch.Tensor:
    """Return all images as grey levels (N, 3, H, W)."""
    return (images.batch(torch.arange(len(images)))[0] * 255).round()


def labels(images: Images) -> list[int]:
    return images.batch(torch.arange(len(images)))[1].tolist()


def validation_indices(study: StudyConfig, dataset: Dataset, seed: int) -> np.ndarray:
    data = study.data
    return cut_parts(
        dataset.train_labels,
        seed=seed,
        search_images=data.search_count,
        validation_images=data.validation_images,
        train_images=data.train_images,
    ).search_validation


def test_only_held_out_images_are_shifted(
    study_of: Callable[..., StudyConfig], dataset: Dataset, settings: list[Setting]
) -> None:
    finals = []
    for shift in ([], ["invert"]):
        study = shifted_study(study_of, *shift)
        search_of(study, Assignment("none", 0, 3), dataset, CPU)
        finals.append(final_task(study, Assignment("none", 0, 3), dataset, CPU))
    for plain, moved in ((settings[0].task, settings[1].task), finals):
        assert torch.equal(grey_levels(plain.train), grey_levels(moved.train))
        assert torch.equal(grey_levels(plain.held_out), 255 - grey_levels(moved.held_out))
        for one, other in ((plain.train, moved.train), (plain.held_out, moved.held_out)):
            assert labels(one) == labels(other)
        pixel = torch.rand(1, 3, 1, 1)
        assert torch.equal(plain.normalise(pixel), moved.normalise(pixel))
    assert torch.equal(grey_levels(finals[1].held_out), 255 - torch.from_numpy(dataset.test_pixels).float())


def test_an_image_has_one_shift_for_all_search_seeds(
    study_of: Callable[..., StudyConfig], dataset: Dataset, settings: list[Setting]
) -> None:
    study = shifted_study(study_of, {"rotate": {"degrees": 40}}, {"invert": {"probability": 0.5}})
    by_index: list[dict[int, torch.Tensor]] = []
    for seed in (0, 1):
        search_of(study, Assignment("none", 0, seed), dataset, CPU)
        indices = validation_indices(study, dataset, seed)
        by_index.append(dict(zip(indices.tolist(), grey_levels(settings[-1].task.held_out), strict=True)))
    both = by_index[0].keys() & by_index[1].keys()
    assert len(both) > 100
    assert all(torch.equal(by_index[0][index], by_index[1][index]) for index in both)
    tests = [final_task(study, Assignment("none", 0, seed), dataset, CPU).held_out for seed in (0, 1)]
    assert torch.equal(grey_levels(tests[0]), grey_levels(tests[1]))
