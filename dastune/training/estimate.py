"""How many children fit a search's budget: exact in steps, a guess in device time. Imports no torch."""

from dataclasses import dataclass

from dastune.config import StudyConfig
from dastune.config.study import BlackBox, Halving
from dastune.data.table import DATASETS
from dastune.models.table import MODELS

TRAINING_PASSES = 3  # forward passes that an image costs in training: forward, back to its layers, to the weights


@dataclass(frozen=True)
class Device:
    """How fast networks are trained on a device, all in all.

    Attributes:
        name: what the speed is that of, and how it is known.
        flops_per_second: of the networks' arithmetic.
        layer_seconds: what a layer costs in a training step, however small.
    """

    name: str
    flops_per_second: float
    layer_seconds: float


# Within a factor of two for small_cnn on digits, WRN-10-1 and WRN-28-2, on one thread of an EPYC with AVX512-BF16.
CPU_SLOT = Device("a CPU slot, as measured on one", 150e9, 0.9e-3)
# An assumption: nobody has measured it here.
GPU = Device("a GPU, which is assumed and not measured", 20e12, 0.2e-3)


@dataclass(frozen=True)
class Children:
    """The children of one search.

    Attributes:
        count: how many fit the budget, each scored.
        steps: optimiser steps of one; the mean where successive halving ends some early.
        seconds: device-seconds of one, its validation included, a guess; None under a budget in steps.
    """

    count: int
    steps: float
    seconds: float | None


def device_of(study: StudyConfig) -> Device:
    """Return what the study's searches are trained on."""
    return GPU if study.resources.gpus else CPU_SLOT


def children(study: StudyConfig, options: BlackBox) -> Children:
    """Return how many children of a black-box search fit the study's budget, and what one costs."""
    size, steps, validations = _cohort(study, options)
    budget = study.budget.per_search()
    if budget.steps is not None:
        # The budget's last step ends the search, so a child that is trained with it is not validated any more.
        whole = size * ((budget.steps - 1) // steps)
        return Children(int(budget.steps * size / steps) if options.halving else whole, steps / size, None)
    assert budget.seconds is not None
    step_seconds, image_seconds = _device_seconds(study)
    seconds = steps * step_seconds + validations * study.data.validation_images * image_seconds
    return Children(int(budget.seconds * size / seconds), steps / size, seconds / size)


def rung_steps(whole: int, halving: Halving | None) -> tuple[int, ...]:
    """Return the optimiser steps after which children are validated; the last, `whole`, is a whole training.

    With successive halving each rung is `eta` times as long as the one before, and there are as many as it takes to
    come from `children` to one; a training of few steps has fewer.
    """
    if halving is None:
        return (whole,)
    left, rungs = halving.children, 0
    while left >= halving.eta:
        left, rungs = left // halving.eta, rungs + 1
    return tuple(dict.fromkeys(max(1, round(whole / halving.eta**later)) for later in range(rungs, -1, -1)))


def _cohort(study: StudyConfig, options: BlackBox) -> tuple[int, int, int]:
    """Return how many children begin together, and how many steps and validations they take in all."""
    images = study.data.search_count
    whole = study.training.child_epochs * (images // min(study.training.batch_size, images))
    size, eta = (
        (options.halving.children, options.halving.eta) if options.halving else (options.children_in_parallel, 1)
    )
    left, begun, steps, validations = size, 0, 0, 0
    for until in rung_steps(whole, options.halving):
        steps += left * (until - begun)
        validations += left
        left, begun = max(1, left // eta), until
    return size, steps, validations


def _device_seconds(study: StudyConfig) -> tuple[float, float]:
    """Return the device-seconds of a training step, and of the validation of an image."""
    entry, model = DATASETS[study.data.name], study.model.model_dump()
    arithmetic = MODELS[model.pop("name")].arithmetic(entry.classes, entry.side_px, **model)
    device, resources = device_of(study), study.resources
    share = resources.gpus or resources.cpus  # what a second of its time is charged as
    used = resources.gpus or max(1, int(resources.cpus))  # torch has whole threads
    image_seconds = arithmetic.flops / (device.flops_per_second * used)
    batch = min(study.training.batch_size, study.data.search_count)
    step_seconds = arithmetic.layers * device.layer_seconds + TRAINING_PASSES * batch * image_seconds
    return share * step_seconds, share * image_seconds
