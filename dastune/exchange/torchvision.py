"""Policies from torchvision (`AutoAugment`, `RandAugment`, `TrivialAugmentWide`), and as transforms for it.

A policy becomes a `torchvision_policy.PolicyTransform`, as an object or as the text of a Python file that needs no
dastune. Its pixels are those of dastune's ops: within 1e-4 on float images, which is what 8-bit images are rounded
from. With nearest sampling, pixels whose source lies within 1e-3 pixels of the border between two may take either.

What is read keeps the magnitudes of torchvision's own tables. torchvision rounds or cuts to 8 bits after each op, and
dastune does not: the difference is up to 2/255 for each of the four enhancements and 1/255 for auto_contrast.
"""

import inspect
from collections import Counter
from collections.abc import Sequence
from pprint import pformat
from typing import TYPE_CHECKING, Any

from dastune.errors import UserError, nearest, shortened
from dastune.exchange.clips import ImagePolicy
from dastune.exchange.refusals import Refusals
from dastune.exchange.steps import steps_that_happen
from dastune.ops.spaces import TORCHVISION, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import (
    Choice,
    Genotype,
    Policy,
    Stages,
    Step,
    SubPolicies,
    SubPolicy,
    policy_to_json,
)

if TYPE_CHECKING:
    from dastune.exchange.torchvision_policy import PolicyTransform

_CLASSES = ("AutoAugment", "RandAugment", "TrivialAugmentWide")
_NAMES = {
    "Identity": "identity",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateX": "translate_x",
    "TranslateY": "translate_y",
    "Rotate": "rotate",
    "Brightness": "brightness",
    "Color": "color",
    "Contrast": "contrast",
    "Sharpness": "sharpness",
    "Posterize": "posterize",
    "Solarize": "solarize",
    "AutoContrast": "auto_contrast",
    "Equalize": "equalize",
    "Invert": "invert",
}
_ENHANCEMENTS = ("color", "contrast", "brightness", "sharpness")
_AUTO_AUGMENT_BINS = 10  # written in the body of AutoAugment.forward


def exported(policy: ImagePolicy) -> "PolicyTransform":
    """Return the policy as a transform for `torchvision.transforms.v2.Compose`.

    A genotype is drawn from by its paths; where it averages images, one of them is drawn instead.

    Raises:
        UserError: torchvision has nothing for an op of the policy; all such ops are named.
    """
    from dastune.exchange.torchvision_policy import PolicyTransform

    return PolicyTransform(policy_to_json(_expressible(policy)))


def exported_text(policy: ImagePolicy) -> str:
    """Return a Python module that needs no dastune; its `transform` is what `exported` returns. Raises as it does."""
    from dastune.exchange import torchvision_policy

    literal = pformat(policy_to_json(_expressible(policy)), width=110, sort_dicts=False)
    source = inspect.getsource(torchvision_policy)
    return f"{source}\n\nPOLICY = {literal}\n\ntransform = PolicyTransform(POLICY)\n"


def imported(source: Any, image_size: tuple[int, int] | None = None) -> Policy:
    """Return the policy of one of torchvision's transforms.

    Args:
        source: an `AutoAugment`, `RandAugment` or `TrivialAugmentWide` of torchvision.transforms or its v2; or a text,
            which stands for one with its defaults: "cifar10", "imagenet", "svhn" (AutoAugment), "rand_augment",
            "trivial_augment_wide".
        image_size: (height, width) in pixels of the images that the policy is for. TrivialAugmentWide needs it, since
            it moves images by pixels, and dastune by fractions of the side. The others do not depend on it.

    Raises:
        UserError: `source` is something else, samples in a way that dastune does not, or is kept differently by the
            torchvision installed.
    """
    transform = _transform(source)
    table = _Table(transform, image_size)
    geometry = _geometry(transform)
    match type(transform).__name__:
        case "AutoAugment":
            return SubPolicies(sub_policies=_sub_policies(transform, table), geometry=geometry)
        case "RandAugment":
            stage = _rand_augment_stage(transform, table)
            return Stages(stages=(stage,) * transform.num_ops, geometry=geometry)
        case _:
            return Stages(stages=(_trivial_stage(transform, table),), geometry=geometry)


def _expressible(policy: ImagePolicy) -> SubPolicies | Stages:
    """Return the policy without what never happens, as sub-policies or stages. Raises UserError as `exported`."""
    refusals = Refusals.of_export("torchvision")
    for where, step in steps_that_happen(policy):
        smallest = -step.high if step.signed else step.low
        if OPS[step.op].noise:
            refusals.add(step.op, "torchvision has no such transform", where)
        elif step.op in _ENHANCEMENTS and smallest < -1:
            refusals.add(f"{step.op} by {smallest:g}", "torchvision's factors, 1 + change, are 0 or more", where)
    refusals.check()
    return _without_the_impossible(policy.paths() if isinstance(policy, Genotype) else policy)


def _without_the_impossible(policy: SubPolicies | Stages) -> SubPolicies | Stages:
    """Return the policy without choices of weight 0 and steps of probability 0."""
    if isinstance(policy, SubPolicies):
        subs = tuple(
            sub.model_copy(update={"steps": tuple(step for step in sub.steps if step.probability > 0)})
            for sub in policy.sub_policies
            if sub.weight > 0
        )
        return policy.model_copy(update={"sub_policies": subs})
    stages = tuple(
        tuple(
            choice if choice.step.probability > 0 else Choice(weight=choice.weight, step=Step(op="identity"))
            for choice in stage
            if choice.weight > 0
        )
        for stage in policy.stages
    )
    return policy.model_copy(update={"stages": stages})


def _transform(source: Any) -> Any:
    """Return the transform of v2 that `source` is, names, or has the parameters of."""
    from torchvision import transforms
    from torchvision.transforms import v2

    texts = {policy.value: lambda policy=policy: v2.AutoAugment(policy) for policy in v2.AutoAugmentPolicy}
    texts |= {"rand_augment": v2.RandAugment, "trivial_augment_wide": v2.TrivialAugmentWide}
    if isinstance(source, str):
        name = source.strip()
        if name not in texts:
            raise UserError(f"'{shortened(name)}' is no policy of torchvision; {nearest(name, texts)}")
        return texts[name]()
    for name in _CLASSES:
        newer = getattr(v2, name)
        if type(source) is newer:
            return source
        if type(source) is getattr(transforms, name):
            return newer(**{key: getattr(source, key) for key in inspect.signature(newer).parameters})
    raise UserError(
        f"{type(source).__name__} cannot be read as a policy; legal: torchvision's {', '.join(_CLASSES)} themselves "
        f"(a class derived from them may do anything), or one of the texts {', '.join(texts)}"
    )


def _geometry(transform: Any) -> Geometry:
    """Return how the transform samples. Raises UserError where dastune does not sample so."""
    names = {0: "nearest", 2: "bilinear"}  # what PIL calls them
    value = getattr(transform.interpolation, "value", transform.interpolation)
    interpolation, fill = names.get(value, value), transform.fill
    if interpolation not in ("nearest", "bilinear"):
        raise UserError(
            f"interpolation '{shortened(interpolation)}' is not known to dastune; it has nearest and bilinear"
        )
    if isinstance(fill, dict):
        raise UserError("a fill for each type of input cannot be read; give a number, or one for each channel")
    if fill is not None and interpolation == "bilinear":
        raise UserError(
            "bilinear interpolation with a fill cannot be read: torchvision weighs the fill twice in border pixels; "
            "leave the fill out, which means black"
        )
    levels = (0.0,) if fill is None else tuple(fill) if isinstance(fill, Sequence) else (fill,)
    if not levels or not all(0 <= level <= 255 for level in levels):
        raise UserError(
            f"fill {shortened(fill)} cannot be read; values must be in 0 .. 255, one or one for each channel"
        )
    return Geometry(
        **{**dict(TORCHVISION), "interpolation": interpolation, "fill": tuple(level / 255 for level in levels)}
    )


class _Table:
    """The magnitudes of a transform of v2, which it keeps in private."""

    def __init__(self, transform: Any, image_size: tuple[int, int] | None) -> None:
        self._space = _private(transform, "_AUGMENTATION_SPACE")
        self._image_size = image_size
        self._name = type(transform).__name__

    @property
    def names(self) -> tuple[str, ...]:
        """torchvision's names of the ops, in its order."""
        return tuple(self._space)

    def steps(self, name: str, bins: int) -> tuple[Step, ...]:
        """Return the step at each of `bins` magnitudes of the op that torchvision calls `name`; one if it has none."""
        if name not in self._space or name not in _NAMES:
            raise UserError(f"torchvision's op '{shortened(name)}' is not known to dastune")
        op = _NAMES[name]
        function, signed = self._space[name]
        magnitudes = self._fractions(name, bins) if op.startswith("translate") else function(bins, 1, 1)
        if magnitudes is None:
            return (Step(op=op),)
        return tuple(Step(op=op, low=float(value), high=float(value), signed=signed) for value in magnitudes)

    def _fractions(self, name: str, bins: int) -> Any:
        """Return a translation's magnitudes as fractions of the side. Raises UserError where that takes its pixels."""
        function, _ = self._space[name]
        if bool((function(bins, 2, 2) != function(bins, 1, 1)).any()):
            return function(bins, 1, 1)  # it grows with the image: on an image of one pixel it is the fraction
        if self._image_size is None:
            raise UserError(
                f"{name} of {self._name} cannot be read without the size of the images: it moves images by up to "
                f"{float(function(bins, 1, 1)[-1]):g} pixels whatever their size, and dastune by fractions of the "
                "side; give image_size, the height and width in pixels"
            )
        height, width = self._image_size
        # Cut as torchvision cuts: 16 pixels of a table may be 15.999999, which it makes 15.
        return function(bins, height, width).trunc().double() / (width if name == "TranslateX" else height)


def _private(transform: Any, name: str) -> Any:
    """Return a private attribute. Raises UserError where this torchvision has none of the name."""
    import torchvision

    if not hasattr(transform, name):
        raise UserError(
            f"{type(transform).__name__} of torchvision {torchvision.__version__} has no {name}, from which dastune "
            "reads its policy; torchvision 0.29 has it"
        )
    return getattr(transform, name)


def _sub_policies(transform: Any, table: _Table) -> tuple[SubPolicy, ...]:
    def step(name: str, probability: float, index: int | None) -> Step:
        return table.steps(name, _AUTO_AUGMENT_BINS)[index or 0].model_copy(update={"probability": probability})

    return tuple(SubPolicy(steps=tuple(step(*entry) for entry in sub)) for sub in _private(transform, "_policies"))


def _rand_augment_stage(transform: Any, table: _Table) -> tuple[Choice, ...]:
    magnitude, bins = transform.magnitude, transform.num_magnitude_bins
    if not 0 <= magnitude < bins:
        raise UserError(f"magnitude {magnitude} of RandAugment is not one of its {bins} bins, 0 to {bins - 1}")
    columns = (table.steps(name, bins) for name in table.names)
    return tuple(Choice(weight=1, step=steps[magnitude if len(steps) > 1 else 0]) for steps in columns)


def _trivial_stage(transform: Any, table: _Table) -> tuple[Choice, ...]:
    """Return each op, equally likely, at each of its magnitudes, equally likely; equal steps are one choice."""
    columns = [table.steps(name, transform.num_magnitude_bins) for name in table.names]
    return tuple(
        Choice(weight=count / len(steps), step=step) for steps in columns for step, count in Counter(steps).items()
    )
