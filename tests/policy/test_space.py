"""SearchSpace: steps at magnitudes and over ranges."""

import pytest

from dastune.policy.policy import Step
from dastune.policy.space import SearchSpace, SpaceOp


def test_a_fixed_magnitude() -> None:
    assert SpaceOp("posterize", 8, 4, False).at(0.25, 0.5) == Step(op="posterize", low=7, high=7, probability=0.5)
    assert SpaceOp("rotate", 0, 30, True).at(1.0) == Step(op="rotate", low=30, high=30)


def test_the_range_of_an_op_that_falls() -> None:
    assert SpaceOp("posterize", 8, 4, False).over_range() == Step(op="posterize", low=4, high=8)


def test_magnitude_levels_are_spread_evenly() -> None:
    space = SearchSpace((SpaceOp("rotate", 0, 30, True),), magnitude_levels=11)
    assert [space.magnitude(level) for level in range(11)] == pytest.approx([level / 10 for level in range(11)])


def test_names_and_noise() -> None:
    space = SearchSpace(
        (SpaceOp("identity", 0, 0, False), SpaceOp("rotate", 0, 30, True), SpaceOp("constant", 0, 0, False))
    )
    assert len(space) == 3
    assert space.names == ("identity", "rotate", "constant")
    assert space.uniform_noise_share == pytest.approx(1 / 3)
