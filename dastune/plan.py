"""What a study would run and cost, as text, before anything starts. Imports no torch."""

from collections.abc import Iterator

import yaml

from dastune.config import StudyConfig
from dastune.config.study import NoAugmentation, Trivial
from dastune.policy.space import SpaceOp


def plan_text(study: StudyConfig) -> str:
    """Return the grid, the device time it may take, and the study with all defaults filled in."""
    return "\n".join([*_grid(study), "", "# every field, defaults filled in", _resolved(study)])


def _grid(study: StudyConfig) -> Iterator[str]:
    methods, levels, seeds = len(study.methods), len(study.space.noise.levels), len(study.seeds.search)
    controls = [label for label, options in study.methods.items() if isinstance(options, Trivial | NoAugmentation)]
    budgeted = (methods - len(controls)) * levels * seeds
    finals = methods * levels * seeds * len(study.seeds.final)
    yield (
        f"{study.name}: {methods * levels * seeds} searches = {methods} methods x {levels} noise levels x {seeds} seeds"
    )
    yield f"methods         {', '.join(study.methods)}"
    if study.data.shift:
        yield f"shift           {_shift(study)}; for validation and test images only"
    for level in study.space.noise.levels:
        space = study.space.at_level(level)
        yield f"noise level {level:<3} {len(space)} ops, {100 * space.uniform_noise_share:.0f} % of them noise"
    yield f"each search     {_budget(study)}, on {_devices(study)}"
    if controls:
        yield f"without search  {', '.join(controls)}: {len(controls) * levels * seeds} of them, no budget needed"
    yield f"search total    at most {budgeted} x {_budget(study)} = {_total(study, budgeted)}"
    yield (
        f"final trainings {finals} x {study.final.epochs} epochs of "
        f"{study.data.train_images or 'all'} images; metered apart, their time depends on the device"
    )


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
