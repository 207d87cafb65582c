"""Kornia, both ways: its own augmentations at the same draw are the oracle."""

import importlib
import json
import math
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
from scipy.stats import chisquare, kstest
from sklearn.datasets import load_sample_images

pytest.importorskip("kornia")

from kornia import augmentation
from kornia.augmentation.auto import AutoAugment
from kornia.augmentation.auto.autoaugment import ops as kornia_ops

from dastune.augment.steps import apply_op
from dastune.errors import UserError
from dastune.exchange import kornia as exchange
from dastune.exchange.kornia import exported, exported_text, imported
from dastune.ops import geometric
from dastune.ops.spaces import DASTUNE, TORCHVISION, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Edge, Genotype, Policy, Stages, Step, SubPolicies, SubPolicy

TOLERANCE = 0.1 / 255
# Where nearest sampling may take either of two pixels, and how often it may come to that.
TIED = 2e-3
GEOMETRIES = (
    DASTUNE,
    TORCHVISION,
    Geometry(whole_pixels=True),
    Geometry(shear_about="corner"),
    Geometry(interpolation="nearest"),
)
SIZES = ((32, 32), (40, 56), (61, 33))
FIXED = {
    **dict.fromkeys(("shear_x", "shear_y"), (0.1234, 0.29, 0.987)),
    **dict.fromkeys(("translate_x", "translate_y"), (0.1234, 0.43, 1.0)),
    "rotate": (5.1, 29.3, 133.7),
    "zoom": (0.1234, 0.31, 0.77),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), (0.1, 0.37, 0.9, 1.0)),
    "solarize": (0.0, 0.31, 100 / 255, 128 / 255, 1.0, 256 / 255),
    "posterize": (0, 1, 3, 4, 7, 8),
    **dict.fromkeys(("identity", "auto_contrast", "equalize", "invert"), (0.0,)),
}
# The parameter of kornia's that holds an op's argument, and how to get from one to the other.
PARAMETERS: dict[str, tuple[str, Any]] = {
    **{name: (name, lambda value, _: math.tan(math.radians(value))) for name in ("shear_x", "shear_y")},
    "translate_x": ("translate_x", lambda value, size: value / size[1]),
    "translate_y": ("translate_y", lambda value, size: value / size[0]),
    "rotate": ("degrees", lambda value, _: value),
    "zoom": ("scale", lambda value, _: value - 1),
    "solarize": ("thresholds", lambda value, _: value),
    "posterize": ("bits_factor", lambda value, _: value),
    "color": ("saturation_factor", lambda value, _: value - 1),
    "contrast": ("contrast_factor", lambda value, _: value - 1),
    "brightness": ("brightness_factor", lambda value, _: value - 1),
    "sharpness": ("sharpness", lambda value, _: value - 1),
}


@cache
def photos(height: int, width: int) -> torch.Tensor:
    """Eight crops of scikit-learn's two photographs, at a quarter of their resolution; float32 with 8-bit values."""
    small = torch.stack([torch.tensor(photo).permute(2, 0, 1) for photo in load_sample_images().images])[..., ::4, ::4]
    crops = [small[..., y : y + height, x : x + width] for y in (0, 44) for x in (20, 100)]
    return torch.cat(crops) / 255


def ours(op: str, images: torch.Tensor, argument: float, geometry: Geometry = DASTUNE) -> torch.Tensor:
    count = len(images)
    return apply_op(op, images, torch.full((count,), argument), torch.zeros(count, dtype=torch.int64), geometry)


def alone(step: Step, geometry: Geometry = DASTUNE) -> Stages:
    return Stages(stages=((Choice(weight=1, step=step),),), geometry=geometry)


def assert_same(theirs: torch.Tensor, own: torch.Tensor, nearest: bool = False) -> None:
    differ = (theirs - own).abs() > TOLERANCE
    assert differ.float().mean() <= (TIED if nearest else 0)


def applied(module: Any, images: torch.Tensor) -> tuple[torch.Tensor, list[dict[int, dict[str, torch.Tensor]]]]:
    """Return kornia's result, and for each container the parameters of the paths that came up."""
    result = module(images)
    return result, [by_path(stage) for stage in module._params]


def by_path(stage: Any) -> dict[int, dict[str, torch.Tensor]]:
    return {int(path.name.removeprefix("PolicySequential_")): path.data[0].data for path in stage.data}


# --- export: pixels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("op", "argument"), [(op, argument) for op, arguments in FIXED.items() for argument in arguments]
)
def test_the_pixels_are_those_of_the_op(op: str, argument: float, size: tuple[int, int]) -> None:
    for signed in (1, -1) if OPS[op].signed else (1,):
        step = Step(op=op, low=signed * argument, high=signed * argument, signed=False)
        for geometry in GEOMETRIES if OPS[op].geometric else (DASTUNE,):
            images = photos(*size)
            own = ours(op, images, signed * argument, geometry)
            assert_same(exported(alone(step, geometry))(images), own, geometry.interpolation == "nearest")


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_each_image_has_its_own_draw_and_its_pixels_are_those_of_the_op(geometry: Geometry) -> None:
    torch.manual_seed(1)
    ranges = {"posterize": (2, 8), "solarize": (0, 256 / 255), "rotate": (0, 40)}
    steps = [Step(op=op, low=ranges.get(op, (0.1, 0.6))[0], high=ranges.get(op, (0.1, 0.6))[1]) for op in FIXED]
    policy = Stages(stages=(tuple(Choice(weight=1, step=step) for step in steps),), geometry=geometry)
    images = photos(40, 56).repeat(12, 1, 1, 1)
    result, [paths] = applied(exported(policy), images)
    own = images.clone()
    shown = [step.op for step in steps if step.op != "identity"]
    reached = torch.zeros(len(images))
    for index, parameters in paths.items():
        reached += parameters["batch_prob"]
        for row in parameters["batch_prob"].nonzero()[:, 0].tolist():
            name, argument = PARAMETERS.get(shown[index], ("", None))
            # A scale is one for each axis, and both are the same.
            [drawn] = set(parameters[name][row].flatten().tolist()) if argument else [0.0]
            value = argument(drawn, (40, 56)) if argument else 0.0
            own[row : row + 1] = ours(shown[index], images[row : row + 1], value, geometry)
    assert reached.max() == 1  # never two paths for one image
    assert len(paths) > 10
    assert_same(result, own, geometry.interpolation == "nearest")


def test_a_text_makes_the_same_module_without_dastune(tmp_path: Path) -> None:
    policy = Stages(
        stages=(
            (
                Choice(weight=1, step=Step(op="rotate", low=3, high=9)),
                Choice(weight=2, step=Step(op="color", low=0.2, high=0.8, probability=0.5)),
                Choice(weight=2, step=Step(op="shear_y", low=0, high=0.3)),
                Choice(weight=1, step=Step(op="identity")),
            ),
            (Choice(weight=1, step=Step(op="translate_x", low=0.2, high=0.2)),),
        ),
        geometry=TORCHVISION,
    )
    (tmp_path / "policy.py").write_text(exported_text(policy))
    images = photos(32, 32)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch; sys.modules['dastune'] = None; from policy import transform; torch.manual_seed(3); "
        "torch.save(transform(torch.load('images.pt')), 'result.pt')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    torch.manual_seed(3)
    assert torch.equal(exported(policy)(images), torch.load(tmp_path / "result.pt"))


@pytest.mark.parametrize("shape", [(3, 40, 56), (1, 3, 40, 56), (2, 1, 40, 56)])
def test_other_shapes_of_images_are_taken(shape: tuple[int, ...]) -> None:
    steps = [Step(op=op, low=0.1, high=0.5) for op in FIXED if op != "posterize"]
    policy = Stages(stages=tuple((Choice(weight=1, step=step),) for step in steps))
    assert exported(policy)(torch.rand(shape)).shape[-2:] == (40, 56)


def test_masks_move_along() -> None:
    torch.manual_seed(0)
    stage = (
        Choice(weight=1, step=Step(op="rotate", low=0, high=40)),
        Choice(weight=1, step=Step(op="shear_x", low=0, high=0.4)),
        Choice(weight=1, step=Step(op="invert")),
    )
    module = exported(Stages(stages=(stage,)))
    images = photos(40, 56).repeat(4, 1, 1, 1)
    masks = torch.randint(1, 20, (len(images), 1, 40, 56)).float()
    together = augmentation.AugmentationSequential(module, data_keys=["input", "mask"])
    _, moved = together(images, masks)
    paths = by_path(together._params[0].data[0])
    own = masks.clone()
    for index, (name, op) in enumerate((("degrees", "rotate"), ("shear_x", "shear_x"))):
        rows = paths[index]["batch_prob"].nonzero()[:, 0]
        argument = paths[index][name][rows]
        argument = argument if op == "rotate" else argument.deg2rad().tan()
        own[rows] = geometric.warp(masks[rows], geometric.matrix(op, argument, (40, 56)), "nearest")
    assert not torch.equal(moved, masks)
    assert (moved != own).float().mean() <= TIED


# --- export: draws


def test_paths_are_drawn_by_weight_for_each_image_alone() -> None:
    torch.manual_seed(0)
    weights = {"invert": 5.0, "posterize": 2.0, "equalize": 0.0, "solarize": 1.0, "identity": 2.0}
    stage = tuple(Choice(weight=weight, step=Step(op=op, low=1, high=1)) for op, weight in weights.items())
    images = torch.rand(1, 1, 2, 2).expand(4000, -1, -1, -1) * 0.9
    result, [paths] = applied(exported(Stages(stages=(stage,))), images)
    counts = [int(paths[index]["batch_prob"].sum()) for index in range(3)]
    assert chisquare([*counts, 4000 - sum(counts)], [2000, 800, 400, 800]).pvalue > 0.001
    assert torch.allclose(result[paths[0]["batch_prob"] > 0], 1 - images[0])
    # Neighbours in the batch draw independently: a pair is alike as often as two draws by weight.
    chosen = paths[0]["batch_prob"]
    assert chisquare(np.bincount((chosen[::2] * 2 + chosen[1::2]).int(), minlength=4)).pvalue > 0.001


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.9), (0.3, 0.9)])
@pytest.mark.parametrize("op", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate", "color", "sharpness"])
def test_arguments_are_uniform_and_of_both_signs(op: str, low: float, high: float) -> None:
    torch.manual_seed(0)
    images = torch.rand(3000, 3, 3, 3)
    _, [paths] = applied(exported(alone(Step(op=op, low=low, high=high))), images)
    name, argument = PARAMETERS[op]
    values = np.array([argument(float(value), (3, 3)) for value in paths[0][name]])
    assert chisquare([(values > 0).sum(), (values < 0).sum()]).pvalue > 0.001
    assert kstest(np.abs(values), "uniform", (low, high - low)).pvalue > 0.001


def test_bits_are_drawn_as_dastune_rounds_them() -> None:
    torch.manual_seed(0)
    step = Step(op="posterize", low=4, high=8)
    _, [paths] = applied(exported(alone(step)), torch.rand(4000, 1, 2, 2))
    counts = np.bincount(paths[0]["bits_factor"], minlength=9)[4:]
    assert chisquare(counts, [500, 1000, 1000, 1000, 500]).pvalue > 0.001


def test_thresholds_above_white_change_nothing() -> None:
    torch.manual_seed(0)
    step = Step(op="solarize", low=253 / 255, high=256 / 255, probability=0.5)
    result = exported(alone(step))(torch.ones(4000, 1, 2, 2))[:, 0, 0, 0]
    assert chisquare([int((result == value).sum()) for value in (0, 1)], [4000 / 3, 8000 / 3]).pvalue > 0.001


def test_an_image_goes_through_the_steps_of_its_sub_policy_in_order() -> None:
    torch.manual_seed(0)
    half = Step(op="brightness", low=-0.5, high=-0.5, signed=False)
    sub_policies = (
        SubPolicy(weight=3, steps=(Step(op="invert", probability=0.5), half)),
        SubPolicy(weight=1, steps=(half, Step(op="invert"))),
        SubPolicy(weight=2, steps=()),
        SubPolicy(weight=0, steps=(Step(op="equalize"),)),
    )
    images = torch.full((6000, 1, 2, 2), 0.2)
    result = exported(SubPolicies(sub_policies=sub_policies))(images)[:, 0, 0, 0]
    counts = [int(torch.isclose(result, torch.tensor(value)).sum()) for value in (0.4, 0.1, 0.9, 0.2)]
    assert chisquare(counts, [1500, 1500, 1000, 2000]).pvalue > 0.001


def test_a_genotype_is_drawn_from_by_its_paths() -> None:
    torch.manual_seed(0)
    edges = (Edge(source=0, step=Step(op="invert")), Edge(source=0, step=Step(op="identity")))
    for node in ("mean", "sample"):
        result = exported(Genotype(node=node, nodes=(edges,)))(torch.full((2000, 1, 2, 2), 0.2))[:, 0, 0, 0]
        assert result.unique().tolist() == pytest.approx([0.2, 0.8])
        assert chisquare([int((result > 0.5).sum()), int((result < 0.5).sum())]).pvalue > 0.001


def test_a_policy_that_does_nothing_leaves_images() -> None:
    images = photos(32, 32)
    for policy in (Stages(), alone(Step(op="identity")), alone(Step(op="invert", probability=0))):
        assert torch.equal(exported(policy)(images), images)


# --- export: refusals


def test_all_that_kornia_cannot_express_is_named_at_once() -> None:
    ops = ("cutout", "solarize_add", "gaussian_replace", "rotate", "translate_x")
    lowest = dict.fromkeys(("cutout", "gaussian_replace"), 0.0)
    stage = tuple(
        Choice(weight=0.1, step=Step(op=op, low=low, high=low + 1)) for op in ops for low in [lowest.get(op, 400.0)]
    )
    twice = (stage, (Choice(weight=1, step=Step(op="brightness", low=-2, high=0, signed=False)),))
    with pytest.raises(UserError) as caught:
        exported(Stages(stages=twice, geometry=Geometry(fill=(0.5,), sampling="once")))
    message = str(caught.value)
    assert all(f"{op} (weight 0.1 in stage 0)" in message for op in ops)
    assert "brightness (weight 1 in stage 1): the factor -1 is below 0" in message
    assert "fill (0.5,)" in message
    assert "dastune.transform" in message
    with pytest.raises(UserError):
        exported_text(Stages(stages=twice))


def test_sampling_once_is_refused_where_two_geometric_ops_meet() -> None:
    once = Geometry(sampling="once")
    turn = (Choice(weight=1, step=Step(op="rotate", low=0, high=9)),)
    with pytest.raises(UserError, match="sampling 'once'"):
        exported(Stages(stages=(turn, turn), geometry=once))
    exported(Stages(stages=(turn, (Choice(weight=1, step=Step(op="invert")),), turn), geometry=once))


@pytest.mark.parametrize(
    "step",
    [
        Step(op="rotate", low=0, high=361),
        Step(op="translate_y", low=0, high=1.1),
    ],
)
def test_arguments_that_kornia_does_not_take_are_refused(step: Step) -> None:
    with pytest.raises(UserError, match=step.op):
        exported(alone(step))


def test_what_never_happens_is_not_refused() -> None:
    stage = (
        Choice(weight=0, step=Step(op="cutout", low=0.1, high=0.2)),
        Choice(weight=1, step=Step(op="gaussian_replace", probability=0)),
        Choice(weight=1, step=Step(op="invert")),
    )
    exported(Stages(stages=(stage,)))


@pytest.mark.parametrize(
    ("op", "kornias", "differs"),
    [
        ("brightness", augmentation.RandomBrightness((1.5, 1.5), p=1.0), True),
        ("contrast", augmentation.RandomContrast((1.5, 1.5), p=1.0), True),
        ("color", augmentation.RandomSaturation((1.5, 1.5), p=1.0), True),
        ("brightness", augmentation.RandomContrast((1.5, 1.5), p=1.0), False),
        ("solarize_add", augmentation.RandomSolarize((0.5, 0.5), (0.5, 0.5), p=1.0), True),
    ],
)
def test_what_kornias_policies_call_by_pils_names(op: str, kornias: Any, differs: bool) -> None:
    images = photos(40, 56)
    distance = (kornias(images) - ours(op, images, 0.5)).abs().max()
    assert (distance > 20 / 255) if differs else (distance < TOLERANCE)


# --- import


ENTRIES = {
    **{name: name for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "solarize", "posterize")},
    **{name: name for name in ("auto_contrast", "equalize", "invert", "sharpness")},
    "contrast": "brightness",
}


def test_published_lists_are_read_where_all_their_operations_can_be() -> None:
    svhn = imported("svhn")
    assert sum(sub.weight for sub in svhn.sub_policies) == pytest.approx(25)
    assert svhn.geometry == DASTUNE
    with pytest.raises(UserError, match=r"color \(sub-policy 10, .*scales the saturation of HSV"):
        imported("imagenet")
    with pytest.raises(UserError, match=r"brightness \(.*\): kornia's adds to the pixels"):
        imported("cifar10")


@pytest.mark.parametrize("magnitude", [0, 4, 9])
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_means_the_pixels_of_kornias_own_op(name: str, magnitude: int) -> None:
    torch.manual_seed(0)
    images = photos(40, 56)
    entries = [[(name, 1.0, magnitude)]]
    theirs = AutoAugment(policy=entries)
    result = theirs(images)
    parameters = theirs._params[0].data[0].data
    policy = imported(entries)
    steps = [sub.steps[0] for sub in policy.sub_policies]
    assert {step.op for step in steps} == {ENTRIES[name]}
    key = {"contrast": "contrast_factor"}.get(name, PARAMETERS.get(name, ("", None))[0])
    own = images.clone()
    for row in range(len(images)):
        argument = PARAMETERS[ENTRIES[name]][1](float(parameters[key][row]), (40, 56)) if key else 0.0
        slack = 0.5 if name == "posterize" else 1e-4
        assert min(step.low for step in steps) - slack <= argument <= max(step.high for step in steps) + slack
        own[row : row + 1] = ours(ENTRIES[name], images[row : row + 1], argument, policy.geometry)
    assert_same(result, own)


@pytest.mark.parametrize("magnitude", range(10))
@pytest.mark.parametrize(
    "name", ["translate_x", "translate_y", "rotate", "solarize", "posterize", "sharpness", "contrast"]
)
def test_bins_are_kornias(name: str, magnitude: int) -> None:
    theirs = torch.tensor([float(end) for end in getattr(kornia_ops, name)(1.0, magnitude).magnitude_range])
    [sub] = imported([[(name, 0.5, magnitude)]]).sub_policies
    [step] = sub.steps
    offset = 1 if name in ("sharpness", "contrast") else 0
    assert torch.allclose(torch.tensor([step.low, step.high]) + offset, theirs, atol=1e-6)
    assert (step.probability, step.signed) == (0.5, False)


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
@pytest.mark.parametrize("magnitude", [0, 3, 5, 8])
def test_shears_are_drawn_as_kornia_draws_them(name: str, magnitude: int) -> None:
    torch.manual_seed(0)
    entries = [[(name, 1.0, magnitude)]]
    theirs = AutoAugment(policy=entries)
    theirs(torch.rand(4000, 1, 3, 3))
    slopes = theirs._params[0].data[0].data[name].deg2rad().tan().numpy()
    subs = imported(entries).sub_policies
    assert all(sub.steps[0].high - sub.steps[0].low <= 0.1 for sub in subs)
    edges = [subs[0].steps[0].low, *(sub.steps[0].high for sub in subs)]
    shares = np.cumsum([0, *(sub.weight for sub in subs)])
    assert shares[-1] == pytest.approx(1)
    assert kstest(slopes, lambda at: np.interp(at, edges, shares)).pvalue > 0.001


def test_a_list_is_read_from_python_json_and_the_object_alike() -> None:
    entries = [[("rotate", 0.4, 9), ("invert", 0.2, None)], [("shear_x", 0.0, 3), ("equalize", 1.0, None)], []]
    policy = imported(entries)
    assert policy == imported(repr(entries)) == imported(json.dumps(entries))
    assert [len(sub.steps) for sub in policy.sub_policies] == [2, 1, 0]
    assert policy.sub_policies[0].steps[0] == Step(op="rotate", low=24, high=30, probability=0.4, signed=False)


def test_blanks_around_a_name_are_no_matter() -> None:
    assert imported(" svhn\n") == imported("svhn")
    with pytest.raises(UserError, match="cannot be read as a policy"):
        imported(" cifar10 ")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("cifar", "did you mean 'cifar10'"),
        ("RandAugment(2, 10)", "RandAugment cannot be read"),
        ("TrivialAugment()", "TrivialAugment cannot be read"),
        ("x" * 9999, f"no policy '{'x' * 57}\\.\\.\\.'; legal: cifar10"),
        (f"RandAugment{'x' * 9999}()", r"RandAugment.{,60} cannot be read"),
        ("__import__('os').getcwd()", "neither in JSON nor as Python writes it"),
        ("[" * 10000, "lists 10,000 deep"),
        ("-" * 100_000 + "1", "neither in JSON nor as Python writes it"),
        ("\0", "neither in JSON nor as Python writes it"),
        ("[" + "1," * 600_000 + "]", "1,200,002 characters"),
        (f"[[('rotate', 0.5, 0x{'f' * 5000})]]", "rotate .*and is a number of thousands of digits"),
        (f"[[('rotate', 0x{'f' * 5000}, 1)]]", "this is no list"),
        ([[("rotate", True, 1)]], "this is no list"),
        (str([[("shear_x", 0.5, 9)] * 12]), r"would be \d+ sub-policies, since shears .* at most 10,000"),
        ([[("invert", 0.5, None)]] * 10_001, r"would be 10001 sub-policies"),
        ([[(f"{n}\x1b", 0.5, 1)] for n in range(9999)], r"  0\\x1b \(sub-policy 0\): (.*\n){10}  and 9,989 more\n"),
        ("[]", "this is no list"),
        ("[[('rotate', 2, 1)]]", "this is no list"),
        ("[[('rotate', 0.5)]]", "this is no list"),
        (3, "this is no list"),
        ([[("rotat", 0.5, 1)]], "rotat .*did you mean 'rotate'"),
        ([[("rotate", 0.5, 10)]], "rotate .*whole number in 0 .. 9, and is 10"),
        ([[("rotate", 0.5, None)]], "rotate .*and is None"),
    ],
)
def test_what_is_no_list_is_refused(source: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        imported(source)


NAMES = st.sampled_from([*ENTRIES])
LISTS = st.lists(st.lists(st.tuples(NAMES, st.floats(0, 1), st.integers(0, 9)), max_size=2), min_size=1, max_size=3)


@given(LISTS)
@settings(max_examples=30, deadline=None)
def test_all_that_is_read_can_be_written(entries: list[list[tuple[str, float, int]]]) -> None:
    policy: Policy = imported(entries)
    images = torch.rand(2, 3, 8, 8)
    assert exported(policy)(images).shape == images.shape


def test_without_kornia_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(UserError, match=r"pip install 'dastune\[kornia\]'"):
        importlib.reload(exchange)
