"""torchvision, both ways, against torchvision itself and against dastune's own ops."""

import math
import re
import subprocess
import sys
from collections import Counter, deque
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dastune.augment.policies import PolicyTransform
from dastune.errors import UserError
from dastune.exchange import torchvision_policy
from dastune.exchange.torchvision import exported, exported_text, imported
from dastune.ops.draws import uniform
from dastune.ops.spaces import DASTUNE, SPACES, TORCHVISION, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import (
    NO_AUGMENTATION,
    Choice,
    Edge,
    Genotype,
    Policy,
    Stages,
    Step,
    SubPolicies,
    SubPolicy,
    policy_from_json,
    policy_to_json,
)
from dastune.policy.space import SearchSpace, SpaceOp

# torchvision's names of ops, typed again: the other list is the one under test.
OURS = {
    **{"Identity": "identity", "ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x"},
    **{"TranslateY": "translate_y", "Rotate": "rotate", "Brightness": "brightness", "Color": "color"},
    **{"Contrast": "contrast", "Sharpness": "sharpness", "Posterize": "posterize", "Solarize": "solarize"},
    **{"AutoContrast": "auto_contrast", "Equalize": "equalize", "Invert": "invert"},
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
MOVING = [name for name, op in OPS.items() if op.geometric]
EXPRESSED = [name for name, op in OPS.items() if not op.noise]
SIZES = [(32, 32), (40, 56)]
TRANSFORMS: dict[str, tuple[Any, int]] = {
    "aa-torchvision": (v2.AutoAugment(), 10),
    "ra-torchvision": (v2.RandAugment(), 31),
    "trivial-wide": (v2.TrivialAugmentWide(), 31),
}
# Nearest sampling may take either pixel where the source lies this near to the border between two, in pixels: PIL's
# coefficients have 16 binary digits after the point.
TIED = 2e-3
# In grey levels. torchvision cuts results of blends to whole levels, and grey, mean or smoothed images before that.
TOLERANCES = {"auto_contrast": 1.01, "brightness": 1.01, "color": 2.01, "contrast": 2.01, "sharpness": 2.01}
INTEGER = {"invert", "equalize", "posterize", "solarize", "identity", *MOVING}


@cache
def photos_u8(size: tuple[int, int]) -> torch.Tensor:
    """Eight crops (8, 3, H, W), uint8, of scikit-learn's two photographs, at a quarter of their resolution."""
    small = torch.stack([torch.tensor(photo).permute(2, 0, 1) for photo in load_sample_images().images])[..., ::4, ::4]
    height, width = size
    return torch.cat([small[..., y : y + height, x : x + width] for y in (0, 55) for x in (20, 100)])


def levels(images: torch.Tensor) -> torch.Tensor:
    """Return float images in grey levels, unrounded."""
    return images * 255


def fixed(name: str, argument: float = 0.0) -> Step:
    return Step(op=name, low=argument, high=argument, signed=False)


def chain(*steps: Step, geometry: Geometry = DASTUNE) -> SubPolicies:
    return SubPolicies(sub_policies=(SubPolicy(steps=steps),), geometry=geometry)


def dastunes(policy: Policy, images: torch.Tensor) -> torch.Tensor:
    """Apply a policy that draws nothing."""
    return PolicyTransform(policy, torch.Generator())(images)


def torchvisions(images: Any, name: str, magnitude: float) -> Any:
    """Apply the op as `v2.AutoAugment` does, at its own magnitude."""
    transform = v2.AutoAugment()
    return transform._apply_image_or_video_transform(
        images, name, magnitude, interpolation=transform.interpolation, fill=transform._fill
    )


def is_tied(name: str, argument: float, size: tuple[int, int]) -> torch.Tensor:
    """Return where the source of an output pixel lies on the border of two pixels, with shears about the corner."""
    height, width = size
    y_HW, x_HW = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    sine, cosine = math.sin(math.radians(argument)), math.cos(math.radians(argument))
    right_HW, down_HW = x_HW - width / 2, y_HW - height / 2
    source_x_HW, source_y_HW = {
        "shear_x": (x_HW + argument * y_HW, y_HW),
        "shear_y": (x_HW, y_HW + argument * x_HW),
        "rotate": (width / 2 + cosine * right_HW - sine * down_HW, height / 2 + sine * right_HW + cosine * down_HW),
    }.get(name, (x_HW, y_HW))
    apart_HW = [(place - place.round()).abs() for place in (source_x_HW, source_y_HW)]
    return torch.minimum(*apart_HW) < TIED


def magnitudes(transform: Any, bins: int, name: str, size: tuple[int, int]) -> list[float]:
    """Return torchvision's magnitudes of its op `name`, of both signs where signs are drawn."""
    function, signed = transform._AUGMENTATION_SPACE[name]
    values = function(bins, *size)
    if values is None:
        return [0.0]
    return [sign * float(value) for value in values for sign in ((1, -1) if signed else (1,))]


def argument_of(name: str, magnitude: float, size: tuple[int, int]) -> float:
    if name.startswith("Translate"):
        return int(magnitude) / (size[1] if name == "TranslateX" else size[0])  # torchvision makes 15 of 15.999999
    return magnitude


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("space", "name"),
    [(space, name) for space, (transform, _) in TRANSFORMS.items() for name in transform._AUGMENTATION_SPACE],
)
def test_every_op_is_torchvisions_at_every_tabulated_magnitude(space: str, name: str, size: tuple[int, int]) -> None:
    transform, bins = TRANSFORMS[space]
    images, op = photos_u8(size)[:4], OURS[name]
    pils = [functional.to_pil_image(image) for image in images]
    shares = []
    for magnitude in dict.fromkeys(magnitudes(transform, bins, name, size)):
        argument = argument_of(name, magnitude, size)
        changed = levels(dastunes(chain(fixed(op, argument), geometry=TORCHVISION), images / 255))
        of_tensors = torchvisions(images, name, magnitude)
        of_pils = torch.stack([functional.pil_to_tensor(torchvisions(pil, name, magnitude)) for pil in pils])
        if op in TOLERANCES:
            torch.testing.assert_close(changed, of_tensors.float(), atol=TOLERANCES[op], rtol=0)
            torch.testing.assert_close(changed, of_pils.float(), atol=TOLERANCES[op], rtol=0)
            continue
        tied = is_tied(op, argument, size).expand(images.shape)
        unlike_tensors, unlike_pils = changed.round() != of_tensors, changed.round() != of_pils
        assert not (unlike_tensors & ~tied).any()
        if op == "solarize":  # the magnitude is float32: 170 may be 170.000005, which PIL compares with exactly
            tied = (images - 255 * magnitude).abs() < 1e-3
        assert not (unlike_pils & ~tied).any()
        shares.append([float(pixels.float().mean()) for pixels in (tied, unlike_tensors, unlike_pils)])
    if shares:  # means over all magnitudes
        assert np.all(np.mean(shares, 0) < (0.03, 0.007, 0.015))


@pytest.mark.parametrize("space", TRANSFORMS)
def test_magnitudes_of_the_named_spaces_are_torchvisions(space: str) -> None:
    transform, bins = TRANSFORMS[space]
    named = SPACES[space]
    ops = tuple(SpaceOp(op.op, op.low, op.high, op.signed) for op in named.ops)
    search_space = SearchSpace(ops, bins, named.geometry)
    assert named.geometry == TORCHVISION
    assert {THEIRS[op.name] for op in ops} == set(transform._AUGMENTATION_SPACE)
    for op in ops:
        function, signed = transform._AUGMENTATION_SPACE[THEIRS[op.name]]
        side = 32 if space == "trivial-wide" else 1  # the space's translations are those of images 32 wide
        theirs = function(bins, side, side)
        assert op.signed == signed
        if theirs is None:
            assert op.low == op.high == 0
            continue
        ours = torch.tensor([op.at(search_space.magnitude(level)).low for level in range(bins)])
        if op.name == "posterize":
            ours = ours.round().int()
        if op.name.startswith("translate"):
            ours = ours * side
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


class Recorder(v2.AutoAugment):  # type: ignore[misc]
    """AutoAugment with everything that it draws given, which keeps the op, magnitude and result of each step."""

    def __init__(self, policy: v2.AutoAugmentPolicy) -> None:
        super().__init__(policy)
        self.steps: list[tuple[str, float, torch.Tensor]] = []

    def _apply_image_or_video_transform(
        self, image: Any, transform_id: str, magnitude: float, *rest: Any, **by: Any
    ) -> Any:
        changed = super()._apply_image_or_video_transform(image, transform_id, magnitude, *rest, **by)
        self.steps.append((transform_id, magnitude, changed))
        return changed

    def run(
        self, images: torch.Tensor, which: int, coins: tuple[float, float], signs: tuple[float, float]
    ) -> torch.Tensor:
        """Apply sub-policy `which`; a sign below 0.5 is negative."""
        draws: deque[float] = deque()
        for (name, probability, _), coin, sign in zip(self._policies[which], coins, signs, strict=True):
            draws.append(coin)
            if coin <= probability and self._AUGMENTATION_SPACE[name][1]:
                draws.append(sign)
        self.steps.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_: torch.tensor(which))
            patch.setattr(torch, "rand", lambda *_: torch.tensor(draws.popleft()))
            changed: torch.Tensor = self(images)
        assert not draws
        return changed


def drawn_steps(policy: SubPolicies, which: int, coins: tuple[float, float], signs: tuple[float, float]) -> list[Step]:
    """Return the steps that a sub-policy comes to at these draws."""
    return [
        fixed(step.op, -step.low if step.signed and sign < 0.5 else step.low)
        for step, coin, sign in zip(policy.sub_policies[which].steps, coins, signs, strict=True)
        if coin < step.probability
    ]


COINS = [(1e-9, 1e-9), (1e-9, 0.999), (0.999, 1e-9), (0.999, 0.999)]
SIGNS = list(product((0.25, 0.75), repeat=2))
LEVEL_OPS = {"equalize", "posterize", "solarize"}


@pytest.mark.parametrize("name", [policy.value for policy in v2.AutoAugmentPolicy])
def test_every_sub_policy_of_auto_augment_means_the_same_pixels(name: str) -> None:
    policy, recorder = imported(name), Recorder(v2.AutoAugmentPolicy(name))
    assert isinstance(policy, SubPolicies)
    assert len(policy.sub_policies) == len(recorder._policies) == 25
    images = photos_u8((32, 32))
    jumps = []
    for which, coins, signs in product(range(25), COINS, SIGNS):
        theirs = recorder.run(images, which, coins, signs)
        steps = drawn_steps(policy, which, coins, signs)
        ops = [step.op for step in steps]
        assert ops == [OURS[name] for name, _, _ in recorder.steps]
        before = images
        for step, (_, _, after) in zip(steps, recorder.steps, strict=True):
            apart = (levels(dastunes(chain(step, geometry=policy.geometry), before / 255)) - after).abs()
            apart[is_tied(step.op, step.low, (32, 32)).expand(apart.shape)] = 0
            assert apart.max() <= TOLERANCES.get(step.op, 1e-3)
            before = after
        apart = (levels(dastunes(chain(*steps, geometry=policy.geometry), images / 255)) - theirs).abs()
        if set(ops) <= INTEGER:
            assert (apart > 1e-3).float().mean() < 0.005  # tied pixels of a shear, which equalize counts
        elif ops[1:] and ops[1] in LEVEL_OPS:
            # The first op's fractions of a level, which torchvision cuts off, decide which level the second takes. On
            # color before equalize, torchvision's own results for tensors and PIL images are as far apart.
            jumps.append(float((apart > 4).float().mean()))
        else:
            assert (apart > 4).float().mean() < 0.001
    assert max(jumps, default=0) < 0.25
    assert sum(jumps) <= 0.05 * len(jumps)


def test_auto_augment_keeps_probabilities_and_signs() -> None:
    policy = imported(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10))
    assert isinstance(policy, SubPolicies)
    second = policy.sub_policies[1]
    assert [(step.op, step.probability, step.signed) for step in second.steps] == [
        ("rotate", 0.7, True),
        ("translate_x", 0.3, True),
    ]
    assert second.steps[0].low == second.steps[0].high == pytest.approx(30 * 2 / 9)
    assert second.steps[1].low == pytest.approx(150 / 331)
    assert {sub.weight for sub in policy.sub_policies} == {1.0}


def test_rand_augment_is_stages_of_all_ops_at_one_magnitude() -> None:
    policy = imported(v2.RandAugment(num_ops=3, magnitude=7, num_magnitude_bins=11))
    assert isinstance(policy, Stages)
    assert len(policy.stages) == 3
    assert len(set(policy.stages)) == 1
    table = v2.RandAugment._AUGMENTATION_SPACE
    assert [choice.step.op for choice in policy.stages[0]] == [OURS[name] for name in table]
    assert {choice.weight for choice in policy.stages[0]} == {1.0}
    for choice in policy.stages[0]:
        function, signed = table[THEIRS[choice.step.op]]
        values = function(11, 1, 1)
        assert (choice.step.low, choice.step.signed) == (0.0 if values is None else float(values[7]), signed)
    assert imported(v2.RandAugment(num_ops=0)) == Stages(geometry=TORCHVISION)


def test_trivial_augment_wide_is_its_discrete_magnitudes() -> None:
    policy = imported("trivial_augment_wide", (40, 56))
    assert isinstance(policy, Stages)
    [stage] = policy.stages
    table = v2.TrivialAugmentWide._AUGMENTATION_SPACE
    weights: Counter[str] = Counter()
    for choice in stage:
        weights[choice.step.op] += choice.weight
    assert weights == pytest.approx({OURS[name]: 1.0 for name in table})
    assert len({choice.step for choice in stage}) == len(stage)
    bits = {choice.step.low: choice.weight for choice in stage if choice.step.op == "posterize"}
    assert bits == pytest.approx({8: 3 / 31, 2: 3 / 31} | dict.fromkeys(range(3, 8), 5 / 31))
    for op, side in (("translate_x", 56), ("translate_y", 40)):
        pixels = [choice.step.low * side for choice in stage if choice.step.op == op]
        cut = [int(float(value)) for value in torch.linspace(0, 32, 31)]
        assert pixels == pytest.approx(sorted(set(cut)))


V1 = {
    "aa": (v1.AutoAugment(v1.AutoAugmentPolicy.SVHN), v2.AutoAugment(v2.AutoAugmentPolicy.SVHN)),
    "ra": (
        v1.RandAugment(1, 5, 20, v1.InterpolationMode.BILINEAR),
        v2.RandAugment(1, 5, 20, v1.InterpolationMode.BILINEAR),
    ),
    "ta": (v1.TrivialAugmentWide(15, fill=[1.0, 2.0, 3.0]), v2.TrivialAugmentWide(15, fill=[1.0, 2.0, 3.0])),
}


@pytest.mark.parametrize(("old", "new"), V1.values(), ids=V1)
def test_classes_of_v1_are_read_as_those_of_v2(old: Any, new: Any) -> None:
    assert imported(old, (32, 32)) == imported(new, (32, 32))
    # They are converted, so their tables must be the same; v1's are of grey levels.
    bins = getattr(old, "num_magnitude_bins", 10)
    size = () if "Trivial" in type(old).__name__ else ((40, 56),)
    of_old = old._augmentation_space(bins, *size)
    assert set(of_old) == set(new._AUGMENTATION_SPACE)
    for name, (function, signed) in new._AUGMENTATION_SPACE.items():
        values = function(bins, 40, 56)
        assert of_old[name][1] == signed
        if values is not None:
            scale = 255 if name == "Solarize" else 1
            torch.testing.assert_close(of_old[name][0], values * scale, atol=1e-4, rtol=0)


@pytest.mark.parametrize("interpolation", ["nearest", v2.InterpolationMode.BILINEAR, 0, 2])
def test_interpolation_and_fill_are_read(interpolation: Any) -> None:
    fill = None if interpolation in (2, v2.InterpolationMode.BILINEAR) else (51, 102, 255)
    geometry = imported(v2.RandAugment(interpolation=interpolation, fill=fill)).geometry
    expected = "nearest" if interpolation in ("nearest", 0) else "bilinear"
    assert geometry == TORCHVISION.model_copy(
        update={"interpolation": expected, "fill": (0.2, 0.4, 1.0) if fill else (0.0,)}
    )


@pytest.mark.parametrize("name", [name for name in MOVING if name in THEIRS])
def test_bilinear_interpolation_is_torchvisions_on_tensors(name: str) -> None:
    transform = v2.AutoAugment(interpolation="bilinear")
    magnitude = {"rotate": 20.0, "translate_x": 9.7, "translate_y": -9.7}.get(name, 0.23)
    images = photos_u8((40, 56))
    changed = dastunes(
        chain(fixed(name, argument_of(THEIRS[name], magnitude, (40, 56))), geometry=imported(transform).geometry),
        images / 255,
    )
    theirs = transform._apply_image_or_video_transform(
        images, THEIRS[name], magnitude, interpolation=transform.interpolation, fill=transform._fill
    )
    torch.testing.assert_close(levels(changed), theirs.float(), atol=0.51, rtol=0)


REFUSED_SOURCES: dict[str, tuple[Any, str]] = {
    "text": ("cifar100", "'cifar100' is no policy of torchvision; did you mean 'cifar10'"),
    "long text": ("\x1b" * 9999, r"'(\\x1b){14}.{,3}\.\.\.' is no policy of torchvision"),
    "long fill": (v2.RandAugment(fill=[300] * 9999), r"fill \[300, 300, .{,50} cannot be read"),
    "class": (v2.AugMix(), "AugMix cannot be read as a policy; legal: torchvision's AutoAugment, RandAugment"),
    "subclass": (Recorder(v2.AutoAugmentPolicy.SVHN), "Recorder cannot be read as a policy"),
    "interpolation": (v2.RandAugment(interpolation="bicubic"), "interpolation 'bicubic' is not known to dastune"),
    "fill by type": (v2.RandAugment(fill={tv_tensors.Image: 1}), "a fill for each type of input cannot be read"),
    "fill range": (v2.RandAugment(fill=300), "fill 300 cannot be read; values must be in 0 .. 255"),
    "bilinear with fill": (v2.RandAugment(interpolation="bilinear", fill=0), "torchvision weighs the fill twice"),
    "magnitude": (v2.RandAugment(magnitude=31), "magnitude 31 of RandAugment is not one of its 31 bins, 0 to 30"),
    "pixels": ("trivial_augment_wide", r"TranslateX of TrivialAugmentWide .* up to 32 pixels .* give image_size"),
}


@pytest.mark.parametrize(("source", "message"), REFUSED_SOURCES.values(), ids=REFUSED_SOURCES)
def test_what_cannot_be_read_is_refused(source: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        imported(source)


def test_blanks_around_a_name_are_no_matter() -> None:
    assert imported(" cifar10\n") == imported("cifar10")


def test_a_torchvision_that_keeps_its_tables_elsewhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without_policies = v2.AutoAugment()
    del without_policies._policies
    with pytest.raises(UserError, match=re.escape(f"torchvision {torchvision.__version__} has no _policies")):
        imported(without_policies)
    monkeypatch.delattr(v2.RandAugment, "_AUGMENTATION_SPACE")
    with pytest.raises(UserError, match="has no _AUGMENTATION_SPACE"):
        imported("rand_augment")


def test_an_op_that_dastune_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(v2.RandAugment._AUGMENTATION_SPACE, "Swirl", (lambda *_: None, False))
    with pytest.raises(UserError, match="torchvision's op 'Swirl' is not known to dastune"):
        imported("rand_augment")


def test_torchvisions_fill_weighs_border_pixels_twice() -> None:
    # Why bilinear sampling with a fill is refused, and why the exported transform does not use torchvision's fill.
    images = torch.ones(1, 1, 4, 4)
    moved = functional.affine(
        images, 0.0, [0.5, 0.0], 1.0, [0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR, fill=[0.0]
    )
    assert moved[0, 0, 0, 0] == pytest.approx(0.25)


GEOMETRIES = [
    Geometry(
        interpolation=interpolation, shear_about=shear_about, whole_pixels=whole_pixels, fill=fill, sampling=sampling
    )
    for interpolation, shear_about, whole_pixels, fill, sampling in product(
        ("bilinear", "nearest"), ("centre", "corner"), (False, True), ((0.0,), (0.2, 0.5, 0.9)), ("each", "once")
    )
]
ARGUMENTS: dict[str, tuple[float, ...]] = {
    "shear_x": (-0.71, 0.13),
    "shear_y": (-0.71, 0.13),
    "translate_x": (-0.213, 0.37),
    "translate_y": (-0.213, 0.37),
    "rotate": (-77.0, 12.5),
    "zoom": (-0.37, 0.29),
    "solarize": (0.0, 170 / 255, 0.5, 1.0, 256 / 255),
    "solarize_add": (0.0, 0.17, 110 / 255),
    "posterize": (0.0, 1.0, 3.6, 4.0, 7.4, 8.0),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), (-1.0, -0.37, 0.0, 0.9, 2.5)),
}


def apart_from_dastunes(policy: Policy, images: torch.Tensor) -> torch.Tensor:
    """Return how far the exported transform's results are from dastune's, in grey levels, image by image."""
    transform = exported(policy)
    changed = torch.stack([transform(image) for image in images])
    return levels((changed - dastunes(policy, images)).abs())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in EXPRESSED if name != "cutout"])
def test_exported_ops_are_dastunes(name: str, size: tuple[int, int]) -> None:
    photos = photos_u8(size) / 255
    # Between grey levels, a flat image, and one that is flat but for rounding.
    between = torch.cat([photos * 0.731 + 0.1, torch.full_like(photos[:1], 0.3), 0.3 + photos[:1] * 1e-6])
    for argument, images in product(ARGUMENTS.get(name, (0.0,)), (photos, between)):
        apart = apart_from_dastunes(chain(fixed(name, argument)), images)
        assert apart.max() < 0.02


def test_exported_solarize_is_exact_at_every_grey_level() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    for level in range(256):
        transform = exported(chain(fixed("solarize", level / 255)))
        assert torch.equal(transform(ramp), functional.solarize(ramp, level))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_exported_geometries_are_dastunes(geometry: Geometry) -> None:
    images = photos_u8((40, 56)) / 255
    steps = [fixed(name, argument) for name in MOVING for argument in ARGUMENTS[name]]
    chains = [(step,) for step in steps]
    chains.append((fixed("rotate", 25.3), fixed("identity"), fixed("translate_x", -0.31), fixed("shear_y", 0.17)))
    chains.append((fixed("shear_x", 0.27), fixed("color", 0.4), fixed("translate_y", 0.18), fixed("rotate", -40.1)))
    for chained in chains:
        apart = apart_from_dastunes(chain(*chained, geometry=geometry), images)
        if geometry.interpolation == "bilinear":
            assert apart.max() < 0.02
        else:
            assert (apart > 0.02).float().mean() < 0.001  # tied pixels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", [-0.37, 0.29])
def test_exported_zoom_is_torchvisions_affine_with_a_scale(change: float, size: tuple[int, int]) -> None:
    images = photos_u8(size) / 255
    for mode in (v2.InterpolationMode.BILINEAR, v2.InterpolationMode.NEAREST):
        transform = exported(chain(fixed("zoom", change), geometry=Geometry(interpolation=mode.value)))
        for image in images:
            expected = functional.affine(image, 0.0, [0, 0], 1 + change, [0.0, 0.0], interpolation=mode)
            torch.testing.assert_close(transform(image), expected, atol=1e-4, rtol=0)


def test_sampling_once_is_not_sampling_each() -> None:
    images = photos_u8((40, 56)) / 255
    steps = (fixed("translate_x", 0.4), fixed("translate_x", -0.4))
    once, each = (exported(chain(*steps, geometry=Geometry(sampling=sampling))) for sampling in ("once", "each"))
    torch.testing.assert_close(once(images[0]), images[0], atol=1e-4, rtol=0)
    assert (each(images[0])[..., -20:] == 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_exported_cutout_is_dastunes(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos_u8(size) / 255
    for seed, side in product(range(40), (0.0, 0.2, 0.55)):
        draws = deque([0.5, 0.5, *uniform(torch.tensor([seed]), 2)[0].tolist()])  # coin, argument, centre
        monkeypatch.setattr(torchvision_policy, "_uniform", draws.popleft)
        changed = exported(chain(fixed("cutout", side)))(images[0])
        expected = OPS["cutout"].function(images[:1], torch.tensor([side]), torch.tensor([seed]))[0]
        assert torch.equal(changed, expected)


CHAIN = (fixed("rotate", 17.0), fixed("contrast", 0.4), fixed("posterize", 5.0), fixed("sharpness", 0.7))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_input_gives_the_same_pixels(channels: int) -> None:
    image = photos_u8((40, 56))[0, :channels]
    transform = exported(chain(*CHAIN))
    floats = transform(image / 255)
    expected = (floats * 255).round().to(torch.uint8)
    assert floats.dtype == torch.float32
    results = {
        "uint8": transform(image),
        "image": transform(tv_tensors.Image(image)),
        "pil": transform(functional.to_pil_image(image)),
    }
    assert type(results["uint8"]) is torch.Tensor
    assert type(results["image"]) is tv_tensors.Image
    assert results["pil"].mode == ("L" if channels == 1 else "RGB")
    assert torch.equal(results["uint8"], expected)
    assert torch.equal(results["image"].as_subclass(torch.Tensor), expected)
    assert torch.equal(functional.pil_to_tensor(results["pil"]), expected)
    assert torch.equal(image, photos_u8((40, 56))[0, :channels])  # the input itself is left as it was


SPREAD = chain(
    Step(op="rotate", low=0, high=90), Step(op="brightness", low=0, high=0.9), Step(op="cutout", low=0.3, high=0.3)
)


def test_a_batch_gets_one_draw() -> None:
    image = photos_u8((40, 56))[0] / 255
    torch.manual_seed(0)
    batch = exported(SPREAD)(image.expand(4, -1, -1, -1))
    torch.manual_seed(0)
    alone = exported(SPREAD)(image)
    torch.testing.assert_close(batch, alone.expand(4, -1, -1, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampling", ["each", "once"])
def test_masks_move_with_their_images(sampling: Any) -> None:
    classes = torch.arange(40 * 56).view(1, 40, 56).to(torch.uint8) % 200
    geometry = Geometry(interpolation="nearest", fill=(1.0,), sampling=sampling)
    steps = (
        *(Step(op=name, low=0, high=high) for name, high in (("rotate", 60), ("translate_x", 0.3))),
        *(Step(op=name, low=0, high=high) for name, high in (("shear_x", 0.5), ("translate_y", 0.3))),
    )
    transform = exported(chain(*steps, geometry=geometry))
    for seed in range(20):
        torch.manual_seed(seed)
        sample = {"image": tv_tensors.Image(classes), "mask": tv_tensors.Mask(classes[0].long()), "label": 3}
        moved = transform(sample)
        assert moved["label"] == 3
        assert type(moved["mask"]) is tv_tensors.Mask
        assert moved["mask"].dtype == torch.int64
        assert torch.equal(moved["image"][0].long(), moved["mask"].as_subclass(torch.Tensor))
        assert (moved["mask"] == 255).any()


def test_masks_are_as_dastune_moves_them_and_colour_ops_leave_them() -> None:
    images, masks = photos_u8((40, 56)) / 255, photos_u8((40, 56))[:, 0] % 20
    policy = chain(fixed("color", 0.5), fixed("rotate", 33.0), fixed("invert"), fixed("translate_x", 0.21))
    _, expected = PolicyTransform(policy, torch.Generator())(images, masks, 7)
    transform = torchvision_policy.PolicyTransform(exported(policy).policy, mask_fill=7)
    for image, mask, wanted in zip(images, masks, expected, strict=True):
        _, moved = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
        assert (moved.as_subclass(torch.Tensor) != wanted).float().mean() < 0.001
    still = exported(chain(fixed("color", 0.5), fixed("equalize"), fixed("cutout", 0.5)))
    _, mask = still(tv_tensors.Image(images[0]), tv_tensors.Mask(masks[0]))
    assert torch.equal(mask.as_subclass(torch.Tensor), masks[0])


def test_inputs_that_cannot_be_moved_are_refused() -> None:
    transform, image = exported(chain(fixed("rotate", 5.0))), photos_u8((32, 32))[0]
    boxes = tv_tensors.BoundingBoxes([[0, 0, 5, 5]], format="XYXY", canvas_size=(32, 32))
    with pytest.raises(TypeError, match="cannot move BoundingBoxes"):
        transform(tv_tensors.Image(image), boxes)
    with pytest.raises(TypeError, match=r"uint8 images, or float32 in \[0, 1\]; this one is torch.int64"):
        transform(image.long())
    with pytest.raises(TypeError, match="modes L and RGB; this one has RGBA"):
        transform(functional.to_pil_image(image).convert("RGBA"))
    with pytest.raises(ValueError, match="multiple HxW"):
        transform(tv_tensors.Image(image), tv_tensors.Mask(torch.zeros(16, 16)))
    with pytest.raises(RuntimeError, match="must match"):
        exported(chain(fixed("rotate", 5.0), geometry=Geometry(fill=(0.1, 0.2, 0.3))))(image[:1])


def test_draws_are_those_of_the_policy() -> None:
    weights = [1.0, 3.0, 0.5, 2.0]
    steps = (
        Step(op="rotate", low=5, high=25),
        Step(op="posterize", low=4, high=8, probability=0.7),
        Step(op="invert", probability=0.2),
        Step(op="color", low=-0.5, high=0.5, signed=False),
    )
    choices = tuple(Choice(weight=weight, step=step) for weight, step in zip(weights, steps, strict=True))
    subs = tuple(SubPolicy(steps=(step,), weight=weight) for weight, step in zip(weights, steps, strict=True))
    image, count = torch.zeros(3, 8, 8), 3000
    for policy in (Stages(stages=(choices,)), SubPolicies(sub_policies=subs)):
        transform = exported(policy)
        torch.manual_seed(0)
        drawn = [action for _ in range(count) for action in transform.make_params([image])["actions"]]
        seen = Counter(op for op, _ in drawn)
        shares = {
            ("warp" if step.op == "rotate" else step.op): weight / sum(weights) * step.probability
            for weight, step in zip(weights, steps, strict=True)
        }
        counts = [seen[op] for op in shares] + [count - len(drawn)]
        expected = [count * share for share in (*shares.values(), 1 - sum(shares.values()))]
        assert chisquare(counts, expected).pvalue > 1e-3
        degrees = [math.degrees(math.asin(value[1, 0])) for op, value in drawn if op == "warp"]
        assert chisquare(np.histogram(degrees, [-25, -15, -5, 5, 15, 25])[0][[0, 1, 3, 4]]).pvalue > 1e-3
        assert min(map(abs, degrees)) >= 5
        changes = [value for op, value in drawn if op == "color"]
        assert kstest(changes, "uniform", (-0.5, 1.0)).pvalue > 1e-3


class Photos(Dataset[torch.Tensor]):
    """One photograph, over and over, augmented in the worker."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        changed: torch.Tensor = self.transform(photos_u8((32, 32))[0])
        return changed


def test_loader_workers_draw_differently_and_again_the_same() -> None:
    def images(seed: int) -> torch.Tensor:
        loader = DataLoader(
            Photos(exported(SPREAD)),
            batch_size=4,
            num_workers=2,
            generator=torch.Generator().manual_seed(seed),
            multiprocessing_context="fork",
        )
        return torch.cat(list(loader))

    first, again, other = images(0), images(0), images(1)
    assert len(first.flatten(1).unique(dim=0)) == 16
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


RUN_WITHOUT_DASTUNE = """
import sys
sys.modules["dastune"] = None
sys.path.insert(0, sys.argv[1])
import torch
from my_policy import transform
torch.manual_seed(3)
images = torch.load(sys.argv[1] + "/images.pt")
torch.save(torch.stack([transform(image) for image in images]), sys.argv[1] + "/changed.pt")
"""


def test_the_exported_file_needs_no_dastune(tmp_path: Path) -> None:
    policy = imported("cifar10")
    (tmp_path / "my_policy.py").write_text(exported_text(policy), encoding="utf-8")
    images = photos_u8((32, 32)).repeat(8, 1, 1, 1)
    torch.save(images, tmp_path / "images.pt")
    subprocess.run([sys.executable, "-I", "-c", RUN_WITHOUT_DASTUNE, str(tmp_path)], check=True)
    torch.manual_seed(3)
    transform = exported(policy)
    expected = torch.stack([transform(image) for image in images])
    assert torch.equal(torch.load(tmp_path / "changed.pt"), expected)


def test_the_policys_module_imports_only_torch_and_torchvision() -> None:
    source = Path(torchvision_policy.__file__).read_text(encoding="utf-8")
    imports = re.findall(r"^\s*(?:import|from) (\w+)", source, re.MULTILINE)
    assert set(imports) <= {*sys.stdlib_module_names, "torch", "torchvision"}


@pytest.mark.parametrize("source", ["cifar10", "imagenet", "svhn", "rand_augment", "trivial_augment_wide"])
def test_what_is_imported_is_exported_again(source: str) -> None:
    policy = imported(source, (32, 32))
    assert policy_from_json(policy_to_json(policy)) == policy
    transform = exported(policy)
    for image in photos_u8((32, 32)).repeat(4, 1, 1, 1):
        assert transform(image).shape == image.shape


def steps_of(op: str) -> st.SearchStrategy[Step]:
    low, high = sorted((OPS[op].low, OPS[op].high))
    ranges = st.tuples(st.floats(low, high), st.floats(low, high)).map(sorted)
    # A probability of 0 would be left out.
    return st.builds(
        lambda span, probability: Step(op=op, low=span[0], high=span[1], probability=probability),
        ranges,
        st.floats(0.01, 1),
    )


STEPS = st.sampled_from(EXPRESSED).flatmap(steps_of)
WEIGHTS = st.floats(0.01, 10)
CHOICES = st.builds(Choice, weight=WEIGHTS, step=STEPS)
GEOMETRY = st.sampled_from(GEOMETRIES)
POLICIES = st.one_of(
    st.builds(
        Stages, geometry=GEOMETRY, stages=st.lists(st.lists(CHOICES, min_size=1, max_size=3).map(tuple)).map(tuple)
    ),
    st.builds(
        SubPolicies,
        geometry=GEOMETRY,
        sub_policies=st.lists(
            st.builds(SubPolicy, steps=st.lists(STEPS, max_size=3).map(tuple), weight=WEIGHTS), min_size=1, max_size=3
        ).map(tuple),
    ),
)


@settings(deadline=None, max_examples=100)
@given(POLICIES)
def test_any_policy_keeps_its_meaning_and_runs(policy: SubPolicies | Stages) -> None:
    transform = exported(policy)
    assert policy_from_json(transform.policy) == policy
    names: dict[str, Any] = {"__name__": "my_policy"}
    exec(exported_text(policy), names)
    assert names["transform"].policy == transform.policy
    image = photos_u8((32, 32))[0]
    changed = transform(image)
    assert (changed.shape, changed.dtype) == (image.shape, image.dtype)


def test_what_never_happens_is_left_out() -> None:
    never = Step(op="gaussian_replace", probability=0.0)
    always = fixed("invert")
    stages = Stages(
        stages=(
            (Choice(weight=0, step=Step(op="constant")), Choice(weight=2, step=never), Choice(weight=1, step=always)),
        )
    )
    assert policy_from_json(exported(stages).policy) == Stages(
        stages=((Choice(weight=2, step=Step(op="identity")), Choice(weight=1, step=always)),)
    )
    subs = SubPolicies(sub_policies=(SubPolicy(steps=(never,), weight=0), SubPolicy(steps=(never, always, never))))
    assert policy_from_json(exported(subs).policy) == chain(always)
    image = photos_u8((32, 32))[0]
    for nothing in (NO_AUGMENTATION, chain(), chain(fixed("identity"))):
        assert torch.equal(exported(nothing)(image), image)


def test_a_genotype_is_exported_by_its_paths() -> None:
    genotype = Genotype(
        nodes=(
            (Edge(source=0, step=fixed("invert")), Edge(source=0, step=fixed("rotate", 9.0))),
            (Edge(source=0, step=fixed("equalize")), Edge(source=1, step=fixed("color", 0.5))),
        )
    )
    assert policy_from_json(exported(genotype).policy) == genotype.paths()


def test_all_that_torchvision_lacks_is_named_at_once() -> None:
    stage = (
        Choice(weight=0.004, step=Step(op="gaussian_replace")),
        Choice(weight=1, step=fixed("color", -1.5)),
        Choice(weight=1, step=Step(op="contrast", low=0, high=1.25)),
        Choice(weight=1, step=fixed("rotate", 10)),
    )
    with pytest.raises(UserError) as refusal:
        exported(Stages(stages=(stage, stage[:1])))
    message = str(refusal.value)
    places = "weight 0.004 in stage 0, weight 0.004 in stage 1"
    assert f"gaussian_replace ({places}): torchvision has no such transform" in message
    assert "color by -1.5 (weight 1 in stage 0): torchvision's factors, 1 + change, are 0 or more" in message
    assert "contrast by -1.25 (weight 1 in stage 0): torchvision's factors" in message
    assert "rotate" not in message
    assert "dastune.transform, which applies every policy" in message
    with pytest.raises(UserError, match=re.escape("pixel_shuffle (sub-policy 0): torchvision has no such transform")):
        exported_text(chain(fixed("rotate", 10), Step(op="pixel_shuffle")))
    with pytest.raises(UserError, match=re.escape("row_shuffle (node 0): torchvision has no such transform")):
        exported(Genotype(nodes=((Edge(source=0, step=Step(op="row_shuffle")),),)))


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.noise])
def test_every_noise_op_is_refused(name: str) -> None:
    step = Step(op=name, low=OPS[name].high, high=OPS[name].high)
    with pytest.raises(UserError, match=rf"{name} \(sub-policy 0\): torchvision has no such transform"):
        exported(chain(step))


def test_every_other_op_is_expressed() -> None:
    for name in EXPRESSED:
        high = OPS[name].high
        exported(chain(Step(op=name, low=high, high=high)))(photos_u8((32, 32))[0])
    with pytest.raises(ValueError, match="'swirl' is no op of this transform"):
        torchvision_policy._changed(torch.zeros(3, 4, 4), "swirl", 0.0)
