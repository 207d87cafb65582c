"""The search space of a study: ops with their ranges, and the noise ops that join level by level."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from dastune.config.fields import FieldError, Number, Strict, Whole, distinct
from dastune.errors import nearest
from dastune.ops.spaces import DASTUNE, SPACES, Geometry
from dastune.ops.table import NOISE_LISTS, OPS, Op
from dastune.policy.space import SearchSpace, SpaceOp

_AN_OP = "must be an op, such as rotate or rotate: {degrees: 20}"


def _known_op(name: str) -> str:
    if name not in OPS:
        raise FieldError(f"{name!r} is no op; {nearest(name, OPS)}")
    return name


def op_of_yaml(item: Any) -> Any:
    """Turn `rotate` or `rotate: {degrees: 20}` or `rotate: {degrees: [5, 20]}` into the fields of OpRange."""
    if isinstance(item, OpRange):
        return item
    if isinstance(item, dict) and "op" in item:
        return {"signed": isinstance(item["op"], str) and item["op"] in OPS and OPS[item["op"]].signed, **item}
    if isinstance(item, str):
        item = {item: None}
    if not isinstance(item, dict) or len(item) != 1 or not isinstance(next(iter(item)), str):
        raise FieldError(_AN_OP)
    [(name, arguments)] = item.items()
    low, high = _given_range(OPS[_known_op(name)], arguments)
    return {"op": name, "signed": OPS[name].signed, "low": low, "high": high}


def _given_range(op: Op, arguments: Any) -> tuple[float, float]:
    """Return an op's range from what the user wrote after its name."""
    if arguments is None or arguments == {}:
        return op.low, op.high
    if not op.argument:
        raise FieldError("takes no argument", op.name)
    form = f"{{{op.argument}: HIGH}} or {{{op.argument}: [LOW, HIGH]}}"
    if not isinstance(arguments, dict):
        raise FieldError(f"must be {form}", op.name)
    for key in arguments:
        if key != op.argument:
            raise FieldError(f"unknown argument; {op.name} takes {form}", op.name, str(key))
    value = arguments[op.argument]
    low, high = value if isinstance(value, list | tuple) and len(value) == 2 else (op.low, value)
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise FieldError("must be a number or [LOW, HIGH]", op.name, op.argument)
        _check_bound(op, bound, op.name, op.argument, signed=op.signed)
    return low, high


def _check_bound(op: Op, bound: float, *below: str, signed: bool) -> None:
    smallest, largest = op.legal_range(signed=signed)
    if bound < 0 and (signed or not op.signed):
        sign = "; its sign is drawn for each image" if signed else ""
        raise FieldError(f"must be at least 0 {op.unit}{sign}", *below)
    if bound < smallest:
        raise FieldError(f"must be at least {smallest:.4g} {op.unit}", *below)
    if bound > largest:
        raise FieldError(f"must be at most {largest:.4g} {op.unit}", *below)


class OpRange(Strict):
    """An op of the space with its physical argument at magnitude 0 and 1."""

    op: Annotated[str, AfterValidator(_known_op)]
    """Name of the op."""
    signed: bool
    """Whether the argument's sign is drawn for each image; by default it is for ops that have one."""
    low: Number
    """Argument at magnitude 0, in the op's unit."""
    high: Number
    """Argument at magnitude 1, in the op's unit."""

    @field_validator("signed")
    @classmethod
    def _has_sign(cls, signed: bool, info: ValidationInfo) -> bool:
        if signed and "op" in info.data and not OPS[info.data["op"]].signed:
            raise FieldError(f"the argument of {info.data['op']} has no sign")
        return signed

    @field_validator("low", "high")
    @classmethod
    def _possible(cls, bound: float, info: ValidationInfo) -> float:
        if {"op", "signed"} <= info.data.keys():
            _check_bound(OPS[info.data["op"]], bound, signed=info.data["signed"])
        return bound


OpItem: TypeAlias = Annotated[OpRange, BeforeValidator(op_of_yaml)]


def _named(lists: Mapping[str, tuple[Any, ...]], kind: str) -> Callable[[Any], Any]:
    def expand(value: Any) -> Any:
        if isinstance(value, str):
            if value not in lists:
                raise FieldError(f"{value!r} is not the name of {kind}; {nearest(value, lists)}")
            return lists[value]
        if not isinstance(value, list | tuple):
            raise FieldError(f"must be a list of ops, or the name of {kind} ({', '.join(lists)})")
        return value

    return expand


def _each_op_once(items: tuple[OpRange, ...]) -> tuple[OpRange, ...]:
    distinct(tuple(item.op for item in items))
    return items


class Noise(Strict):
    """The noise ops that join the space, level by level."""

    ops: Annotated[
        tuple[OpItem, ...],
        BeforeValidator(_named(NOISE_LISTS, "a list of noise ops")),
        AfterValidator(_each_op_once),
    ] = Field(default="default", validate_default=True)
    """A named list, or your own; level k adds the first k of it to the space."""
    levels: Annotated[tuple[Annotated[Whole, Field(ge=0)], ...], Field(min_length=1), AfterValidator(distinct)] = (0,)
    """Numbers of noise ops at which every method is run."""

    @field_validator("ops")
    @classmethod
    def _are_noise(cls, ops: tuple[OpRange, ...]) -> tuple[OpRange, ...]:
        for index, item in enumerate(ops):
            if not OPS[item.op].noise:
                noise = [op.name for op in OPS.values() if op.noise]
                raise FieldError(f"{item.op!r} is no noise op; {nearest(item.op, noise)}", index)
        return ops

    @field_validator("levels")
    @classmethod
    def _exist(cls, levels: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        ops = info.data.get("ops")
        for index, level in enumerate(levels):
            if ops is not None and level > len(ops):
                raise FieldError(f"level {level} is beyond the list of noise ops, which has {len(ops)}", index)
        return levels


class Space(Strict):
    """What the searches may use."""

    ops: Annotated[
        tuple[OpItem, ...],
        Field(min_length=1),
        BeforeValidator(_named({name: tuple(map(asdict, space.ops)) for name, space in SPACES.items()}, "an op space")),
        AfterValidator(_each_op_once),
    ] = Field(default="das-image", validate_default=True)
    """A named op space, or a list of ops, each with its own range if wanted: `[identity, rotate: {degrees: 20}]`."""
    geometry: Geometry = DASTUNE
    """How geometric ops sample. A named space brings its own; by default dastune's."""
    noise: Noise = Noise()
    """Noise ops and levels."""
    magnitude_levels: Annotated[Whole, Field(ge=2, le=31)] = 10
    """Magnitudes that a method with discrete magnitudes chooses from."""

    @model_validator(mode="before")
    @classmethod
    def _with_its_geometry(cls, fields: Any) -> Any:
        """Give a named space its geometry, unless the study states one."""
        if isinstance(fields, dict) and isinstance(name := fields.get("ops"), str) and name in SPACES:
            return {"geometry": SPACES[name].geometry, **fields}
        return fields

    @field_validator("geometry")
    @classmethod
    def _fills_rgb(cls, geometry: Geometry) -> Geometry:
        if len(geometry.fill) not in (1, 3):
            raise FieldError("must be one value or three: red, green, blue", "fill")
        return geometry

    @field_validator("noise")
    @classmethod
    def _joins(cls, noise: Noise, info: ValidationInfo) -> Noise:
        there = {item.op for item in info.data.get("ops", ())}
        for index, item in enumerate(noise.ops[: max(noise.levels)]):
            if item.op in there:
                raise FieldError(f"{item.op!r} is in space.ops already; give each op once", "ops", index)
        return noise

    def at_level(self, noise_level: int) -> SearchSpace:
        """Return the search space with the first `noise_level` noise ops."""
        items = (*self.ops, *self.noise.ops[:noise_level])
        ops = tuple(SpaceOp(item.op, item.low, item.high, item.signed) for item in items)
        return SearchSpace(ops, self.magnitude_levels, self.geometry)
