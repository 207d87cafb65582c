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
    # As CIFAR-10, whose column in Table 9 is the same; RandAugment's recipe is too. A class has a tenth of the images:
    # 10,000 are 100 of each, and 5,000 to validate on are 50.
    "cifar100": {
        "data": {"search_images": 10_000, "validation_images": 5000},
        "model": {"name": "wide_resnet"},
        "standard": {"crop_px": 4, "flip": True, "cutout_px": 16},
        "training": {
            "batch_size": 96,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "child_epochs": 120,
        },
        "final": {
            "epochs": 200,
            "batch_size": 128,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "schedule": "cosine",
        },
    },
    # Table 9 has no column for it. RandAugment's recipe for WRN-28-2 on the core set, in searches too; digits are
    # neither mirrored nor cropped, and cutout is of 20 pixels (arXiv 1708.04552).
    "svhn": {
        "data": {"search_images": 4000, "validation_images": 5000},
        "model": {"name": "wide_resnet"},
        "standard": {"crop_px": 0, "flip": False, "cutout_px": 20},
        "training": {
            "batch_size": 128,
            "learning_rate": 5e-3,
            "weight_decay": 5e-3,
            "schedule": "cosine",
            "child_epochs": 120,
        },
        "final": {"epochs": 200},
    },
    # Table 9, column Tiny, for searches and final trainings alike; crop and cutout are to the side as on CIFAR. A
    # search has 50 images of each class, and 25 to validate on.
    "tiny_imagenet": {
        "data": {"search_images": 10_000, "validation_images": 5000},
        "model": {"name": "resnet"},
        "standard": {"crop_px": 8, "flip": True, "cutout_px": 32},
        "training": {
            "batch_size": 64,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "schedule": "step",
            "child_epochs": 90,
        },
        "final": {"epochs": 90},
    },
    # Table 9, column ImageNet; crop is to the side as on CIFAR, and cutout is no part of Table 11's baseline. A search
    # has 50 images of each class, and 10 to validate on; a child sees 1.2 million images, as AutoAugment's do on its
    # reduced ImageNet of 6,000.
    "imagenet": {
        "data": {"search_images": 50_000, "validation_images": 10_000},
        "model": {"name": "resnet", "depth": 50},
        "standard": {"crop_px": 28, "flip": True, "cutout_px": 0},
        "training": {
            "batch_size": 32,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "schedule": "step",
            "child_epochs": 24,
        },
        "final": {"epochs": 100},
    },
    # As Tiny ImageNet, but for how many there are, which nobody knows. What is in pixels is for `data.side` 64, and is
    # in proportion where a study gives another.
    "folder": {
        "data": {"search_images": 4000, "validation_images": 1000},
        "model": {"name": "resnet"},
        "standard": {"crop_px": 8, "flip": True, "cutout_px": 32},
        "training": {
            "batch_size": 64,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "schedule": "step",
            "child_epochs": 90,
        },
        "final": {"epochs": 90},
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
        if section == "standard" and name == "folder":
            defaults = _in_proportion(defaults, raw["data"].get("side"))
        if not isinstance(given, Mapping):
            continue
        own = section == "model" and given.get("name", defaults["name"]) != defaults["name"]  # its options are others
        merged[section] = {**({} if own else defaults), **given}
    training, final = merged.get("training"), merged.get("final")
    if isinstance(training, Mapping) and isinstance(final, Mapping):
        shared = {key: value for key, value in training.items() if key != "child_epochs"}
        merged["final"] = {**shared, **final}
    elif isinstance(final, Mapping):
        merged["final"] = {**DATA_DEFAULTS["digits"]["training"], **final}  # the fault of `training` is told once
    return merged


def _in_proportion(standard: Mapping[str, Any], side_px: Any) -> dict[str, Any]:
    """Return standard augmentation of images of 64 pixels for those of `side_px`, if that is a size."""
    share = side_px / 64 if type(side_px) is int and side_px > 0 else 1
    return {key: int(value * share) if key.endswith("_px") else value for key, value in standard.items()}
