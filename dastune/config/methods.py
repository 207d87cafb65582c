"""The methods of a study, with their options: three searches, a random one, and two controls that need no search."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag

from dastune.config.fields import Count, NotNegative, Number, Positive, Strict, Whole, distinct


class Das(Strict):
    """Differentiable augmentation search, by default with the alignment policy gradient (docs/das.md)."""

    method: Literal["das"]
    """Which search; the label if left out."""
    preset: Literal["default"] = "default"
    """`default`: sampled ops and alignment rewards; `paper`: the published recipe."""
    stages: Annotated[Whole, Field(ge=1, le=4)] = 1
    """Ops applied one after the other to every image."""
    tau_learning_rate: Positive = 0.03
    """Adam's learning rate of tau."""
    validation_batch: Count = 64
    """Validation images per step."""


class DasPaper(Strict):
    """Differentiable augmentation search as published (CVPR 2024, supplement C and F)."""

    method: Literal["das"]
    """Which search; the label if left out."""
    preset: Literal["paper"]
    """The published recipe: blended cell, first order, perturbation-based selection."""
    inputs: Literal[1, 2] = 2
    """Input states of the cell, each the image."""
    nodes: Annotated[Whole, Field(ge=1, le=6)] = 4
    """Nodes of the cell; node i reads all earlier states."""
    tau_learning_rate: Positive = 3e-4
    """Adam's learning rate of tau (supplement C)."""
    tau_weight_decay: NotNegative = 1e-3
    """Adam's weight decay of tau (supplement C)."""
    search_share: Annotated[Number, Field(gt=0, lt=1)] = 0.4
    """Share of the budget before selection starts (50 of 131 epochs in DARTS-PT)."""


class AutoAugment(Strict):
    """AutoAugment's search (CVPR 2019): an LSTM controller trained by PPO on child validation accuracy."""

    method: Literal["auto_augment"]
    """Which search; the label if left out."""
    search: Literal["ppo"] = "ppo"
    """How policies are proposed."""
    sub_policies: Count = 5
    """Sub-policies of a proposed policy."""
    keep_policies: Count = 5
    """Best policies whose sub-policies make the result."""


class RandAugment(Strict):
    """RandAugment (arXiv 1909.13719): N ops and one magnitude M for all, chosen from a grid."""

    method: Literal["rand_augment"]
    """Which search; the label if left out."""
    search: Literal["grid", "tpe"] = "grid"
    """How points are chosen: the whole grid, coarse to fine, or Optuna's TPE."""
    n: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(distinct)] = (1, 2, 3)
    """Numbers of ops per image."""
    m: Annotated[tuple[Annotated[Whole, Field(ge=0, le=10)], ...], Field(min_length=1), AfterValidator(distinct)] = (
        tuple(range(1, 11))
    )
    """Magnitudes; 10 is the largest of each op's range."""


class Random(Strict):
    """Random policies of AutoAugment's form, the best child kept: what a search must beat."""

    method: Literal["random"]
    """Which search; the label if left out."""
    sub_policies: Count = 5
    """Sub-policies of a proposed policy."""


class Trivial(Strict):
    """TrivialAugment (ICCV 2021) over the study's space: one uniform op at a uniform magnitude. No search."""

    method: Literal["trivial"]
    """Which search; the label if left out."""


class NoAugmentation(Strict):
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
