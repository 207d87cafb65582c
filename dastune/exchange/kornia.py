"""Kornia's augmentations (0.9) of float images (B, C, H, W) in [0, 1], and the policy lists of its AutoAugment.

A policy becomes a module of kornia's own augmentations, in a container of kornia's that lets each image of a batch draw
for itself; `exported_text` is a Python file that needs torch and kornia only. It is no list for `AutoAugment`: that has
neither weights nor arguments of one's own, draws once for a whole batch, and has other operations in place of PIL's
brightness, contrast and color. Each augmentation goes over the whole batch, as all of kornia's do, whichever images it
is for: a stage of 14 ops costs 14 passes. Masks move along in an `AugmentationSequential`, with 0 from outside.

Pixels are dastune's to within 0.1/255, measured on 8-bit photographs. With nearest sampling, pixels whose source lies
on the border between two may take either; between ops, where images are no longer of 8 bits, posterize and equalize cut
to grey levels in place of rounding. auto_contrast makes a channel of one grey level black, where dastune's leaves it.

A list that is read keeps kornia's magnitudes: a shear's is an angle (0.3 stands for 54 degrees), drawn evenly, so its
range is cut into pieces of at most 0.1 in slope, and "contrast" multiplies pixels, which is dastune's brightness.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any, TypeAlias

from dastune.errors import UserError, nearest, shortened
from dastune.exchange.clips import ImagePolicy
from dastune.exchange.literals import MOST_SUB_POLICIES, literal
from dastune.exchange.refusals import Refusals
from dastune.exchange.steps import geometric_ops_can_meet, happens, inverting_share, steps_that_happen
from dastune.ops.spaces import Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Genotype, Stages, Step, SubPolicies, SubPolicy

try:
    import torch
    from kornia import augmentation
    from kornia.augmentation.auto.autoaugment import autoaugment
    from kornia.augmentation.auto.operations.base import OperationBase
    from kornia.augmentation.auto.operations.policy import PolicySequential
except ImportError as error:
    raise UserError("kornia is not installed; pip install 'dastune[kornia]'") from error

# --- what an exported module is made of; `exported_text` copies it


class OneForEachImage(augmentation.ImageSequential):
    """Each image goes through one of the paths, drawn by weight; through none with what the weights leave of 1.

    The p of an augmentation on a path is its probability to be applied to an image, all told.
    """

    def __init__(self, *paths: PolicySequential, weights: Sequence[float]) -> None:
        super().__init__(*paths)
        self.weights = tuple(weights)

    def forward_parameters(self, batch_shape: torch.Size) -> list[Any]:
        """Return kornia's parameters of all that comes up, where `batch_prob` says for which images."""
        ends = torch.tensor(self.weights, dtype=torch.float64).cumsum(0)
        drawn_B = torch.searchsorted(ends, torch.rand(batch_shape[0], dtype=torch.float64), right=True)
        items: list[Any] = super().forward_parameters(batch_shape)
        for index, (item, path) in enumerate(zip(items, self.children(), strict=True)):
            for part, operation in zip(item.data, path.children(), strict=True):
                p: Any = operation.get_submodule("op").p
                applied_B = torch.rand(batch_shape[0]) < p / self.weights[index]
                part.data["batch_prob"] = ((drawn_B == index) & applied_B).to(part.data["batch_prob"])
        return [item for index, item in enumerate(items) if bool((drawn_B == index).any())]


class Drawn(OperationBase):
    """An augmentation, one of whose parameters goes through functions after it has been drawn."""

    def __init__(self, operation: Any, parameter: str = "", *changes: Any) -> None:
        super().__init__(operation)
        self.parameter, self.changes = parameter, changes
        self.requires_grad_(False)

    def forward_parameters(self, batch_shape: torch.Size, mag: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the augmentation's parameters, drawn for a batch of the given shape."""
        parameters = super().forward_parameters(batch_shape, mag)
        for change in self.changes:
            parameters[self.parameter] = change(parameters[self.parameter])
        return parameters


class ShearAboutCorner(augmentation.RandomShear):  # type: ignore[misc]
    """A shear that leaves the top left corner where it is."""

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """Return the shear's parameters, drawn for a batch of the given shape."""
        parameters: dict[str, torch.Tensor] = super().generate_parameters(batch_shape)
        parameters["center"] = torch.full_like(parameters["center"], -0.5)
        return parameters


def either_sign(drawn_B: torch.Tensor) -> torch.Tensor:
    """Return the numbers, each with a sign of its own."""
    return drawn_B * (1 - 2 * torch.randint_like(drawn_B, 2))


def around_one(factor_B: torch.Tensor) -> torch.Tensor:
    """Return 1 more or less what the factors are above 1."""
    return 1 + either_sign(factor_B - 1)


def both_around_one(factor_B2: torch.Tensor) -> torch.Tensor:
    """Return 1 more or less what the factors are above 1; both of an image's are its first."""
    return around_one(factor_B2[:, :1]).expand_as(factor_B2)


def degrees(slope_B: torch.Tensor) -> torch.Tensor:
    """Return the angles of the slopes."""
    return slope_B.atan().rad2deg()


def whole_pixels(pixels_B: torch.Tensor) -> torch.Tensor:
    """Return the pixels cut to whole ones, towards 0; what is whole but for rounding is whole."""
    return (pixels_B + 2e-4 * pixels_B.sign()).trunc()


_PARTS = (OneForEachImage, Drawn, ShearAboutCorner, either_sign, around_one, both_around_one, degrees, whole_pixels)
_HEAD = '''"""A policy as a module of kornia's augmentations: `transform` takes float images (B, C, H, W) in [0, 1]."""

from collections.abc import Sequence
from typing import Any

import torch
from kornia import augmentation
from kornia.augmentation.auto.operations.base import OperationBase
from kornia.augmentation.auto.operations.policy import PolicySequential
'''

# --- export

_JITTER = {"brightness": "brightness", "contrast": "contrast", "color": "saturation"}
_UNREAD = {
    "color": "kornia's scales the saturation of HSV; PIL's and dastune's blend with the grey image",
    "brightness": "kornia's adds to the pixels; PIL's and dastune's multiply them",
}


def exported(policy: ImagePolicy) -> torch.nn.Module:
    """Return the module, on the CPU, that does to each image of a batch what `policy` does.

    A genotype is drawn from by its paths; where it averages images, one of them is drawn instead.

    Raises:
        UserError: names all that kornia cannot express.
    """
    module: torch.nn.Module = _made(_call(policy))
    return module


def exported_text(policy: ImagePolicy) -> str:
    """Return a Python file that needs no dastune; its `transform` is what `exported` returns. Raises as it does."""
    call = _call(policy)
    return "\n\n".join([_HEAD, *(f"{inspect.getsource(part)}" for part in _PARTS), f"transform = {_text(call)}\n"])


@dataclass(frozen=True)
class _Call:
    """A call of kornia's or of one of the parts above: both the object and its text are made from it."""

    function: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


def _made(value: Any) -> Any:
    if not isinstance(value, _Call):
        return value
    function = globals().get(value.function) or getattr(augmentation, value.function)
    return function(*map(_made, value.arguments), **value.keywords)


def _text(value: Any, indent: str = "") -> str:
    if not isinstance(value, _Call):
        return value.__name__ if inspect.isfunction(value) else repr(value)
    inner = indent + "    "
    parts = [_text(argument, inner) for argument in value.arguments]
    parts += [f"{name}={argument!r}" for name, argument in value.keywords.items()]
    name = value.function if value.function in globals() else f"augmentation.{value.function}"
    line = f"{name}({', '.join(parts)})"
    if len(indent) + len(line) <= 110 and "\n" not in line:
        return line
    return "\n".join([f"{name}(", *(f"{inner}{part}," for part in parts), f"{indent})"])


_Paths: TypeAlias = Sequence[tuple[float, Sequence[Step]]]


def _call(policy: ImagePolicy) -> _Call:
    """Return the call that makes the policy's module. Raises UserError as `exported`."""
    _check(policy)
    plain = policy.paths() if isinstance(policy, Genotype) else policy
    drawn: list[_Paths]
    if isinstance(plain, Stages):
        drawn = [[(choice.weight, (choice.step,)) for choice in stage if choice.weight > 0] for stage in plain.stages]
    else:
        drawn = [[(sub.weight, sub.steps) for sub in plain.sub_policies if sub.weight > 0]]
    return _Call("ImageSequential", tuple(call for paths in drawn for call in _one_of(paths, policy.geometry)))


def _one_of(paths: _Paths, geometry: Geometry) -> Iterator[_Call]:
    """Yield the call of the container that draws one of the weighted paths, unless they are all empty."""
    total = sum(weight for weight, _ in paths)
    shares, calls = [], []
    for weight, steps in paths:
        operations = tuple(_drawn(step, geometry, weight / total) for step in steps if happens(step))
        if operations:
            shares.append(round(weight / total, 12))
            calls.append(_Call("PolicySequential", operations))
    if calls:
        yield _Call("OneForEachImage", tuple(calls), {"weights": tuple(shares)})


def _check(policy: ImagePolicy) -> None:
    refusals = Refusals.of_export("kornia")
    for where, step in steps_that_happen(policy):
        reason = _refusal(step)
        if reason:
            refusals.add(step.op, reason, where)
        if OPS[step.op].geometric and any(policy.geometry.fill):
            refusals.add(f"fill {policy.geometry.fill}", "kornia's geometric augmentations fill with black")
    if policy.geometry.sampling == "once" and geometric_ops_can_meet(policy):
        refusals.add("sampling 'once'", "kornia samples the image for each of two geometric ops")
    refusals.check()


def _refusal(step: Step) -> str:
    """Return why kornia cannot express the step, or ""."""
    lowest, largest = -step.high if step.signed else step.low, max(abs(step.low), abs(step.high))
    match step.op:
        case "solarize_add":
            return "RandomSolarize adds to all pixels and then inverts the bright ones"
        case "cutout":
            return "RandomErasing keeps its rectangle inside the image; dastune's square may be cut by the border"
        case "rotate" if largest > 360:
            return f"{largest:g} degrees are more than 360"
        case "translate_x" | "translate_y" if largest > 1:
            return f"{largest:g} of the side is more than 1"
        case "color" | "contrast" | "brightness" | "sharpness" if lowest < -1:
            return f"the factor {1 + lowest:g} is below 0"
    return "noise ops, which destroy an image on purpose, are not exported" if OPS[step.op].noise else ""


def _drawn(step: Step, geometry: Geometry, share: float) -> _Call:
    """Return the call of the operation that is `step`, on a path with the given share of the images."""
    p = {"p": round(share * step.probability, 12)}
    symmetric = step.signed and step.low == 0
    ends = (-step.high if symmetric else step.low, step.high)
    signs = (either_sign,) if step.signed and not symmetric else ()
    match step.op:
        case "auto_contrast":
            return _Call("Drawn", (_Call("RandomAutoContrast", (), p),))
        case "equalize" | "invert":
            return _Call("Drawn", (_Call(f"Random{step.op.title()}", (), p),))
        case "posterize":
            return _Call("Drawn", (_Call("RandomPosterize", (ends,), p),))
        case "solarize":
            p = {"p": round(p["p"] * inverting_share(step), 12)}
            return _Call("Drawn", (_Call("RandomSolarize", (tuple(min(end, 1.0) for end in ends), (0.0, 0.0)), p),))
        case "color" | "contrast" | "brightness" | "sharpness":
            return _enhanced(step.op, ends, bool(signs), p)
    return _moved(step.op, ends, signs, geometry, p)


def _enhanced(op: str, ends: tuple[float, float], signed: bool, p: dict[str, float]) -> _Call:
    factors = (round(1 + ends[0], 12), round(1 + ends[1], 12))
    changes = (around_one,) if signed else ()
    if op == "sharpness":
        return _Call("Drawn", (_Call("RandomSharpness", (factors,), p), "sharpness", *changes))
    changed = _JITTER[op]
    return _Call("Drawn", (_Call("ColorJitter", (), {changed: factors, **p}), f"{changed}_factor", *changes))


def _moved(
    op: str, ends: tuple[float, float], signs: tuple[Callable[..., Any], ...], geometry: Geometry, p: dict[str, float]
) -> _Call:
    how = {"resample": geometry.interpolation, "align_corners": False, **p}
    if op == "rotate":
        return _Call("Drawn", (_Call("RandomRotation", (ends,), how), "degrees", *signs))
    if op == "zoom":
        factors = {"scale": (round(1 + ends[0], 12), round(1 + ends[1], 12))}
        changes = (both_around_one,) if signs else ()
        return _Call("Drawn", (_Call("RandomAffine", (0.0,), factors | how), "scale", *changes))
    if op.startswith("translate"):
        places = (ends,) if op == "translate_x" else (None, ends)
        cut = (whole_pixels,) if geometry.whole_pixels else ()
        return _Call("Drawn", (_Call("RandomTranslate", places, how), op, *signs, *cut))
    shear = ShearAboutCorner.__name__ if geometry.shear_about == "corner" else "RandomShear"
    slopes = ends if op == "shear_x" else (0.0, 0.0, *ends)
    return _Call("Drawn", (_Call(shear, (slopes,), how), op, *signs, degrees))


# --- import

_BINS = 10
_WIDEST_SHEAR = 0.1  # slope; of a piece of a shear's range
_RANGES = {  # at the lower end of bin 0 and the upper end of the last bin
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "translate_x": (-0.5, 0.5),
    "translate_y": (-0.5, 0.5),
    "rotate": (-30.0, 30.0),
    "solarize": (0.0, 1.0),
    "posterize": (4.0, 8.0),
    "contrast": (0.1, 1.9),
    "sharpness": (0.1, 1.9),
}
_WITHOUT_MAGNITUDE = ("auto_contrast", "equalize", "invert")
_LISTS = ("cifar10", "imagenet", "svhn")
_FORM = (
    'it must be one such as [[("rotate", 0.4, 9), ("invert", 0.2, None)], ...], with a name, a probability in 0 .. 1 '
    "and a magnitude bin in each entry"
)


def imported(source: Any) -> SubPolicies:
    """Return the policy of a policy list of kornia's AutoAugment.

    Args:
        source: "cifar10", "imagenet" or "svhn"; or a list of sub-policies, [[("rotate", 0.4, 9), ...], ...], as a
            Python or JSON literal or as the object itself.

    Raises:
        UserError: names all that a policy cannot express; or this is no such list.
    """
    refusals = Refusals("kornia's list cannot be read as a policy", "Take these out of the list and read it again.")
    drawn = [
        list(filter(None, (_steps(entry, refusals, f"sub-policy {index}") for entry in entries)))
        for index, entries in enumerate(_policy_list(source))
    ]
    refusals.check()
    count = sum(math.prod(map(len, steps)) for steps in drawn)
    if count > MOST_SUB_POLICIES:
        raise UserError(
            f"the list would be {shortened(count)} sub-policies, since shears are cut into ranges of slope; at most "
            f"{MOST_SUB_POLICIES:,} are written. Take shears out of its longest sub-policies"
        )
    ways = (way for steps in drawn for way in product(*steps))
    return SubPolicies(
        sub_policies=tuple(
            SubPolicy(weight=math.prod(share for share, _ in way), steps=tuple(step for _, step in way)) for way in ways
        )
    )


def _policy_list(source: Any) -> list[list[tuple[str, float, Any]]]:
    """Return the list that `source` stands for, checked for its form."""
    source = source.strip() if isinstance(source, str) else source
    if isinstance(source, str) and source in _LISTS:
        return list(getattr(autoaugment, f"{source}_policy"))
    entries = _literal(source) if isinstance(source, str) else source
    if not _is_list(entries) or not entries or not all(_is_list(sub) and all(map(_is_entry, sub)) for sub in entries):
        raise UserError(f"this is no list for kornia's AutoAugment; {_FORM}")
    return list(entries)


def _literal(text: str) -> Any:
    if text.startswith(("RandAugment", "TrivialAugment")):
        told = "; ".join(f"{name}: {why}" for name, why in _UNREAD.items())
        name = shortened(text.partition("(")[0])
        raise UserError(f"kornia's {name} cannot be read, because of some of its operations: {told}")
    if text.isidentifier():
        raise UserError(f"kornia's AutoAugment has no policy '{shortened(text)}'; {nearest(text, _LISTS)}")
    return literal(text, _FORM)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_entry(value: Any) -> bool:
    if not _is_list(value) or len(value) != 3:
        return False
    name, probability, _ = value
    is_number = isinstance(probability, int | float) and not isinstance(probability, bool)
    return isinstance(name, str) and is_number and 0 <= probability <= 1


def _steps(entry: tuple[str, float, Any], refusals: Refusals, where: str) -> list[tuple[float, Step]]:
    """Return the steps of which an entry of a list is one, each with its share; none for what never happens."""
    name, probability, magnitude = entry
    if probability == 0:
        return []
    if name in _WITHOUT_MAGNITUDE:
        return [(1.0, Step(op=name, probability=probability))]
    if name not in _RANGES:
        refusals.add(name, _UNREAD.get(name, f"is no operation of AutoAugment; {nearest(name, _known())}"), where)
        return []
    if not isinstance(magnitude, int) or not 0 <= magnitude < _BINS:
        refusals.add(name, f"its bin must be a whole number in 0 .. {_BINS - 1}, and is {shortened(magnitude)}", where)
        return []
    first, last = _RANGES[name]
    low, high = (round(first + (last - first) * edge / _BINS, 12) for edge in (magnitude, magnitude + 1))
    pieces = _slopes(low, high) if name.startswith("shear") else [(low, high)]
    if name in ("contrast", "sharpness"):
        pieces = [(round(low - 1, 12), round(high - 1, 12))]
    op = "brightness" if name == "contrast" else name
    return [
        (1 / len(pieces), Step(op=op, low=low, high=high, probability=probability, signed=False))
        for low, high in pieces
    ]


def _known() -> Iterable[str]:
    return (*_WITHOUT_MAGNITUDE, *_RANGES, *_UNREAD)


def _slopes(low: float, high: float) -> list[tuple[float, float]]:
    """Return the ranges of slope of equal parts of the angles from `low` to `high`, in half turns."""
    first, last = math.pi * low, math.pi * high
    steepest = max(math.tan(abs(first)), math.tan(abs(last)))
    count = math.ceil((last - first) * (1 + steepest**2) / _WIDEST_SHEAR)
    edges = [round(math.tan(first + (last - first) * index / count), 12) for index in range(count + 1)]
    return list(pairwise(edges))
