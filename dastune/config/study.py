"""StudyConfig: everything one YAML asks for, typed and frozen; unknown keys are refused."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from dastune.budget import Budget
from dastune.data.table import DATASETS
from dastune.errors import nearest
from dastune.folder import SAFE_NAME
from dastune.ops.table import NOISE_LISTS, OPS, SPACES
from dastune.policy.space import SearchSpace, SpaceOp


class _Strict(BaseModel):
    # Docstrings under the attributes become descriptions: docs/study.md is checked against them.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{twice[0]!r} is given twice; give each once")
    return values


def _safe(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(
            "it becomes a folder name; use 1 to 100 letters, digits, '-', '_' and '.', starting with a letter or digit"
        )
    return name


SafeName: TypeAlias = Annotated[str, AfterValidator(_safe)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Seeds: TypeAlias = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_distinct)]
Rate: TypeAlias = Annotated[float, Field(gt=0)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class _Data(_Strict):
    train_images: Count | None = None
    """Images the final training sees; null: the whole training set."""
    search_images: Count | None = None
    """Images a search trains on, drawn with the search seed; null: as many as `train_images`."""
    validation_images: Count
    """Images a search validates on, drawn with the search seed, never among its training images."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "_Data":
        name: str = self.name  # type: ignore[attr-defined]
        total = DATASETS[name].train_images
        if self.search_images is None and self.train_images is None:
            raise ValueError("give search_images, or train_images for both")
        if self.search_count + self.validation_images > total:
            raise ValueError(
                f"search_images {self.search_count} and validation_images {self.validation_images} together exceed the "
                f"{total} training images of {name}; lower one"
            )
        if self.train_images is not None and self.train_images > total:
            raise ValueError(f"train_images {self.train_images} exceeds the {total} training images of {name}")
        return self

    @property
    def search_count(self) -> int:
        """Images a search trains on."""
        count = self.search_images or self.train_images
        assert count is not None
        return count

    def load_options(self) -> dict[str, Any]:
        """What the loader of this data set is called with."""
        return {}


class DigitsData(_Data):
    """scikit-learn's 1,797 digits, 16 x 16 pixels; 1,000 for training, 797 for the test. No download."""

    name: Literal["digits"]
    """Name of the data set."""


class Cifar10Data(_Data):
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels."""

    name: Literal["cifar10"]
    """Name of the data set."""
    root: str = "~/.cache/dastune"
    """Folder that holds (or will hold, after a download of 170 MB) cifar-10-batches-py."""

    def load_options(self) -> dict[str, Any]:
        return {"root": self.root}


Data: TypeAlias = Annotated[DigitsData | Cifar10Data, Field(discriminator="name")]


class WideResNetModel(_Strict):
    """Wide ResNet (arXiv 1605.07146)."""

    name: Literal["wide_resnet"]
    """Name of the network."""
    depth: Count = 28
    """Layers: 10, 16, 22, 28, 40 ..."""
    width: Count = 2
    """Widening factor of the channels."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability inside the blocks."""

    @field_validator("depth")
    @classmethod
    def _blocks(cls, depth: int) -> int:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError("must be 6 n + 4 with n >= 1: 10, 16, 22, 28, 34, 40 ...")
        return depth


class SmallCNNModel(_Strict):
    """Three convolutions, for tiny images on a CPU."""

    name: Literal["small_cnn"]
    """Name of the network."""
    channels: Count = 16
    """Channels of the first layer; the others have 2 and 4 times as many."""


Model: TypeAlias = Annotated[WideResNetModel | SmallCNNModel, Field(discriminator="name")]


def _known_op(name: str) -> str:
    if name not in OPS:
        raise ValueError(f"{name!r} is no op; {nearest(name, OPS)}")
    return name


def _op_of_yaml(item: Any) -> Any:
    """Turn `rotate` or `rotate: {degrees: 20}` or `rotate: {degrees: [5, 20]}` into the fields of OpRange."""
    if isinstance(item, str):
        item = {item: {}}
    if not (isinstance(item, dict) and len(item) == 1 and "op" not in item):
        return item
    [(name, argument)] = item.items()
    op = OPS[_known_op(name)]
    if not argument:
        return {"op": name, "low": op.low, "high": op.high}
    if not op.argument:
        raise ValueError(f"{name!r} takes no argument, got {argument!r}")
    if not isinstance(argument, dict) or list(argument) != [op.argument]:
        raise ValueError(f"{name!r} takes {{{op.argument}: HIGH}} or {{{op.argument}: [LOW, HIGH]}}, got {argument!r}")
    value = argument[op.argument]
    low, high = value if isinstance(value, list) and len(value) == 2 else (op.low, value)
    return {"op": name, "low": low, "high": high}


class OpRange(_Strict):
    """An op of the space with its physical argument at magnitude 0 and 1."""

    op: Annotated[str, AfterValidator(_known_op)]
    low: float
    high: float


OpItem: TypeAlias = Annotated[OpRange, BeforeValidator(_op_of_yaml)]


def _named(names: dict[str, tuple[str, ...]], kind: str) -> Callable[[Any], Any]:
    def expand(value: Any) -> Any:
        if isinstance(value, str):
            if value not in names:
                raise ValueError(f"{value!r} is no {kind}; {nearest(value, names)}")
            return list(names[value])
        return value

    return expand


class Noise(_Strict):
    """The noise ops that join the space, level by level."""

    ops: Annotated[
        tuple[OpItem, ...],
        BeforeValidator(_named(NOISE_LISTS, "list of noise ops")),
    ] = Field(default="default", validate_default=True)  # type: ignore[assignment]
    """A named list, or your own; level k adds the first k of it to the space."""
    levels: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_distinct)
    ] = (0,)
    """Numbers of noise ops at which every method is run."""

    @model_validator(mode="after")
    def _levels_exist(self) -> "Noise":
        beyond = [level for level in self.levels if level > len(self.ops)]
        if beyond:
            raise ValueError(f"level {beyond[0]} of levels is beyond the list, which has {len(self.ops)} noise ops")
        return self


class Space(_Strict):
    """What the searches may use."""

    ops: Annotated[
        tuple[OpItem, ...], Field(min_length=1), BeforeValidator(_named(SPACES, "op space"))
    ] = Field(default="das-image", validate_default=True)  # type: ignore[assignment]
    """A named op space, or a list of ops, each with its own range if wanted: [identity, rotate: {degrees: 20}]."""
    noise: Noise = Noise()
    """Noise ops and levels."""
    magnitude_levels: Annotated[int, Field(ge=2, le=31)] = 10
    """Magnitudes that a method with discrete magnitudes chooses from."""

    @model_validator(mode="after")
    def _ops_once(self) -> "Space":
        _distinct(tuple(item.op for item in (*self.ops, *self.noise.ops)))
        return self

    def at_level(self, noise_level: int) -> SearchSpace:
        """Return the search space with the first `noise_level` noise ops."""
        items = (*self.ops, *self.noise.ops[:noise_level])
        return SearchSpace(tuple(SpaceOp(item.op, item.low, item.high) for item in items), self.magnitude_levels)


class Das(_Strict):
    """Differentiable augmentation search, by default with the alignment policy gradient (docs/das.md)."""

    method: Literal["das"]
    """Which search; the label if left out."""
    preset: Literal["default"] = "default"
    """`default`: sampled ops and alignment rewards; `paper`: the published recipe."""
    stages: Annotated[int, Field(ge=1, le=4)] = 1
    """Ops applied one after the other to every image."""
    tau_learning_rate: Rate = 0.03
    """Adam's learning rate of tau."""
    validation_batch: Count = 64
    """Validation images per step."""


class DasPaper(_Strict):
    """Differentiable augmentation search as published (CVPR 2024, supplement C and F)."""

    method: Literal["das"]
    """Which search; the label if left out."""
    preset: Literal["paper"]
    """The published recipe: blended cell, first order, perturbation-based selection."""
    inputs: Literal[1, 2] = 2
    """Input states of the cell, each the image."""
    nodes: Annotated[int, Field(ge=1, le=6)] = 4
    """Nodes of the cell; node i reads all earlier states."""
    tau_learning_rate: Rate = 3e-4
    """Adam's learning rate of tau (supplement C)."""
    tau_weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    """Adam's weight decay of tau (supplement C)."""
    search_share: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Share of the budget before selection starts (50 of 131 epochs in DARTS-PT)."""


class AutoAugment(_Strict):
    """AutoAugment's search (CVPR 2019): an LSTM controller trained by PPO on child validation accuracy."""

    method: Literal["auto_augment"]
    """Which search; the label if left out."""
    search: Literal["ppo"] = "ppo"
    """How policies are proposed."""
    sub_policies: Count = 5
    """Sub-policies of a proposed policy."""
    keep_policies: Count = 5
    """Best policies whose sub-policies make the result."""


class RandAugment(_Strict):
    """RandAugment (arXiv 1909.13719): a grid over N ops and one magnitude M for all."""

    method: Literal["rand_augment"]
    """Which search; the label if left out."""
    n: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_distinct)] = (1, 2, 3)
    """Numbers of ops per image."""
    m: Annotated[
        tuple[Annotated[int, Field(ge=0, le=10)], ...], Field(min_length=1), AfterValidator(_distinct)
    ] = tuple(range(1, 11))
    """Magnitudes; 10 is the largest of each op's range."""


class Random(_Strict):
    """Random policies of AutoAugment's form, the best child kept: what a search must beat."""

    method: Literal["random"]
    """Which search; the label if left out."""
    sub_policies: Count = 5
    """Sub-policies of a proposed policy."""


class Trivial(_Strict):
    """TrivialAugment (ICCV 2021) over the study's space: one uniform op at a uniform magnitude. No search."""

    method: Literal["trivial"]
    """Which search; the label if left out."""


class NoAugmentation(_Strict):
    """Standard augmentation only. No search."""

    method: Literal["none"]
    """Which search; the label if left out."""


Method: TypeAlias = Das | DasPaper | AutoAugment | RandAugment | Random | Trivial | NoAugmentation
METHODS: tuple[str, ...] = ("das", "auto_augment", "rand_augment", "random", "trivial", "none")


def _method_tag(value: Any) -> str:
    name = value.get("method") if isinstance(value, dict) else getattr(value, "method", None)
    preset = value.get("preset") if isinstance(value, dict) else getattr(value, "preset", None)
    return "das_paper" if (name, preset) == ("das", "paper") else str(name)


TaggedMethod: TypeAlias = Annotated[
    Annotated[Das, Tag("das")]
    | Annotated[DasPaper, Tag("das_paper")]
    | Annotated[AutoAugment, Tag("auto_augment")]
    | Annotated[RandAugment, Tag("rand_augment")]
    | Annotated[Random, Tag("random")]
    | Annotated[Trivial, Tag("trivial")]
    | Annotated[NoAugmentation, Tag("none")],
    Discriminator(_method_tag),
]


class BudgetConfig(_Strict):
    """What each search may use; the same for every method and level. Exactly one of the three."""

    gpu_hours: Rate | None = None
    """Device-hours on GPUs; fractions of a GPU count as fractions."""
    cpu_hours: Rate | None = None
    """Device-hours on CPU slots."""
    steps: Count | None = None
    """Optimiser steps; makes a study reproducible bit for bit on a CPU."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "BudgetConfig":
        given = [key for key in ("gpu_hours", "cpu_hours", "steps") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of gpu_hours, cpu_hours, steps; got {', '.join(given) or 'none'}")
        return self

    def per_search(self) -> Budget:
        """Return it in seconds or steps."""
        hours = self.gpu_hours if self.gpu_hours is not None else self.cpu_hours
        return Budget(seconds=None if hours is None else hours * 3600, steps=self.steps)


class SeedsConfig(_Strict):
    """Seeds of the searches and of the final trainings, kept apart."""

    search: Seeds = (0, 1, 2)
    """One independent search each: split of the data, weights, sampling."""
    final: Seeds = (0,)
    """One final training each per found policy."""


class Resources(_Strict):
    """What one search holds while it runs."""

    cpus: Annotated[float, Field(gt=0)] = 1
    """CPU slots; torch uses as many threads."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs, or a fraction below 1 of one."""

    @field_validator("gpus")
    @classmethod
    def _whole_or_fraction(cls, gpus: float) -> float:
        if gpus > 1 and gpus != math.floor(gpus):
            raise ValueError("must be a fraction below 1 or a whole number")
        return gpus


class Standard(_Strict):
    """Standard augmentation, in every training of the study, with a policy or without."""

    crop_px: Annotated[int, Field(ge=0)] = 0
    """Random crop after zero padding by so many pixels; 0: no crop."""
    flip: bool = False
    """Random horizontal flip."""
    cutout_px: Annotated[int, Field(ge=0)] = 0
    """Side of a mid-grey square put at a random place after the policy; 0: no cutout."""


class Training(_Strict):
    """How networks are trained inside searches: one recipe for all methods."""

    batch_size: Count
    """Images per step."""
    learning_rate: Rate
    """Largest learning rate of SGD with Nesterov momentum."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of SGD."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Learning rate over a training: cosine to 0, or times 0.1 after each third."""
    child_epochs: Count
    """Epochs of a child, the training that scores one policy in a black-box search."""


class Final(_Strict):
    """How found policies are trained from scratch; unset fields are those of `training`."""

    batch_size: Count
    """Images per step."""
    learning_rate: Rate
    """Largest learning rate of SGD with Nesterov momentum."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of SGD."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Learning rate over the training: cosine to 0, or times 0.1 after each third."""
    epochs: Count
    """Epochs of a final training."""


class Tracking(_Strict):
    """Where MLflow's records go."""

    uri: str | None = None
    """MLflow tracking URI; null: MLFLOW_TRACKING_URI if set, else sqlite in the study's folder."""
    experiment: str | None = None
    """MLflow experiment; null: the study's name."""


class StudyConfig(_Strict):
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
    budget: BudgetConfig
    """Device time or steps of each search."""
    seeds: SeedsConfig = SeedsConfig()
    """Search seeds and final training seeds."""
    resources: Resources = Resources()
    """What one search holds."""
    standard: Standard = Standard()
    """Standard augmentation."""
    training: Training
    """Recipe inside searches."""
    final: Final
    """Recipe of the final trainings."""
    tracking: Tracking = Tracking()
    """MLflow."""

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

    @model_validator(mode="after")
    def _budget_fits_devices(self) -> "StudyConfig":
        if self.budget.gpu_hours is not None and self.resources.gpus == 0:
            raise ValueError(
                "budget.gpu_hours needs resources.gpus above 0, got 0; set resources.gpus, or give budget.cpu_hours"
            )
        if self.budget.cpu_hours is not None and self.resources.gpus > 0:
            raise ValueError(
                f"budget.cpu_hours does not fit resources.gpus {self.resources.gpus:g}; give budget.gpu_hours, or set "
                "resources.gpus to 0"
            )
        return self
