"""RandAugment: the order of its grid, its policies, and TPE in the grid's place."""

import io
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from dastune.augment.policies import PolicyTransform
from dastune.exchange.torchvision import imported
from dastune.ops.spaces import SPACES
from dastune.ops.table import OPS
from dastune.policy.policy import Policy, Stages, Step, SubPolicies, SubPolicy
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.rand_augment import RandAugmentProposer, rand_augment_policy, spread_order
from dastune.search.search import Proposer

Spaces = Callable[..., SearchSpace]
TEN = tuple(range(1, 11))


def named(name: str) -> SearchSpace:
    space = SPACES[name]
    return SearchSpace(tuple(SpaceOp(op.op, op.low, op.high, op.signed) for op in space.ops), geometry=space.geometry)


def stages_of(policy: Policy | None) -> Stages:
    assert isinstance(policy, Stages)
    return policy


# The grid.


@pytest.mark.parametrize("seed", range(5))
def test_the_grid_is_walked_from_coarse_to_fine(seed: int) -> None:
    order = spread_order((1, 2, 3), TEN, seed)
    assert sorted(order) == list(product((1, 2, 3), TEN))
    assert set(order[:4]) == {(1, 1), (1, 10), (3, 1), (3, 10)}
    assert {order[0][0], order[1][0]} == {1, 3}
    assert {order[0][1], order[1][1]} == {1, 10}  # the second is across the grid
    assert order[4] in {(2, 5), (2, 6)}
    for k in range(5, 31):  # a walk cut anywhere has no M farther than 2 / sqrt(k) of the range from one it has seen
        gaps = [min(abs(m - seen) for _, seen in order[:k]) for m in TEN]
        assert max(gaps) / 9 <= 2 / math.sqrt(k)


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_walk_of_the_whole_grid_has_seen_its_corners_and_its_middle(seed: int) -> None:
    order = spread_order(TEN, TEN, seed)
    assert sorted(order) == list(product(TEN, TEN))
    assert set(order[:4]) == set(product((1, 10), (1, 10)))
    assert order[4] in set(product((5, 6), (5, 6)))
    for k in (9, 16, 25, 49):  # no point is farther than this from one that was seen: covering by squares
        farthest = max(min(math.dist(point, seen) for seen in order[:k]) for point in order)
        assert farthest / 9 <= 2 / math.sqrt(k)


def test_the_seed_decides_the_order_of_the_grid() -> None:
    orders = [tuple(spread_order((1, 2, 3), TEN, seed)) for seed in range(6)]
    assert len(set(orders)) == 6
    assert orders[0] == tuple(spread_order((1, 2, 3), TEN, 0))
    assert len({order[0] for order in orders}) > 1


def test_a_grid_of_one_column_or_one_point_is_walked_too() -> None:
    assert sorted(spread_order((2,), (1, 5, 9), 0)[:2]) == [(2, 1), (2, 9)]
    assert spread_order((2,), (4,), 0) == [(2, 4)]


def test_the_grid_is_asked_once_through_in_its_order(space_of: Spaces) -> None:
    proposer: Proposer = RandAugmentProposer(space_of("rotate", "identity"), 5, n=(1, 2), m=(2, 5, 8))
    assert proposer.keep == 1
    assert proposer.space_size_log10 == pytest.approx(math.log10(6))
    policies = []
    while (policy := proposer.ask()) is not None:
        policies.append(policy)
        proposer.tell(policy, 0.5)
    found = [(len(stages_of(p).stages), round(stages_of(p).stages[0][0].step.low / 3)) for p in policies]
    assert found == spread_order((1, 2), (2, 5, 8), 5)
    assert proposer.ask() is None


# Its policies.


def test_a_policy_is_n_uniform_stages_at_one_magnitude(space_of: Spaces) -> None:
    space = space_of("rotate", "identity", "invert", "gaussian_replace")
    policy = RandAugmentProposer(space, 0, n=(3,), m=(5,)).policy(3, 5)
    assert len(policy.stages) == 3
    for stage in policy.stages:
        assert [choice.step.op for choice in stage] == list(space.names)
        assert {choice.weight for choice in stage} == {1}
        assert stage[0].step == Step(op="rotate", low=15, high=15)


@pytest.mark.parametrize(("scale", "largest"), [("paper", 10), ("torchvision", 30)])
def test_the_largest_m_of_a_scale_is_the_end_of_the_range(scale: Any, largest: int, space_of: Spaces) -> None:
    space = space_of("solarize")
    proposer = RandAugmentProposer(space, 0, n=[1], m=[0, largest], scale=scale)
    arguments = [proposer.policy(1, m).stages[0][0].step.low for m in (0, largest // 2, largest)]
    low, high = OPS["solarize"].low, OPS["solarize"].high
    assert arguments == pytest.approx([low, (low + high) / 2, high])
    with pytest.raises(ValueError, match=rf"m must lie in 0 .. {largest}, the scale {scale}; got \[5, {largest + 1}\]"):
        RandAugmentProposer(space, 0, n=[1], m=[5, largest + 1], scale=scale)


def test_over_torchvisions_space_and_scale_it_is_torchvisions_at_every_n_and_m() -> None:
    proposer = RandAugmentProposer(named("ra-torchvision"), 0, n=range(1, 5), m=range(31), scale="torchvision")
    for m in range(31):
        theirs = stages_of(imported(v2.RandAugment(num_ops=1, magnitude=m)))
        for n in range(1, 5):
            policy = proposer.policy(n, m)
            assert policy.geometry == theirs.geometry
            assert policy.stages == (policy.stages[0],) * n
            ours = {choice.step.op: choice for choice in policy.stages[0]}
            assert len(ours) == len(policy.stages[0])
            assert ours.keys() == {choice.step.op for choice in theirs.stages[0]}
            for choice in theirs.stages[0]:
                step = ours[choice.step.op].step
                assert ours[step.op].weight == choice.weight
                assert (step.signed, step.probability) == (choice.step.signed, choice.step.probability)
                # torchvision's are float32; bits are whole.
                tolerance = 0 if step.op == "posterize" else 1e-6
                assert step.low == step.high == pytest.approx(choice.step.low, rel=tolerance, abs=tolerance)
    assert stages_of(imported(v2.RandAugment(num_ops=4, magnitude=9))).stages == (
        stages_of(imported(v2.RandAugment(num_ops=1, magnitude=9))).stages * 4
    )


def test_over_the_papers_space_it_goes_in_the_printed_direction() -> None:
    proposer = RandAugmentProposer(named("ra-paper"), 0, n=[1], m=TEN)
    weak, half, end = ({c.step.op: c.step for c in proposer.policy(1, m).stages[0]} for m in (0, 5, 10))
    printed = {
        **{"shear_x": (0, 0.15, 0.3), "shear_y": (0, 0.15, 0.3), "rotate": (0, 15, 30), "posterize": (4, 6, 8)},
        **dict.fromkeys(("translate_x", "translate_y"), (0, 75 / 331, 150 / 331)),
        **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), (-0.9, 0, 0.9)),
        **dict.fromkeys(("identity", "auto_contrast", "equalize"), (0, 0, 0)),
        "solarize": (0, 128 / 255, 256 / 255),
    }
    assert weak.keys() == half.keys() == end.keys() == printed.keys()
    for op, arguments in printed.items():
        assert [steps[op].low for steps in (weak, half, end)] == pytest.approx(arguments, abs=1e-12)
        assert half[op].signed == (op in ("shear_x", "shear_y", "rotate", "translate_x", "translate_y"))


@pytest.mark.parametrize(("low", "high"), [(8.0, 4.0), (8.0, 3.0), (4.0, 8.0), (8.0, 2.0), (7.5, 0.5), (6.0, 6.0)])
@pytest.mark.parametrize("largest", [10, 30])
def test_whole_bits_are_those_that_the_op_takes_of_fractions(low: float, high: float, largest: int) -> None:
    images = torch.arange(256).view(1, 1, 16, 16) / 255  # every grey level
    op = SpaceOp("posterize", low, high, signed=False)
    space = SearchSpace((op,))
    for m in range(largest + 1):
        [[choice]] = rand_augment_policy(space, 1, m / largest).stages
        assert choice.step.low == choice.step.high == int(choice.step.low)
        whole, fraction = (
            PolicyTransform(SubPolicies(sub_policies=(SubPolicy(steps=(step,)),)), torch.Generator())(images)
            for step in (choice.step, op.at(m / largest))
        )
        assert torch.equal(whole, fraction)


# TPE.


def test_tpe_gathers_round_the_best_point(space_of: Spaces) -> None:
    """A smooth score with its peak at N = 2, M = 21: after 25 points TPE proposes nearer to it than chance would."""
    space = space_of("rotate", "identity")
    m_axis = range(3, 31, 3)
    shape: dict[str, Any] = {"n": (1, 2, 3), "m": m_axis, "scale": "torchvision"}
    grid = RandAugmentProposer(space, 0, **shape)
    place = {grid.policy(n, m): (n, m) for n in (1, 2, 3) for m in m_axis}

    def distance(policy: Policy) -> float:
        n, m = place[stages_of(policy)]
        return abs(n - 2) / 2 + abs(m - 21) / 27

    late = []
    for seed in range(4):
        proposer = RandAugmentProposer(space, seed, search="tpe", **shape)
        assert proposer.space_size_log10 == pytest.approx(math.log10(30))
        for _ in range(40):
            policy = proposer.ask()
            assert policy is not None
            late.append(distance(policy))
            proposer.tell(policy, 1 - late[-1])
        del late[-40:-15]
    chance = sum(map(distance, place)) / len(place)
    assert sum(late) / len(late) < 0.6 * chance


@pytest.mark.parametrize("search", ["grid", "tpe"])
def test_resuming_with_policies_asked_and_not_told_is_not_noticed(search: Any, space_of: Spaces) -> None:
    def make(seed: int) -> RandAugmentProposer:
        return RandAugmentProposer(space_of("rotate", "invert"), seed, search=search, n=(1, 2), m=TEN)

    def play(proposer: RandAugmentProposer, asked: list[Policy], rounds: int) -> list[Policy]:
        """Ask for three more policies than are told, and tell the earliest."""
        for _ in range(rounds):
            while len(asked) < 4:
                policy = proposer.ask()
                assert policy is not None
                asked.append(policy)
            told = asked.pop(0)
            proposer.tell(told, 1 / (1 + len(stages_of(told).stages) + stages_of(told).stages[0][0].step.low))
        return asked

    unbroken, first, second = make(0), make(0), make(1)
    expected = play(unbroken, play(unbroken, [], 7), 5)
    pending = play(first, [], 7)
    second.ask()  # what a new search does before it hears that it is resumed
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    play(first, list(pending), 1)  # the state is a copy
    second.load_state_dict(torch.load(file, weights_only=True))
    assert play(second, pending, 5) == expected
