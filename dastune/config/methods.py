"""The methods of a study, with their options: searches, and controls that need none."""

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dastune.config.fields import Count, FieldError, NotNegative, Number, Positive, Strict, Whole, distinct
from dastune.errors import nearest
from dastune.policy.references import REFERENCES
from dastune.policy.topology import LONGEST, Topology, dag, named


def _known_topology(name: Any) -> Any:
    if not isinstance(name, str):
        raise FieldError("must be a name such as chain-2 or a cell such as {inputs: 2, nodes: 4}")
    try:
        named(name)
    except ValueError as error:
        raise FieldError(f"{error}, or a cell such as {{inputs: 2, nodes: 4}}") from error
    return name


def _known_reference(name: str) -> str:
    if name not in REFERENCES:
        raise FieldError(f"{name!r} is no published policy; {nearest(name, REFERENCES)}")
    return name


TopologyName: TypeAlias = Annotated[str, BeforeValidator(_known_topology), Tag("name")]


class Cell(Strict):
    """A DAG of nodes, as the cells of DARTS."""

    inputs: Literal[1, 2] = 2
    """Input states of the first cell, each the image; later cells read the outputs of the cells before."""
    nodes: Annotated[Whole, Field(ge=1, le=LONGEST)] = 4
    """Nodes of a cell; node i reads the inputs and all earlier nodes, and keeps two edges in the end."""
    cells: Annotated[Whole, Field(ge=1, le=4)] = 1
    """Cells one after the other; they share tau."""
    join: Literal["mean", "sum"] = "mean"
    """What a node makes of its edges: the mean, or the sum cut to [0, 1]."""


def _name_or_cell(value: Any) -> str:
    return "cell" if isinstance(value, (dict, Cell)) else "name"


# What a preset stands for; every key may be set to something else beside it.
PRESETS: dict[str, dict[str, Any]] = {
    # Chosen by evidence: docs/das.md has the comparison.
    "default": {
        "topology": "single",
        "relaxation": "sample",
        "estimator": "alignment",
        "validation": "clean",
        "validation_batch": 64,
        "selection": "distribution",
        "tau_learning_rate": 0.03,
        "tau_weight_decay": 0.0,
        "tau_schedule": "linear",
    },
    # Supplement C and F of the paper; what it leaves open as in DARTS and DARTS-PT.
    "paper": {
        "topology": "darts-4",
        "relaxation": "blend",
        "estimator": "first_order",
        "validation": "augmented",
        "validation_batch": None,
        "selection": "perturbation",
        "tau_learning_rate": 3e-4,
        "tau_weight_decay": 1e-3,
        "tau_schedule": "constant",
    },
}


def preset_filled(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a differentiable search filled up from its preset, `stages: 2` as `topology: chain-2`."""
    fields = dict(fields)
    if "stages" in fields:
        stages = fields.pop("stages")
        if isinstance(stages, bool) or not isinstance(stages, int) or not 1 <= stages <= LONGEST:
            raise FieldError(f"must be a whole number from 1 to {LONGEST}, the ops one after the other", "stages")
        if fields.setdefault("topology", f"chain-{stages}") != f"chain-{stages}":
            raise FieldError("says the same as topology: chain-K; give one of them", "stages")
    preset = fields.get("preset", "default")
    return {**PRESETS[preset if isinstance(preset, str) and preset in PRESETS else "default"], **fields}


class Das(Strict):
    """Differentiable augmentation search (CVPR 2024), by default with alignment rewards (docs/das.md)."""

    method: Literal["das"]
    """Which search; the label if left out."""
    preset: Literal["default", "paper"] = "default"
    """Where the other keys come from: `default`, or `paper`, the published recipe."""
    topology: Annotated[TopologyName | Annotated[Cell, Tag("cell")], Discriminator(_name_or_cell)]
    """What ops are put on: `single`, `chain-K` (K stages one after the other; `stages: K` says the same), `darts-N`, or
    a cell of your own."""
    relaxation: Literal["sample", "blend"]
    """How images go through it: one op drawn for each image and edge, or the pixels of all ops blended."""
    estimator: Literal["alignment", "alignment_forward", "exact", "first_order", "none"]
    """How tau learns: alignment rewards of the last layer; of all weights, by one more forward pass; double backward
    through one step of the weights; the validation loss at the weights as they are; not at all."""
    validation: Literal["clean", "augmented"]
    """Whether the validation images of the estimator go through the cell too; for first_order they must."""
    validation_batch: Count | None
    """Validation images per step of tau; null: as many as `training.batch_size`."""
    selection: Literal["distribution", "perturbation", "perturbation_add", "argmax", "uniform"]
    """How a policy is made of tau: softmax(tau) as it is; the ops that are missed most; the ops of which more helps
    most; the largest tau; all ops alike."""
    tau_learning_rate: Positive
    """Adam's learning rate of tau."""
    tau_weight_decay: NotNegative
    """Adam's weight decay of tau."""
    tau_schedule: Literal["linear", "constant"]
    """Learning rate of tau: linear to 0 at the end, or where a selection by perturbation starts; or constant."""
    magnitude_ranges: Annotated[Whole, Field(ge=1, le=10)] = 1
    """Parts of equal length that each op's range is split into, each a candidate of its own."""
    search_share: Annotated[Number, Field(gt=0, lt=1)] = 0.4
    """Share of the budget before a selection by perturbation starts (50 of 131 epochs in DARTS-PT)."""
    tuning_epochs: Count = 5
    """Epochs of training between two decisions of a selection by perturbation; fewer under a short budget."""
    criterion: Literal["accuracy", "loss"] = "accuracy"
    """What `perturbation` compares on the validation images."""
    batch_norm: Literal["batch", "running"] = "batch"
    """Statistics that batch norm uses when a selection by perturbation looks at validation images."""

    @model_validator(mode="before")
    @classmethod
    def _with_its_preset(cls, fields: Any) -> Any:
        """Fill up from the preset, and let `stages: 2` mean `topology: chain-2`."""
        return preset_filled(fields) if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _fits_together(self) -> "Das":
        if self.estimator == "first_order" and self.validation == "clean":
            raise FieldError(
                "with estimator first_order, clean validation images give tau a gradient of exactly zero, since their "
                "loss at fixed weights does not depend on it; set it to augmented, or choose another estimator",
                "validation",
            )
        if self.selection in ("distribution", "uniform") and not self.wiring.is_chain:
            perturbation = "perturbation" if self.relaxation == "blend" else "perturbation_add"
            raise FieldError(
                f"{self.selection} makes a policy of stages, which a DAG has not; choose argmax or {perturbation}, or "
                "topology chain-K",
                "selection",
            )
        needed = {"perturbation": "blend", "perturbation_add": "sample"}.get(self.selection)
        if needed not in (None, self.relaxation):
            raise FieldError(
                f"{self.selection} needs relaxation {needed}, got {self.relaxation}: an op's weight can be masked in a "
                "blend only, and images can be given an op only where ops are sampled",
                "selection",
            )
        return self

    @property
    def wiring(self) -> Topology:
        """The topology that its name or its cell stands for."""
        if isinstance(self.topology, str):
            return named(self.topology)
        return dag(**self.topology.model_dump())


class DasVideo(Das):
    """DAS from image to video (docs/video.md): a cell makes a clip of each image, and the study's network reads it.

    Gate-Shift-Fuse modules in the network mix features of neighbouring frames. The space must have geometric ops and
    identity only, such as `das-video`; their ranges are of a step from one frame to the next.
    """

    method: Literal["das_video"]  # type: ignore[assignment]
    """Which search; the label if left out."""
    preset: Literal["default", "paper"] = "paper"
    """Where the other keys come from: `paper`, the published recipe, or `default`, which finds what is planted in image
    mode, with selection argmax."""
    selection: Literal["perturbation", "perturbation_add", "argmax"]
    """How a discrete cell is made of tau: the ops that are missed most; the ops of which more helps most; the largest
    tau."""
    frames: Annotated[Whole, Field(ge=1, le=64)] = 8
    """Frames of a clip (segments in the supplement's Table 9)."""
    profile: Literal["symmetric", "ramp"] = "symmetric"
    """How ops grow away from the middle frame, which is the image: alike on both sides, or in one direction."""
    use: Literal["clip", "shuffled", "frame"] = "clip"
    """What final trainings make of the found cell: its clips; its clips with their frames shuffled (Re-shuffle, Table
    10); or one frame of them at a time, as an augmentation of the plain network's images (DAS Aug (S))."""
    fusion: Annotated[Number, Field(gt=0, le=1)] = 0.25
    """Share of the channels that Gate-Shift-Fuse modules work on."""
    evaluation: Literal["cell", "copies"] = "cell"
    """What is tested: clips that the found cell makes of the test images (as the authors' code), or clips of so many
    copies of each. One frame at a time is always tested on images."""

    @model_validator(mode="before")
    @classmethod
    def _with_its_preset(cls, fields: Any) -> Any:
        """Fill up from the preset of `das`; what is found is always a cell."""
        if not isinstance(fields, dict):
            return fields
        fields = {"preset": "paper", **fields}
        if fields["preset"] == "default":
            fields = {"selection": "argmax", **fields}
        return preset_filled(fields)

    @model_validator(mode="after")
    def _moves_alike(self) -> "DasVideo":
        if isinstance(self.topology, Cell) and self.topology.join == "sum":
            raise FieldError("must be mean for das_video, whose middle frame stays the image", "topology", "join")
        return self


class Halving(Strict):
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): children begin together, and the worse end early."""

    children: Annotated[Whole, Field(ge=2, le=128)] = 8
    """Children that begin together; those that wait for their turn stay in the device's memory and in every
    checkpoint."""
    eta: Annotated[Whole, Field(ge=2, le=16)] = 2
    """One in so many of the children that began a rung, the best, go on to the next, which is so many times as long;
    the last rung is a whole child's training."""

    @model_validator(mode="after")
    def _has_rungs(self) -> "Halving":
        if self.children < self.eta:
            fault = f"{self.children} is less than eta, {self.eta}: no child would go on; raise it"
            raise FieldError(fault, "children")
        return self


class BlackBox(Strict):
    """What the searches share that score a policy by training a child with it."""

    method: str
    """Which search; the label if left out."""
    children_in_parallel: Annotated[Whole, Field(ge=1, le=64)] = 1
    """Children trained at the same time, each on devices of its own as `resources` says; all are charged."""
    halving: Halving | None = None
    """Successive halving of children; null: every child is trained for `training.child_epochs`."""

    @model_validator(mode="after")
    def _none_waits(self) -> "BlackBox":
        if self.halving is not None and self.children_in_parallel > self.halving.children:
            raise FieldError(
                f"{self.children_in_parallel} is more than halving.children, {self.halving.children}, and no others "
                "begin before these have ended; lower it",
                "children_in_parallel",
            )
        return self


class AutoAugment(BlackBox):
    """AutoAugment's search (CVPR 2019): an LSTM controller trained by PPO on child validation accuracy."""

    method: Literal["auto_augment"]
    """Which search; the label if left out."""
    search: Literal["ppo", "tpe", "random"] = "ppo"
    """How policies are proposed: by the controller; by Optuna's TPE, from the sub-policies of good policies; or drawn
    uniformly, the control that the other two must beat."""
    sub_policies: Count = 5
    """Sub-policies of a proposed policy."""
    keep_policies: Count = 5
    """Best policies whose sub-policies make the result."""
    controller_batch: Count | None = None
    """Children per update of the controller, a multiple of `children_in_parallel`; null: 2, or `children_in_parallel`
    where that is more. With `halving` any number: a whole round is proposed before the next update."""

    @model_validator(mode="after")
    def _whole_batches(self) -> "AutoAugment":
        if self.controller_batch is None:
            return self
        if self.search != "ppo":
            raise FieldError(f"is of search ppo, got search {self.search}; leave it out", "controller_batch")
        if self.halving is None and self.controller_batch % self.children_in_parallel:
            raise FieldError(
                f"must be a multiple of children_in_parallel, {self.children_in_parallel}; a child is then proposed by "
                "the same controller whether children are trained at once or one by one",
                "controller_batch",
            )
        return self


# The M at which an op reaches the end of its range, by the scale that counts M.
LARGEST_M: dict[str, int] = {"paper": 10, "torchvision": 30}


class RandAugment(BlackBox):
    """RandAugment (arXiv 1909.13719): N ops and one magnitude M for all, chosen from a grid."""

    method: Literal["rand_augment"]
    """Which search; the label if left out."""
    search: Literal["grid", "tpe"] = "grid"
    """How points are chosen: the whole grid, coarse to fine, or Optuna's TPE."""
    scale: Literal["paper", "torchvision"] = "paper"
    """How M counts: 10 is the end of an op's range (AutoAugment's and the paper's scale), or 30 is (torchvision's 31
    bins). What happens at the end of a range is said by `space.ops`: `ra-paper` and `ra-torchvision` have theirs."""
    n: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(distinct)] = tuple(range(1, 11))
    """Numbers of ops per image."""
    m: Annotated[tuple[Annotated[Whole, Field(ge=0)], ...], Field(min_length=1), AfterValidator(distinct)]
    """Magnitudes; by default ten of equal distance, up to the end of the ranges."""

    @model_validator(mode="before")
    @classmethod
    def _ten_magnitudes(cls, fields: Any) -> Any:
        """Give M its default, which depends on the scale."""
        if not isinstance(fields, dict):
            return fields
        scale = fields.get("scale")
        end = LARGEST_M[scale] if isinstance(scale, str) and scale in LARGEST_M else LARGEST_M["paper"]
        return {"m": tuple(range(end // 10, end + 1, end // 10)), **fields}

    @field_validator("m")
    @classmethod
    def _on_the_scale(cls, m: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        end = LARGEST_M.get(info.data.get("scale", ""), max(m))  # a scale that is none is told elsewhere
        for index, value in enumerate(m):
            if value > end:
                raise FieldError(f"must be at most {end}, where ranges end on the scale {info.data['scale']}", index)
        return m


class Random(BlackBox):
    """Random policies of AutoAugment's form, the best child's own policy kept: what a search must beat."""

    method: Literal["random"]
    """Which search; the label if left out."""
    sub_policies: Count = 5
    """Sub-policies of a proposed policy."""


class Uniform(Strict):
    """UniformAugment (arXiv 2003.14348) over the study's space: two uniform ops, at uniform magnitudes. No search."""

    method: Literal["uniform"]
    """Which search; the label if left out."""


class Trivial(Strict):
    """TrivialAugment (ICCV 2021): one uniform op at a uniform magnitude. No search."""

    method: Literal["trivial"]
    """Which search; the label if left out."""
    ops: Literal["study", "trivial-wide"] = "study"
    """Over the study's space, noise ops included; or over the published wide space (TrivialAugmentWide), whatever the
    study's."""


class StandardOnly(Strict):
    """The study's standard augmentation (crop, flip, cutout) and no policy. No search."""

    method: Literal["standard"]
    """Which search; the label if left out."""


class NoAugmentation(Strict):
    """No policy, and no standard augmentation either. No search."""

    method: Literal["none"]
    """Which search; the label if left out."""


class Published(Strict):
    """A policy that others have published: no search here, but one elsewhere, on more data and devices.

    It is trained and tested at the first level only, since noise ops do not change it, and reported apart from
    the methods that the study compares.
    """

    method: Literal["published"]
    """Which search; the label if left out."""
    policy: Annotated[str, AfterValidator(_known_reference)]
    """One of the names below."""


Method: TypeAlias = (
    Das | DasVideo | AutoAugment | RandAugment | Random | Uniform | Trivial | StandardOnly | NoAugmentation | Published
)
METHODS: tuple[str, ...] = tuple(get_args(options.model_fields["method"].annotation)[0] for options in get_args(Method))
TaggedMethod: TypeAlias = Annotated[Method, Field(discriminator="method")]
