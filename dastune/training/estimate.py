"""How many children fit a search's budget: exact in steps, a guess in device time. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass

from dastune.config import StudyConfig
from dastune.config.study import BlackBox, Halving, RandAugment
from dastune.models.table import MODELS

FEW_CHILDREN = 20  # fewer tell a search little of its space
SOME_CLASSES = (
    100  # where only the files of a data set tell how many; they are next to nothing in a network's arithmetic
)
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
class Fit:
    """What fits the budget of one search.

    Attributes:
        children: how many, each scored.
        points: of a grid that is walked once, a child each; None where a search goes on for ever.
        steps: optimiser steps of a child; the mean where successive halving ends some early.
        seconds: device-seconds of a child, its validation included, a guess; None under a budget in steps.
    """

    children: int
    points: int | None
    steps: float
    seconds: float | None


def device_of(study: StudyConfig) -> Device:
    """Return what the study's searches are trained on."""
    return GPU if study.resources.gpus else CPU_SLOT


def fit(study: StudyConfig, options: BlackBox) -> Fit:
    """Return how many children of a black-box search fit the study's budget, and what one costs."""
    points = len(options.n) * len(options.m) if isinstance(options, RandAugment) and options.search == "grid" else None
    size = options.halving.children if options.halving else options.children_in_parallel
    size = size if points is None else min(size, points)
    budget = study.budget.per_search()
    steps = _cohort(study, options, size)[0] / size
    if budget.steps is not None:
        # The budget's last step ends the search, so a child that is trained with it is not validated any more.
        count = _count(budget.steps - 1, size, points, lambda of: _cohort(study, options, of)[0], not options.halving)
        return Fit(count, points, steps, None)
    assert budget.seconds is not None
    step_seconds, image_seconds = _device_seconds(study)

    def seconds(of: int) -> float:
        steps, validations = _cohort(study, options, of)
        return steps * step_seconds + validations * study.data.validation_images * image_seconds

    return Fit(_count(budget.seconds, size, points, seconds, False), points, steps, seconds(size) / size)


def _count(budget: float, size: int, points: int | None, cost: Callable[[int], float], at_once: bool) -> int:
    """Return how many children a budget is enough for.

    Args:
        budget: in the unit of `cost`.
        size: of a cohort; the last one of a grid may be smaller.
        points: of the grid; None: no end.
        cost: of a cohort, by its size.
        at_once: whether all of a cohort are scored at its end, so that a part of one counts nothing.
    """

    def scored(budget: float, size: int) -> float:
        return size * (budget // cost(size) if at_once else budget / cost(size))

    count = scored(budget, size)
    if points is None or count < points - points % size:
        return int(count)
    rest = points % size
    if rest == 0:
        return points
    return points - rest + int(min(rest, scored(budget - points // size * cost(size), rest)))


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


def _cohort(study: StudyConfig, options: BlackBox, size: int) -> tuple[int, int]:
    """Return how many steps and validations `size` children that begin together take in all."""
    images = study.data.search_count
    whole = study.training.child_epochs * (images // min(study.training.batch_size, images))
    eta = options.halving.eta if options.halving else 1
    left, begun, steps, validations = size, 0, 0, 0
    for until in rung_steps(whole, options.halving):
        steps += left * (until - begun)
        validations += left
        left, begun = max(1, left // eta), until
    return steps, validations


def _device_seconds(study: StudyConfig) -> tuple[float, float]:
    """Return the device-seconds of a training step, and of the validation of an image."""
    data, model = study.data, study.model.model_dump()
    arithmetic = MODELS[model.pop("name")].arithmetic(data.classes or SOME_CLASSES, data.side_px, **model)
    device, resources = device_of(study), study.resources
    share = resources.gpus or resources.cpus  # what a second of its time is charged as
    used = resources.gpus or max(1, int(resources.cpus))  # torch has whole threads
    image_seconds = arithmetic.flops / (device.flops_per_second * used)
    batch = min(study.training.batch_size, study.data.search_count)
    step_seconds = arithmetic.layers * device.layer_seconds + TRAINING_PASSES * batch * image_seconds
    return share * step_seconds, share * image_seconds
