"""What every Proposer keeps to (one contract over a table), and what each proposes."""

import io
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from dastune.ops.table import OPS
from dastune.policy.policy import NO_AUGMENTATION, Policy, Stages, Step, SubPolicies, SubPolicy
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.auto_augment import AutoAugmentProposer, PolicyShape
from dastune.search.controls import Control, no_policy, trivial_policy
from dastune.search.rand_augment import RandAugmentProposer, spread_order
from dastune.search.random_policies import RandomProposer
from dastune.search.search import Proposer, Search, SearchProgress
from dastune.search.tpe import TPEProposer


def space_of(*names: str) -> SearchSpace:
    return SearchSpace(tuple(SpaceOp(name, OPS[name].low, OPS[name].high, OPS[name].signed) for name in names))


SPACE = space_of("rotate", "identity", "invert", "gaussian_replace")
PROPOSERS: dict[str, Callable[[int], Proposer]] = {
    "auto_augment": lambda seed: AutoAugmentProposer(SPACE, seed),
    "rand_augment": lambda seed: RandAugmentProposer(SPACE, seed),
    "rand_augment_tpe": lambda seed: TPEProposer(SPACE, seed, n=(1, 2, 3), m=tuple(range(1, 11))),
    "random": lambda seed: RandomProposer(SPACE, seed),
}
every_proposer = pytest.mark.parametrize("make", PROPOSERS.values(), ids=PROPOSERS)


def asked(proposer: Proposer) -> Policy:
    policy = proposer.ask()
    assert policy is not None
    return policy


def rewarded(policy: Policy) -> float:
    """A made-up score of a policy: any number in [0, 1] will do, if it is always the same."""
    return sum(map(ord, policy.model_dump_json())) % 101 / 100


def parts(policy: Policy) -> tuple[SubPolicy, ...]:
    assert isinstance(policy, SubPolicies)
    return policy.sub_policies


def play(proposer: Proposer, count: int) -> list[Policy]:
    policies = []
    for _ in range(count):
        policies.append(asked(proposer))
        proposer.tell(policies[-1], rewarded(policies[-1]))
    return policies


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


# The contract.


@every_proposer
def test_before_the_first_tell_the_best_needs_no_search(make: Callable[[int], Proposer]) -> None:
    proposer = make(0)
    assert proposer.best() == NO_AUGMENTATION
    proposer.ask()
    assert proposer.best() == NO_AUGMENTATION


@every_proposer
def test_the_seed_decides(make: Callable[[int], Proposer]) -> None:
    assert play(make(3), 6) == play(make(3), 6)
    assert play(make(3), 6) != play(make(4), 6)


@every_proposer
@pytest.mark.parametrize("told", [0, 1, 5, 6])  # before, within and after a batch of the controller
def test_resuming_is_not_noticed(make: Callable[[int], Proposer], told: int) -> None:
    unbroken, first, second = make(0), make(0), make(1)
    expected = play(unbroken, 2 * told + 2)
    start = play(first, told)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second.best() == first.best()
    assert start + play(second, told + 2) == expected
    assert second.best() == unbroken.best()


@every_proposer
@pytest.mark.parametrize("told", [0, 1, 6])
def test_resuming_between_ask_and_tell_is_not_noticed(make: Callable[[int], Proposer], told: int) -> None:
    unbroken, first, second = make(0), make(0), make(1)
    expected = play(unbroken, told + 4)
    start = [*play(first, told), asked(first)]
    second.ask()  # what a new search does before it hears that it is resumed
    second.load_state_dict(through_a_file(first.state_dict()))
    second.tell(start[-1], rewarded(start[-1]))
    assert start + play(second, 3) == expected
    assert second.best() == unbroken.best()


@every_proposer
def test_state_does_not_change_afterwards(make: Callable[[int], Proposer]) -> None:
    first, second = make(0), make(1)
    play(first, 3)
    state = first.state_dict()
    expected = play(first, 4)
    second.load_state_dict(state)
    assert play(second, 4) == expected


# AutoAugment and random policies.


def test_decisions_become_steps_in_order() -> None:
    shape = PolicyShape(SPACE, sub_policies=2, steps_per_sub_policy=2)
    policy = shape.policy([0, 10, 9, 1, 0, 0, 2, 3, 4, 0, 5, 3])
    assert [step for sub in policy.sub_policies for step in sub.steps] == [
        Step(op="rotate", low=30, high=30, probability=1),
        Step(op="identity", probability=0),
        Step(op="invert", probability=0.3),
        Step(op="rotate", low=10, high=10, probability=0.5),
    ]
    assert [len(sub.steps) for sub in policy.sub_policies] == [2, 2]


@pytest.mark.parametrize("method", [AutoAugmentProposer, RandomProposer])
def test_a_policy_has_five_sub_policies_of_two_steps(method: type[AutoAugmentProposer | RandomProposer]) -> None:
    assert [len(sub.steps) for sub in parts(asked(method(SPACE, 0)))] == [2] * 5


@pytest.mark.parametrize("method", [AutoAugmentProposer, RandomProposer])
def test_sixteen_ops_make_the_published_space(method: type[AutoAugmentProposer | RandomProposer]) -> None:
    assert method(space_of(*list(OPS)[:16]), 0).space_size_log10 == pytest.approx(32.46, abs=0.01)


def test_auto_augment_returns_the_best_policies_best_first() -> None:
    proposer = AutoAugmentProposer(SPACE, 0, keep_policies=3)
    policies = [asked(proposer) for _ in range(5)]
    kept_after = [[0], [1, 0], [1, 0, 2], [1, 3, 0], [1, 3, 4]]  # among equal scores the earlier first
    for policy, score, kept in zip(policies, [0.5, 0.7, 0.4, 0.7, 0.6], kept_after, strict=True):
        proposer.tell(policy, score)
        assert parts(proposer.best()) == sum((parts(policies[i]) for i in kept), ())


def test_auto_augment_returns_25_sub_policies_at_last() -> None:
    proposer = AutoAugmentProposer(SPACE, 0)
    play(proposer, 8)
    assert len(parts(proposer.best())) == 25


def test_auto_augment_counts_a_policy_that_comes_again_once() -> None:
    one_policy = SearchSpace(SPACE.ops[1:2])  # identity: magnitudes do not matter, and one probability is certain
    proposer = AutoAugmentProposer(one_policy, 0, sub_policies=1, steps_per_sub_policy=1, probability_levels=2)
    play(proposer, 20)
    assert len(parts(proposer.best())) == 2


def test_children_asked_for_together_score_as_one_by_one() -> None:
    serial, parallel = AutoAugmentProposer(SPACE, 0, batch=4), AutoAugmentProposer(SPACE, 0, batch=4)
    policies = play(serial, 4)
    assert [asked(parallel) for _ in range(4)] == policies
    for policy in policies:
        parallel.tell(policy, rewarded(policy))
    assert play(parallel, 4) == play(serial, 4)


def test_auto_augment_refuses_what_it_did_not_ask_next() -> None:
    proposer = AutoAugmentProposer(SPACE, 0)
    with pytest.raises(ValueError, match="every policy asked for has its score"):
        proposer.tell(NO_AUGMENTATION, 0.5)
    _, later = proposer.ask(), asked(proposer)
    with pytest.raises(ValueError, match="in the order asked"):
        proposer.tell(later, 0.5)


def test_random_returns_the_best_childs_own_policy() -> None:
    proposer = RandomProposer(SPACE, 0)
    policies = [asked(proposer) for _ in range(4)]
    for policy, score in zip(policies, [0.2, 0.8, 0.8, 0.3], strict=True):
        proposer.tell(policy, score)
    assert proposer.best() == policies[1]


def test_random_draws_every_choice_equally_often() -> None:
    proposer = RandomProposer(SPACE, 0)
    steps = [step for policy in play(proposer, 400) for sub in parts(policy) for step in sub.steps]
    ops = [sum(step.op == name for step in steps) for name in SPACE.names]
    probabilities = [sum(step.probability == level / 10 for step in steps) for level in range(11)]
    for counts in (ops, probabilities):
        expected = len(steps) / len(counts)
        assert sum(counts) == len(steps)
        assert all(abs(count - expected) < 4 * math.sqrt(expected) for count in counts)


def test_the_controller_finds_a_planted_op_and_beats_random() -> None:
    names = ("rotate", "identity", "invert", "gaussian_replace", "shear_x", "color")

    def course(proposer: Proposer, seed: int) -> torch.Tensor:
        """The share of "color" in each policy asked for; the score is a child's, with a child's noise."""
        noise, shares = torch.Generator().manual_seed(seed), []
        for _ in range(60):
            policy = asked(proposer)
            ops = [step.op for sub in parts(policy) for step in sub.steps]
            shares.append(ops.count("color") / len(ops))
            proposer.tell(policy, 0.8 + 0.05 * shares[-1] + 0.005 * float(torch.randn((), generator=noise)))
        return torch.tensor(shares)

    def courses(method: type[AutoAugmentProposer | RandomProposer]) -> torch.Tensor:
        return torch.stack([course(method(space_of(*names), seed, sub_policies=1), seed) for seed in range(5)])

    learnt, random = courses(AutoAugmentProposer), courses(RandomProposer)
    assert learnt[:, -20:].mean() > learnt[:, :20].mean() + 0.3
    assert (learnt[:, -20:].mean(1) > random[:, -20:].mean(1)).all()


# RandAugment.


def test_rand_augment_is_n_uniform_stages_at_one_magnitude() -> None:
    policy = RandAugmentProposer(SPACE, 0).policy(3, 5)
    assert len(policy.stages) == 3
    for stage in policy.stages:
        assert [choice.step.op for choice in stage] == list(SPACE.names)
        assert {choice.weight for choice in stage} == {1}
        assert stage[0].step == Step(op="rotate", low=15, high=15)


def test_rand_augment_at_ten_is_the_end_of_the_range() -> None:
    proposer = RandAugmentProposer(space_of("posterize"), 0, n=[1], m=[10])
    assert asked(proposer) == Stages(stages=proposer.policy(1, 10).stages)
    assert proposer.policy(1, 10).stages[0][0].step.low == OPS["posterize"].high
    with pytest.raises(ValueError, match=r"m must lie in 0 .. 10; got \[5, 11\]"):
        RandAugmentProposer(SPACE, 0, m=[5, 11])


@pytest.mark.parametrize("seed", range(5))
def test_the_grid_is_walked_from_coarse_to_fine(seed: int) -> None:
    order = spread_order((1, 2, 3), range(1, 11), seed)
    assert sorted(order) == list(product((1, 2, 3), range(1, 11)))
    assert set(order[:4]) == {(1, 1), (1, 10), (3, 1), (3, 10)}
    assert {order[0][0], order[1][0]} == {1, 3}
    assert {order[0][1], order[1][1]} == {1, 10}  # the second is across the grid
    assert order[4] in {(2, 5), (2, 6)}
    for k in range(5, 31):  # a walk cut anywhere has no M farther than 2 / sqrt(k) of the range from one it has seen
        gaps = [min(abs(m - seen) for _, seen in order[:k]) for m in range(1, 11)]
        assert max(gaps) / 9 <= 2 / math.sqrt(k)


def test_the_seed_decides_the_order_of_the_grid() -> None:
    orders = [tuple(spread_order((1, 2, 3), range(1, 11), seed)) for seed in range(6)]
    assert len(set(orders)) == 6
    assert orders[0] == tuple(spread_order((1, 2, 3), range(1, 11), 0))
    assert len({order[0] for order in orders}) > 1


def test_a_grid_of_one_column_or_one_point_is_walked_too() -> None:
    assert sorted(spread_order((2,), (1, 5, 9), 0)[:2]) == [(2, 1), (2, 9)]
    assert spread_order((2,), (4,), 0) == [(2, 4)]


def test_rand_augment_ends_with_its_grid_and_returns_the_best_of_it() -> None:
    proposer = RandAugmentProposer(SPACE, 0, n=(1, 2), m=(2, 5, 8))
    assert proposer.space_size_log10 == pytest.approx(math.log10(6))
    policies = play(proposer, 6)
    assert proposer.ask() is None
    assert proposer.ask() is None
    assert len(set(policies)) == 6
    assert proposer.best() == max(policies, key=rewarded)


# Controls.


def test_trivial_is_one_uniform_stage_over_whole_ranges() -> None:
    (stage,) = trivial_policy(space_of("posterize", "rotate")).stages
    assert [choice.weight for choice in stage] == [1, 1]
    assert [choice.step for choice in stage] == [Step(op="posterize", low=4, high=8), Step(op="rotate", high=30)]


@pytest.mark.parametrize("policy", [no_policy(), trivial_policy(SPACE)])
def test_a_control_is_done_at_once_and_keeps_its_policy(policy: Policy) -> None:
    control: Search = Control(policy)
    assert control.step(0.0) == SearchProgress(steps=0, account="search", done=True)
    control.load_state_dict(control.state_dict())
    assert control.best() == policy
    assert control.summary() == {}
    assert control.state_dict() == {}


def test_tpe_gathers_round_the_best_point() -> None:
    """A smooth score with its peak at N = 2, M = 7: after 25 points TPE proposes nearer to it than chance would."""
    grid = RandAugmentProposer(SPACE, 0)
    place = {grid.policy(n, m): (n, m) for n in (1, 2, 3) for m in range(1, 11)}

    def distance(policy: Policy) -> float:
        n, m = place[policy]
        return abs(n - 2) / 2 + abs(m - 7) / 9

    late = []
    for seed in range(4):
        proposer = TPEProposer(SPACE, seed, n=(1, 2, 3), m=tuple(range(1, 11)))
        for _ in range(40):
            policy = asked(proposer)
            late.append(distance(policy))
            proposer.tell(policy, 1 - late[-1])
        del late[-40:-15]
        assert place[proposer.best()] == (2, 7)
    chance = sum(map(distance, place)) / len(place)
    assert sum(late) / len(late) < 0.6 * chance
