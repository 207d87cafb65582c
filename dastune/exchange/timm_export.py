"""The call of timm's that means a policy, as an object and as Python text, or why there is none."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import import_module
from typing import Any

from dastune.exchange.clips import ImagePolicy
from dastune.exchange.pil import check
from dastune.exchange.steps import happens, whole_bits
from dastune.exchange.timm_ops import LARGEST, NEAREST, TRANSLATE, Meaning, meaning, op_arguments, rows
from dastune.ops.spaces import Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Genotype, Stages, Step, SubPolicies

_HOMES = {
    **dict.fromkeys(("AugmentOp", "AutoAugment", "RandAugment", "rand_augment_transform"), "timm.data.auto_augment"),
    "Compose": "torchvision.transforms",
}
_LINE = 119  # characters; a comma follows

_INCREASING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_SET = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
)
# The ops that RandAugment draws from at each value of the section inc.
_SETS = {0: _SET, 1: tuple(f"{name}Increasing" if name in _INCREASING else name for name in _SET)}


@dataclass(frozen=True)
class Call:
    """A call of a function of timm or torchvision. Lists among the arguments may hold further calls."""

    function: str
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


def made(value: Any) -> Any:
    """Return what the call makes."""
    if isinstance(value, list):
        return [made(item) for item in value]
    if not isinstance(value, Call):
        return value
    function = getattr(import_module(_HOMES[value.function]), value.function)
    return function(*map(made, value.arguments), **value.keywords)


def program(call: Call) -> str:
    """Return Python text that imports what the call needs, and calls it."""
    homes: dict[str, list[str]] = {}
    for name in sorted(set(_functions(call))):
        homes.setdefault(_HOMES[name], []).append(name)
    imports = [f"from {home} import {', '.join(names)}" for home, names in homes.items()]
    return "\n".join([*imports, "", f"transform = {_text(call)}", ""])


def _functions(value: Any) -> Iterator[str]:
    if isinstance(value, Call):
        yield value.function
        yield from _functions(value.arguments)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _functions(item)


def _text(value: Any, indent: str = "") -> str:
    """Return `value` as Python text, broken into lines where one would be too long."""
    inner = indent + "    "
    if isinstance(value, list):
        return _bracketed("[", [_text(item, inner) for item in value], "]", indent)
    if isinstance(value, Call):
        named = [f"{name}={_text(item)}" for name, item in value.keywords.items()]
        return _bracketed(f"{value.function}(", [_text(item, inner) for item in value.arguments] + named, ")", indent)
    return repr(value).replace(": inf", ": float('inf')")


def _bracketed(opening: str, parts: Sequence[str], closing: str, indent: str) -> str:
    line = opening + ", ".join(parts) + closing
    if "\n" not in line and len(indent + line) <= _LINE:
        return line
    return "\n".join([opening, *(f"{indent}    {part}," for part in parts), indent + closing])


def call_of(policy: ImagePolicy) -> Call:
    """Return the call that makes the policy's transform, of a config string where one means the policy.

    Raises:
        UserError: names all that timm cannot express.
    """
    check("timm", policy, _step_fault, _fill_fault)
    config = _config(policy)
    if config is not None:
        return Call("rand_augment_transform", config)
    match policy:
        case Stages():
            return _sequence([_stage(stage, policy.geometry) for stage in policy.stages])
        case SubPolicies():
            return _sub_policies(policy)
        case Genotype():
            return _sub_policies(policy.paths())


def _sequence(calls: list[Call]) -> Call:
    return calls[0] if len(calls) == 1 else Call("Compose", (calls,))


def _stage(stage: Sequence[Choice], geometry: Geometry) -> Call:
    return _one_of([(choice.weight, _sequence(_ops([choice.step], geometry))) for choice in stage if choice.weight > 0])


def _sub_policies(policy: SubPolicies) -> Call:
    weighted = [(sub.weight, _ops(sub.steps, policy.geometry)) for sub in policy.sub_policies if sub.weight > 0]
    if len({weight for weight, _ in weighted}) == 1:
        return Call("AutoAugment", ([ops for _, ops in weighted],))
    return _one_of([(weight, _sequence(ops)) for weight, ops in weighted])


def _one_of(weighted: Sequence[tuple[float, Call]]) -> Call:
    """Return the call of a RandAugment that draws one of the calls by weight."""
    weights, calls = [weight for weight, _ in weighted], [call for _, call in weighted]
    if len(set(weights)) == 1:
        return Call("RandAugment", (calls, 1))
    return Call("RandAugment", (calls, 1, [weight / sum(weights) for weight in weights]))


def _ops(steps: Iterable[Step], geometry: Geometry) -> list[Call]:
    return [_op(step, geometry) for step in steps if happens(step)]


def _op(step: Step, geometry: Geometry) -> Call:
    """Return the call of the AugmentOp that means `step`, or of one that draws from those of single bits."""
    arguments = op_arguments(step)
    if arguments is None:
        bits = whole_bits(step.low, step.high)
        fixed = [step.model_copy(update={"low": float(bit), "high": float(bit)}) for bit in bits]
        return _one_of([(share, _op(one, geometry)) for share, one in zip(bits.values(), fixed, strict=True)])
    hparams = (_hparams(geometry) if OPS[step.op].geometric else {}) | arguments.pop("hparams")
    return Call("AugmentOp", (arguments.pop("name"),), arguments | ({"hparams": hparams} if hparams else {}))


def _hparams(geometry: Geometry) -> dict[str, Any]:
    levels = [round(255 * value) for value in geometry.fill]
    return {"interpolation": NEAREST, "img_mean": tuple(levels * 3 if len(levels) == 1 else levels)}


def _config(policy: ImagePolicy) -> tuple[str, dict[str, Any]] | None:
    """Return RandAugment's config string and hparams that mean `policy`. None: there are none."""
    if not isinstance(policy, Stages) or not policy.stages:
        return None
    shares = _shares(policy.stages[0])
    probability = round(sum(shares.values()), 12)
    even = all(abs(share * len(shares) - probability) < 1e-9 for share in shares.values())
    if not even or any(_shares(stage) != shares for stage in policy.stages[1:]):
        return None
    moved = next((high for op, _, high, _ in shares if op == "translate_x"), 0.0)
    for mstd, inc, magnitude in _settings():
        translate = round(moved / magnitude * LARGEST, 6) if magnitude else TRANSLATE
        row = rows(translate)
        if {meaning(step) for name in _SETS[inc] for _, step in row[name].steps(magnitude, bool(mstd))} == set(shares):
            hparams = _hparams(policy.geometry) | ({} if translate == TRANSLATE else {"translate_pct": translate})
            config = f"rand-m{magnitude}-n{len(policy.stages)}-p{Decimal(str(probability)):f}-inc{inc}{mstd}"
            return config, hparams
    return None


def _settings() -> Iterator[tuple[str, int, int]]:
    for mstd in ("", "-mstd101"):
        for inc in (1, 0):
            yield from ((mstd, inc, magnitude) for magnitude in range(int(LARGEST) + 1))


def _shares(stage: Sequence[Choice]) -> dict[Meaning, float]:
    """Return how probable each thing is that a stage may do to an image."""
    total = sum(choice.weight for choice in stage)
    shares: dict[Meaning, float] = {}
    for choice in stage:
        if choice.weight > 0 and happens(choice.step):
            key = meaning(choice.step)
            shares[key] = shares.get(key, 0.0) + choice.weight / total * choice.step.probability
    return shares


def _step_fault(step: Step) -> str:
    """Return why timm cannot express `step`; "" if it can."""
    if OPS[step.op].noise or step.op in ("cutout", "zoom"):
        return "timm has no such transform; take it out"
    if step.op == "posterize":
        bits = min(whole_bits(step.low, step.high))
        return "" if bits >= 1 else f"it may keep {bits} bits, and Pillow's posterize takes 1 to 8"
    if op_arguments(step) is not None:
        return ""
    ends = f"{step.low:g}" if step.low == step.high else f"{step.low:g} to {step.high:g}"
    return f"its argument is {ends}{', of either sign' if step.signed else ''}; {_POSSIBLE[step.op]}"


_GEOMETRIC = "timm takes a fixed argument, or a range from 0, always of either sign"
_ENHANCEMENT = (
    "timm takes a fixed argument or a range, both from -0.9 on, or of either sign a fixed one or a range from 0, up to "
    "0.9"
)
_POSSIBLE = {
    **dict.fromkeys(("shear_x", "shear_y", "translate_x", "translate_y", "rotate"), _GEOMETRIC),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), _ENHANCEMENT),
    "solarize": "timm takes a fixed argument, or a range that ends at 256/255",
    "solarize_add": "timm takes a fixed argument up to 110/255, or a range from 0",
}


def _fill_fault(fill: tuple[float, ...]) -> str:
    return "" if len(fill) in (1, 3) else "timm's images have 3 channels; write one value or three"
