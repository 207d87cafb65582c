"""SearchSpace: steps at magnitudes and over ranges."""

import pytest

from dastune.ops.spaces import TORCHVISION
from dastune.ops.table import OPS
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


def test_split_ranges_are_consecutive_and_cover_the_range() -> None:
    space = SearchSpace(
        (
            SpaceOp("identity", 0, 0, False),
            SpaceOp("rotate", 0, 30, True),
            SpaceOp("posterize", 8, 5, False),
            SpaceOp("brightness", 0.4, 0.4, True),
            SpaceOp("tiny_crop", 0.3, 0.1, False),
            SpaceOp("constant", 0, 0, False),
        ),
        magnitude_levels=7,
        geometry=TORCHVISION,
    )
    split = space.split(3)
    assert [(op.name, op.signed) for op in split.ops] == [
        *[("identity", False), *[("rotate", True)] * 3, *[("posterize", False)] * 3, ("brightness", True)],
        *[*[("tiny_crop", False)] * 3, ("constant", False)],
    ]
    assert [(op.low, op.high) for op in split.ops[1:4]] == [(0, 10), (10, 20), (20, 30)]
    assert [(op.low, op.high) for op in split.ops[4:7]] == [(8, 7), (7, 6), (6, 5)]
    assert (split.ops[8].low, split.ops[10].high) == (0.3, 0.1)  # to the last bit
    assert [op.high for op in split.ops[8:10]] == [op.low for op in split.ops[9:11]]
    assert [op.high - op.low for op in split.ops[8:11]] == pytest.approx([-0.2 / 3] * 3)
    assert (split.magnitude_levels, split.geometry) == (7, TORCHVISION)
    assert space.uniform_noise_share == pytest.approx(2 / 6)
    assert split.uniform_noise_share == pytest.approx(2 / 6)  # parts of an op share what is its
    assert sum(split.uniform_shares) == pytest.approx(1)


def test_the_parts_of_a_split_space_are_named_by_their_ranges() -> None:
    space = SearchSpace(
        (SpaceOp("invert", 0, 0, False), SpaceOp("rotate", 0, 30, True), SpaceOp("cutout", 0, 0.2, False))
    )
    assert [op.ranged_text for op in space.split(2).ops] == [
        "invert",
        "rotate 0 to 15 degrees",
        "rotate 15 to 30 degrees",
        "cutout 0 to 0.1 of the shorter side",
        "cutout 0.1 to 0.2 of the shorter side",
    ]


def test_split_in_one_part_is_the_space() -> None:
    space = SearchSpace((SpaceOp("invert", 0, 0, False), SpaceOp("rotate", 0, 30, True)))
    assert space.split(1) == space
    with pytest.raises(ValueError, match="parts must be at least 1, got 0"):
        space.split(0)


@pytest.mark.parametrize("parts", [2, 3, 4, 7, 10])
def test_every_part_of_every_op_is_a_legal_step_of_its_own(parts: int) -> None:
    ops = tuple(SpaceOp(op.name, op.low, op.high, op.signed) for op in OPS.values())
    split = SearchSpace(ops).split(parts)
    assert (
        len({op.ranged_text for op in split.ops})
        == len(split)
        == sum(parts if op.argument else 1 for op in OPS.values())
    )
    for op in split.ops:
        step = op.over_range()
        assert (step.op, step.signed) == (op.name, op.signed)
        assert step.low < step.high or not OPS[op.name].argument
        assert step.low <= op.at(0.5).low <= step.high
