"""timm, both ways: pixels against timm's own ops on photographs, distributions against its own draws."""

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from dastune.augment.steps import apply_op
from dastune.errors import UserError
from dastune.exchange.timm import exported, exported_text, imported
from dastune.ops.spaces import SPACES, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Edge, Genotype, Policy, Stages, Step, SubPolicies, SubPolicy

timm = pytest.importorskip("timm.data.auto_augment")
tv = pytest.importorskip("torchvision.transforms")

GEOMETRY = Geometry(interpolation="nearest", shear_about="corner")
GREY = {"interpolation": 0}  # hparams, with timm's grey fill
# Nearest sampling may take either pixel where the source lies this near to the border between two, in pixels: PIL's
# coefficients have 16 binary digits after the point.
TIED = 5e-3
# In grey levels, measured 1.4 at most: PIL cuts to whole levels what it blends, and what it blends with.
BLENDED = 2.0
NAMES = [
    name for name in timm.NAME_TO_OP if name not in ("TranslateX", "TranslateY", "GaussianBlur", "GaussianBlurRand")
]


@cache
def photographs() -> list[Image.Image]:
    """Photographs of several sizes, two of them 32 x 32."""
    whole = [Image.fromarray(photo) for photo in load_sample_images().images]
    small = [photo.crop((100, 100, 324, 324)).resize((32, 32)) for photo in whole]
    return [*small, whole[0].crop((10, 20, 107, 81)), whole[1].crop((0, 0, 33, 20)), whole[1].resize((160, 107))]


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def ours(step: Step, sign: int, image: Image.Image, fill: tuple[float, ...] = (0.0,)) -> torch.Tensor:
    geometry = Geometry(interpolation="nearest", shear_about="corner", fill=fill)
    return apply_op(
        step.op, tensor(image), torch.tensor([sign * step.high]), torch.zeros(1, dtype=torch.int64), geometry
    )


def timms(op: Any, sign: int, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(timm, "_randomly_negate", lambda value: sign * value)
    return tensor(op(image))


def augment_op(name: str, magnitude: float, **hparams: Any) -> Any:
    return timm.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams={**GREY, "img_mean": (0, 0, 0), **hparams})


def step_of(name: str, magnitude: float, **hparams: Any) -> tuple[Step, Geometry]:
    policy = imported(timm.AutoAugment([[augment_op(name, magnitude, **hparams)]]))
    assert isinstance(policy, SubPolicies)
    [[step]] = [sub.steps for sub in policy.sub_policies]
    return step, policy.geometry


def from_the_border(step: Step, argument: float, size: tuple[int, int]) -> np.ndarray:
    """Return how far (H, W) the source of each pixel is from the border between two source pixels."""
    width, height = size
    y, x = np.mgrid[:height, :width] + 0.5
    turn = math.radians(argument)
    x_source, y_source = {
        "shear_x": lambda: (x + argument * y, y),
        "shear_y": lambda: (x, y + argument * x),
        "translate_x": lambda: (x - argument * width, y),
        "translate_y": lambda: (x, y - argument * height),
        "rotate": lambda: (
            math.cos(turn) * (x - width / 2) - math.sin(turn) * (y - height / 2) + width / 2,
            math.sin(turn) * (x - width / 2) + math.cos(turn) * (y - height / 2) + height / 2,
        ),
    }[step.op]()
    nearest: np.ndarray = np.minimum(abs(x_source - x_source.round()), abs(y_source - y_source.round()))
    return nearest


@pytest.mark.parametrize("magnitude", range(11))
@pytest.mark.parametrize("name", NAMES)
def test_every_op_has_timms_pixels(name: str, magnitude: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step, _ = step_of(name, magnitude)
    if step.op == "posterize" and step.high == 0:
        return  # which Pillow refuses, from some version on
    for sign in (1, -1) if step.signed else (1,):
        # PIL's translations read from where timm's argument points, dastune's move there.
        there = -sign if step.op.startswith("translate") else sign
        for image in photographs():
            expected = timms(augment_op(name, magnitude), there, image, monkeypatch)
            difference = (ours(step, sign, image) - expected).abs()[0].amax(0) * 255
            if OPS[step.op].geometric:
                tied = from_the_border(step, sign * step.high, image.size) < TIED
                assert not ((difference.numpy() > 0.01) & ~tied).any()
            else:
                exact = step.op in ("invert", "equalize", "solarize", "solarize_add", "posterize")
                assert difference.max() <= (0.01 if exact else BLENDED)


def test_the_fill_and_the_reach_of_translations_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    hparams = {"img_mean": (10, 120, 250), "translate_pct": 0.31}
    step, geometry = step_of("TranslateXRel", 7, **hparams)
    assert geometry.fill == (10 / 255, 120 / 255, 250 / 255)
    for image in photographs():
        expected = timms(augment_op("TranslateXRel", 7, **hparams), -1, image, monkeypatch)
        torch.testing.assert_close(ours(step, 1, image, geometry.fill), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("magnitude", [3, 7, 10])
@pytest.mark.parametrize("name", [name for name in NAMES if timm.LEVEL_TO_ARG[name] is not None])
def test_uniform_magnitudes_are_timms(name: str, magnitude: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever timm draws with a number u, dastune's argument at u, or at 1 - u where it falls, must do the same.
    policy = imported(timm.AutoAugment([[augment_op(name, magnitude, magnitude_std=math.inf)]]))
    assert isinstance(policy, SubPolicies)
    drawn = [(sub.weight, sub.steps[0]) for sub in policy.sub_policies]
    step = drawn[-1][1]
    fixed = [step_of(name, at)[0].high for at in (0, 10)]
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    if OPS[step.op].geometric:
        levels = photographs()[0]
    for u in (np.arange(40) + 0.4567) / 40:  # no whole levels, where one draw of 2^53 may differ
        op = augment_op(name, u * magnitude)
        along = u if fixed[0] <= fixed[1] else 1 - u
        # Where there are two steps, the first is what is below 0.
        below = 1 - drawn[-1][0]
        argument = step.low + max(along - below, 0) / (1 - below) * (step.high - step.low)
        at = step.model_copy(update={"low": argument, "high": argument})
        if step.op == "posterize" and round(argument) == 0:
            continue
        there = -1 if step.op.startswith("translate") else 1
        difference = (ours(at, 1, levels) - timms(op, there, levels, monkeypatch)).abs()[0].amax(0) * 255
        if OPS[step.op].geometric:
            tied = from_the_border(at, argument, levels.size) < TIED
            assert not ((difference.numpy() > 0.01) & ~tied).any()
        else:
            # timm adds whole levels only: it cuts what dastune adds.
            assert difference.max() <= {"solarize": 0.01, "posterize": 0.01, "solarize_add": 1.0}.get(step.op, BLENDED)


def call(config: str, **hparams: Any) -> str:
    return f"rand_augment_transform({config!r}, {GREY | hparams})"


@settings(deadline=None, max_examples=40)
@given(
    magnitude=st.integers(0, 10),
    count=st.integers(1, 4),
    probability=st.floats(0.001, 1).map(lambda p: round(p, 6)),
    inc=st.integers(0, 1),
    mstd=st.sampled_from(["", "-mstd101"]),
    grey=st.integers(0, 255),
    reach=st.sampled_from([0.45, 0.1, 1.0]),
)
def test_config_strings_return(
    magnitude: int, count: int, probability: float, inc: int, mstd: str, grey: int, reach: float
) -> None:
    config = f"rand-m{magnitude}-n{count}-p{probability:f}-inc{inc}{mstd}"
    policy = imported(call(config, img_mean=(grey, grey, 7), translate_pct=reach))
    if fewest_bits(policy) == 0:  # which Pillow refuses
        with pytest.raises(UserError, match=r"posterize .* may keep 0 bits"):
            exported_text(policy)
        return
    text = exported_text(policy)
    if magnitude > 0:
        assert f"rand-m{magnitude}-n{count}-p" in text
        assert f"-inc{inc}{mstd}'" in text
    assert shown(imported(text)) == shown(policy)


def fewest_bits(policy: Policy) -> int:
    assert isinstance(policy, Stages)
    return min(math.floor(choice.step.low + 0.5) for choice in policy.stages[0] if choice.step.op == "posterize")


def shown(policy: Policy) -> str:
    """Return the policy's JSON, numbers to nine digits."""
    return str([[(c.step.op, *(round(v, 9) for v in (c.weight, c.step.low, c.step.high, c.step.probability)))
                 for c in stage] for stage in policy.stages]) + str(policy.geometry)  # type: ignore[union-attr]  # fmt: skip


def test_what_the_config_string_means() -> None:
    policy = imported(call("rand-m9-n2-inc1"))
    assert isinstance(policy, Stages)
    assert len(policy.stages) == 2
    steps = {choice.step.op: choice.step for choice in policy.stages[0]}
    assert len(steps) == 15
    assert {step.probability for step in steps.values()} == {0.5}
    assert steps["rotate"] == Step(op="rotate", low=27, high=27, probability=0.5)
    assert steps["color"].low == pytest.approx(0.81)
    assert steps["posterize"].low == 1
    assert policy.geometry == Geometry(interpolation="nearest", shear_about="corner", fill=(128 / 255,))
    one_sided = {choice.step.op: choice.step for choice in imported(call("rand-m2")).stages[0]}["color"]  # type: ignore[union-attr]
    assert (one_sided.signed, one_sided.low) == (False, pytest.approx(-0.54))


@pytest.mark.parametrize("name", ["original", "originalr", "v0", "v0r"])
def test_auto_augment_policies_are_timms(name: str) -> None:
    policy = imported(f"auto_augment_transform({name!r}, {GREY})")
    expected = timm.auto_augment_policy(name, dict(GREY))
    assert isinstance(policy, SubPolicies)
    assert len({sub.weight for sub in policy.sub_policies}) == 1
    for sub, ops in zip(policy.sub_policies, expected, strict=True):
        ops = [op for op in ops if op.prob > 0]
        assert [step.probability for step in sub.steps] == [op.prob for op in ops]
        assert [step.model_copy(update={"probability": 1.0}) for step in sub.steps] == [
            step_of(op.name, op.magnitude)[0] for op in ops
        ]


# Four ops whose results on one image differ, also one after the other.
INVERT = Step(op="invert")
FIXED = [
    INVERT,
    Step(op="solarize", low=0.5, high=0.5, probability=0.7),
    Step(op="posterize", low=2, high=2),
    Step(op="color", low=-0.9, high=-0.9, signed=False, probability=0.4),
]
POLICIES: dict[str, Policy] = {
    "stages": Stages(
        stages=(
            tuple(Choice(weight=w, step=step) for w, step in zip((3, 1, 2, 0), FIXED, strict=True)),
            (Choice(weight=1, step=FIXED[3]), Choice(weight=3, step=Step(op="identity"))),
        )
    ),
    "bits": Stages(stages=((Choice(weight=1, step=Step(op="posterize", low=2, high=4, probability=0.8)),),)),
    "sub-policies": SubPolicies(
        sub_policies=(
            SubPolicy(steps=(FIXED[0], FIXED[3]), weight=3),
            SubPolicy(steps=(FIXED[1], FIXED[2])),
            SubPolicy(steps=()),
        )
    ),
    "equal sub-policies": SubPolicies(sub_policies=(SubPolicy(steps=tuple(FIXED)), SubPolicy(steps=(FIXED[2],)))),
    "cell": Genotype(nodes=((Edge(source=0, step=FIXED[0]), Edge(source=0, step=FIXED[2])),)),
    "nothing": Stages(),
}


@pytest.mark.parametrize("name", POLICIES)
def test_exported_transforms_draw_as_the_policy(name: str) -> None:
    policy, image = POLICIES[name], photographs()[0].crop((4, 4, 8, 8))
    transform = exported(policy)
    draws = 3000
    drawn = Counter(tensor(transform(image)).numpy().tobytes() for _ in range(draws))
    expected = outcomes(policy, image)
    assert set(drawn) <= set(expected)
    for result, probability in expected.items():
        assert drawn[result] / draws == pytest.approx(probability, abs=5 * math.sqrt(probability / draws) + 1e-9)


def outcomes(policy: Policy, image: Image.Image) -> dict[bytes, float]:
    """Return what may become of the image in timm's ops, and how probable each is, by going through all cases."""
    match policy:
        case Genotype():
            return outcomes(policy.paths(), image)
        case Stages():
            ways = [[(c.weight / sum(x.weight for x in stage), [c.step]) for c in stage] for stage in policy.stages]
            found = [(1.0, image)]
            for stage in ways:
                found = [(p * w * q, i) for p, start in found for w, steps in stage for q, i in through(steps, start)]
        case SubPolicies():
            total = sum(sub.weight for sub in policy.sub_policies)
            found = [(sub.weight / total * q, i) for sub in policy.sub_policies for q, i in through(sub.steps, image)]
    summed: dict[bytes, float] = {}
    for probability, result in found:
        if probability > 0:
            key = tensor(result).numpy().tobytes()
            summed[key] = summed.get(key, 0.0) + probability
    return summed


def through(steps: Any, image: Image.Image) -> list[tuple[float, Image.Image]]:
    changes: dict[str, Callable[[Image.Image, float], Image.Image]] = {
        "invert": lambda i, _: timm.invert(i),
        "solarize": lambda i, argument: timm.solarize(i, 128),
        "posterize": lambda i, bits: timm.posterize(i, round(bits)),
        "color": lambda i, change: timm.color(i, 1 + change),
        "identity": lambda i, _: i,
    }
    found = [(1.0, image)]
    for step in steps:
        arguments = [(1.0, step.low)] if step.low == step.high else [(0.25, 2.0), (0.5, 3.0), (0.25, 4.0)]
        found = [(p * (1 - step.probability), i) for p, i in found] + [
            (p * step.probability * share, changes[step.op](i, argument))
            for p, i in found
            for share, argument in arguments
        ]
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_the_text_makes_the_same_transform(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(exported_text(POLICIES[name]), scope)
    assert repr(scope["transform"]) == repr(exported(POLICIES[name])) or "Compose" in repr(scope["transform"])


def test_geometric_ops_of_any_reach_are_exported() -> None:
    steps = (
        Step(op="rotate", low=0, high=135),
        Step(op="rotate", low=7, high=7),
        Step(op="shear_y", low=0.99, high=0.99),
        Step(op="translate_x", low=0, high=1),
        Step(op="translate_y", low=0.2, high=0.2),
    )
    policy = SubPolicies(sub_policies=tuple(SubPolicy(steps=(step,)) for step in steps), geometry=GEOMETRY)
    again = imported(exported(policy))
    assert isinstance(again, SubPolicies)
    assert again.geometry == GEOMETRY
    for sub, step in zip(again.sub_policies, steps, strict=True):
        [found] = sub.steps
        assert (found.op, found.signed) == (step.op, True)
        assert (found.low, found.high) == (pytest.approx(step.low), pytest.approx(step.high))


@pytest.mark.parametrize("name", ["ra", "aa"])
def test_dastunes_own_ranges_are_expressed_or_refused_by_name(name: str) -> None:
    ranged = SPACES[name].ops
    stage = tuple(
        Choice(weight=1, step=Step(op=op.op, low=min(op.low, op.high), high=max(op.low, op.high))) for op in ranged
    )
    with pytest.raises(UserError) as caught:
        exported(Stages(stages=(stage,)))
    message = str(caught.value)
    assert "geometry.interpolation 'bilinear'" in message
    assert "geometry.shear_about 'centre'" in message
    assert ("cutout" in message) == (name == "aa")
    for op in OPS:
        assert op == "cutout" or f"  {op}" not in message
    without = tuple(choice for choice in stage if choice.step.op != "cutout")
    assert exported(Stages(stages=(without,), geometry=GEOMETRY))


def stage_of(*steps: Step, geometry: Geometry = GEOMETRY) -> Stages:
    return Stages(stages=(tuple(Choice(weight=1, step=step) for step in steps),) * 2, geometry=geometry)


TURN, PUSH = Step(op="rotate", low=9, high=9), Step(op="translate_x", low=0.1, high=0.1)


@pytest.mark.parametrize(
    ("policy", "parts"),
    [
        (stage_of(Step(op="gaussian_replace"), TURN), ["gaussian_replace (weight 1 in stage 0, weight 1 in stage 1)"]),
        (stage_of(Step(op="cutout", high=0.2)), ["cutout", "no such transform; take it out"]),
        (
            stage_of(Step(op="rotate", low=5, high=20)),
            ["argument is 5 to 20, of either sign; timm takes a fixed argument"],
        ),
        (stage_of(Step(op="rotate", low=5, high=5, signed=False)), ["argument is 5; timm", "of either sign"]),
        (stage_of(Step(op="color", low=0.95, high=0.95)), ["argument is 0.95, of either sign"]),
        (stage_of(Step(op="color", low=-0.5, high=0.5, signed=False)), ["argument is -0.5 to 0.5"]),
        (stage_of(Step(op="solarize", low=0, high=1)), ["argument is 0 to 1", "ends at 256/255"]),
        (stage_of(Step(op="solarize_add", low=0.6, high=0.6)), ["argument is 0.6", "up to 110/255"]),
        (stage_of(Step(op="posterize", low=0, high=3)), ["it may keep 0 bits"]),
        (stage_of(TURN, geometry=Geometry()), ["geometry.interpolation 'bilinear'", "write 'nearest'"]),
        (stage_of(PUSH, geometry=Geometry(interpolation="nearest", whole_pixels=True)), ["whole_pixels true"]),
        (stage_of(TURN, geometry=Geometry(interpolation="nearest", fill=(0, 1))), ["geometry.fill (0.0, 1.0)", "3"]),
        (stage_of(TURN, geometry=Geometry(interpolation="nearest", sampling="once")), ["geometry.sampling 'once'"]),
    ],
)
def test_what_timm_cannot_express_is_refused_by_name(policy: Policy, parts: list[str]) -> None:
    for export in (exported, exported_text):
        with pytest.raises(UserError) as caught:
            export(policy)
        for part in parts:
            assert part in str(caught.value)
        assert "dastune.transform, which applies every policy" in str(caught.value)


@pytest.mark.parametrize(
    "threshold", [*(ninth / 9 for ninth in range(10)), 0.3, 200 / 255, 0.99999, 255.5 / 255, 256 / 255]
)
def test_thresholds_between_grey_levels_are_those_of_the_next_one(threshold: float) -> None:
    # Ninths are those of torchvision's AutoAugment.
    step = Step(op="solarize", low=threshold, high=threshold)
    for image in (Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB"), photographs()[0]):
        transform = exported(Stages(stages=((Choice(weight=1, step=step),),)))
        torch.testing.assert_close(tensor(transform(image)), ours(step, 1, image), atol=1e-6, rtol=0)


def test_transforms_inside_of_transforms_are_refused_by_type() -> None:
    for policy in (POLICIES["stages"], POLICIES["sub-policies"], POLICIES["bits"], POLICIES["nothing"]):
        with pytest.raises(UserError, match=r"Compose|RandAugment"):
            imported(exported(policy))


def test_geometry_without_geometric_ops_and_what_never_happens_are_no_matter() -> None:
    never = Step(op="gaussian_replace", probability=0)
    policy = Stages(
        stages=((Choice(weight=1, step=never), Choice(weight=0, step=TURN), Choice(weight=2, step=FIXED[0])),)
    )
    assert "Invert" in exported_text(policy)
    # Sampled once and sampled for each are the same where another op always comes between.
    apart = SubPolicies(
        sub_policies=(SubPolicy(steps=(TURN, FIXED[0], PUSH)),),
        geometry=Geometry(interpolation="nearest", sampling="once"),
    )
    assert "Rotate" in exported_text(apart)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("rand-m9-mstd0.5-inc1", ["mstd0.5", "write mstd0, or mstd101", "interpolation", "{'interpolation': 0}"]),
        (call("rand-m9-n2-tweights"), ["weights with n2", "write n1"]),
        (call("rand-m15-mmax20-inc1"), ["ColorIncreasing at m15", "SolarizeAdd at m15", "write m10"]),
        (call("rand-m15-mstd101"), ["m15 with mstd101", "write m10"]),
        (call("rand-m9-t3a"), ["GaussianBlur: dastune has no such op"]),
        (call("rand-m9-n101"), ["n101 is more than 100"]),
        ("augmix-m3-w3", ["augmix blends"]),
        ("rnd-m9", ["'rnd' begins no config string", "did you mean 'rand'?"]),
        ("rand-m9-q3", ["'q3' is no section", "m9, n2, p0.5"]),
        ("rand-m9-tweight", ["'tweight' is no section"]),
        ("original-m3", ["'m3' is no section"]),
        (call("rand-m9", interpolaton=0), ["did you mean 'interpolation'?"]),
        (call("rand-m9", translate_pct="far"), ["translate_pct must be a number"]),
        (call("rand-m9", img_mean=(1, 2)), ["img_mean must be a grey level in 0 .. 255, or three, not (1, 2)"]),
        (call("rand-m9", img_mean=256), ["img_mean must be a grey level"]),
        (call("rand-m9", img_mean=([0], 0, 0)), ["img_mean must be a grey level"]),
        ("rand_augment_transform('rand-m9', {'translate_pct': 1e999})", ["translate_pct must be a number"]),
        ("rand_augment_transform('rand-m9', {}, {'Invert': 0})", ["weights of transforms must be"]),
        ("rand_augment_transform('rand-m9', {}, {'Invert': -1, 'Rotate': 2})", ["weights of transforms must be"]),
        ("rand_augment_transform('rand-m9', {}, 'tweights')", ["transforms must be a list"]),
        ("rand_augment_transform('rand-m9', {}, [['Invert']])", ["plain values"]),
        ("rand_augment_transform('rand-m9', {'interpolation': 0}, ['Rotat'])", ["did you mean 'Rotate'?"]),
        ("rand_augment_transform('rand-m9', {'interpolation': 0}, ['TranslateX'])", ["moves by pixels"]),
        ("rand_augment_transform(open('x'))", ["plain values"]),
        ("rand_augment_transform(3)", ["plain values"]),
        ("print('rand-m9')", ["no config string"]),
        ("(" * 10_000, ["no config string"]),
        ("-" * 9_999 + "1", ["begins no config string"]),
        (3, ["not from int"]),
        ("rand_augment_transform('rand-m9', {'interpolation': 0})" + " " * 10_000, ["has 10,055 characters"]),
        ("\0", ["no config string"]),
        ("x" * 9_999, [f"'{'x' * 57}...' begins no config string"]),
        (f"rand-{'x' * 9_000}", [f"'{'x' * 57}...' is no section"]),
        ("rand_augment_transform('rand-m9', {'\x1b': 0})", ["'\\x1b' is no hparam"]),
        (f"rand_augment_transform('rand-m9', {{'img_mean': 0x{'f' * 5000}}})", ["not a number of thousands of digits"]),
        ("rand_augment_transform('rand-m9', {}, {'Invert': 1.5, 'Rotate': 1" + "0" * 400 + "})", ["plain values"]),
        (call("rand-m99999-mmax99999"), ["Rotate at m99999: dastune has no such rotate", "is not within"]),
        (timm.RandAugment([tv.Compose([])], 1), ["Compose: transforms inside of transforms are not read back"]),
        (timm.AutoAugment([[augment_op("Solarize", 9, magnitude_std=math.inf)] * 30]), ["would be 1073741824 sub-pol"]),
        (timm.AutoAugment([[timm.RandAugment([], 1)]]), ["RandAugment: transforms inside of transforms"]),
    ],
)
def test_what_no_policy_can_mean_is_refused_by_name(source: Any, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        imported(source)
    for part in parts:
        assert part in str(caught.value)
