"""StudyConfig: everything one YAML asks for, typed and frozen; unknown keys are refused."""

import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dastune.budget import Budget
from dastune.config.data import Cifar10Data, Data, DigitsData
from dastune.config.fields import (
    Count,
    FieldError,
    NotNegative,
    Number,
    Pixels,
    Positive,
    SafeName,
    Seeds,
    Strict,
    Switch,
)
from dastune.config.methods import (
    METHODS,
    AutoAugment,
    BlackBox,
    Das,
    DasVideo,
    Halving,
    Method,
    NoAugmentation,
    Published,
    RandAugment,
    Random,
    StandardOnly,
    TaggedMethod,
    Trivial,
    Uniform,
)
from dastune.config.model import Model, ResNetModel, SmallCNNModel, WideResNetModel
from dastune.config.space import Noise, OpRange, Space
from dastune.errors import without_secrets
from dastune.folder import AxisField
from dastune.policy.policy import moves

__all__ = [
    "METHODS",
    "AutoAugment",
    "BlackBox",
    "BudgetConfig",
    "Cifar10Data",
    "Das",
    "DasVideo",
    "Data",
    "DigitsData",
    "Final",
    "Halving",
    "Method",
    "Model",
    "NoAugmentation",
    "Noise",
    "OpRange",
    "Published",
    "RandAugment",
    "Random",
    "ResNetModel",
    "Resources",
    "SeedsConfig",
    "SmallCNNModel",
    "Space",
    "Standard",
    "StandardOnly",
    "StudyConfig",
    "Tracking",
    "Training",
    "Trivial",
    "Uniform",
    "WideResNetModel",
]

LONGEST_LABEL = 60  # a search's id, LABEL-nLEVEL-sSEED or LABEL-rPERCENT-sSEED, has to be a safe name too
MODEL_NAME = re.compile(r"[A-Za-z0-9][^\s:,{}\[\]]{0,98}")


class BudgetConfig(Strict):
    """What each search may use; the same for every method and level. Exactly one of the three."""

    gpu_hours: Positive | None = None
    """Device-hours on GPUs; fractions of a GPU count as fractions."""
    cpu_hours: Positive | None = None
    """Device-hours on CPU slots."""
    steps: Count | None = None
    """Optimiser steps; makes a study reproducible bit for bit on a CPU. The last one ends a search: a child that is
    trained to its end with it gets no score any more."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "BudgetConfig":
        given = [key for key in ("gpu_hours", "cpu_hours", "steps") if getattr(self, key) is not None]
        if len(given) != 1:
            raise FieldError(f"give exactly one of gpu_hours, cpu_hours and steps; got {' and '.join(given) or 'none'}")
        return self

    def per_search(self) -> Budget:
        """Return it in seconds or steps."""
        hours = self.gpu_hours if self.gpu_hours is not None else self.cpu_hours
        return Budget(seconds=None if hours is None else hours * 3600, steps=self.steps)

    def __str__(self) -> str:
        """Return it as `--budget` takes it, such as "0.01 cpu-hours"."""
        if self.steps is not None:
            return f"{self.steps} steps"
        return f"{self.cpu_hours!r} cpu-hours" if self.gpu_hours is None else f"{self.gpu_hours!r} gpu-hours"


class SeedsConfig(Strict):
    """Seeds of the searches and of the final trainings, kept apart."""

    search: Seeds = (0, 1, 2)
    """One independent search each: split of the data, weights, sampling."""
    final: Seeds = (0,)
    """One final training each per found policy."""


class Resources(Strict):
    """What one search holds while it runs."""

    cpus: Positive = 1
    """CPU slots; torch uses as many threads."""
    gpus: NotNegative = 0
    """The share of a GPU: 1, or less, so that several searches share one; 0: no GPU."""
    devices: str = "alike"
    """Which devices searches may get, GPUs where `gpus` is above 0, else CPUs. alike: of one model; a budget in hours
    is refused where nodes have unlike ones, whose hours buy unlike amounts of search. mixed: any; the report states
    which they were. Or one GPU model as Ray calls it, such as A100: searches get nodes of that model only. A budget in
    steps takes any, but results are equal bit for bit only on devices of one model."""

    @field_validator("gpus")
    @classmethod
    def _one_at_most(cls, gpus: float) -> float:
        if gpus > 1:
            raise FieldError("must be 1 at most: a search trains on one GPU, and more GPUs run more searches")
        return gpus

    @field_validator("devices")
    @classmethod
    def _can_be_found(cls, devices: str, info: ValidationInfo) -> str:
        if devices in ("alike", "mixed"):
            return devices
        if not MODEL_NAME.fullmatch(devices) or devices.lower() in ("alike", "mixed"):
            raise FieldError("must be alike, mixed, or one GPU model as Ray calls it, such as A100 or RTX-PRO-6000")
        if info.data.get("gpus") == 0:
            raise FieldError("must be alike or mixed where resources.gpus is 0; Ray names GPU models only")
        return devices

    @property
    def model(self) -> str | None:
        """The GPU model that searches must get, as Ray calls it; None: any."""
        return None if self.devices in ("alike", "mixed") else self.devices


class Standard(Strict):
    """Standard augmentation, in every training of the study but those of method `none`, with a policy or without."""

    crop_px: Pixels = 0
    """Random crop after zero padding by so many pixels; 0: no crop."""
    flip: Switch = False
    """Random horizontal flip."""
    cutout_px: Pixels = 0
    """Side of a mid-grey square put at a random place after the policy; 0: no cutout."""


class Recipe(Strict):
    """How a network is trained, in a search and in a final training."""

    batch_size: Count
    """Images per step."""
    learning_rate: Positive
    """Largest learning rate of SGD with Nesterov momentum."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    weight_decay: NotNegative = 1e-4
    """Weight decay of SGD."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Learning rate over a training: cosine to 0, or times 0.1 after each third."""
    gradient_clip: Positive | None = None
    """Largest norm of the gradient in all weights together; a longer one is scaled down to it. null: no limit."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What networks compute in; weights, statistics and losses are float32. bfloat16 is about twice as fast on a device
    that has it in hardware (a GPU from Ampere on, a CPU with AVX512-BF16 or AMX) and slow on others, which emulate it.
    auto: bfloat16 where it is in hardware, else float32."""


class Training(Recipe):
    """How networks are trained inside searches: one recipe for all methods."""

    child_epochs: Count
    """Epochs of a child, the training that scores one policy in a black-box search."""


class Final(Recipe):
    """How found policies are trained from scratch; what has no default of its own is as in `training`."""

    epochs: Count
    """Epochs of a final training."""


with warnings.catch_warnings():
    # A field `register` shadows ABCMeta.register, which pydantic takes for an attribute of its models.
    warnings.filterwarnings("ignore", 'Field name "register"', UserWarning)

    class Tracking(Strict):
        """Where MLflow's records go."""

        uri: str | None = None
        """MLflow tracking URI, without a password; null: MLFLOW_TRACKING_URI if set, else sqlite in the study's
        folder."""
        experiment: str | None = None
        """MLflow experiment; null: the study's name."""
        models: Literal["best", "all", "none"] = "best"
        """Which of the trained networks become MLflow models: the one of the highest test accuracy, once the study is
        finished; all, which takes space (370 of WRN-28-10 are 54 GB, and as much again in MLflow's store) and some 8
        seconds of a CPU each on the head; or none."""
        register: SafeName | None = None
        """Name in MLflow's model registry, where the best network becomes a new version with the alias `best`; null: it
        is not registered."""

        @model_validator(mode="after")
        def _has_what_to_register(self) -> "Tracking":
            if self.register is not None and self.models == "none":
                raise FieldError("must be best or all where tracking.register is given", "models")
            return self

        @field_validator("uri")
        @classmethod
        def _holds_no_secret(cls, uri: str | None) -> str | None:
            if uri is not None and without_secrets(uri) != uri:
                raise FieldError(
                    "holds a password or a token, which the study's folder would keep; leave it out, and set "
                    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, for a server, "
                    "PGPASSFILE or PGPASSWORD for PostgreSQL; or set MLFLOW_TRACKING_URI to the whole URI and leave "
                    "tracking.uri out"
                )
            return uri


class StudyConfig(Strict):
    """Everything one YAML asks for."""

    name: SafeName
    """Names the study's folder and MLflow experiment."""
    data: Data
    """The data set and its parts."""
    model: Model
    """The network that searches and final trainings train."""
    space: Space = Space()
    """Ops, ranges, noise levels."""
    methods: Annotated[dict[SafeName, TaggedMethod], Field(min_length=1)]
    """Searches and controls to compare: `label: {options}`; the label is the method unless `method` says another."""
    resources: Resources = Resources()
    """What one search holds."""
    budget: BudgetConfig
    """Device time or steps of each search."""
    seeds: SeedsConfig = SeedsConfig()
    """Search seeds and final training seeds."""
    standard: Standard = Standard()
    """Standard augmentation."""
    training: Training
    """Recipe inside searches."""
    final: Final
    """Recipe of the final trainings."""
    hang_minutes: Positive = 15
    """A step, one batch, that takes longer is taken for hung: its process is ended, and the search fails with the
    traceback of where it was. Waiting for a person or the driver does not count."""
    tracking: Tracking = Tracking()
    """MLflow."""

    @property
    def axis(self) -> AxisField:
        """What the study varies besides methods and seeds: noise ops, unless it removes training images instead."""
        removes = self.data.removed_percent != (0,) and len(self.space.noise.levels) == 1
        return "removed_percent" if removes else "noise_level"

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels of the axis, at each of which every method is run; published policies at the first only."""
        return self.data.removed_percent if self.axis == "removed_percent" else self.space.noise.levels

    @field_validator("space")
    @classmethod
    def _varies_one(cls, space: Space, info: ValidationInfo) -> Space:
        removed = getattr(info.data.get("data"), "removed_percent", ())
        if len(space.noise.levels) > 1 and len(removed) > 1:
            raise FieldError(
                "must be one level where data.removed_percent has several: a study varies one of the two; give the "
                "other one value, or make two studies",
                "noise",
                "levels",
            )
        return space

    @field_validator("methods", mode="before")
    @classmethod
    def _labels_are_methods(cls, methods: Any) -> Any:
        """Let `das: {}` and a bare `das:` mean `das: {method: das}`."""
        if not isinstance(methods, dict):
            return methods
        return {
            label: {"method": label, **(options or {})} if options is None or isinstance(options, dict) else options
            for label, options in methods.items()
        }

    @field_validator("methods")
    @classmethod
    def _labels_name_files(cls, methods: dict[str, Method]) -> dict[str, Method]:
        seen: dict[str, str] = {}
        for label in methods:
            if len(label) > LONGEST_LABEL:
                raise FieldError(f"a label has at most {LONGEST_LABEL} characters; this has {len(label)}", label)
            twin = seen.setdefault(label.lower(), label)
            if twin != label:
                raise FieldError(f"differs from the label {twin!r} in case only; their files would be the same", label)
        return methods

    @field_validator("methods")
    @classmethod
    def _clips_move(cls, methods: dict[str, Method], info: ValidationInfo) -> dict[str, Method]:
        space = info.data.get("space")
        for label, options in methods.items():
            if not isinstance(options, DasVideo) or not isinstance(space, Space):
                continue
            if options.frames > 1 and isinstance(info.data.get("model"), SmallCNNModel):
                raise FieldError(
                    "das_video needs a network of residual blocks, got model small_cnn; set model.name to wide_resnet "
                    "or resnet",
                    label,
                )
            for item in (*space.ops, *space.noise.ops[: max(space.noise.levels)]):
                if not moves(item.op):
                    raise FieldError(
                        f"das_video needs a space whose ops move frames (geometric ops and identity), got {item.op}; "
                        "set space.ops to das-video, without noise levels",
                        label,
                    )
        return methods

    @field_validator("budget")
    @classmethod
    def _fits_devices(cls, budget: BudgetConfig, info: ValidationInfo) -> BudgetConfig:
        resources = info.data.get("resources")
        if not isinstance(resources, Resources):
            return budget  # it has a fault of its own
        if budget.gpu_hours is not None and resources.gpus == 0:
            raise FieldError(
                "a GPU budget needs resources.gpus above 0, got 0; set resources.gpus, or give cpu_hours", "gpu_hours"
            )
        if budget.cpu_hours is not None and resources.gpus > 0:
            raise FieldError(
                f"a CPU budget needs resources.gpus 0, got {resources.gpus:g}; give gpu_hours, or set resources.gpus "
                "to 0",
                "cpu_hours",
            )
        return budget
