"""Published lists: pixels against PIL's own ops as Fast AutoAugment calls them, lists there and back, and refusals."""

import json
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from dastune.augment.steps import apply_op
from dastune.errors import UserError
from dastune.exchange.published import GEOMETRY, exported, exported_text, imported
from dastune.ops.spaces import Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Edge, Genotype, Policy, Stages, Step, SubPolicies, SubPolicy

# Nearest sampling may take either pixel where the source lies this near to the border between two, in pixels: PIL's
# coefficients have 16 binary digits after the point.
TIED = 5e-3
# In grey levels, measured 1.4 at most: PIL cuts to whole levels what it blends, and what it blends with.
BLENDED = 2.0

Change = Callable[[Image.Image, float, int], Image.Image]


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


# Each op of a level in [0, 1] and a sign, in PIL's words.
PIL: dict[str, Change] = {
    "ShearX": lambda image, level, sign: affine(image, 1, sign * (0.6 * level - 0.3), 0, 0, 1, 0),
    "ShearY": lambda image, level, sign: affine(image, 1, 0, 0, sign * (0.6 * level - 0.3), 1, 0),
    "TranslateX": lambda image, level, sign: affine(image, 1, 0, sign * (0.9 * level - 0.45) * image.width, 0, 1, 0),
    "TranslateY": lambda image, level, sign: affine(image, 1, 0, 0, 0, 1, sign * (0.9 * level - 0.45) * image.height),
    "Rotate": lambda image, level, sign: image.rotate(sign * (60 * level - 30)),
    "AutoContrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "Invert": lambda image, level, sign: ImageOps.invert(image),
    "Equalize": lambda image, level, sign: ImageOps.equalize(image),
    "Solarize": lambda image, level, sign: image.point([k if k < 256 * level else 255 - k for k in range(256)] * 3),
    "Posterize": lambda image, level, sign: ImageOps.posterize(image, int(4 + 4 * level)),
    "Posterize2": lambda image, level, sign: ImageOps.posterize(image, int(4 * level)),
    "Contrast": lambda image, level, sign: ImageEnhance.Contrast(image).enhance(0.1 + 1.8 * level),
    "Color": lambda image, level, sign: ImageEnhance.Color(image).enhance(0.1 + 1.8 * level),
    "Brightness": lambda image, level, sign: ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * level),
    "Sharpness": lambda image, level, sign: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * level),
}
EXACT = {"invert", "equalize", "solarize", "posterize"}


@cache
def photographs() -> list[Image.Image]:
    whole = [Image.fromarray(photo) for photo in load_sample_images().images]
    small = [photo.crop((100, 100, 324, 324)).resize((32, 32)) for photo in whole]
    return [*small, whole[0].crop((10, 20, 107, 81)), whole[1].crop((0, 0, 33, 20))]


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def from_the_border(step: Step, argument: float, size: tuple[int, int]) -> np.ndarray:
    """Return how far (H, W) the source of each pixel is from the border between two source pixels."""
    width, height = size
    y, x = np.mgrid[:height, :width] + 0.5
    cosine, sine = math.cos(math.radians(argument)), math.sin(math.radians(argument))
    x_source, y_source = {
        "shear_x": lambda: (x + argument * y, y),
        "shear_y": lambda: (x, y + argument * x),
        "translate_x": lambda: (x - argument * width, y),
        "translate_y": lambda: (x, y - argument * height),
        "rotate": lambda: (
            cosine * (x - width / 2) - sine * (y - height / 2) + width / 2,
            sine * (x - width / 2) + cosine * (y - height / 2) + height / 2,
        ),
    }[step.op]()
    nearest: np.ndarray = np.minimum(abs(x_source - x_source.round()), abs(y_source - y_source.round()))
    return nearest


@pytest.mark.parametrize("level", [0.0, 0.11, 0.25, 0.4459, 0.5, 0.61, 0.77, 0.9, 1.0])
@pytest.mark.parametrize("name", PIL)
def test_every_op_has_pils_pixels(name: str, level: float) -> None:
    [sub] = imported([[[name, 1.0, level]]]).sub_policies
    [step] = sub.steps
    if step.op == "posterize" and step.high == 0:
        return  # which Pillow refuses, from some version on
    for sign in (1, -1) if step.signed else (1,):
        argument = sign * step.high
        # PIL's translations read from where the argument points, dastune's move there; below 0.5 a level is negative.
        there = (-sign if step.op.startswith("translate") else sign) * (1 if level >= 0.5 else -1)
        for image in photographs():
            seed = torch.zeros(1, dtype=torch.int64)
            changed = apply_op(step.op, tensor(image), torch.tensor([argument]), seed, GEOMETRY)
            difference = (changed - tensor(PIL[name](image, level, there))).abs()[0].amax(0) * 255
            if OPS[step.op].geometric:
                tied = from_the_border(step, argument, image.size) < TIED
                assert not ((difference.numpy() > 0.01) & ~tied).any()
            else:
                assert difference.max() <= (0.01 if step.op in EXACT else BLENDED)


entries = st.tuples(st.sampled_from(list(PIL)), st.integers(1, 100), st.integers(0, 100)).map(
    lambda entry: [entry[0], entry[1] / 100, entry[2] / 100]
)
lists = st.lists(st.lists(entries, max_size=3), min_size=1, max_size=5)


@settings(deadline=None)
@given(lists, st.booleans())
def test_lists_are_read_in_json_and_as_python_writes_them(data: list[Any], python: bool) -> None:
    policy = imported(repr(data) if python else json.dumps(data))
    assert policy == imported(data)
    assert [len(sub.steps) for sub in policy.sub_policies] == [len(sub) for sub in data]
    assert policy.geometry == Geometry(interpolation="nearest", shear_about="corner")


@settings(deadline=None)
@given(lists)
def test_policies_return(data: list[Any]) -> None:
    policy = imported(data)
    assert distribution(imported(exported_text(policy))) == distribution(policy)


def distribution(policy: Policy) -> dict[Any, Fraction]:
    """Return what an image may go through, and how probable each is: signs and bits drawn, stages written out."""
    if isinstance(policy, Genotype):
        policy = policy.paths()
    ways: dict[Any, Fraction] = {}
    if isinstance(policy, Stages):
        ways = {(): Fraction(1)}
        for stage in policy.stages:
            total = sum(Fraction(choice.weight) for choice in stage)
            drawn = [(Fraction(choice.weight) / total, choice.step) for choice in stage]
            ways = summed((way + key, p * w * q) for way, p in ways.items() for w, s in drawn for key, q in through(s))
        return shares(ways)
    total = sum(Fraction(sub.weight) for sub in policy.sub_policies)
    for sub in policy.sub_policies:
        found = {(): Fraction(sub.weight) / total}
        for step in sub.steps:
            found = summed((way + key, p * q) for way, p in found.items() for key, q in through(step))
        ways = summed([*ways.items(), *found.items()])
    return shares(ways)


def shares(ways: dict[Any, Fraction]) -> dict[Any, Fraction]:
    """Return them without the rounding of weights such as 1/3."""
    return {way: share.limit_denominator(10**6) for way, share in ways.items() if share}


def summed(pairs: Any) -> dict[Any, Fraction]:
    total: dict[Any, Fraction] = {}
    for key, share in pairs:
        total[key] = total.get(key, Fraction(0)) + share
    return total


def through(step: Step) -> list[tuple[Any, Fraction]]:
    if step.op == "identity" or step.probability == 0:
        return [((), Fraction(1))]
    bits = step.op == "posterize" and step.low != step.high
    fixed = [(round(step.low, 9) + 0.0, Fraction(1))]
    arguments = [(4.0, Fraction(1, 4)), (5.0, Fraction(1, 2)), (6.0, Fraction(1, 4))] if bits else fixed
    if step.signed and not OPS[step.op].geometric:
        arguments = [(sign * argument + 0.0, share / 2) for argument, share in arguments for sign in (1, -1)]
    return [(((step.op, argument, step.probability),), share) for argument, share in arguments]


INVERT = Step(op="invert", probability=0.3)
COLOR = Step(op="color", low=0.36, high=0.36)
BITS = Step(op="posterize", low=4, high=6)
TURN = Step(op="rotate", low=12, high=12)
POLICIES: dict[str, Policy] = {
    "weights": SubPolicies(
        sub_policies=(
            SubPolicy(steps=(INVERT, COLOR), weight=3),
            SubPolicy(steps=(BITS,), weight=0.5),
            SubPolicy(steps=(TURN,), weight=0),
            SubPolicy(steps=()),
        )
    ),
    "stages": Stages(
        stages=(
            (Choice(weight=1, step=INVERT), Choice(weight=2, step=COLOR), Choice(weight=1, step=Step(op="identity"))),
            (Choice(weight=1, step=BITS), Choice(weight=0, step=TURN), Choice(weight=1, step=INVERT)),
        )
    ),
    "cell": Genotype(
        geometry=GEOMETRY,
        nodes=(
            (Edge(source=0, step=INVERT), Edge(source=0, step=TURN), Edge(source=0, step=COLOR)),
            (Edge(source=1, step=BITS), Edge(source=0, step=Step(op="solarize", low=0.4, high=0.4))),
        ),
    ),
    "signs that change nothing": Stages(stages=((Choice(weight=1, step=Step(op="color", low=0, high=0)),),)),
    "nothing": Stages(),
}


@pytest.mark.parametrize("name", POLICIES)
def test_all_that_is_drawn_is_written_out_in_its_share(name: str) -> None:
    policy = POLICIES[name]
    written = exported(policy)
    assert distribution(imported(written)) == distribution(policy)
    assert json.loads(exported_text(policy)) == written


def stage_of(*steps: Step, geometry: Geometry = GEOMETRY) -> Stages:
    return Stages(stages=(tuple(Choice(weight=1, step=step) for step in steps),), geometry=geometry)


def test_weights_are_written_out_up_to_ten_thousand_sub_policies() -> None:
    subs = (SubPolicy(steps=(INVERT,), weight=1), SubPolicy(steps=(TURN,), weight=9_998))
    assert len(exported(SubPolicies(sub_policies=subs, geometry=GEOMETRY))) == 9_999


def test_the_ends_of_ranges_may_come_from_float32() -> None:
    step = Step(op="shear_x", low=float(np.float32(0.3)), high=float(np.float32(0.3)))
    assert exported(stage_of(step)) == [[["ShearX", 1.0, 1.0]]]


def all_weights_odd() -> SubPolicies:
    return SubPolicies(sub_policies=tuple(SubPolicy(steps=(INVERT,), weight=math.sqrt(n)) for n in (2, 3, 5)))


MANY = tuple(Choice(weight=1, step=Step(op="rotate", low=degrees, high=degrees)) for degrees in range(1, 30))


@pytest.mark.parametrize(
    ("policy", "parts"),
    [
        (stage_of(Step(op="constant"), INVERT), ["constant (weight 1 in stage 0): Fast AutoAugment has no such op"]),
        (stage_of(Step(op="cutout", high=0.2)), ["cutout", "another colour"]),
        (stage_of(Step(op="solarize_add", high=0.2)), ["solarize_add"]),
        (stage_of(Step(op="rotate", low=0, high=20)), ["drawn from 0 to 20, and a published level is fixed"]),
        (stage_of(Step(op="rotate", low=31, high=31)), ["argument 31 is outside the published range, -30 to 30"]),
        (stage_of(Step(op="rotate", low=3, high=3, signed=False)), ["no random sign", "write signed true"]),
        (stage_of(Step(op="color", low=0.99, high=0.99)), ["color", "0.99 is outside", "-0.9 to 0.9"]),
        (stage_of(TURN, geometry=Geometry()), ["geometry.interpolation 'bilinear'"]),
        (stage_of(TURN, geometry=Geometry(interpolation="nearest", fill=(0.5,))), ["geometry.fill (0.5,)", "black"]),
        (Stages(stages=(MANY,) * 3, geometry=GEOMETRY), ["24,389 times", "at most 10,000"]),
        (all_weights_odd(), ["the weights of the sub-policies", "equally likely"]),
    ],
)
def test_what_a_list_cannot_express_is_refused_by_name(policy: Policy, parts: list[str]) -> None:
    for export in (exported, exported_text):
        with pytest.raises(UserError) as caught:
            export(policy)
        for part in parts:
            assert part in str(caught.value)
        assert "dastune.transform" in str(caught.value)


def test_cutout_is_read_only_where_that_is_asked_for() -> None:
    data = [[["Cutout", 0.7, 0.5], ["Invert", 0.1, 0.2]]]
    with pytest.raises(UserError, match=r"Cutout \(sub-policy 0\): it fills with the colour \(125, 123, 114\)"):
        imported(data)
    [sub] = imported(data, grey_cutout=True).sub_policies
    assert sub.steps[0] == Step(op="cutout", low=0.1, high=0.1, probability=0.7)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ([[["SamplePairing", 0.1, 0.2]], [["Flip", 0.1, 0]]], ["SamplePairing (sub-policy 0)", "Flip (sub-policy 1)"]),
        ([[["TranslateXAbs", 0.1, 0.2]]], ["write TranslateX"]),
        ([[["Rotat", 0.1, 0.2]]], ["did you mean 'Rotate'?"]),
        ([[["rotate", 0.1, 0.2]]], ["did you mean 'Rotate'?"]),
        ([[["Rotate", 1.1, 0.2]], [["Rotate", 0.1, 7]]], ["its probability must be", "not 1.1", "its level", "not 7"]),
        ([[["Rotate", True, 0.2]], [["Rotate", 0.1, "x"]]], ["not True", "not x"]),
        ("[[['Rotate', 0.1, NaN]]]", ["no list"]),
        ('[[["Rotate", 0.1, NaN]]]', ["its level must be"]),
        ([[["Rotate", 0.1]]], ["an op is written [name, probability, level]"]),
        ([["Rotate", 0.1, 0.2]], ["an op is written"]),
        ([3], ["a sub-policy is a list of ops"]),
        ("[]", ["a list of 1 to 10,000 sub-policies"]),
        ("{}", ["a list of 1 to 10,000"]),
        ("", ["no list"]),
        ("__import__('os').getcwd()", ["no list"]),
        ("[[[['Rotate', 0.1, 0.2]]]]", ["lists 4 deep, and may have 3"]),
        ("[" * 1_000_000, ["lists 1,000,000 deep"]),
        ("-" * 100_000 + "1", ["no list"]),
        ("[" + "1," * 600_000 + "]", ["1,200,002 characters"]),
        ("[[\0]]", ["no list"]),
        (f"[[['Invert', 0x{'f' * 5000}, 0.1]]]", ["its probability must be", "not a number of thousands of digits"]),
        ([[10**5000]], ["a number of thousands of digits (sub-policy 0)"]),
        ([[[f"{n}\x1b" * 99, 0.1, 0.2]] for n in range(9_999)], ["  0\\x1b0\\x1b", "...", "  and 9,989 more"]),
        ([[]] * 10_001, ["1 to 10,000"]),
    ],
)
def test_what_is_no_published_policy_is_refused(source: Any, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        imported(source)
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 5000
    assert str(caught.value).replace("\n", "").isprintable()
