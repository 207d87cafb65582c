"""What a study would run and cost, as text, before anything starts. Imports no torch."""

from collections.abc import Iterator

import yaml

from dastune.config import StudyConfig
from dastune.config.study import BlackBox, Das, Published
from dastune.data.table import DATASETS, images_left
from dastune.policy.space import SpaceOp
from dastune.training.estimate import FEW_CHILDREN, Fit, device_of, fit


def plan_text(study: StudyConfig) -> str:
    """Return the grid, the device time it may take, and the study with all defaults filled in."""
    return "\n".join([*_grid(study), "", "# every field, defaults filled in", _resolved(study)])


def _grid(study: StudyConfig) -> Iterator[str]:
    levels, seeds, removes = len(study.levels), len(study.seeds.search), study.axis == "removed_percent"
    searches = {label: seeds * _levels(study, label) for label in study.methods}
    controls = [label for label, options in study.methods.items() if not isinstance(options, Das | BlackBox)]
    budgeted = sum(count for label, count in searches.items() if label not in controls)
    published = sum(isinstance(options, Published) for options in study.methods.values())
    compared = len(study.methods) - published
    total = sum(searches.values())
    varied = "shares of the data removed" if removes else "noise levels"
    parts = [f"{compared} methods x {levels} {varied} x {seeds} seeds"] if compared else []
    if published:
        parts.append(f"{published} published x {seeds} seeds")
    yield f"{study.name}: {total} searches = {' + '.join(parts)}"
    yield f"methods         {', '.join(study.methods)}"
    if study.data.shift:
        yield f"shift           {_shift(study)}; for validation and test images only"
    if DATASETS[study.data.name].classes is None:
        yield f"data            {study.data.name}: its images are counted when it is run, and what they cost with them"
    for level in study.space.noise.levels if compared else ():
        space = study.space.at_level(level)
        yield f"noise level {level:<3} {len(space)} ops, {100 * space.uniform_noise_share:.0f} % of them noise"
    if study.data.removed_percent != (0,):
        yield from _left(study)
    if budgeted:
        yield f"each search     {_budget(study)}, on {_devices(study)}"
    yield from _children(study)
    if controls:
        without = sum(searches[label] for label in controls)
        yield f"without search  {', '.join(controls)}: {without} of them, no budget needed"
    if budgeted:
        yield f"search total    at most {budgeted} x {_budget(study)} = {_total(study, budgeted)}"
    yield (
        f"final trainings {total * len(study.seeds.final)} x {study.final.epochs} epochs of "
        f"{'what is left of ' if study.data.removed_percent != (0,) else ''}{study.data.train_images or 'all'} images; "
        "metered apart, their time depends on the device"
    )


def _levels(study: StudyConfig, label: str) -> int:
    """Return at how many levels a method is run; to published policies a space is nothing."""
    return 1 if isinstance(study.methods[label], Published) else len(study.levels)


def _left(study: StudyConfig) -> Iterator[str]:
    """Yield how many images are left, and where that is hardly enough."""
    data, classes = study.data, DATASETS[study.data.name].classes
    warnings = []
    for percent in data.removed_percent:
        searched, validated = (images_left(of, percent) for of in (data.search_count, data.validation_images))
        trained = "all that is left" if data.train_images is None else f"{images_left(data.train_images, percent):,}"
        yield (
            f"removed {percent:>2} %    searches train on {searched:,} images and validate on {validated:,}, final "
            f"trainings on {trained}"
        )
        if classes is not None and min(searched, validated) < classes:
            warnings.append(
                f"warning         {percent} % removed leaves searches {searched:,} and {validated:,} images of "
                f"{classes} classes, so not one of each; remove less, or give more images"
            )
    yield from warnings


def _children(study: StudyConfig) -> Iterator[str]:
    """Yield how many children fit the budget of each black-box search, and where they are few.

    That is where the least of the training images are removed; with fewer images, more children fit.
    """
    warnings, guessed = [], False
    study = _least_removed(study)  # where children take longest
    for label, options in study.methods.items():
        if not isinstance(options, BlackBox):
            continue
        found = fit(study, options)
        guessed |= found.seconds is not None
        more = "; more where more is removed" if len(study.data.removed_percent) > 1 else ""
        yield f"children        {label}: {_count(found, options)}, {_each(study, found, options)}{more}"
        if found.children < min(FEW_CHILDREN, found.points or FEW_CHILDREN):
            warnings.append(f"warning         {label}: {_advice(study, found, options)}")
    if guessed:
        device = device_of(study)
        yield (
            f"                (guessed from the network's arithmetic: {device.flops_per_second / 1e9:,.0f} GFLOP/s "
            f"{device.name}, and {1e3 * device.layer_seconds:g} ms a layer and step)"
        )
    yield from warnings


def _least_removed(study: StudyConfig) -> StudyConfig:
    """Return the study with the images that are left where the least is removed."""
    data, percent = study.data, min(study.data.removed_percent)
    left = {
        "search_images": images_left(data.search_count, percent),
        "validation_images": images_left(data.validation_images, percent),
    }
    return study.model_copy(update={"data": data.model_copy(update=left)}) if percent else study


def _count(found: Fit, options: BlackBox) -> str:
    """Return how many children there are, in words."""
    if found.children == found.points:
        return f"its grid of {found.points:,} points fits"
    guessed = found.seconds is not None
    count = int(float(f"{found.children:.2g}")) if guessed else found.children
    of = "a search" if found.points is None else f"of the {found.points:,} points of its grid"
    return f"{'about ' if guessed or options.halving else ''}{count:,} {of}"


def _each(study: StudyConfig, found: Fit, options: BlackBox) -> str:
    """Return what a child costs, and on what devices a search trains several, in words."""
    cost = f"{found.steps:,.4g} steps" if found.seconds is None else f"{_time(found.seconds)}"
    mean = " on average" if options.halving else ""
    at_a_time = options.children_in_parallel
    parallel = f", {at_a_time} at a time, on {at_a_time} x {_devices(study)}" if at_a_time > 1 else ""
    return f"{cost} each{mean}{parallel}"


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 99 else f"{seconds / 60:,.3g} min"


def _advice(study: StudyConfig, found: Fit, options: BlackBox) -> str:
    """Return what to change where children are few."""
    epochs, grid = study.training.child_epochs, found.points is not None
    possible = {
        "a larger budget": True,
        f"fewer training.child_epochs (now {epochs})": epochs > 1,
        "halving": options.halving is None,
        "fewer points in n and m": grid and found.points != 1,
    }
    *changes, last = (change for change, helps in possible.items() if helps)
    if found.children == 0:
        what = "not one child gets a score, and without one it finds nothing"
    else:
        what = "its grid is not walked to the end" if grid else "so few children show little"
    return f"{what}; consider {', '.join(changes)}{' or ' * bool(changes)}{last}"


def _shift(study: StudyConfig) -> str:
    """Return the ops that validation and test images go through, in words."""
    texts = []
    for item in study.data.shift:
        text = SpaceOp(item.op, item.low, item.high, item.signed).ranged_text
        text += " of either sign" * item.signed
        texts.append(text if item.probability == 1 else f"{text} with probability {item.probability:g}")
    return ", then ".join(texts)


def _devices(study: StudyConfig) -> str:
    cpus, gpus = study.resources.cpus, study.resources.gpus
    return f"{cpus:g} CPU" + ("s" if cpus > 1 else "") + (f" and {gpus:g} GPU" if gpus else "")


def _hours(hours: float, kind: str) -> str:
    if hours < 1 / 30:
        return f"{hours * 3600:.3g} {kind}-seconds"
    return f"{hours * 60:.3g} {kind}-minutes" if hours < 2 else f"{hours:,.4g} {kind}-hours"


def _budget(study: StudyConfig) -> str:
    return _total(study, 1)


def _total(study: StudyConfig, searches: int) -> str:
    budget = study.budget
    if budget.steps is not None:
        return f"{budget.steps * searches:,} steps"
    if budget.gpu_hours is not None:
        return _hours(budget.gpu_hours * searches, "GPU")
    assert budget.cpu_hours is not None
    return _hours(budget.cpu_hours * searches, "CPU")


def _resolved(study: StudyConfig) -> str:
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120).rstrip()
