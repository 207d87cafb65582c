"""Policies: plain data, JSON both ways, and what share of it is noise."""

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from dastune.errors import UserError
from dastune.ops.spaces import TORCHVISION
from dastune.ops.table import OPS
from dastune.policy import policy as policy_module
from dastune.policy.policy import (
    NO_AUGMENTATION,
    Choice,
    Clip,
    Edge,
    Genotype,
    Policy,
    Stages,
    Step,
    SubPolicies,
    SubPolicy,
    applied_shares,
    load_policy,
    noise_mass,
    op_shares,
    policy_file_schema,
    policy_from_json,
    policy_text,
    policy_to_json,
)

shares = st.floats(0, 1)
weights = st.floats(0.1, 10)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    op = OPS[draw(st.sampled_from(list(OPS)))]
    least, most = op.legal_range(signed=op.signed)
    least, most = max(least, 0.0), min(most, 30.0)
    low, high = sorted((draw(st.floats(least, most)), draw(st.floats(least, most))))
    return Step(op=op.name, low=low, high=high, probability=draw(shares))


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    inputs = draw(st.integers(1, 2))
    nodes = []
    for node in range(draw(st.integers(1, 3))):
        edges = st.builds(Edge, source=st.integers(0, inputs + node - 1), step=steps())
        nodes.append(tuple(draw(st.lists(edges, min_size=1, max_size=3))))
    return Genotype(inputs=inputs, nodes=tuple(nodes))


@st.composite
def clips(draw: st.DrawFn) -> Clip:
    ops = st.sampled_from([op for op in OPS.values() if op.geometric or op.name == "identity"])
    inputs, nodes = draw(st.integers(1, 2)), []
    for node in range(draw(st.integers(1, 3))):
        edges = []
        for op in draw(st.lists(ops, min_size=1, max_size=3)):
            step = draw(st.floats(-0.5, 0.5)) if op.argument else 0.0
            source = draw(st.integers(0, inputs + node - 1))
            edges.append(Edge(source=source, step=Step(op=op.name, low=step, high=step, signed=False)))
        nodes.append(tuple(edges))
    return Clip(
        frames=draw(st.integers(1, 64)),
        profile=draw(st.sampled_from(("symmetric", "ramp"))),
        order=draw(st.sampled_from(("time", "shuffled", "one"))),
        inputs=inputs,
        nodes=tuple(nodes),
    )


def tuples(of: st.SearchStrategy[Any], smallest: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, min_size=smallest, max_size=3).map(tuple)


policies: st.SearchStrategy[Policy] = st.one_of(
    st.builds(
        SubPolicies,
        kind=st.just("sub_policies"),
        sub_policies=tuples(st.builds(SubPolicy, steps=tuples(steps()), weight=weights), 1),
    ),
    st.builds(
        Stages, kind=st.just("stages"), stages=tuples(tuples(st.builds(Choice, weight=weights, step=steps()), 1))
    ),
    genotypes(),
    clips(),
)


@given(policies)
def test_policies_survive_json(policy: Policy) -> None:
    text = json.dumps(policy_to_json(policy))
    again = policy_from_json(json.loads(text))
    assert again == policy
    assert hash(again) == hash(policy)
    assert len({policy, again}) == 1


@given(policies)
def test_shares_sum_to_one(policy: Policy) -> None:
    found = op_shares(policy)
    assert sum(found.values()) == pytest.approx(1)
    assert all(share > 0 for share in found.values())
    assert 0 <= noise_mass(policy) <= 1 + 1e-9


def draw_ops(policy: Policy, random: Random) -> list[str]:
    """Return the ops that one image goes through, skipped ones as identity."""

    def applied(step: Step) -> str:
        return step.op if random.random() < step.probability else "identity"

    match policy:
        case SubPolicies():
            sub = random.choices(policy.sub_policies, [sub.weight for sub in policy.sub_policies])[0]
            return [applied(step) for step in sub.steps] or ["identity"]
        case Stages():
            drawn = (random.choices(stage, [choice.weight for choice in stage])[0] for stage in policy.stages)
            return [applied(choice.step) for choice in drawn] or ["identity"]
        case Genotype() | Clip():
            return [applied(edge.step) for node in policy.nodes for edge in node]


ROTATE = Step(op="rotate", low=5, high=20)
SKIPPED = Step(op="invert", probability=0.25)
NOISE = Step(op="constant", probability=0.5)


@pytest.mark.parametrize(
    "policy",
    [
        NO_AUGMENTATION,
        SubPolicies(
            sub_policies=(
                SubPolicy(steps=(ROTATE, SKIPPED), weight=3),
                SubPolicy(steps=(NOISE,), weight=1),
                SubPolicy(steps=(), weight=2),
            )
        ),
        Stages(
            stages=(
                (Choice(weight=1, step=ROTATE), Choice(weight=2, step=NOISE), Choice(weight=0, step=SKIPPED)),
                (Choice(weight=5, step=SKIPPED),),
            )
        ),
        Genotype(
            nodes=(
                (Edge(source=0, step=ROTATE),),
                (Edge(source=0, step=NOISE), Edge(source=1, step=SKIPPED), Edge(source=1, step=ROTATE)),
            )
        ),
    ],
    ids=["none", "sub_policies", "stages", "genotype"],
)
def test_shares_are_those_of_a_simulation(policy: Policy) -> None:
    random, images = Random(0), 40_000
    counted: Counter[str] = Counter()
    for _ in range(images):
        ops = draw_ops(policy, random)
        for op in ops:
            counted[op] += Fraction(1, len(ops))  # type: ignore[assignment]
    simulated = {op: float(count) / images for op, count in counted.items()}
    assert op_shares(policy) == pytest.approx(simulated, abs=0.01)
    simulated.pop("identity", None)  # none of these policies applies it: all of it was skipped
    assert applied_shares(policy) == pytest.approx(simulated, abs=0.01)
    applied = sum(simulated.values())
    assert noise_mass(policy) == pytest.approx(simulated.get("constant", 0.0) / applied if applied else 0.0, abs=0.01)


def test_noise_mass_of_plain_policies() -> None:
    half = Stages(stages=((Choice(weight=1, step=ROTATE), Choice(weight=1, step=Step(op="constant"))),))
    assert noise_mass(half) == 0.5
    assert noise_mass(NO_AUGMENTATION) == 0
    assert op_shares(NO_AUGMENTATION) == {"identity": 1.0}
    assert applied_shares(NO_AUGMENTATION) == {}


def test_an_identity_that_is_applied_is_no_skipped_step() -> None:
    policy = SubPolicies(sub_policies=(SubPolicy(steps=(Step(op="identity", probability=0.5), NOISE)),))
    assert applied_shares(policy) == {"identity": 0.25, "constant": 0.25}
    assert op_shares(policy) == {"identity": 0.75, "constant": 0.25}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Step(op="rotat"), "'rotat' is no op; did you mean 'rotate'"),
        (lambda: Step(op="rotate", low=2, high=1), "low 2 is above high 1"),
        (lambda: Step(op="rotate", high=30, probability=1.5), "less than or equal to 1"),
        (lambda: Step(op="rotate", low=float("nan")), "finite"),
        (lambda: SubPolicies(sub_policies=()), "at least 1 item"),
        (lambda: SubPolicies(sub_policies=(SubPolicy(steps=(), weight=0),)), "at least one must be positive"),
        (lambda: Stages(stages=((Choice(weight=0, step=ROTATE),),)), "weights of stage 0 sum to 0"),
        (lambda: Genotype(nodes=((Edge(source=1, step=ROTATE),),)), "node 0 reads state 1; it may read 0 to 0"),
    ],
)
def test_impossible_policies(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()


def test_policies_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ROTATE.low = 3  # type: ignore[misc]


@given(policy=policies)
def test_policy_files_hold_the_policy(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("policies") / "policy.json"
    path.write_text(policy_text(policy, {"study": "x", "seed": 3}))
    assert load_policy(path) == policy
    assert json.loads(path.read_text())["provenance"] == {"study": "x", "seed": 3}


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(data: dict[str, Any]) -> None:
        inner: Any = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("version", to=4), "policy format 4 is newer than this dastune reads (3); upgrade"),
        (change("version", to=0), "version: must be greater than or equal to 1; the file is damaged"),
        (
            change("semantics", to="dastune-2"),
            "its semantics 'dastune-2' are unknown to this dastune ('dastune-1'); upgrade",
        ),
        (change("format", to="x"), "is no policy file; its JSON must be a mapping with the format 'dastune-policy'"),
        (change("extra", to=1), "extra is no key of the format; the file is damaged"),
        (
            change("policy", "kind", to="x"),
            "policy.kind must be one of sub_policies, stages, genotype, clip; the file is damaged",
        ),
        (
            change("policy", "stages", 0, 0, "step", "op", to="rotat"),
            "policy.stages[0][0].step.op: 'rotat' is no op; did you mean 'rotate'?; the file is damaged",
        ),
        (
            change("policy", "stages", 0, 0, to={"weight": 1}),
            "policy.stages[0][0].step is missing; the file is damaged",
        ),
        (
            change("policy", "stages", 0, 0, "weight", to="x"),
            "policy.stages[0][0].weight: must be a valid number; the file is damaged",
        ),
        (lambda data: data.pop("policy"), "policy is missing; the file is damaged"),
    ],
)
def test_damaged_policy_files(damage: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    policy = Stages(stages=((Choice(weight=1, step=ROTATE),),))
    data = json.loads(policy_text(policy, {}))
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError) as caught:
        load_policy(path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b"3"])
def test_files_that_are_no_policies(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"policy\.json: is no (JSON|policy file)"):
        load_policy(path)


def test_a_missing_policy_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read.*give the path of a policy file"):
        load_policy(tmp_path / "none.json")


# Signs, geometries, cells as paths, the schema.


def test_a_step_has_a_sign_where_its_op_has_one_unless_it_says_otherwise() -> None:
    assert Step(op="rotate", high=30).signed
    assert not Step(op="posterize", low=4, high=8).signed
    assert not Step(op="brightness", low=-0.9, high=0.9, signed=False).signed
    for fields, message in (
        ({"op": "posterize", "low": 4, "high": 8, "signed": True}, "has no sign"),
        ({"op": "rotate", "low": -3, "high": 3}, "below 0"),
    ):
        with pytest.raises(ValidationError, match=message):
            Step.model_validate(fields)


def test_policies_of_another_geometry_are_other_policies() -> None:
    stage = ((Choice(weight=1, step=ROTATE),),)
    own, other = Stages(stages=stage), Stages(stages=stage, geometry=TORCHVISION)
    assert own != other
    assert len({own, other, Stages(stages=stage)}) == 2
    assert policy_from_json(policy_to_json(other)) == other
    for geometry in ({"fill": ()}, {"fill": (1.5,)}, {"interpolation": "cubic"}, {"shear": 1}):
        with pytest.raises(ValidationError):
            Stages.model_validate({"geometry": geometry})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"op": "posterize", "low": 4, "high": 9}, "4 to 9 is not within 0 to 8 bits of 8"),
        ({"op": "salt_and_pepper", "low": -0.1, "high": 0.5}, "not within 0 to 1 of pixels"),
        ({"op": "brightness", "low": 0, "high": 1e300}, "not within 0 to 1000"),
        ({"op": "brightness", "low": 0, "high": 1e300, "signed": False}, "not within -1000 to 1000"),
        ({"op": "zoom", "low": 0, "high": 1}, "0 to 1 is not within 0 to 0.99 factor less 1"),
        ({"op": "zoom", "low": -1, "high": 0, "signed": False}, "-1 to 0 is not within -0.99 to 99 factor less 1"),
        ({"op": "posterize"}, r"posterize needs low and high, its bits \(bits of 8\)"),
        ({"op": "rotate", "low": "3", "high": 5}, "low\n.*valid number"),
        ({"op": "rotate", "low": True, "high": 5}, "low\n.*valid number"),
        ({"op": "rotate", "high": 5, "signed": "no"}, "signed\n.*valid boolean"),
        ({"op": ["rotate"], "high": 5}, "op\n.*valid string"),
        ({"op": {}}, "op\n.*valid string"),
        ({"op": "x" * 100_000}, "'x{60}' is no op"),
    ],
)
def test_arguments_are_numbers_that_mean_something(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        Step.model_validate(fields)
    assert len(str(caught.value)) < 1200


def test_weights_that_no_number_can_sum_are_refused() -> None:
    subs = tuple(SubPolicy(steps=(), weight=1e308) for _ in range(3))
    with pytest.raises(ValidationError, match="more than a number can hold"):
        SubPolicies(sub_policies=subs)


def test_a_cell_of_too_many_paths_is_refused_at_once() -> None:
    node = (Edge(source=0, step=ROTATE), Edge(source=0, step=NOISE))
    nodes = [node, *(tuple(Edge(source=i, step=edge.step) for edge in node) for i in range(1, 1500))]
    with pytest.raises(UserError, match="has more than 10,000 paths"):
        Genotype(nodes=tuple(nodes)).paths()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "dastune-policy", "version": 99, "version": 2}', "the key 'version' is given twice"),
        ('{"format": "dastune-policy", "version": %s}' % ("9" * 4000), "policy format 99999999999999999999 is newer"),
        ('{"format": "dastune-policy", "policy": {"kind": "stages"}}', "version is missing"),
        (
            '{"format": "dastune-policy", "version": true, "policy": {"kind": "stages"}}',
            "version: must be a valid integer",
        ),
        (
            '{"format": "dastune-policy", "version": 2, "policy": {"kind": "stages"}, "\\u001b[31m": 1}',
            r"'\\x1b\[31m' is no key of the format",
        ),
    ],
)
def test_files_that_mislead_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_policy(path)
    assert len(str(caught.value)) < 300


def test_files_of_version_1_are_read_as_they_were_meant(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    policy = {"kind": "stages", "stages": [[{"weight": 1.0, "step": {"op": "rotate", "low": 0.0, "high": 30.0}}]]}
    path.write_text(json.dumps({"format": "dastune-policy", "version": 1, "semantics": "dastune-1", "policy": policy}))
    assert load_policy(path) == Stages(stages=((Choice(weight=1, step=Step(op="rotate", high=30, signed=True)),),))


@pytest.mark.parametrize("version", [2, 3])
def test_files_without_clips_are_read_whatever_their_version(version: int, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    policy = Genotype(nodes=((Edge(source=0, step=ROTATE),),), node="sample", geometry=TORCHVISION)
    data = {**json.loads(policy_text(policy, {})), "version": version}
    path.write_text(json.dumps(data))
    assert load_policy(path) == policy


# Clips.


def step_of(op: str, argument: float = 0.0) -> Step:
    return Step(op=op, low=argument, high=argument, signed=False)


TURN = Edge(source=0, step=step_of("rotate", 5.0))


@pytest.mark.parametrize(
    ("frames", "profile", "distances"),
    [
        (8, "symmetric", (4, 3, 2, 1, 0, 1, 2, 3)),
        (8, "ramp", (-4, -3, -2, -1, 0, 1, 2, 3)),
        (5, "symmetric", (2, 1, 0, 1, 2)),
        (5, "ramp", (-2, -1, 0, 1, 2)),
        (2, "symmetric", (1, 0)),
        (2, "ramp", (-1, 0)),
        (1, "symmetric", (0,)),
        (1, "ramp", (0,)),
    ],
)
def test_frames_are_as_far_as_they_are_from_the_middle_one(
    frames: int, profile: Any, distances: tuple[int, ...]
) -> None:
    assert Clip(frames=frames, profile=profile, nodes=((TURN,),)).distances == distances


@pytest.mark.parametrize("frames", range(1, 65))
def test_one_frame_is_the_image_and_neighbours_are_a_step_apart(frames: int) -> None:
    for profile in ("symmetric", "ramp"):
        distances = Clip(frames=frames, profile=profile, nodes=((TURN,),)).distances
        assert len(distances) == frames
        assert distances.count(0) == 1
        assert distances[frames // 2] == 0
        assert all(abs(after - before) == 1 for before, after in pairwise(distances))


def test_a_clip_is_of_8_frames_in_time_by_default() -> None:
    clip = Clip(nodes=((TURN,),))
    assert (clip.frames, clip.profile, clip.order, clip.inputs) == (8, "symmetric", "time", 1)
    assert policy_to_json(clip)["kind"] == "clip"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames\n.*greater than or equal to 1"),
        ({"frames": 65}, "frames\n.*less than or equal to 64"),
        ({"frames": 8.0}, "frames\n.*valid integer"),
        ({"frames": True}, "frames\n.*valid integer"),
        ({"profile": "linear"}, "profile\n.*'symmetric' or 'ramp'"),
        ({"order": "random"}, "order\n.*'time', 'shuffled' or 'one'"),
        ({"inputs": 3}, "inputs\n.*less than or equal to 2"),
        ({"nodes": ()}, "nodes\n.*at least 1 item"),
        ({"nodes": ((),)}, "nodes.0\n.*at least 1 item"),
        ({"node": "sum"}, "node\n.*not permitted"),
        ({"nodes": ((Edge(source=1, step=step_of("rotate", 5)),),)}, "node 0 reads state 1; it may read 0 to 0"),
        ({"nodes": ((Edge(source=0, step=step_of("invert")),),)}, "invert moves no frames; a clip has geometric ops"),
        ({"nodes": ((Edge(source=0, step=step_of("constant")),),)}, "constant moves no frames"),
        *(
            ({"nodes": ((Edge(source=0, step=step),),)}, "the step of rotate must be one argument .* for all images")
            for step in (
                ROTATE,
                Step(op="rotate", low=5, high=20, signed=False),
                Step(op="rotate", low=5, high=5),
                Step(op="rotate", low=5, high=5, signed=False, probability=0.5),
            )
        ),
    ],
)
def test_impossible_clips(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Clip.model_validate({"nodes": ((TURN,),), **changes})


def test_a_fault_in_a_clip_is_told_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    data = json.loads(policy_text(Clip(nodes=((TURN,),)), {}))
    data["policy"]["nodes"][0][0]["step"]["op"] = "rotat"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"policy\.nodes\[0\]\[0\]\.step\.op: 'rotat' is no op; did you mean 'rotate'"):
        load_policy(path)


def test_every_edge_of_a_clip_counts_once() -> None:
    still, zoom = Edge(source=0, step=step_of("identity")), Edge(source=1, step=step_of("zoom", -0.2))
    clip = Clip(nodes=((TURN, still), (zoom, zoom)))
    assert op_shares(clip) == applied_shares(clip) == {"rotate": 0.25, "identity": 0.25, "zoom": 0.5}
    assert noise_mass(clip) == 0


@given(genotypes())
def test_paths_are_all_ways_through_the_cell_by_their_probability(genotype: Genotype) -> None:
    def ways(state: int) -> list[tuple[tuple[Step, ...], float]]:
        if state < genotype.inputs:
            return [((), 1.0)]
        edges = genotype.nodes[state - genotype.inputs]
        return [((*steps, edge.step), share / len(edges)) for edge in edges for steps, share in ways(edge.source)]

    paths = genotype.paths().sub_policies
    expected = ways(genotype.inputs + len(genotype.nodes) - 1)
    assert [path.steps for path in paths] == [steps for steps, _ in expected]
    assert [path.weight for path in paths] == pytest.approx([share for _, share in expected])
    assert sum(path.weight for path in paths) == pytest.approx(1)


def test_a_cell_that_adds_images_up_has_no_paths_unless_nothing_is_added() -> None:
    one, another = Edge(source=0, step=ROTATE), Edge(source=0, step=Step(op="invert"))
    adding = Genotype(node="sum", nodes=((one, another),))
    assert adding.blends
    with pytest.raises(UserError, match='adds up images \\(node "sum"\\)'):
        adding.paths()
    chain = Genotype(node="sum", nodes=((one,), (another,)))
    assert not chain.blends
    assert chain.paths() == chain.model_copy(update={"node": "mean"}).paths()


def test_the_shipped_schema_is_up_to_date_and_judges_as_the_models_do() -> None:
    shipped = json.loads(Path(policy_module.__file__).with_name("policy.schema.json").read_text())
    assert shipped == policy_file_schema()
    Draft202012Validator.check_schema(shipped)
    validator = Draft202012Validator(shipped)
    edge = Edge(source=0, step=ROTATE)
    policies: list[Policy] = [
        SubPolicies(sub_policies=(SubPolicy(steps=(ROTATE,)),), geometry=TORCHVISION),
        Stages(stages=((Choice(weight=1, step=ROTATE),),)),
        Genotype(inputs=2, nodes=((edge, edge),), node="sample"),
        Genotype(inputs=2, nodes=((edge, edge),), node="sum"),
        Clip(inputs=2, nodes=((TURN, TURN),), order="shuffled", profile="ramp", frames=3),
        NO_AUGMENTATION,
    ]
    for policy in policies:
        data = json.loads(policy_text(policy, {"seed": 1}))
        assert validator.is_valid(data)
        for key, wrong in (("version", 99), ("format", "other"), ("policy", {"kind": "stage"}), ("colour", 1)):
            assert not validator.is_valid({**data, key: wrong})
