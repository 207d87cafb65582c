"""timm's RandAugment and AutoAugment of PIL images, and RandAugment's config strings, such as rand-m9-n2-inc1.

Geometric ops mean the same only where PIL takes the nearest pixel, moves by the rounded number of pixels and shears
about the top left corner: PIL's bilinear and bicubic sampling does not blend with the fill at the image's border. All
other ops are dastune's to within 2/255.
"""

import ast
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, TypeAlias

from pydantic import ValidationError

from dastune.errors import UserError, nearest, shortened
from dastune.exchange.clips import ImagePolicy
from dastune.exchange.literals import MOST_SUB_POLICIES
from dastune.exchange.refusals import Refusals
from dastune.exchange.steps import happens
from dastune.exchange.timm_export import call_of, made, program
from dastune.exchange.timm_ops import LARGEST, NEAREST, TRANSLATE, rows
from dastune.ops.spaces import Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Policy, Stages, Step, SubPolicies, SubPolicy

MOST_OPS = 100  # for an image: n of a config string
MOST_TEXT = 10_000  # characters of a source
_MOST_HPARAM = 1000

_Drawn: TypeAlias = list[tuple[float, Step]]  # steps of which one is drawn, each with its share

_NOTE = "# For PIL images. Interpolation 0 is PIL's NEAREST; with timm's own hparams the pixels are others.\n"
_CALLS = ("rand_augment_transform", "auto_augment_transform")
_AUTO_AUGMENT = ("original", "originalr", "v0", "v0r", "3a")
_RAND_SECTION = re.compile(r"(m|n|inc|mmax)\d{1,9}|(p|mstd)\d{1,9}(\.\d*)?|t(weights|3aw?)")
_AUTO_SECTION = re.compile(r"mstd\d{1,9}(\.\d*)?")
_HPARAMS = ("interpolation", "img_mean", "translate_pct", "translate_const", "magnitude_std", "magnitude_max")


def exported(policy: ImagePolicy) -> Any:
    """Return timm's transform of PIL images that does what `policy` does.

    Raises:
        UserError: names all that timm cannot express.
    """
    return made(call_of(policy))


def exported_text(policy: ImagePolicy) -> str:
    """Return Python text that makes `transform`, timm's transform: of a config string where one means the policy.

    Raises:
        UserError: names all that timm cannot express.
    """
    return _NOTE + program(call_of(policy))


def imported(source: Any) -> Policy:
    """Return the policy of a config string, of Python text that calls timm with one, or of timm's own object.

    Args:
        source: "rand-m9-n2-inc1"; "rand_augment_transform('rand-m9-n2', {'interpolation': 0})", which is read and not
            executed; or what these make. timm's AutoAugment policies, such as "v0", are config strings too.

    Raises:
        UserError: names all that a policy cannot mean.
    """
    transform = _transform(source) if isinstance(source, str) else source
    shown = shortened(source.strip()) if isinstance(source, str) else type(source).__name__
    refusals = Refusals(f"'{shown}' cannot be read as a policy", "dastune reads only what it can apply alike.")
    policy = _policy(transform, refusals)
    refusals.check()
    return policy


def _transform(source: str) -> Any:
    """Return timm's transform of a config string, or of Python text that calls a function of timm with one."""
    if len(source) > MOST_TEXT:
        raise UserError(f"the text has {len(source):,} characters; a call of timm with a config string has fewer")
    if re.fullmatch(r"[\w.-]+", source.strip()):
        return _of_config(source.strip())
    try:
        [call] = _calls(source)
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        arguments = [ast.literal_eval(argument) for argument in call.args]
        return _of_config(*arguments, **keywords)
    except (ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError, ArithmeticError) as error:
        raise UserError(
            f"'{shortened(source.strip())}' is no config string of timm, and not Python text with one call of "
            f"{' or '.join(_CALLS)}, of plain values; write such as rand-m9-n2, or "
            "rand_augment_transform('rand-m9-n2', {'interpolation': 0})"
        ) from error


def _calls(text: str) -> list[ast.Call]:
    found = [node for node in ast.walk(ast.parse(text.strip())) if isinstance(node, ast.Call)]
    return [call for call in found if getattr(call.func, "attr", getattr(call.func, "id", "")) in _CALLS]


def _of_config(config_str: str, hparams: Mapping[str, Any] | None = None, transforms: Any = None) -> Any:
    """Return timm's own reading of a config string, once it is known that timm passes over nothing in it."""
    from timm.data import auto_augment as timm

    name, *sections = config_str.split("-")
    _check_sections(name, sections)
    hparams = dict(hparams or {})
    _check_hparams(hparams)
    _check_transforms(transforms, timm.NAME_TO_OP)
    if name in _AUTO_AUGMENT:
        return timm.auto_augment_transform(config_str, hparams)
    return timm.rand_augment_transform(config_str, hparams, transforms)


def _check_sections(name: str, sections: Sequence[str]) -> None:
    """Raise UserError unless timm reads all of a config string."""
    if name == "augmix":
        raise UserError("augmix blends augmented images by random weights, and no policy of dastune does")
    if name not in ("rand", *_AUTO_AUGMENT):
        raise UserError(
            f"'{shortened(name)}' begins no config string of timm; {nearest(name, ('rand', *_AUTO_AUGMENT))}"
        )
    legal = _RAND_SECTION if name == "rand" else _AUTO_SECTION
    for section in sections:
        if not legal.fullmatch(section):
            such = "m9, n2, p0.5, inc1, mstd0, mmax10 and tweights" if name == "rand" else "mstd0"
            raise UserError(f"'{shortened(section)}' is no section of a config string {name}-...; such are {such}")


def _check_hparams(hparams: Mapping[str, Any]) -> None:
    """Raise UserError unless the hparams are timm's, and numbers that make sense."""
    for name, value in hparams.items():
        if name not in _HPARAMS:
            raise UserError(f"'{shortened(name)}' is no hparam of timm; {nearest(str(name), _HPARAMS)}")
        if name == "img_mean":
            levels = list(value) if isinstance(value, tuple | list) else [value] * 3
            legal = "a grey level in 0 .. 255, or three"
            fits = len(levels) == 3 and all(_is_number(level, 255) for level in levels)
        else:
            legal, fits = f"a number in 0 .. {_MOST_HPARAM}", _is_number(value, _MOST_HPARAM)
        if not fits:
            raise UserError(f"the hparam {name} must be {legal}, not {shortened(value)}")


def _check_transforms(transforms: Any, known: Iterable[str]) -> None:
    """Raise UserError unless `transforms` is None, a list of timm's transforms, or weights of them by name."""
    if not isinstance(transforms, list | dict | None):
        raise UserError(
            f"transforms must be a list of timm's transforms, or their weights by name, not {shortened(transforms)}"
        )
    for name in transforms or ():
        if name not in known:
            raise UserError(f"'{shortened(name)}' is no transform of timm; {nearest(str(name), known)}")
    weights = list(transforms.values()) if isinstance(transforms, dict) else [1]
    if not all(_is_number(weight, math.inf) for weight in weights) or not 0 < sum(weights) < math.inf:
        raise UserError(
            f"the weights of transforms must be numbers of at least 0, some above, not {shortened(weights)}"
        )


def _is_number(value: Any, largest: float) -> bool:
    return isinstance(value, int | float) and 0 <= value <= largest


def _policy(transform: Any, refusals: Refusals) -> Policy:
    """Return the policy of timm's `transform`, without what is refused."""
    from timm.data import auto_augment as timm

    if isinstance(transform, timm.AutoAugment):
        ops = [op for sub in transform.policy for op in sub]
    elif isinstance(transform, timm.RandAugment):
        ops = list(transform.ops)
    else:
        raise UserError(
            f"a policy can be read from timm's RandAugment or AutoAugment, not from {type(transform).__name__}"
        )
    for other in {type(op).__name__ for op in ops if not isinstance(op, timm.AugmentOp)}:
        refusals.add(other, "transforms inside of transforms are not read back; keep the policy file")
    refusals.check()
    geometry = _geometry(ops, refusals)
    if isinstance(transform, timm.RandAugment):
        return Stages(stages=_stages(transform, refusals), geometry=geometry)
    drawn = [[_steps(op, refusals) for op in ops] for ops in transform.policy]
    count = sum(math.prod(map(len, places)) for places in drawn)
    if count > MOST_SUB_POLICIES:
        raise UserError(
            f"timm's AutoAugment would be {shortened(count)} sub-policies, since ranges of bits and thresholds from 0 "
            f"become two each; at most {MOST_SUB_POLICIES:,} are written"
        )
    return SubPolicies(sub_policies=tuple(sub for places in drawn for sub in _sub_policies(places)), geometry=geometry)


def _sub_policies(places: Sequence[_Drawn]) -> Iterator[SubPolicy]:
    """Yield the sub-policies that take one step at each place."""
    for way in product(*places):
        steps = tuple(step for _, step in way if happens(step))
        yield SubPolicy(weight=math.prod(share for share, _ in way), steps=steps)


def _stages(transform: Any, refusals: Refusals) -> tuple[tuple[Choice, ...], ...]:
    count, weights = int(transform.num_layers), transform.choice_weights
    if count > MOST_OPS:
        raise UserError(f"n{count} is more than {MOST_OPS}, the most ops for an image that dastune reads")
    if weights is not None and count > 1:
        refusals.add(f"weights with n{count}", "timm gives no image the same op twice; write n1")
    weights = [1.0] * len(transform.ops) if weights is None else [float(weight) for weight in weights]
    drawn = [_steps(op, refusals) for op in transform.ops]
    choices = (
        Choice(weight=weight * share, step=step)
        for weight, steps in zip(weights, drawn, strict=True)
        for share, step in steps
    )
    return (tuple(choices),) * count


def _steps(op: Any, refusals: Refusals) -> _Drawn:
    """Return the steps of which timm's AugmentOp is one, with their shares; identity where it is refused."""
    nothing = [(1.0, Step(op="identity"))]
    probability = min(max(float(op.prob), 0.0), 1.0)
    row = rows(op.hparams.get("translate_pct", TRANSLATE)).get(op.name)
    if probability == 0:
        return nothing
    if row is None:
        pixels = "it moves by pixels; write its Rel, with a share of the side" if "Translate" in op.name else ""
        refusals.add(op.name, pixels or "dastune has no such op")
        return nothing
    if not row.span:
        return row.steps(0, uniform=False, probability=probability)
    uniform, bound = op.magnitude_std == math.inf, op.magnitude_max or LARGEST
    magnitude = max(0.0, min(op.magnitude, bound))
    if op.magnitude_std > 0 and not uniform:
        refusals.add(
            f"mstd{op.magnitude_std:g}", "magnitudes are drawn from a normal distribution; write mstd0, or mstd101 "
            "for magnitudes drawn uniformly from 0 to m",
        )  # fmt: skip
    elif uniform and op.magnitude > bound:
        refusals.add(
            f"m{op.magnitude:g} with mstd101", f"timm cuts the drawn magnitudes at {bound:g}; write m{bound:g}"
        )
    elif magnitude > LARGEST and not row.beyond:
        refusals.add(f"{op.name} at m{magnitude:g}", "timm cuts its argument above m10; write m10")
    else:
        try:
            return row.steps(magnitude, uniform, probability)
        except ValidationError as error:
            why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            refusals.add(f"{op.name} at m{magnitude:g}", f"dastune has no such {row.op}: {why}")
    return nothing


def _geometry(ops: Sequence[Any], refusals: Refusals) -> Geometry:
    """Return how the geometric ones of timm's AugmentOps sample."""
    known = rows()
    moving = [op for op in ops if op.name in known and OPS[known[op.name].op].geometric and op.prob > 0]
    if any(op.kwargs["resample"] != NEAREST for op in moving):
        refusals.add(
            "interpolation", "without hparams, timm draws bilinear or bicubic sampling, and at the image's border PIL "
            "blends with no fill in either; write {'interpolation': 0}, the nearest pixel, as hparams: "
            "rand_augment_transform('rand-m9-n2', {'interpolation': 0}), auto_augment_transform('v0', {...})",
        )  # fmt: skip
    fills = {_levels(op.kwargs["fillcolor"]) for op in moving} or {(0,)}
    if len(fills) > 1:
        refusals.add("img_mean", "ops fill with different colours; write one for all")
    fill = min(fills)
    return Geometry(interpolation="nearest", shear_about="corner", fill=tuple(level / 255 for level in fill))


def _levels(fill: Any) -> tuple[int, ...]:
    levels = tuple(fill) if isinstance(fill, tuple | list) else (fill,)
    return levels[:1] if len(set(levels)) == 1 else levels
