"""What a study's YAML says in a line each, and where that differs from the DAS paper's protocol.

The paper: CVPR 2024, arXiv 2403.15194; its supplement has Figure 9 and Table 11 (part F), Figure 10 (part H) and
Table 9 (part C).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dastune.errors import shortened, without_secrets

NOT_SAID = "not said"

PAPER_DATA = ("cifar10", "cifar100", "svhn", "imagenet")  # of Table 11; Figure 9 has the first
PAPER_GPU_HOURS = 24.0
PAPER_RUNS = 5
PAPER_EPOCHS = 90  # Table 9, CIFAR-10
PAPER_FRAMES = 8  # segments, Table 9

# Table 9: epochs, batch size, learning rate and weight decay where an image is made a video; schedule step
PAPER_RECIPES = {
    "cifar10": (90, 96, 0.1, 1e-4),
    "cifar100": (90, 96, 0.1, 1e-4),
    "tiny_imagenet": (90, 64, 0.1, 5e-4),
    "imagenet": (100, 32, 0.1, 1e-4),
}


@dataclass(frozen=True)
class Deviation:
    """One point in which a study is not as the paper: what the paper says, or leaves open, and what the study has."""

    point: str
    paper: str
    study: str


def value_at(study: Mapping[str, Any], *keys: str) -> Any:
    """Return what a study file has at a path of keys, None if nothing; the file may come from anybody."""
    value: Any = study
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def data_text(study: Mapping[str, Any]) -> str:
    """Return the name of the data set."""
    return _text(value_at(study, "data", "name"))


def model_text(study: Mapping[str, Any]) -> str:
    """Return the name of the network, such as "WRN-28-2" or "ResNet-18"."""
    name, depth, width = (value_at(study, "model", key) for key in ("name", "depth", "width"))
    if name == "wide_resnet" and isinstance(depth, int) and isinstance(width, int):
        return f"WRN-{depth}-{width}"
    if name == "resnet" and isinstance(depth, int):
        return f"ResNet-{depth}" + (" (small stem)" if value_at(study, "model", "stem") == "small" else "")
    return _text(name)


def budget_text(study: Mapping[str, Any]) -> str:
    """Return the budget of one search, such as "24 GPU-hours"."""
    for key, unit in (("gpu_hours", "GPU-hours"), ("cpu_hours", "CPU-hours"), ("steps", "steps")):
        amount = _number(value_at(study, "budget", key))
        if amount is not None:
            return f"{amount:,.6g} {unit}"
    return NOT_SAID


def seeds_text(study: Mapping[str, Any]) -> str:
    """Return the seeds of searches and final trainings."""
    search, final = (_listed(value_at(study, "seeds", key)) for key in ("search", "final"))
    return f"searches {search}; final trainings of each {final}"


def device_unit(study: Mapping[str, Any]) -> str:
    """Return what a device of the study is: "GPU", or "CPU slot"."""
    gpus = _number(value_at(study, "resources", "gpus"))
    return "GPU" if gpus else "CPU slot"


def deviations(study: Mapping[str, Any]) -> list[Deviation]:
    """Return where a study differs from the paper's protocol, and what the paper leaves open that a study must set."""
    if videos := dict(_methods(study, "das_video")):
        return [*_video_task(study), *_video_searches(study, videos), *_video_final(study)]
    return [*_task(study), *_searches(study), *_final(study)]


def _methods(study: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    """Yield label and options of the methods of a kind."""
    methods = value_at(study, "methods")
    for label, options in methods.items() if isinstance(methods, Mapping) else ():
        if value_at(options, "method") == kind or (label == kind and value_at(options, "method") is None):
            yield shortened(str(label)), options


def _task(study: Mapping[str, Any]) -> Iterator[Deviation]:
    name = value_at(study, "data", "name")
    if name not in PAPER_DATA:
        yield Deviation("data", "CIFAR-10 (Figure 9); also CIFAR-100, SVHN, ImageNet (Table 11)", data_text(study))
    yield from _images(study)
    paper = "ResNet-50" if name == "imagenet" else "WRN-28-2"
    if (model := model_text(study)) != paper:
        yield Deviation("network", paper, model)


def _images(study: Mapping[str, Any]) -> Iterator[Deviation]:
    images = _number(value_at(study, "data", "train_images"))
    if images is not None:
        yield Deviation("training images", "all of the data set", f"{images:,.0f}")
    removed = value_at(study, "data", "removed_percent")
    if isinstance(removed, list) and removed not in ([], [0]):
        yield Deviation("training images removed", "none; in Figure 10 a varied portion", f"{_listed(removed)} %")
    if value_at(study, "data", "shift"):
        yield Deviation("images", "as the data set has them", "changed by data.shift")


def _searches(study: Mapping[str, Any]) -> Iterator[Deviation]:
    if _number(value_at(study, "budget", "gpu_hours")) != PAPER_GPU_HOURS:
        paper = f"{PAPER_GPU_HOURS:.0f} hours a run (Figure 9); for Table 11 none was fixed, and none is stated"
        yield Deviation("budget of a search", paper, budget_text(study))
    seeds = value_at(study, "seeds", "search")
    if isinstance(seeds, list) and len(seeds) != PAPER_RUNS:
        yield Deviation("runs of a search", f"{PAPER_RUNS} (Figure 9); not stated for Table 11", str(len(seeds)))
    images, validation = (_number(value_at(study, "data", key)) for key in ("search_images", "validation_images"))
    searched = "all but the validation images" if images is None else f"{images:,.0f} images"
    if validation is not None:
        yield Deviation(
            "what searches train on", "not stated", f"{searched}, and {validation:,.0f} others to validate on"
        )
    noise = value_at(study, "space", "noise", "levels")
    if isinstance(noise, list) and noise not in ([], [0]):
        yield Deviation("noise ops", "neither named nor counted", f"levels {_listed(noise)}; study.yaml names them")
    for label, options in _methods(study, "das"):
        yield from _preset(label, value_at(options, "preset") or "default")


def _preset(label: str, preset: Any) -> Iterator[Deviation]:
    if preset != "paper":
        paper = "ops blended in a cell, tau by first order, selection by perturbation (preset paper)"
        yield Deviation(f"DAS, {label}", paper, f"preset {_text(preset)}")


def _video_task(study: Mapping[str, Any]) -> Iterator[Deviation]:
    if str(value_at(study, "data", "name")) not in PAPER_RECIPES:
        yield Deviation("data", "CIFAR-10, CIFAR-100, Tiny-ImageNet, ImageNet (Table 9)", data_text(study))
    yield from _images(study)
    if (model := model_text(study)) != "ResNet-18":
        yield Deviation("network", "ResNet-18 (Table 10, CIFAR-10); not stated for others", model)


def _video_searches(study: Mapping[str, Any], videos: Mapping[str, Any]) -> Iterator[Deviation]:
    yield Deviation("budget of a search", "none is fixed: as many epochs as a training (part C)", budget_text(study))
    yield Deviation("runs", "not stated", seeds_text(study))
    for label, options in videos.items():
        yield from _preset(label, value_at(options, "preset") or "paper")
        frames = _number(value_at(options, "frames"))
        if frames is not None and frames != PAPER_FRAMES:
            yield Deviation(f"frames, {label}", f"{PAPER_FRAMES} segments (Table 9)", f"{frames:,.0f}")
    tested = {
        "copies" if value_at(options, "evaluation") == "copies" else "clips of the found cell"
        for options in videos.values()
        if value_at(options, "use") != "frame"
    }
    if tested:
        paper = "not stated (the inference cost is not affected, part C)"
        yield Deviation("what networks of clips are tested on", paper, ", ".join(sorted(tested)))


def _video_final(study: Mapping[str, Any]) -> Iterator[Deviation]:
    epochs, *recipe = PAPER_RECIPES.get(str(value_at(study, "data", "name")), PAPER_RECIPES["cifar10"])
    found = _number(value_at(study, "final", "epochs"))
    if found is not None and found != epochs:
        yield Deviation("epochs of a final training", f"{epochs:.0f} (Table 9)", f"{found:,.0f}")
    keys = ("batch_size", "learning_rate", "weight_decay")
    used, schedule = [_number(value_at(study, "final", key)) for key in keys], value_at(study, "final", "schedule")
    if None not in used and (used != recipe or schedule != "step"):
        paper, here = (
            ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in zip(keys, values, strict=True))
            for values in (recipe, used)
        )
        yield Deviation("recipe", f"{paper}, schedule step (Table 9)", f"{here}, schedule {_text(schedule)}")


def _final(study: Mapping[str, Any]) -> Iterator[Deviation]:
    epochs = _number(value_at(study, "final", "epochs"))
    if epochs is not None and epochs != PAPER_EPOCHS:
        paper = f"{PAPER_EPOCHS} (Table 9, CIFAR-10); not stated for Table 11"
        yield Deviation("epochs of a final training", paper, f"{epochs:,.0f}")


def _number(value: Any) -> float | None:
    """Return a number that can be written out; none of a study's is larger."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15
    return float(value) if known else None


def _listed(values: Any) -> str:
    return shortened(", ".join(map(str, values[:100]))) if isinstance(values, list) and values else NOT_SAID


def _text(value: Any) -> str:
    return shortened(without_secrets(value)) if isinstance(value, str) else NOT_SAID
