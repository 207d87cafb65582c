"""From a study to what a trial works with: parts of the data, tasks, the search, and a process as good as new."""

import ctypes
import random
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import numpy as np
import torch

from dastune.augment.shift import shifted
from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.config import StudyConfig
from dastune.config.study import DasVideo, Final, NoAugmentation, Training
from dastune.data.dataset import Dataset, Indices, Parts, Pixels, cut_parts
from dastune.data.images import Images
from dastune.errors import UserError
from dastune.orchestration.crew import ChildServer, SpreadCrew, Worker
from dastune.orchestration.grid import Assignment
from dastune.search.child import LocalCrew
from dastune.search.search import Search
from dastune.search.table import Setting, build_search
from dastune.seeds import derive
from dastune.training.loop import Task
from dastune.training.optim import Recipe
from dastune.training.precision import resolved


@cache
def warm_up() -> None:
    """Make torch load what it loads on first use (seconds), so that no search pays for being first in its process."""
    _keep_freed_memory()
    layer = torch.nn.Conv2d(3, 3, 3)
    for optimiser in (torch.optim.SGD(layer.parameters(), lr=0.1), torch.optim.Adam(layer.parameters())):
        layer(torch.zeros(1, 3, 8, 8)).sum().backward()
        optimiser.step()


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next batch.

    By default it returns large blocks to the system and asks for them again, page by page, at every batch, which can
    cost a CPU as much time as the network itself.
    """
    trim_threshold, mmap_threshold = -1, -3  # mallopt(3)
    with suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def reset_process(study: StudyConfig, assignment: Assignment) -> torch.device:
    """Bring a process that may have run another trial into the state of a new one; return the trial's device.

    Raises:
        UserError: the study gives trials a GPU and torch sees none.
    """
    seed = derive(assignment.search_seed, "process", assignment.label, assignment.noise_level)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries draw from it
    torch.manual_seed(seed)
    torch.set_num_threads(max(1, int(study.resources.cpus)))
    if study.resources.gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"resources.gpus is {study.resources.gpus:g}, but torch {torch.__version__} sees no GPU on this node; "
            "install a CUDA build of torch there, or set resources.gpus to 0 and give budget.cpu_hours"
        )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.device("cuda")


def search_of(
    study: StudyConfig,
    assignment: Assignment,
    dataset: Dataset,
    device: torch.device,
    workers: Sequence[Worker] = (),
) -> Search:
    """Return the search of an assignment; it sees search-train and search-validation images, never test images.

    Args:
        workers: processes that train children besides this one.
    """
    task = _search_task(study, assignment, dataset, device)
    epochs, seed = study.training.child_epochs, assignment.search_seed
    crew = SpreadCrew(LocalCrew(task, epochs, seed), workers) if workers else None
    space = study.space.at_level(assignment.noise_level)
    return build_search(assignment.options(study), Setting(task, space, epochs, seed, crew))


def child_server(study: StudyConfig, assignment: Assignment, dataset: Dataset) -> ChildServer:
    """Return what a worker of the assignment's search does; brings its process into the state of a new one."""
    warm_up()
    task = _search_task(study, assignment, dataset, reset_process(study, assignment))
    return ChildServer(LocalCrew(task, study.training.child_epochs, assignment.search_seed))


def _search_task(study: StudyConfig, assignment: Assignment, dataset: Dataset, device: torch.device) -> Task:
    parts = _parts(study, assignment, dataset)
    pixels, labels = dataset.train_pixels, dataset.train_labels
    options = assignment.options(study)
    return _task(
        study,
        dataset,
        study.training,
        options if isinstance(options, DasVideo) else None,
        train=Images(pixels, labels, parts.search_train, device),
        held_out=_held_out(study, "train", pixels, labels, parts.search_validation, device),
        standard=_standard(study),
    )


def final_task(study: StudyConfig, assignment: Assignment, dataset: Dataset, device: torch.device) -> Task:
    """Return the task of an assignment's final trainings: trained on the final part, scored on the test set."""
    options = assignment.options(study)
    parts = _parts(study, assignment, dataset)
    every = np.arange(len(dataset.test_labels))
    return _task(
        study,
        dataset,
        study.final,
        options if isinstance(options, DasVideo) and options.use != "frame" else None,
        train=Images(dataset.train_pixels, dataset.train_labels, parts.final_train, device),
        held_out=_held_out(study, "test", dataset.test_pixels, dataset.test_labels, every, device),
        # The one method that is without it; all others are compared on top of it.
        standard=StandardAugmentation() if isinstance(options, NoAugmentation) else _standard(study),
    )


def _standard(study: StudyConfig) -> StandardAugmentation:
    return StandardAugmentation(**study.standard.model_dump())


def _held_out(
    study: StudyConfig, part: str, pixels: Pixels, labels: Indices, indices: Indices, device: torch.device
) -> Images:
    """Return images to validate or test on, through the study's shift; `part` names the set that holds `pixels`."""
    if not study.data.shift:
        return Images(pixels, labels, indices, device)
    moved = shifted(pixels, indices, [op.step for op in study.data.shift], part)
    return Images(moved, labels[indices], np.arange(len(indices)), device)


def _parts(study: StudyConfig, assignment: Assignment, dataset: Dataset) -> Parts:
    return cut_parts(
        dataset.train_labels,
        seed=assignment.search_seed,
        search_images=study.data.search_count,
        validation_images=study.data.validation_images,
        train_images=study.data.train_images,
        removed_percent=assignment.removed_percent,
    )


def _task(
    study: StudyConfig,
    dataset: Dataset,
    recipe: Training | Final,
    video: DasVideo | None,
    train: Images,
    held_out: Images,
    standard: StandardAugmentation,
) -> Task:
    """Return a task; its networks read the clips of `video`, or images where that is None."""
    options = study.model.model_dump()
    return Task(
        train=train,
        held_out=held_out,
        classes=dataset.classes,
        network=options.pop("name"),
        network_options=options,
        recipe=Recipe(
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            schedule=recipe.schedule,
            gradient_clip=recipe.gradient_clip,
        ),
        standard=standard,
        normalise=Normalise(dataset.mean, dataset.std, train.device),
        device=train.device,
        precision=resolved(recipe.precision, train.device),
        frames=1 if video is None else video.frames,
        fusion=0.0 if video is None else video.fusion,
    )
