"""Defaults that depend on the data set: what a study gets where it says nothing."""

from collections.abc import Mapping
from typing import Any

DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "data": {"train_images": 150, "validation_images": 400},
        "model": {"name": "small_cnn"},
        # Digits must not be mirrored; a crop would be an augmentation, and the subject of the search.
        "standard": {"crop_px": 0, "flip": False, "cutout_px": 0},
        # A network this small gains little from bfloat16, and so the demo does not hang on which CPU has it.
        "training": {
            "batch_size": 50,
            "learning_rate": 0.05,
            "weight_decay": 1e-4,
            "precision": "float32",
            "child_epochs": 20,
        },
        "final": {"epochs": 60},
    },
    "cifar10": {
        "data": {"search_images": 4000, "validation_images": 5000},
        "model": {"name": "wide_resnet"},
        "standard": {"crop_px": 4, "flip": True, "cutout_px": 16},
        # Searches: supplement of the DAS paper, Table 9, column Cifar10. But one recipe is for all methods, and
        # children are AutoAugment's (arXiv 1805.09501): 4,000 images, 120 epochs, a cosine, where the table has steps;
        "training": {
            "batch_size": 96,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "child_epochs": 120,
        },
        # final trainings: the recipe of RandAugment (arXiv 1909.13719) for WRN-28-2, which Table 11 is compared with.
        "final": {
            "epochs": 200,
            "batch_size": 128,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "schedule": "cosine",
        },
    },
}


def with_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return `raw` with the defaults of its data set under it, and `final` filled up from `training`.

    Faults in `raw` (an unknown data set, a list where a mapping should be) are left for validation to name. Where the
    data set is unknown, any defaults do: what is at fault is the data set, not what hangs on it.
    """
    data = raw.get("data")
    name = data.get("name") if isinstance(data, Mapping) else None
    known = isinstance(name, str) and name in DATA_DEFAULTS
    merged = dict(raw)
    for section, defaults in DATA_DEFAULTS[str(name) if known else "digits"].items():
        if section == "data" and not known:
            continue
        given = raw.get(section, {})
        if isinstance(given, Mapping):
            merged[section] = {**defaults, **given}
    training, final = merged.get("training"), merged.get("final")
    if isinstance(training, Mapping) and isinstance(final, Mapping):
        shared = {key: value for key, value in training.items() if key != "child_epochs"}
        merged["final"] = {**shared, **final}
    elif isinstance(final, Mapping):
        merged["final"] = {**DATA_DEFAULTS["digits"]["training"], **final}  # the fault of `training` is told once
    return merged
