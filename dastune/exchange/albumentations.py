"""Albumentations' transforms (2.0.8) of uint8 images (H, W, C) and their masks, and the JSON that `A.load` reads.

Only albumentations' own transforms are used: `A.load(path)` needs no dastune. Pixels are dastune's to within 1/255, and
1.5/255 for contrast, measured on 8-bit photographs with OpenCV 5 (OpenCV 4 rounds places to 1/32 pixel). With nearest
sampling, pixels whose source lies on the border between two may take either. auto_contrast makes a channel of one grey
level black, where dastune's leaves it. Masks move along by nearest sampling, and hold 255 where an image has come from
outside.

In what a policy becomes, the p of each member of a OneOf is its probability, all told, and the p of the OneOf their
sum. Affine draws shears evenly in degrees; ranges of slopes are cut into pieces of at most 0.1, within which slopes
come out even to within 5 %.
"""

import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import product
from typing import Any, Literal, NamedTuple, TypeAlias

from dastune.errors import UserError, shortened
from dastune.exchange.clips import ImagePolicy
from dastune.exchange.literals import MOST_SUB_POLICIES
from dastune.exchange.refusals import Refusals
from dastune.exchange.steps import geometric_ops_can_meet, happens, inverting_share, steps_that_happen, whole_bits
from dastune.ops.spaces import DASTUNE, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Genotype, Policy, Stages, Step, SubPolicies, SubPolicy

Node: TypeAlias = dict[str, Any]  # a transform as albumentations serialises it

_IGNORED = 255  # what masks hold outside the image
_WIDEST_SHEAR = 0.1  # slope; of a piece of a shear's range
_ABOVE = 1 + 1e-13  # so that int() does not cut 28.999999999999996 pixels to 28
_INTERPOLATION = {"nearest": 0, "bilinear": 1}  # OpenCV's numbers
_FACTORS = {"brightness": "brightness", "contrast": "contrast", "color": "saturation"}
_NO_JITTER = {"brightness": [1.0, 1.0], "contrast": [1.0, 1.0], "saturation": [1.0, 1.0], "hue": [0.0, 0.0]}
_STILL = {"x": [0.0, 0.0], "y": [0.0, 0.0]}
_CLASS = "__class_fullname__"

# --- export


def exported(policy: ImagePolicy) -> Any:
    """Return the albumentations.Compose that does to an image, and its mask, what `policy` does.

    A genotype is drawn from by its paths; where it averages images, one of them is drawn instead.

    Raises:
        UserError: names all that albumentations cannot express; or it is not installed.
    """
    _check(policy)
    plain = policy.paths() if isinstance(policy, Genotype) else policy
    nodes = _stages(plain) if isinstance(plain, Stages) else _sub_policies(plain)
    return _library().from_dict({"transform": _node("Compose", 1.0, transforms=nodes)})


def exported_text(policy: ImagePolicy) -> str:
    """Return the JSON that `albumentations.save` writes of what `exported` returns. Raises as it does."""
    return json.dumps(_library().to_dict(exported(policy)), indent=1) + "\n"


def _library() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the package index, and waits
    try:
        return import_module("albumentations")
    except ImportError as error:
        raise UserError("albumentations is not installed; pip install 'dastune[albumentations]'") from error


def _check(policy: ImagePolicy) -> None:
    refusals = Refusals.of_export("albumentations")
    for where, step in steps_that_happen(policy):
        reason = _refusal(step, policy.geometry)
        if reason:
            refusals.add(step.op, reason, where)
    if policy.geometry.sampling == "once" and geometric_ops_can_meet(policy):
        refusals.add("sampling 'once'", "albumentations samples the image for each of two geometric ops")
    refusals.check()


def _refusal(step: Step, geometry: Geometry) -> str:
    """Return why albumentations cannot express the step, or ""."""
    lowest = -step.high if step.signed else step.low
    match step.op:
        case "equalize":
            return "Equalize is up to 102/255 away from PIL's, in its mode 'pil', and 63/255 in 'cv'"
        case "sharpness":
            return "Sharpen cannot smooth, and changes the pixels at the border, which PIL leaves"
        case "solarize_add":
            return "it has no transform that adds to the dark pixels only"
        case "cutout":
            return "CoarseDropout keeps its hole inside the image, where dastune's square may be cut by the border"
        case "translate_x" | "translate_y" if not geometry.whole_pixels:
            return "Affine moves by whole pixels only; with whole_pixels in the policy's geometry it does the same"
        case "shear_x" | "shear_y" if geometry.shear_about == "corner" and len(geometry.fill) > 1:
            return "about the corner, CropAndPad must pad, and it pads with one value for all channels"
        case "posterize" if round(lowest) < 1:
            return f"{step.low:g} to {step.high:g} bits are not 1 to 8"
        case "color" | "contrast" | "brightness" if lowest < -1:
            return f"the factor {1 + lowest:g} is below 0"
    return "noise ops, which destroy an image on purpose, are not exported" if OPS[step.op].noise else ""


def _stages(policy: Stages) -> list[Node]:
    nodes = []
    for stage in policy.stages:
        total = sum(choice.weight for choice in stage)
        nodes += _one_of(
            pair
            for choice in stage
            if choice.weight > 0
            for pair in _drawn(choice.step, policy.geometry, choice.weight / total)
        )
    return nodes


def _sub_policies(policy: SubPolicies) -> list[Node]:
    total = sum(sub.weight for sub in policy.sub_policies)
    paths = []
    for sub in (sub for sub in policy.sub_policies if sub.weight > 0):
        nodes = [node for step in sub.steps for node in _one_of(_drawn(step, policy.geometry, 1.0))]
        if nodes:
            paths.append(_node("Sequential", sub.weight / total, transforms=nodes))
    if len(paths) == 1 and paths[0]["p"] == 1:
        return list(paths[0]["transforms"])
    return [_node("OneOf", sum(path["p"] for path in paths), transforms=paths)] if paths else []


def _one_of(drawn: Iterable[tuple[float, Node]]) -> list[Node]:
    """Return the transform that is one of `drawn`, each with its probability; nothing where there are none."""
    nodes = [node | {"p": round(min(p, 1.0), 12)} for p, node in drawn if p > 0]
    if len(nodes) < 2:
        return nodes
    return [_node("OneOf", sum(node["p"] for node in nodes), transforms=nodes)]


def _drawn(step: Step, geometry: Geometry, probability: float) -> Iterator[tuple[float, Node]]:
    """Yield the transforms of which `step` is one, each with its probability, if the step comes up so often."""
    if not happens(step):
        return
    probability *= step.probability
    for share, low, high in _ranges(step):
        yield probability * share, _transform(step.op, low, high, geometry)


def _ranges(step: Step) -> list[tuple[float, float, float]]:
    """Return the ranges, with their shares, from which albumentations can draw the argument."""
    ranges = [(1.0, step.low, step.high)]
    if step.op == "posterize":  # 8 bits are all
        ranges = [(share, bits, bits) for bits, share in whole_bits(step.low, step.high).items() if bits < 8]
    if step.op == "solarize":
        ranges = [(inverting_share(step), min(step.low, 1.0), min(step.high, 1.0))]
    if step.signed and step.low == 0:
        ranges = [(1.0, -step.high, step.high)]
    elif step.signed:
        ranges = [(0.5, step.low, step.high), (0.5, -step.high, -step.low)]
    return [piece for one in ranges for piece in _pieces(*one)] if step.op.startswith("shear") else ranges


def _pieces(share: float, low: float, high: float) -> list[tuple[float, float, float]]:
    count = max(math.ceil((high - low) / _WIDEST_SHEAR - 1e-9), 1)
    edges = [round(low + (high - low) * index / count, 12) for index in range(count + 1)]
    return [(share / count, edges[index], edges[index + 1]) for index in range(count)]


def _node(name: str, p: float = 1.0, **parameters: Any) -> Node:
    return {_CLASS: name, "p": round(min(p, 1.0), 12)} | parameters


def _transform(op: str, low: float, high: float, geometry: Geometry) -> Node:
    """Return the transform that applies `op` with an argument from [low, high]."""
    match op:
        case "auto_contrast":  # AutoContrast overlooks the pixels at 255
            steps = [_node("Normalize", normalization="min_max_per_channel"), _node("ToFloat"), _node("FromFloat")]
            return _node("Sequential", transforms=steps)
        case "invert":
            return _node("InvertImg")
        case "posterize":
            return _node("Posterize", num_bits=[low, high])
        case "solarize":
            return _node("Solarize", threshold_range=[low, high])
        case "color" | "contrast" | "brightness":
            factors = {_FACTORS[op]: [round(1 + low, 12), round(1 + high, 12)]}
            return _node("ColorJitter") | _NO_JITTER | factors
    moved = _affine(op, low, high, geometry)
    if geometry.shear_about == "centre" or not op.startswith("shear"):
        return moved
    return _node("Sequential", transforms=[_padded(1.0, geometry), moved, _padded(-0.5, geometry)])


def _affine(op: str, low: float, high: float, geometry: Geometry) -> Node:
    node = _node("Affine", interpolation=_INTERPOLATION[geometry.interpolation]) | _outside(geometry)
    axis = op[-1]
    if op == "rotate":
        return node | {"rotate": [low, high]}
    if op == "zoom":
        return node | {"scale": [round(1 + low, 12), round(1 + high, 12)], "keep_ratio": True}
    if op.startswith("shear"):
        degrees = [math.degrees(math.atan(slope)) for slope in (low, high)]
        return node | {"shear": _STILL | {axis: degrees}}
    return node | {"translate_percent": _STILL | {axis: [low * _ABOVE, high * _ABOVE]}}


def _padded(share: float, geometry: Geometry) -> Node:
    """Return the transform that pads above and left by `share` of the side: by 1, the corner becomes the centre."""
    return _node("CropAndPad", percent=[share, 0.0, 0.0, share], keep_size=False) | _outside(geometry)


def _outside(geometry: Geometry) -> dict[str, Any]:
    levels = [round(255 * value) for value in geometry.fill]
    return {"fill": levels[0] if len(levels) == 1 else levels, "fill_mask": _IGNORED}


# --- import

_SINGLE_STEPS = (["Normalize", "ToFloat", "FromFloat"], ["CropAndPad", "Affine", "CropAndPad"])
_STEPS = {"InvertImg", "Solarize", "Posterize", "ColorJitter"}.union(*_SINGLE_STEPS)
_READ = {"Compose", "OneOf", "Sequential"} | _STEPS
_MASKS = ("fill_mask", "mask_interpolation")
_WEIGHT_DIGITS = 9  # sums of rounded probabilities are right to so many


def imported(source: Any) -> Policy:
    """Return the policy of transforms as `exported` writes them.

    Args:
        source: the JSON that `albumentations.save` writes, as a text or as the mapping it stands for, or a transform.

    Raises:
        UserError: names all that a policy cannot express, or that this does not read; or albumentations is not
            installed.
    """
    root = _serialised(source)
    reading = _Reading()
    nodes = root["transforms"] if root[_CLASS] == "Compose" and root["p"] == 1 else [root]
    paths = len(nodes) == 1 and nodes[0][_CLASS] == "OneOf" and any(map(_is_path, nodes[0]["transforms"]))
    policy = reading.sub_policies(nodes[0]) if paths else Stages(stages=tuple(map(reading.stage, nodes)))
    return policy.model_copy(update={"geometry": reading.geometry()})


def _serialised(source: Any) -> Node:
    """Return the transforms of `source`, with all their parameters."""
    library = _library()
    if isinstance(source, str):
        try:
            source = json.loads(source)
        except (ValueError, RecursionError, MemoryError) as error:
            why = shortened(str(error), most=200)
            raise UserError(f"the text is no JSON ({why}); give what albumentations.save writes") from error
    try:
        data = source if isinstance(source, Mapping) else library.to_dict(source)
        nodes = list(_nodes(data["transform"]))
        strange = sorted({node[_CLASS] for node in nodes} - _READ)
        idle = [node for node in nodes if node[_CLASS] == "OneOf" and not any(map(_p, node["transforms"]))]
    except (AttributeError, KeyError, NotImplementedError, TypeError, RecursionError) as error:
        raise UserError(
            "this is no transform of albumentations; give one, or what albumentations.save writes"
        ) from error
    refusals = _refusals()
    for name in strange:
        refusals.add(name, f"only these are read: {', '.join(sorted(_READ))}")
    if idle:
        refusals.add("OneOf", "it has no transform whose p is above 0")
    refusals.check()
    try:
        with warnings.catch_warnings(action="error"):  # it warns of parameters that it does not know
            return _complete(data["transform"])
    except (ArithmeticError, KeyError, TypeError, ValueError, RecursionError, Warning) as error:
        why = shortened(" ".join(str(error).split()), most=400)
        raise UserError(f"albumentations cannot read these transforms: {why}") from error


def _refusals() -> Refusals:
    return Refusals(
        "the transforms cannot be read as a policy", "Take these out, or write the policy as a policy file."
    )


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for part in node.get("transforms", ()):
        yield from _nodes(part)


def _p(node: Node) -> float:
    p: float = node.get("p", 0.5)  # albumentations' default
    return p


class _Reading:
    """Reads steps out of transforms, and on the way the geometry they share and what is refused."""

    def __init__(self) -> None:
        self._refusals = _refusals()
        self._seen: dict[str, set[Any]] = {"interpolation": set(), "fill": set(), "shear_about": set()}
        self._whole_pixels = False

    def geometry(self) -> Geometry:
        """Return the geometry of all transforms that have been read. Raises UserError with all that is refused."""
        for name, values in self._seen.items():
            if len(values) > 1:
                self._refusals.add(name, f"a policy has one, these transforms have {sorted(values)}")
        self._refusals.check()
        return Geometry(
            whole_pixels=self._whole_pixels, **{name: min(seen) for name, seen in self._seen.items() if seen}
        )

    def stage(self, node: Node) -> tuple[Choice, ...]:
        """Return the stage at which one of the transforms in `node` is drawn."""
        drawn = self._steps(node)
        if len(drawn) == 1:
            [(p, step)] = drawn
            return (Choice(weight=1, step=step.model_copy(update={"probability": p})),)
        return tuple(Choice(weight=p, step=step) for p, step in [*drawn, *_idle(p for p, _ in drawn)])

    def sub_policies(self, node: Node) -> SubPolicies:
        """Return the sub-policies of which `node`, a OneOf, draws one."""
        paths = [(p, self._path(path)) for p, path in _shares(node)]
        count = sum(math.prod(map(len, path)) for _, path in paths)
        if count > MOST_SUB_POLICIES:
            raise UserError(
                f"the transforms would be {shortened(count)} sub-policies, one for each way through the OneOfs of a "
                f"Sequential, and at most {MOST_SUB_POLICIES:,} are written; take some OneOfs out"
            )
        found = [
            SubPolicy(weight=round(p * share, _WEIGHT_DIGITS), steps=steps)
            for p, path in paths
            for share, steps in _ways(path)
            if steps
        ]
        idle = [SubPolicy(weight=p, steps=()) for p, _ in _idle(sub.weight for sub in found)]
        return SubPolicies(sub_policies=(*found, *idle))

    def _path(self, node: Node) -> list[list[tuple[float, Step]]]:
        """Return the steps that `node` goes through: at each place one of several, each with its share."""
        each = []
        for part in node["transforms"] if _is_path(node) else [node | {"p": 1.0}]:
            steps = self._steps(part)
            if len(steps) == 1:
                [(p, step)] = steps
                each.append([(1.0, step.model_copy(update={"probability": p}))])
            else:
                each.append([*steps, *_idle(p for p, _ in steps)])
        return each

    def _steps(self, node: Node) -> list[tuple[float, Step]]:
        """Return the steps of which `node` is one, each with its probability; the rest of 1 is nothing."""
        parts = _shares(node) if node[_CLASS] == "OneOf" else [(min(node["p"], 1.0), node)]
        return _as_steps([_Drawn(p, *self._range(part)) for p, part in parts])

    def _range(self, node: Node) -> tuple[str, float, float]:
        """Return the op of one transform, and the range of its argument: what would be written as this transform."""
        op, low, high, geometry = _guess(node)
        written = _complete(_transform(op, low, high, geometry)) if op else {}
        other = [name for name in node if name not in ("p", *_MASKS) and not _same(written.get(name), node[name])]
        if other:
            self._refusals.add(node[_CLASS], f"no step of a policy is written with such {', '.join(other)}")
        elif OPS[op].geometric:
            self._seen["interpolation"].add(geometry.interpolation)
            self._seen["fill"].add(geometry.fill)
            if op.startswith("shear"):
                self._seen["shear_about"].add(geometry.shear_about)
            self._whole_pixels |= op.startswith("translate")
        return (op, low, high) if not other else ("identity", 0.0, 0.0)


def _ways(path: list[list[tuple[float, Step]]]) -> Iterator[tuple[float, tuple[Step, ...]]]:
    """Yield the sequences of steps that take one at each place, each with its share."""
    for way in product(*path):
        yield math.prod(p for p, _ in way), tuple(step for _, step in way if happens(step))


def _guess(node: Node) -> tuple[str, float, float, Geometry]:
    """Return the op, range and geometry that `node` may be written for; "" if there is none."""
    parts = node.get("transforms", [node])
    for part in parts:
        if part[_CLASS] == "Affine":
            return _moved(part, "corner" if len(parts) > 1 else "centre")
    low, high, op = 0.0, 0.0, {"InvertImg": "invert", "Sequential": "auto_contrast"}.get(node[_CLASS], "")
    match node[_CLASS]:
        case "Solarize":
            op, (low, high) = "solarize", node["threshold_range"]
        case "Posterize":
            op, low = "posterize", next((bits for bits in node["num_bits"] if isinstance(bits, int)), 1)
            high = low
        case "ColorJitter":
            op = next((op for op, factor in _FACTORS.items() if node[factor] != [1, 1]), "color")
            low, high = (round(factor - 1, 12) for factor in node[_FACTORS[op]])
    return op, low, high, DASTUNE


def _moved(affine: Node, about: Literal["centre", "corner"]) -> tuple[str, float, float, Geometry]:
    """Return the op of an Affine, the first where there are several, its range and its geometry."""
    moves = {"rotate": affine["rotate"], "zoom": [factor - 1 for factor in affine["scale"]["x"]]}
    for axis in ("x", "y"):
        moves[f"shear_{axis}"] = [math.tan(math.radians(degrees)) for degrees in affine["shear"][axis]]
        moves[f"translate_{axis}"] = [share / _ABOVE for share in (affine["translate_percent"] or _STILL)[axis]]
    still = "shear_x" if about == "corner" else "translate_x" if affine["translate_percent"] else "rotate"
    op = next((op for op, ends in moves.items() if any(ends)), still)
    low, high = (round(end, 12) for end in moves[op])
    levels = affine["fill"] if isinstance(affine["fill"], list) else [affine["fill"]]
    fill = tuple(round(level / 255, 12) for level in levels)
    mode: Literal["nearest", "bilinear"] = "bilinear" if affine["interpolation"] == 1 else "nearest"
    return op, low, high, Geometry(interpolation=mode, shear_about=about, fill=fill)


def _complete(node: Node) -> Node:
    """Return the transform with all its parameters, as JSON has them."""
    library = _library()
    complete: Node = json.loads(json.dumps(library.to_dict(library.from_dict({"transform": node}))))["transform"]
    return complete


def _same(one: Any, other: Any) -> bool:
    """Return whether two parameters are the same but for rounding, and for what masks are filled with."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(key in _MASKS or _same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, abs_tol=1e-9)
    return bool(one == other)


def _is_path(node: Node) -> bool:
    """Return whether `node` is a sub-policy: steps, one after the other, that a OneOf may draw."""
    return node[_CLASS] == "Sequential" and [part[_CLASS] for part in node["transforms"]] not in _SINGLE_STEPS


def _shares(one_of: Node) -> list[tuple[float, Node]]:
    """Return the transforms of which a OneOf draws one, each with its probability."""
    total = sum(part["p"] for part in one_of["transforms"])
    return [(min(one_of["p"], 1.0) * part["p"] / total, part | {"p": 1.0}) for part in one_of["transforms"]]


def _idle(shares: Iterable[float]) -> list[tuple[float, Step]]:
    """Return the step that does nothing, with what the shares leave of 1; nothing where they leave nothing."""
    left = round(1 - sum(shares), _WEIGHT_DIGITS)
    return [(left, Step(op="identity"))] if left > 1e-6 else []


class _Drawn(NamedTuple):
    """An op with its probability to be drawn, and the range of its argument."""

    p: float
    op: str
    low: float
    high: float


def _as_steps(drawn: Iterable[_Drawn]) -> list[tuple[float, Step]]:
    """Return `drawn` as steps: ranges that continue each other become one, and ranges of both signs a signed one."""
    joined: list[_Drawn] = []
    for one in drawn:
        if joined and _continues(joined[-1], one):
            last = joined.pop()
            joined.append(last._replace(p=last.p + one.p, high=one.high))
        else:
            joined.append(one)
    steps = []
    while joined:
        p, op, low, high = one = joined.pop(0)
        mirrored = [two for two in joined if _mirrors(one, two)][:1]
        if mirrored:
            joined.remove(mirrored[0])
            low, high = sorted((abs(low), abs(high)))
            step = Step(op=op, low=low, high=high, signed=True)
        elif OPS[op].signed and low == -high < 0:
            step = Step(op=op, low=0.0, high=high, signed=True)
        else:
            step = Step(op=op, low=low, high=high, signed=False)
        steps.append((round(p * (1 + len(mirrored)), _WEIGHT_DIGITS), step))
    return steps


def _continues(one: _Drawn, two: _Drawn) -> bool:
    even = math.isclose(one.p * (two.high - two.low), two.p * (one.high - one.low), rel_tol=1e-6)
    return one.op == two.op and one.low < one.high == two.low < two.high and even


def _mirrors(one: _Drawn, two: _Drawn) -> bool:
    one_sided = OPS[one.op].signed and one.low * one.high >= 0 and one.low != -one.high
    return one_sided and math.isclose(one.p, two.p, rel_tol=1e-6) and two[1:] == (one.op, -one.high, -one.low)
