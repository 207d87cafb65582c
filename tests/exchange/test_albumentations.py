"""Albumentations, both ways: its own transforms at the same draw are the oracle."""

import io
import json
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare, kstest
from sklearn.datasets import load_sample_images

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the package index for its newest version
pytest.importorskip("albumentations")

import albumentations as A  # noqa: N812  the name everyone gives it

from dastune.augment.steps import apply_op
from dastune.errors import UserError
from dastune.exchange.albumentations import exported, exported_text, imported
from dastune.exchange.table import import_policy
from dastune.ops import geometric
from dastune.ops.spaces import DASTUNE, TORCHVISION, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Edge, Genotype, Policy, Stages, Step, SubPolicies, SubPolicy

WHOLE = Geometry(whole_pixels=True)
GEOMETRIES = (
    WHOLE,
    TORCHVISION,
    Geometry(whole_pixels=True, shear_about="corner", fill=(0.5,)),
    Geometry(whole_pixels=True, interpolation="nearest", fill=(0.25, 0.5, 1.0)),
)
SIZES = ((32, 32), (40, 56), (61, 33))
TIED = 2e-3  # how often nearest sampling may take either of two pixels
# In grey levels, of 8-bit results; all others are exact.
LEVELS = {
    "auto_contrast": 0.51,
    **dict.fromkeys(("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "zoom"), 1.01),
    **dict.fromkeys(("color", "brightness"), 1.01),
    "contrast": 1.5,
}
FIXED = {
    **dict.fromkeys(("shear_x", "shear_y"), (0.1234, 0.29, 0.987)),
    **dict.fromkeys(("translate_x", "translate_y"), (0.1234, 0.29, 0.43, 1.0)),
    "rotate": (5.1, 29.3, 133.7),
    "zoom": (0.1234, 0.31, 0.77),
    **dict.fromkeys(("color", "contrast", "brightness"), (0.1, 0.37, 0.9, 1.0)),
    "solarize": (0.0, 0.31, 0.5, 1.0, 256 / 255, *(level / 255 for level in range(1, 255, 11))),
    "posterize": (1, 2, 3, 4, 5, 6, 7, 8),
    **dict.fromkeys(("identity", "auto_contrast", "invert"), (0.0,)),
}


@cache
def photos(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Eight crops (H, W, 3) of scikit-learn's two photographs, at a quarter of their resolution."""
    small = [photo[::4, ::4] for photo in load_sample_images().images]
    return [photo[y : y + height, x : x + width].copy() for photo in small for y in (0, 44) for x in (20, 100)]


def ours(op: str, image: NDArray[np.uint8], argument: float, geometry: Geometry = WHOLE) -> NDArray[np.float32]:
    """Return the image after dastune's op, in grey levels."""
    batch = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    result = apply_op(op, batch, torch.tensor([argument]), torch.zeros(1, dtype=torch.int64), geometry)
    return (255 * result[0].permute(1, 2, 0)).numpy()


def alone(step: Step, geometry: Geometry = WHOLE) -> Stages:
    return Stages(stages=((Choice(weight=1, step=step),),), geometry=geometry)


def assert_same(op: str, theirs: NDArray[np.uint8], own: NDArray[np.float32], geometry: Geometry) -> None:
    assert theirs.dtype == np.uint8
    nearest = OPS[op].geometric and geometry.interpolation == "nearest"
    differ = np.abs(theirs - own) > LEVELS.get(op, 1e-3)
    assert differ.mean() <= (TIED if nearest else 0)


# --- export: pixels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("op", "argument"), [(op, argument) for op, arguments in FIXED.items() for argument in arguments]
)
def test_the_pixels_are_those_of_the_op(op: str, argument: float, size: tuple[int, int]) -> None:
    for signed in (1, -1) if OPS[op].signed else (1,):
        step = Step(op=op, low=signed * argument, high=signed * argument, signed=False)
        for geometry in GEOMETRIES if OPS[op].geometric else (WHOLE,):
            if op.startswith("shear") and geometry.shear_about == "corner" and len(geometry.fill) > 1:
                continue
            transform = exported(alone(step, geometry))
            for image in photos(*size):
                own = ours(op, image, signed * argument, geometry)
                assert_same(op, transform(image=image)["image"], own, geometry)


def drawn(name: str, parameters: dict[str, Any]) -> tuple[str, float]:
    """Return the op that a transform of albumentations has applied, and its argument."""
    match name:
        case "Affine":
            matrix, (height, width) = parameters["matrix"], parameters["shape"][:2]
            if parameters["rotate"]:
                return "rotate", parameters["rotate"]
            if parameters["scale"]["x"] != 1:
                return "zoom", parameters["scale"]["x"] - 1
            moves = {"shear_x": -matrix[0, 1], "shear_y": -matrix[1, 0]}
            moves |= {"translate_x": matrix[0, 2] / width, "translate_y": matrix[1, 2] / height}
            return max(
                moves.items(),
                key=lambda move: abs(move[1]) * (move[0].startswith("shear") or not any(matrix[[0, 1], [1, 0]])),
            )
        case "Solarize":
            return "solarize", parameters["threshold"]
        case "Posterize":
            return "posterize", parameters["num_bits"]
        case "ColorJitter":
            factors = {"color": "saturation", "contrast": "contrast", "brightness": "brightness"}
            changes = {op: parameters[factor] - 1 for op, factor in factors.items()}
            return max(changes.items(), key=lambda change: abs(change[1]))
    return {"InvertImg": "invert", "Normalize": "auto_contrast"}.get(name, ""), 0.0


@pytest.mark.parametrize("geometry", GEOMETRIES[:3])
def test_what_is_drawn_are_the_pixels_of_the_op(geometry: Geometry) -> None:
    ranges = {"posterize": (2, 8), "solarize": (0, 256 / 255), "rotate": (1, 40)}
    steps = [Step(op=op, low=ranges.get(op, (0.1, 0.6))[0], high=ranges.get(op, (0.1, 0.6))[1]) for op in FIXED]
    transform = exported(Stages(stages=(tuple(Choice(weight=1, step=step) for step in steps),), geometry=geometry))
    transform.save_applied_params = True
    transform.set_random_seed(3)
    seen = set()
    for image in photos(40, 56) * 30:
        result = transform(image=image)
        applied = [drawn(name, parameters) for name, parameters in result["applied_transforms"]]
        [(op, argument)] = [pair for pair in applied if pair[0]] or [("identity", 0.0)]
        seen.add((op, argument < 0))
        assert_same(op, result["image"], ours(op, image, argument, geometry), geometry)
    signed = {(op, sign) for op in FIXED if OPS[op].signed for sign in (False, True)}
    assert seen == signed | {(op, False) for op in FIXED if not OPS[op].signed}


@pytest.mark.parametrize("shape", [(40, 56), (40, 56, 1)])
def test_grey_images_are_taken(shape: tuple[int, ...]) -> None:
    image = photos(40, 56)[0][..., :1].reshape(shape).copy()
    for op, arguments in FIXED.items():
        result = exported(alone(Step(op=op, low=arguments[0], high=arguments[0])))(image=image)["image"]
        assert result.shape == shape
        assert result.dtype == np.uint8


@pytest.mark.parametrize("geometry", GEOMETRIES[:3])
@pytest.mark.parametrize("op", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate", "zoom", "invert"])
def test_masks_move_along(op: str, geometry: Geometry) -> None:
    mask = np.random.default_rng(0).integers(0, 20, (40, 56)).astype(np.uint8)
    step = Step(op=op, low=0.23, high=0.23, signed=False)
    moved = exported(alone(step, geometry))(image=photos(40, 56)[0], mask=mask)["mask"]
    own = torch.from_numpy(mask)[None, None].float()
    if op != "invert":
        own = geometric.warp(own, geometric.matrix(op, torch.tensor([0.23]), (40, 56), geometry), "nearest", (255,))
    assert (moved != own[0, 0].numpy()).mean() <= TIED


def test_the_text_is_what_albumentations_loads_without_dastune(tmp_path: Path) -> None:
    stage = (
        Choice(weight=1, step=Step(op="rotate", low=3, high=9)),
        Choice(weight=2, step=Step(op="auto_contrast", probability=0.5)),
        Choice(weight=2, step=Step(op="shear_y", low=0, high=0.3)),
        Choice(weight=2, step=Step(op="color", low=0, high=0.9)),
        Choice(weight=2, step=Step(op="translate_x", low=0, high=0.3)),
    )
    policy = Stages(stages=(stage, stage), geometry=TORCHVISION)
    (tmp_path / "policy.json").write_text(exported_text(policy))
    transform = exported(policy)
    assert json.loads(json.dumps(A.to_dict(transform))) == json.loads(exported_text(policy))
    written = io.StringIO()
    A.save(transform, written)
    assert json.loads(written.getvalue()) == json.loads(exported_text(policy))
    image = photos(32, 32)[0]
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys, numpy, albumentations as A; sys.modules['dastune'] = None; t = A.load('policy.json'); "
        "t.set_random_seed(5); "
        "numpy.save('result.npy', numpy.stack([t(image=numpy.load('image.npy'))['image'] for _ in range(20)]))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    transform.set_random_seed(5)
    assert np.array_equal(
        np.load(tmp_path / "result.npy"), np.stack([transform(image=image)["image"] for _ in range(20)])
    )


# --- export: draws

GREY = np.full((2, 2, 3), 51, np.uint8)


def counted(policy: Policy, values: list[int], draws: int = 4000) -> list[int]:
    """Return how often the policy makes a grey image of level 51 one of each of `values`."""
    transform = exported(policy)
    transform.set_random_seed(0)
    results = [int(transform(image=GREY)["image"][0, 0, 0]) for _ in range(draws)]
    assert set(results) <= set(values)
    return [results.count(value) for value in values]


def test_choices_are_drawn_by_weight() -> None:
    stage = (
        Choice(weight=5, step=Step(op="invert", probability=0.4)),
        Choice(weight=2, step=Step(op="posterize", low=2, high=2)),
        Choice(weight=0, step=Step(op="equalize")),
        Choice(weight=1, step=Step(op="brightness", low=-1, high=-1, signed=False)),
        Choice(weight=2, step=Step(op="identity")),
    )
    counts = counted(Stages(stages=(stage,)), [204, 0, 51])
    assert chisquare(counts, [800, 1200, 2000]).pvalue > 0.001


def test_a_sub_policy_is_drawn_by_weight_and_its_steps_come_in_order() -> None:
    doubled = Step(op="brightness", low=1, high=1, signed=False)
    sub_policies = (
        SubPolicy(weight=3, steps=(Step(op="invert", probability=0.25), doubled)),
        SubPolicy(weight=1, steps=(doubled, Step(op="invert"))),
        SubPolicy(weight=2, steps=()),
        SubPolicy(weight=0, steps=(Step(op="equalize"),)),
    )
    counts = counted(SubPolicies(sub_policies=sub_policies), [255, 102, 153, 51])
    assert chisquare(counts, [500, 1500, 4000 / 6, 4000 / 3]).pvalue > 0.001


def test_a_genotype_is_drawn_from_by_its_paths() -> None:
    edges = (Edge(source=0, step=Step(op="invert")), Edge(source=0, step=Step(op="identity")))
    for node in ("mean", "sample"):
        assert chisquare(counted(Genotype(node=node, nodes=(edges,)), [204, 51], 2000)).pvalue > 0.001


def test_bits_are_drawn_as_dastune_rounds_them() -> None:
    transform = exported(alone(Step(op="posterize", low=4, high=8, probability=0.5)))
    transform.set_random_seed(0)
    results = [int(transform(image=np.full((1, 1, 3), 255, np.uint8))["image"][0, 0, 0]) for _ in range(4000)]
    counts = [results.count(value) for value in (240, 248, 252, 254, 255)]
    assert chisquare(counts, [250, 500, 500, 500, 2250]).pvalue > 0.001


def test_thresholds_above_white_change_nothing() -> None:
    transform = exported(alone(Step(op="solarize", low=253 / 255, high=256 / 255, probability=0.5)))
    transform.set_random_seed(0)
    results = [int(transform(image=np.full((1, 1, 3), 255, np.uint8))["image"][0, 0, 0]) for _ in range(4000)]
    assert chisquare([results.count(0), results.count(255)], [4000 / 3, 8000 / 3]).pvalue > 0.001


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.9), (0.3, 0.9)])
@pytest.mark.parametrize("op", ["shear_x", "shear_y", "rotate", "color", "contrast", "brightness"])
def test_arguments_are_uniform_and_of_both_signs(op: str, low: float, high: float) -> None:
    transform = exported(alone(Step(op=op, low=low, high=high)))
    transform.save_applied_params = True
    transform.set_random_seed(1)
    values = []
    for _ in range(2000):
        [(name, parameters)] = transform(image=photos(32, 32)[0][:3, :3].copy())["applied_transforms"]
        values.append(drawn(name, parameters)[1])
    assert chisquare([sum(value > 0 for value in values), sum(value < 0 for value in values)]).pvalue > 0.001
    assert kstest(np.abs(values), "uniform", (low, high - low)).pvalue > 0.001


def test_pieces_of_a_shear_are_uniform_to_within_5_percent() -> None:
    [one_of] = A.to_dict(exported(alone(Step(op="shear_x", low=0, high=0.99))))["transform"]["transforms"]
    for part in one_of["transforms"]:
        first, last = (math.radians(degrees) for degrees in part["shear"]["x"])
        slopes = math.tan(last) - math.tan(first)
        densities = [slopes / (last - first) / (1 + math.tan(angle) ** 2) for angle in (first, last)]
        assert all(abs(density - 1) < 0.055 for density in densities)
        assert part["p"] == pytest.approx(slopes / 1.98)


def test_a_policy_that_does_nothing_leaves_images() -> None:
    for policy in (Stages(), alone(Step(op="identity")), alone(Step(op="invert", probability=0))):
        assert np.array_equal(exported(policy)(image=GREY)["image"], GREY)


# --- export: refusals


def test_all_that_albumentations_cannot_express_is_named_at_once() -> None:
    ops = ("equalize", "sharpness", "cutout", "solarize_add", "gaussian_replace", "translate_x", "brightness")
    lowest = dict.fromkeys(("cutout", "gaussian_replace"), 0.5)
    stage = tuple(
        Choice(weight=0.1, step=Step(op=op, low=low, high=low + 0.5)) for op in ops for low in [lowest.get(op, 1.5)]
    )
    with pytest.raises(UserError) as caught:
        exported(Stages(stages=(stage, stage), geometry=Geometry(sampling="once")))
    message = str(caught.value)
    assert all(f"{op} (weight 0.1 in stage 0, weight 0.1 in stage 1)" in message for op in ops)
    assert "whole_pixels" in message
    assert "sampling 'once'" in message
    assert "dastune.transform" in message
    with pytest.raises(UserError):
        exported_text(Stages(stages=(stage,)))


@pytest.mark.parametrize(
    ("step", "geometry"),
    [
        (Step(op="posterize", low=0, high=4), WHOLE),
        (Step(op="shear_x", low=0, high=0.1), Geometry(shear_about="corner", fill=(0, 0.5, 1))),
    ],
)
def test_arguments_that_albumentations_does_not_take_are_refused(step: Step, geometry: Geometry) -> None:
    with pytest.raises(UserError, match=step.op):
        exported(alone(step, geometry))


def test_what_never_happens_is_not_refused() -> None:
    stage = (
        Choice(weight=0, step=Step(op="cutout", low=0.1, high=0.2)),
        Choice(weight=1, step=Step(op="gaussian_replace", probability=0)),
        Choice(weight=1, step=Step(op="invert")),
    )
    exported(Stages(stages=(stage,)))


@pytest.mark.parametrize(
    ("op", "transform", "argument"),
    [
        ("equalize", A.Equalize(mode="pil", p=1), 0.0),
        ("equalize", A.Equalize(mode="cv", p=1), 0.0),
        ("auto_contrast", A.AutoContrast(method="pil", p=1), 0.0),
        ("sharpness", A.Sharpen(alpha=(0.9 / 13, 0.9 / 13), lightness=(1, 1), p=1), 0.9),
    ],
)
def test_transforms_of_the_same_name_have_other_pixels(op: str, transform: Any, argument: float) -> None:
    distances = [np.abs(transform(image=image)["image"] - ours(op, image, argument)).max() for image in photos(32, 32)]
    assert max(distances) > 3


def test_sharpen_differs_at_the_border_only() -> None:
    transform = A.Sharpen(alpha=(0.9 / 13, 0.9 / 13), lightness=(1, 1), p=1)
    for image in photos(40, 56):
        distance = np.abs(transform(image=image)["image"] - ours("sharpness", image, 0.9))
        assert distance[1:-1, 1:-1].max() <= 0.51


# --- import


def round_trip(policy: Policy) -> Policy:
    return imported(exported_text(policy))


def test_steps_come_back_as_they_were_written() -> None:
    steps = (
        Step(op="rotate", low=0, high=30),
        Step(op="rotate", low=5, high=5),
        Step(op="rotate", low=-20, high=10, signed=False),
        Step(op="shear_x", low=0, high=0.3),
        Step(op="shear_y", low=0.1, high=0.99),
        Step(op="shear_y", low=-0.3, high=0.2, signed=False),
        Step(op="translate_x", low=0, high=150 / 331),
        Step(op="translate_y", low=0.29, high=0.29),
        Step(op="color", low=0, high=0.9),
        Step(op="contrast", low=0.3, high=0.3),
        Step(op="brightness", low=-0.9, high=0.5, signed=False),
        Step(op="solarize", low=0, high=1),
        Step(op="posterize", low=4, high=4),
        Step(op="invert"),
        Step(op="auto_contrast"),
    )
    stage = tuple(Choice(weight=1 / len(steps), step=step) for step in steps)
    for geometry in GEOMETRIES[:3]:
        read = round_trip(Stages(stages=(stage,), geometry=geometry))
        assert isinstance(read, Stages)
        assert read.geometry.shear_about == geometry.shear_about
        assert read.geometry.fill == pytest.approx(geometry.fill, abs=0.51 / 255)
        assert [choice.step.op for choice in read.stages[0]] == [step.op for step in steps]
        for choice, step in zip(read.stages[0], steps, strict=True):
            assert choice.weight == pytest.approx(1 / len(steps))
            assert (choice.step.low, choice.step.high) == pytest.approx((step.low, step.high), abs=1e-11)
            assert choice.step.signed == step.signed


def test_stages_and_sub_policies_come_back_as_such() -> None:
    turn, invert = Step(op="rotate", low=3, high=9, probability=0.4), Step(op="invert", probability=0.7)
    stages = Stages(stages=((Choice(weight=1, step=turn),), (Choice(weight=1, step=invert),)))
    assert round_trip(stages) == stages
    sub_policies = SubPolicies(
        sub_policies=(SubPolicy(weight=0.25, steps=(turn, invert)), SubPolicy(weight=0.75, steps=(invert,)))
    )
    assert round_trip(sub_policies) == sub_policies
    assert imported(exported(sub_policies)) == sub_policies
    assert imported(json.loads(exported_text(sub_policies))) == sub_policies
    assert round_trip(Stages()) == Stages()


RANGES = {
    **dict.fromkeys(("shear_x", "shear_y"), 0.5),
    **dict.fromkeys(("translate_x", "translate_y"), 0.5),
    "rotate": 40.0,
    "zoom": 0.8,
    **dict.fromkeys(("color", "contrast", "brightness"), 0.9),
    "solarize": 256 / 255,
    "posterize": 8.0,
}


@st.composite
def steps(draw: st.DrawFn) -> Step:
    op = draw(st.sampled_from([*RANGES, "identity", "invert", "auto_contrast"]))
    ends = st.sampled_from([0.0, 0.25, 0.6, 1.0])
    low, high = sorted((draw(ends), draw(ends)))
    lowest = 1.0 if op == "posterize" else 0.0
    span = RANGES.get(op, 0.0) - lowest
    low, high = (lowest + span * end if op in RANGES else 0.0 for end in (low, high))
    signed = OPS[op].signed and draw(st.booleans())
    return Step(op=op, low=low, high=high, probability=draw(st.sampled_from([0.0, 0.3, 1.0])), signed=signed)


WEIGHTS = st.sampled_from([0.0, 0.1, 1.0])
POLICIES = st.one_of(
    st.lists(st.lists(st.builds(Choice, weight=WEIGHTS, step=steps()), min_size=1, max_size=4), max_size=2)
    .filter(lambda stages: all(any(choice.weight for choice in stage) for stage in stages))
    .map(lambda stages: Stages(stages=tuple(map(tuple, stages)), geometry=TORCHVISION)),
    st.lists(
        st.builds(SubPolicy, weight=WEIGHTS, steps=st.lists(steps(), max_size=2).map(tuple)), min_size=1, max_size=3
    )
    .filter(lambda subs: any(sub.weight for sub in subs))
    .map(lambda subs: SubPolicies(sub_policies=tuple(subs), geometry=TORCHVISION)),
)


def without_weights(policy: Policy) -> tuple[Any, list[float]]:
    data = policy.model_dump()
    weighted = data["sub_policies"] if isinstance(policy, SubPolicies) else [c for s in data["stages"] for c in s]
    weights = [part.pop("weight") for part in weighted]
    probabilities = [step.pop("probability") for part in weighted for step in part.get("steps", [part.get("step")])]
    return data, [*weights, *probabilities]


@given(POLICIES)
@settings(max_examples=25, deadline=None)
def test_what_has_been_read_once_is_read_the_same_again(policy: Policy) -> None:
    first, weights = without_weights(once := round_trip(policy))
    second, again = without_weights(round_trip(once))
    assert first == second
    assert weights == pytest.approx(again, abs=1e-8)


AFFINE = A.Affine(rotate=(-5, 5), p=1)


def one(name: str, p: float = 1, **parameters: Any) -> dict[str, Any]:
    """Return a transform as albumentations writes it."""
    return {"__class_fullname__": name, "p": p, **parameters}


def one_of(*parts: Any) -> dict[str, Any]:
    return one("OneOf", transforms=list(parts))


def one_of_a_path(places: int, members: int) -> dict[str, Any]:
    return one_of(one("Sequential", transforms=[one_of(*[one("InvertImg")] * members)] * places))


def nested(depth: int) -> dict[str, Any]:
    node = one("InvertImg")
    for _ in range(depth):
        node = one("Sequential", transforms=[node])
    return node


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("\0", "no JSON"),
        ("9" * 5000, "no JSON"),
        ({"transform": nested(2000)}, "no transform of albumentations"),
        ({"transform": one_of_a_path(9, 9)}, r"would be 387420489 sub-policies.* at most 10,000 are written"),
        ({"transform": one_of(one("InvertImg", 0), one("Solarize", 0))}, "OneOf: it has no transform whose p is above"),
        ({"transform": one_of()}, "OneOf: it has no transform whose p is above"),
        ({"transform": one("\x1b" * 9999)}, r"  (\\x1b){14}.{,3}\.\.\.: only these"),
        ({"transform": one("Affine", rotate=["much" * 999] * 2)}, r"cannot read these transforms: .{,400}$"),
        ({"transform": one("Affine", rotate=[-2000, 2000])}, "-2000 to 2000|0 to 2000"),
        (3, "no transform of albumentations"),
        ({}, "no transform of albumentations"),
        (A.Compose([A.HorizontalFlip(), A.Rotate()]), "HorizontalFlip: .*\n.*Rotate: "),
        (A.Affine(rotate=(-5, 5), scale=(1.1, 1.2), p=1), "Affine: .*scale"),
        (A.Affine(rotate=(-5, 5), shear=(1, 2), p=1), "Affine: .*shear"),
        (A.Affine(rotate=(-5, 5), border_mode=1, p=1), "Affine: .*border_mode"),
        (A.Affine(translate_px=(1, 3), p=1), "Affine: .*translate_px"),
        (A.Posterize(num_bits=(3, 5)), "Posterize: .*num_bits"),
        (A.ColorJitter(), "ColorJitter: .*"),
        (A.Compose([A.OneOf([A.Sequential([A.InvertImg()])]), A.InvertImg()]), "Sequential: .*transforms"),
        (A.Compose([A.InvertImg()], p=0.5), "Compose: .*transforms"),
        (A.Compose([AFFINE, A.Affine(rotate=(-5, 5), interpolation=0, p=1)]), "interpolation: a policy has one"),
        ({"transform": {"__class_fullname__": "Affine", "cval": 3, "p": 1}}, "cval"),
        ({"transform": {"__class_fullname__": "Affine", "rotate": "much", "p": 1}}, "rotate"),
    ],
)
def test_what_no_policy_says_is_refused(source: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        import_policy(source, "albumentations")


def test_as_many_ways_as_may_be_written_are_read() -> None:
    assert len(imported({"transform": one_of_a_path(4, 10)}).sub_policies) == 10_000  # type: ignore[union-attr]


def test_a_transform_of_ones_own_is_read() -> None:
    read = imported(
        A.Compose([A.Affine(rotate=(-5, 5), p=0.3), A.OneOf([A.InvertImg(p=1), A.Solarize(p=3 / 4)], p=0.7)])
    )
    assert read == Stages(
        stages=(
            (Choice(weight=1, step=Step(op="rotate", low=0, high=5, probability=0.3)),),
            (
                Choice(weight=0.4, step=Step(op="invert")),
                Choice(weight=0.3, step=Step(op="solarize", low=0.5, high=0.5)),
                Choice(weight=0.3, step=Step(op="identity")),
            ),
        ),
        geometry=DASTUNE,
    )


def test_without_albumentations_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    for act in (lambda: exported(Stages()), lambda: imported("{}")):
        with pytest.raises(UserError, match=r"pip install 'dastune\[albumentations\]'"):
            act()
