"""The controls: their policies in closed form, and that they are done at once."""

import math
from collections.abc import Callable

import pytest
import torch

from dastune.augment.policies import PolicyTransform
from dastune.exchange.torchvision import imported
from dastune.ops.spaces import TORCHVISION
from dastune.policy.policy import NO_AUGMENTATION, Choice, Policy, Stages, Step, op_shares
from dastune.policy.space import SearchSpace
from dastune.search.controls import Control, no_policy, trivial_policy, trivial_wide_policy, uniform_policy
from dastune.search.search import Search, SearchProgress

Spaces = Callable[..., SearchSpace]


def test_trivial_is_one_uniform_stage_over_whole_ranges(space_of: Spaces) -> None:
    (stage,) = trivial_policy(space_of("posterize", "rotate", "constant")).stages
    assert [choice.weight for choice in stage] == [1, 1, 1]
    steps = [Step(op="posterize", low=4, high=8), Step(op="rotate", high=30), Step(op="constant")]
    assert [choice.step for choice in stage] == steps


def test_trivial_wide_is_what_is_read_from_torchvision() -> None:
    ours, theirs = trivial_wide_policy(), imported("trivial_augment_wide", (32, 32))
    assert isinstance(theirs, Stages)
    assert ours.geometry == theirs.geometry == TORCHVISION

    def ordered(policy: Stages) -> list[Choice]:
        [stage] = policy.stages
        return sorted(stage, key=lambda choice: (choice.step.op, choice.step.low))

    assert ordered(ours) == ordered(theirs)


def test_trivial_wide_has_31_magnitudes_of_its_ranges() -> None:
    [stage] = trivial_wide_policy().stages
    weights: dict[str, float] = {}
    for choice in stage:
        weights[choice.step.op] = weights.get(choice.step.op, 0) + choice.weight
    assert len(weights) == 14
    assert weights == pytest.approx(dict.fromkeys(weights, 1.0))
    arguments = {op: [choice.step.low for choice in stage if choice.step.op == op] for op in weights}
    assert arguments["shear_x"] == pytest.approx([0.99 * k / 30 for k in range(31)])
    assert arguments["rotate"] == pytest.approx([4.5 * k for k in range(31)])
    assert arguments["solarize"] == pytest.approx([1 - k / 30 for k in range(31)], abs=1e-6)
    assert arguments["sharpness"] == pytest.approx([0.033 * k for k in range(31)])
    bits = {choice.step.low: choice.weight for choice in stage if choice.step.op == "posterize"}
    assert bits == pytest.approx({8: 3 / 31, 2: 3 / 31} | dict.fromkeys(range(3, 8), 5 / 31))
    pixels = [32 * fraction for fraction in arguments["translate_y"]]
    # The 15th step is 16 pixels, of which torchvision's float32 makes 15.999999 and then 15.
    assert pixels == [15 if k == 15 else 32 * k // 30 for k in range(31)]
    signed = {choice.step.op for choice in stage if choice.step.signed}
    moving = {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}
    assert signed == moving | {"color", "contrast", "brightness", "sharpness"}


def test_uniform_is_two_uniform_stages_over_whole_ranges_at_probability_one_half(space_of: Spaces) -> None:
    policy = uniform_policy(space_of("posterize", "rotate", "identity"))
    steps = [
        Step(op="posterize", low=4, high=8, probability=0.5),
        Step(op="rotate", low=0, high=30, probability=0.5),
        Step(op="identity", probability=0.5),
    ]
    stage = tuple(Choice(weight=1, step=step) for step in steps)
    assert policy == Stages(stages=(stage, stage))
    # Of a place for an op, half is not used, and a third of the other half is identity.
    assert op_shares(policy) == pytest.approx({"posterize": 1 / 6, "rotate": 1 / 6, "identity": 2 / 3})


def test_uniform_applies_ops_as_often_as_with_probabilities_drawn_for_each_image(space_of: Spaces) -> None:
    """Over identity and invert, an image ends inverted if just one of its two ops is an invert that is applied.

    An op is an invert with probability 1/2, and applied with the mean of a uniform probability, 1/2: so it is
    2 x 1/4 x 3/4 of the images. The same by the definition: ops, probabilities and coins drawn one by one.
    """
    count, share = 20_000, 3 / 8
    images = torch.zeros(count, 1, 2, 2)
    changed = PolicyTransform(uniform_policy(space_of("identity", "invert")), torch.Generator().manual_seed(0))(images)
    draws_3BN = torch.rand(3, count, 2, generator=torch.Generator().manual_seed(1))
    applied_BN = (draws_3BN[0] < 0.5) & (draws_3BN[2] < draws_3BN[1])
    for inverted in (changed[:, 0, 0, 0].sum(), (applied_BN.sum(1) == 1).sum()):
        assert abs(float(inverted) - count * share) < 4 * math.sqrt(count * share * (1 - share))


def test_no_policy_is_no_augmentation() -> None:
    assert no_policy() == NO_AUGMENTATION


@pytest.mark.parametrize("policy", [no_policy(), trivial_wide_policy()])
def test_a_control_is_done_at_once_and_keeps_its_policy(policy: Policy) -> None:
    control: Search = Control(policy)
    assert control.step(0.0) == SearchProgress(steps=0, account="search", done=True)
    control.load_state_dict(control.state_dict())
    assert control.best() == policy
    assert control.summary() == {}
    assert control.state_dict() == {}
    assert control.space_size_log10 == 0
