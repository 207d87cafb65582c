"""Policies: what a search finds, as plain frozen data with a versioned JSON form.

A policy holds concrete physical arguments (degrees, fractions, bits), never levels, so that it means the same pixels
wherever it is read. Four kinds: `SubPolicies` (AutoAugment), `Stages` (RandAugment, TrivialAugment, the distribution
that DAS returns), `Genotype` (the discrete cell of DAS as published, image to image) and `Clip` (the same, image to
video).
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from dastune.errors import UserError, nearest
from dastune.ops.spaces import DASTUNE, Geometry
from dastune.ops.table import OPS

FORMAT: Final = "dastune-policy"
# 1 had neither `signed` nor `geometry` nor `node`, whose defaults are what it meant; 2 had no clips.
FORMAT_VERSION = 3
SEMANTICS: Final = "dastune-1"


MOST_PATHS = 10_000

_Number = Annotated[float, Field(strict=True)]
_Share = Annotated[float, Field(ge=0, le=1, strict=True)]
_Weight = Annotated[float, Field(ge=0, strict=True)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Step(_Frozen):
    """One op with its physical argument drawn uniformly from [low, high] for each image; `low == high` fixes it.

    Where `signed`, the range is of the absolute argument and its sign is drawn per image, with probability 1/2 each;
    that is the default for the ops that have signs (`Op.signed`). `probability` is the chance that the op is applied at
    all.
    """

    op: Annotated[str, Field(json_schema_extra={"enum": list(OPS)})]
    low: _Number = 0.0
    high: _Number = 0.0
    probability: _Share = 1.0
    signed: Annotated[bool, Field(strict=True, json_schema_extra=lambda schema: schema.pop("default"))] = False

    @model_validator(mode="before")
    @classmethod
    def _with_its_sign(cls, fields: Any) -> Any:
        op = OPS.get(str(fields.get("op"))) if isinstance(fields, Mapping) else None
        if op is None:
            return fields
        if op.argument and not fields.keys() & {"low", "high"}:
            raise ValueError(f"{op.name} needs low and high, its {op.argument} ({op.unit})")
        return {"signed": op.signed, **fields}

    @field_validator("op")
    @classmethod
    def _known(cls, op: str) -> str:
        if op not in OPS:
            raise ValueError(f"{op[:60]!r} is no op; {nearest(op[:60], OPS)}")
        return op

    @model_validator(mode="after")
    def _ordered(self) -> "Step":
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        if self.signed and not OPS[self.op].signed:
            raise ValueError(f"the argument of {self.op} has no sign; signed must be false")
        if self.signed and self.low < 0:
            raise ValueError(f"low {self.low:g} is below 0, and the sign is random (signed)")
        least, most = OPS[self.op].legal_range(signed=self.signed)
        if self.low < least or self.high > most:
            raise ValueError(f"{self.low:g} to {self.high:g} is not within {least:g} to {most:g} {OPS[self.op].unit}")
        return self


class Choice(_Frozen):
    """A step with its weight among the choices of its stage; weights are normalised when a step is drawn."""

    weight: _Weight
    step: Step


class SubPolicy(_Frozen):
    """Steps applied one after the other, with this sub-policy's weight among all."""

    steps: tuple[Step, ...]
    weight: _Weight = 1.0


def _check_weights(of: str, weights: Sequence[float]) -> None:
    total = sum(weights)
    if total <= 0:
        raise ValueError(f"the weights of {of} sum to 0; at least one must be positive")
    if total == math.inf:
        raise ValueError(f"the weights of {of} sum to more than a number can hold")


class SubPolicies(_Frozen):
    """Each image draws one sub-policy by weight and goes through its steps (AutoAugment, CVPR 2019, section 3)."""

    kind: Literal["sub_policies"] = "sub_policies"
    geometry: Geometry = DASTUNE
    sub_policies: Annotated[tuple[SubPolicy, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _some_weight(self) -> "SubPolicies":
        _check_weights("the sub-policies", [sub.weight for sub in self.sub_policies])
        return self


class Stages(_Frozen):
    """At each stage each image draws one step by weight. No stages: images stay as they are."""

    kind: Literal["stages"] = "stages"
    geometry: Geometry = DASTUNE
    stages: tuple[Annotated[tuple[Choice, ...], Field(min_length=1)], ...] = ()

    @model_validator(mode="after")
    def _some_weight(self) -> "Stages":
        for index, stage in enumerate(self.stages):
            _check_weights(f"stage {index}", [choice.weight for choice in stage])
        return self


class Edge(_Frozen):
    """An edge of a cell: the state it reads (inputs first, then nodes in order) and the step on it."""

    source: Annotated[int, Field(ge=0, strict=True)]
    step: Step


class Genotype(_Frozen):
    """A discrete cell: node i joins its incoming edges; the last node is the output.

    States are numbered 0 .. inputs-1 for the inputs (each the image), then one per node. `node` says how edges are
    joined: "mean" is the mean of their images; "sum" is their sum cut to [0, 1]; "sample" draws one of them for each
    image, which is the same as drawing one of the cell's `paths`.
    """

    kind: Literal["genotype"] = "genotype"
    geometry: Geometry = DASTUNE
    node: Literal["mean", "sum", "sample"] = "mean"
    inputs: Annotated[int, Field(ge=1, le=2, strict=True)] = 1
    nodes: Annotated[tuple[Annotated[tuple[Edge, ...], Field(min_length=1)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _edges_point_back(self) -> "Genotype":
        _check_sources(self.nodes, self.inputs)
        return self

    @property
    def blends(self) -> bool:
        """Whether an image may come out as the mean or the sum of two or more."""
        return self.node != "sample" and any(len(edges) > 1 for edges in self.nodes)

    def paths(self) -> SubPolicies:
        """Return the ways from the image to the output as sub-policies; a path's weight is its probability.

        At each node a path comes in by any of the node's edges, equally likely. With `node="sample"` this is the same
        policy; with "mean" it draws between the images that the cell would average.

        Raises:
            UserError: there are more than MOST_PATHS, or the cell adds images up, which is like none of them.
        """
        if self.node == "sum" and self.blends:
            raise UserError('the cell adds up images (node "sum"), which drawing one of its paths cannot stand for')
        counts = [1] * self.inputs
        for edges in self.nodes:
            counts.append(sum(counts[edge.source] for edge in edges))
        if max(counts) > MOST_PATHS:
            raise UserError(f"the cell has more than {MOST_PATHS:,} paths, too many to write out")
        ways: list[tuple[SubPolicy, ...]] = [(SubPolicy(steps=()),)] * self.inputs
        for edges in self.nodes:
            ways.append(
                tuple(
                    SubPolicy(steps=(*way.steps, edge.step), weight=way.weight / len(edges))
                    for edge in edges
                    for way in ways[edge.source]
                )
            )
        return SubPolicies(sub_policies=ways[-1], geometry=self.geometry)


class Clip(_Frozen):
    """A discrete video cell: an image becomes a clip of moving frames (DAS as published, image to video).

    The image is replicated into `frames` frames, and each frame t goes through the cell, whose edges move it by t's
    distance from the middle frame, frames // 2, which stays the image itself, bit for bit. An edge's step is the
    argument at distance 1: at distance d it is d times as much, but for zoom, whose factor is to the power of d.

    States are numbered as in `Genotype`; a node is the mean of its edges.

    Attributes:
        frames: T; one frame is the image.
        profile: "symmetric": the distance is |t - T // 2| on both sides; "ramp": t - T // 2, so that what is moved goes
            on in one direction.
        order: "time": the frames as they come; "shuffled": in an order drawn for each image (supplement, E); "one": one
            frame drawn for each image, which makes it an augmentation of images.
    """

    kind: Literal["clip"] = "clip"
    geometry: Geometry = DASTUNE
    frames: Annotated[int, Field(ge=1, le=64, strict=True)] = 8
    profile: Literal["symmetric", "ramp"] = "symmetric"
    order: Literal["time", "shuffled", "one"] = "time"
    inputs: Annotated[int, Field(ge=1, le=2, strict=True)] = 1
    nodes: Annotated[tuple[Annotated[tuple[Edge, ...], Field(min_length=1)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _frames_move(self) -> "Clip":
        _check_sources(self.nodes, self.inputs)
        for edges in self.nodes:
            for step in (edge.step for edge in edges):
                if not moves(step.op):
                    raise ValueError(f"{step.op} moves no frames; a clip has geometric ops and identity")
                if step.low != step.high or step.signed or step.probability != 1:
                    raise ValueError(
                        f"the step of {step.op} must be one argument (low equal to high, not signed, probability 1), "
                        "the same for all images"
                    )
        return self

    @property
    def distances(self) -> tuple[int, ...]:
        """How many steps each frame is moved."""
        offsets = (frame - self.frames // 2 for frame in range(self.frames))
        return tuple(abs(offset) if self.profile == "symmetric" else offset for offset in offsets)


def moves(op: str) -> bool:
    """Say whether an op can be on an edge of a clip's cell."""
    return OPS[op].geometric or op == "identity"


def _check_sources(nodes: Sequence[Sequence[Edge]], inputs: int) -> None:
    for index, edges in enumerate(nodes):
        for edge in edges:
            if edge.source >= inputs + index:
                raise ValueError(f"node {index} reads state {edge.source}; it may read 0 to {inputs + index - 1}")


Policy: TypeAlias = SubPolicies | Stages | Genotype | Clip

NO_AUGMENTATION = Stages()


class PolicyFile(_Frozen):
    """A policy with where it comes from: the JSON of a policy file, whose schema is `policy.schema.json` beside this.

    `semantics` says what ops and their arguments mean. `provenance` holds what is known of where the policy comes from.
    dastune's searches write study, method, noise_level, search_seed, budget, data, data_fingerprint and
    dastune_version; an imported policy says what it was read from.
    """

    format: Literal["dastune-policy"] = "dastune-policy"
    version: Annotated[int, Field(ge=1, le=FORMAT_VERSION, strict=True)]
    semantics: Literal["dastune-1"] = "dastune-1"
    policy: Annotated[Policy, Field(discriminator="kind")]
    provenance: dict[str, Any] = {}


_POLICY: TypeAdapter[Policy] = TypeAdapter(Annotated[Policy, Field(discriminator="kind")])


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """Return `policy` as plain JSON data, without provenance."""
    return policy.model_dump(mode="json")


def policy_from_json(data: Mapping[str, Any]) -> Policy:
    """Return the policy of plain JSON data. Raises pydantic's ValidationError if it is none."""
    return _POLICY.validate_python(data)


def policy_text(policy: Policy, provenance: Mapping[str, Any]) -> str:
    """Return the text of a policy file."""
    file = PolicyFile(version=FORMAT_VERSION, policy=policy, provenance=dict(provenance))
    return file.model_dump_json(indent=1)


def policy_file_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of policy files: the content of `policy.schema.json`."""
    schema = PolicyFile.model_json_schema()
    schema["required"] = ["format", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def load_policy(path: str | Path) -> Policy:
    """Read the policy of the policy file at `path`. Raises as `load_policy_file`."""
    return load_policy_file(path).policy


def load_policy_file(path: str | Path) -> PolicyFile:
    """Read the policy file at `path`, with its provenance.

    Raises:
        UserError: the file is missing, damaged, no policy, or written by a newer version.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a policy file") from error
    return policy_file_from_text(content, str(path))


def policy_file_from_text(text: str | bytes, path: str) -> PolicyFile:
    """Return the policy file of `text`; faults are told of `path`. Raises UserError as `load_policy_file`."""
    try:
        data = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}); the file is damaged or no policy file") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{path}: is no policy file; its JSON must be a mapping with the format {FORMAT!r}")
    version, semantics = data.get("version"), data.get("semantics")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{path}: policy format {str(version)[:20]} is newer than this dastune reads ({FORMAT_VERSION}); upgrade"
        )
    if isinstance(semantics, str) and semantics != SEMANTICS:
        raise UserError(
            f"{path}: its semantics {semantics[:60]!r} are unknown to this dastune ({SEMANTICS!r}); upgrade"
        )
    try:
        return PolicyFile.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_fault(error)}; the file is damaged") from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} is given twice")
        found[key] = value
    return found


def _first_fault(error: ValidationError) -> str:
    """Return where a policy file is at fault, as its JSON has it, and why."""
    first = error.errors()[0]
    kinds = ("sub_policies", "stages", "genotype", "clip")  # after "policy", pydantic names the kind, which is no key
    location = [part for index, part in enumerate(first["loc"]) if not (index == 1 and part in kinds)]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in location).removeprefix(".")
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "extra_forbidden":
        return f"{where} is no key of the format"
    if first["type"].startswith("union_tag"):
        return f"{where}.kind must be one of {', '.join(kinds)}"
    message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"].partition(",")[0]
    return f"{where}: {message.replace('Input should', 'must')}"


def _key(part: str) -> str:
    """Return a key of a file as it can be printed."""
    return part if part.isidentifier() and len(part) <= 60 else repr(part[:60])


def op_shares(policy: Policy) -> dict[str, float]:
    """Return each op's expected share of the applications of `policy`; the shares sum to 1.

    A step that is skipped counts as identity, and so do a policy without stages and a sub-policy without steps. For a
    genotype or a clip every edge counts once.
    """
    shares: dict[str, float] = {}
    for step, amount in _expected_steps(policy):
        shares[step.op] = shares.get(step.op, 0.0) + amount * step.probability
        shares["identity"] = shares.get("identity", 0.0) + amount * (1 - step.probability)
    return {op: share for op, share in shares.items() if share > 0}


def applied_shares(policy: Policy) -> dict[str, float]:
    """Return `op_shares` without what is skipped: the shares sum to that of the steps that are applied."""
    shares: dict[str, float] = {}
    for step, amount in _expected_steps(policy):
        shares[step.op] = shares.get(step.op, 0.0) + amount * step.probability
    return {op: share for op, share in shares.items() if share > 0}


def _expected_steps(policy: Policy) -> Iterator[tuple[Step, float]]:
    """Yield steps with their expected shares, which sum to 1; where there is none, one that is always skipped."""
    nothing = Step(op="identity", probability=0.0)
    match policy:
        case SubPolicies():
            total = sum(sub.weight for sub in policy.sub_policies)
            for sub in policy.sub_policies:
                for step in sub.steps or (nothing,):
                    yield step, sub.weight / total / max(len(sub.steps), 1)
        case Stages():
            if not policy.stages:
                yield nothing, 1.0
            for stage in policy.stages:
                total = sum(choice.weight for choice in stage)
                for choice in stage:
                    yield choice.step, choice.weight / total / len(policy.stages)
        case Genotype() | Clip():
            edges = [edge for node in policy.nodes for edge in node]
            for edge in edges:
                yield edge.step, 1 / len(edges)


def noise_mass(policy: Policy) -> float:
    """Return the expected share of noise ops among the ops that `policy` applies, in [0, 1]; 0 if it applies none.

    Skipped steps are left out: with them, policies drawn at random would seem to avoid noise.
    """
    shares = applied_shares(policy)
    noise = sum(share for op, share in shares.items() if OPS[op].noise)
    return noise / sum(shares.values()) if shares else 0.0
