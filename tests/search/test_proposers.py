"""What every Proposer keeps to: one contract over a table."""

from collections.abc import Callable
from typing import Any

import pytest

from dastune.ops.table import OPS
from dastune.policy.policy import Policy
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.auto_augment import AutoAugmentProposer
from dastune.search.rand_augment import RandAugmentProposer
from dastune.search.search import Proposer

SPACE = SearchSpace(
    tuple(
        SpaceOp(name, OPS[name].low, OPS[name].high, OPS[name].signed)
        for name in ("rotate", "identity", "invert", "gaussian_replace")
    )
)
GRID: dict[str, Any] = {"n": (1, 2, 3), "m": tuple(range(1, 11)), "scale": "paper"}
Make = Callable[[int], Proposer]
ThroughAFile = Callable[[dict[str, Any]], dict[str, Any]]
PROPOSERS: dict[str, Make] = {
    "auto_augment_ppo": lambda seed: AutoAugmentProposer(SPACE, seed),
    "auto_augment_tpe": lambda seed: AutoAugmentProposer(SPACE, seed, search="tpe"),
    "random": lambda seed: AutoAugmentProposer(SPACE, seed, search="random", keep_policies=1),
    "rand_augment_grid": lambda seed: RandAugmentProposer(SPACE, seed, search="grid", **GRID),
    "rand_augment_tpe": lambda seed: RandAugmentProposer(SPACE, seed, search="tpe", **GRID),
}
every_proposer = pytest.mark.parametrize("make", PROPOSERS.values(), ids=PROPOSERS)


def asked(proposer: Proposer) -> Policy:
    policy = proposer.ask()
    assert policy is not None
    return policy


def rewarded(policy: Policy) -> float:
    """A made-up score of a policy: any number in [0, 1] will do, if it is always the same."""
    return sum(map(ord, policy.model_dump_json())) % 101 / 100


def play(proposer: Proposer, count: int) -> list[Policy]:
    policies = []
    for _ in range(count):
        policies.append(asked(proposer))
        proposer.tell(policies[-1], rewarded(policies[-1]))
    return policies


@every_proposer
def test_there_is_a_choice_and_some_are_kept(make: Make) -> None:
    assert make(0).space_size_log10 > 0
    assert make(0).keep >= 1


@every_proposer
def test_the_seed_decides(make: Make) -> None:
    assert play(make(3), 6) == play(make(3), 6)
    assert play(make(3), 6) != play(make(4), 6)


@every_proposer
@pytest.mark.parametrize("told", [0, 1, 5, 12])  # before, within and after a batch of the controller, TPE's start
def test_resuming_is_not_noticed(make: Make, told: int, through_a_file: ThroughAFile) -> None:
    unbroken, first, second = make(0), make(0), make(1)
    expected = play(unbroken, told + 4)
    start = play(first, told)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert start + play(second, 4) == expected


@every_proposer
@pytest.mark.parametrize("told", [0, 1, 12])
def test_resuming_between_ask_and_tell_is_not_noticed(make: Make, told: int, through_a_file: ThroughAFile) -> None:
    unbroken, first, second = make(0), make(0), make(1)
    expected = play(unbroken, told + 4)
    start = [*play(first, told), asked(first)]
    second.ask()  # what a new search does before it hears that it is resumed
    second.load_state_dict(through_a_file(first.state_dict()))
    second.tell(start[-1], rewarded(start[-1]))
    assert start + play(second, 3) == expected


@every_proposer
@pytest.mark.parametrize("told", [0, 3, 11])
def test_resuming_among_several_asked_is_not_noticed(make: Make, told: int, through_a_file: ThroughAFile) -> None:
    """Three are trained at the same time; the process ends when one of them has been told."""

    def next_three(proposer: Proposer) -> list[Policy]:
        return [asked(proposer) for _ in range(3)]

    unbroken, first, second = make(0), make(0), make(1)
    for proposer in (unbroken, first):
        play(proposer, told)
    policies = next_three(unbroken)
    assert next_three(first) == policies
    for proposer in (unbroken, first):
        proposer.tell(policies[0], 0.7)
    second.load_state_dict(through_a_file(first.state_dict()))
    for proposer in (unbroken, second):
        for policy in policies[1:]:
            proposer.tell(policy, rewarded(policy))
    assert next_three(second) == next_three(unbroken)


@every_proposer
def test_state_does_not_change_afterwards(make: Make) -> None:
    first, second = make(0), make(1)
    play(first, 3)
    state = first.state_dict()
    expected = play(first, 4)
    second.load_state_dict(state)
    assert play(second, 4) == expected
