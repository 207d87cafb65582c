"""Published policies: AutoAugment's as torchvision lists them, RandAugment's (N, M) as its paper prints them."""

import pytest
from torchvision.transforms import v2

from dastune.ops.spaces import TORCHVISION
from dastune.policy.policy import Stages, Step, SubPolicies
from dastune.policy.references import REFERENCES
from dastune.search.published import published_policy

OURS = {
    **{"ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x", "TranslateY": "translate_y"},
    **{"Rotate": "rotate", "Brightness": "brightness", "Color": "color", "Contrast": "contrast"},
    **{"Sharpness": "sharpness", "Posterize": "posterize", "Solarize": "solarize", "AutoContrast": "auto_contrast"},
    **{"Equalize": "equalize", "Invert": "invert"},
}
# The paper's scale, 0 to 9, of torchvision's AutoAugment: the argument at level 9, from 0 on.
ENDS = {
    **{"shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331, "rotate": 30.0},
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), 0.9),
}
# arXiv 1909.13719, sections 4.1 to 4.3 and its appendix, typed again.
PRINTED = {
    "ra-cifar10-wrn-28-2": (3, 4),
    "ra-cifar10-wrn-28-10": (3, 5),
    "ra-cifar10-shake-shake": (3, 9),
    "ra-cifar10-pyramid": (3, 7),
    "ra-cifar100-wrn-28-2": (1, 2),
    "ra-svhn-core-wrn": (3, 9),
    "ra-svhn-wrn-28-2": (3, 5),
    "ra-svhn-wrn-28-10": (3, 7),
    "ra-imagenet-resnet-50": (2, 9),
}


def test_every_reference_is_of_one_of_the_two() -> None:
    assert set(REFERENCES) == {*PRINTED, *(f"aa-{policy.value}" for policy in v2.AutoAugmentPolicy)}
    for reference in REFERENCES.values():
        assert bool(reference.auto_augment) != bool(reference.rand_augment)


@pytest.mark.parametrize("data", list(v2.AutoAugmentPolicy))
def test_auto_augments_are_torchvisions_lists(data: v2.AutoAugmentPolicy) -> None:
    policy = published_policy(f"aa-{data.value}")
    assert isinstance(policy, SubPolicies)
    assert policy.geometry == TORCHVISION
    assert {sub.weight for sub in policy.sub_policies} == {1}
    listed = v2.AutoAugment(data)._get_policies(data)
    assert len(listed) == len(policy.sub_policies) == 25
    for entries, sub in zip(listed, policy.sub_policies, strict=True):
        assert [(OURS[name], share) for name, share, _ in entries] == [(s.op, s.probability) for s in sub.steps]
        for (_, _, level), step in zip(entries, sub.steps, strict=True):
            expected = ENDS.get(step.op, 0.0) * (level or 0) / 9
            if step.op == "solarize":
                expected = 1 - level / 9
            if step.op == "posterize":
                expected = 8 - round(4 * level / 9)
            assert step.low == step.high == pytest.approx(expected, abs=1e-6)
            assert step.signed == (step.op in ENDS)


@pytest.mark.parametrize(("name", "point"), PRINTED.items(), ids=PRINTED)
def test_rand_augments_are_the_papers_over_its_printed_ranges(name: str, point: tuple[int, int]) -> None:
    n, m = point
    policy = published_policy(name)
    assert isinstance(policy, Stages)
    assert policy.geometry == TORCHVISION
    assert len(policy.stages) == n
    assert len(set(policy.stages)) == 1
    steps = {choice.step.op: choice.step for choice in policy.stages[0]}
    assert len(steps) == 14
    assert {choice.weight for choice in policy.stages[0]} == {1}
    for op, end in ENDS.items():
        moves = op not in ("color", "contrast", "brightness", "sharpness")
        expected = end * m / 10 if moves else -end + 2 * end * m / 10
        assert steps[op].low == steps[op].high == pytest.approx(expected)
        assert steps[op].signed == moves
    assert steps["solarize"].low == pytest.approx(256 / 255 * m / 10)
    assert steps["posterize"].low == round(4 + 0.4 * m)
    for op in ("identity", "auto_contrast", "equalize"):
        assert steps[op] == Step(op=op)


def test_the_policy_of_wide_resnet_28_2_on_cifar10_by_hand() -> None:
    policy = published_policy("ra-cifar10-wrn-28-2")
    assert isinstance(policy, Stages)
    steps = {choice.step.op: choice.step for choice in policy.stages[0]}
    assert steps["rotate"] == Step(op="rotate", low=12, high=12)
    assert steps["posterize"] == Step(op="posterize", low=6, high=6)
    assert steps["brightness"].low == pytest.approx(-0.18)
    assert not steps["brightness"].signed
