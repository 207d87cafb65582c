"""AutoAugment's policies as decisions, and who makes them: against each other on a reward with a planted policy."""

import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import pytest
import torch

from dastune.ops.table import OPS
from dastune.policy.policy import NO_AUGMENTATION, Policy, Step, SubPolicies, SubPolicy
from dastune.policy.space import SearchSpace
from dastune.search import decisions
from dastune.search.auto_augment import AutoAugmentProposer, PolicyShape
from dastune.search.decisions import PPODecisions, TPEDecisions, UniformDecisions
from dastune.search.tpe import TPE

Kind = Literal["ppo", "tpe", "random"]
SpaceOf = Callable[..., SearchSpace]
NAMES = ("rotate", "identity", "invert", "gaussian_replace")
SEARCHES: tuple[Kind, ...] = ("ppo", "tpe", "random")
every_search = pytest.mark.parametrize("search", SEARCHES)


@pytest.fixture(scope="module")
def space(space_of: SpaceOf) -> SearchSpace:
    return space_of(*NAMES)


def parts(policy: Policy) -> tuple[SubPolicy, ...]:
    assert isinstance(policy, SubPolicies)
    return policy.sub_policies


def test_decisions_become_steps_in_order(space: SearchSpace) -> None:
    policy = PolicyShape(space, sub_policies=2).policy([0, 10, 9, 1, 0, 0, 2, 3, 4, 0, 5, 3])
    assert [step for sub in policy.sub_policies for step in sub.steps] == [
        Step(op="rotate", low=30, high=30, probability=1),
        Step(op="identity", probability=0),
        Step(op="invert", probability=0.3),
        Step(op="rotate", low=10, high=10, probability=0.5),
    ]
    assert [len(sub.steps) for sub in policy.sub_policies] == [2, 2]


@every_search
def test_a_policy_has_five_sub_policies_of_two_steps(search: Kind, space: SearchSpace) -> None:
    assert [len(sub.steps) for sub in parts(AutoAugmentProposer(space, 0, search=search).ask())] == [2] * 5
    assert len(parts(AutoAugmentProposer(space, 0, search=search, sub_policies=3).ask())) == 3


@every_search
def test_sixteen_ops_make_the_published_space(search: Kind, space_of: SpaceOf) -> None:
    proposer = AutoAugmentProposer(space_of(*list(OPS)[:16]), 0, search=search)
    assert 10**proposer.space_size_log10 == pytest.approx((16 * 11 * 10) ** 10)
    assert proposer.keep == 5
    assert AutoAugmentProposer(space_of("invert"), 0, search=search, keep_policies=1).keep == 1


def test_policies_asked_for_together_are_those_of_one_controller(space: SearchSpace) -> None:
    serial, parallel = AutoAugmentProposer(space, 0, batch=4), AutoAugmentProposer(space, 0, batch=4)

    def told(proposer: AutoAugmentProposer, policy: Policy) -> Policy:
        proposer.tell(policy, len(repr(policy)) % 101 / 100)
        return policy

    for _ in range(3):
        policies = [told(serial, serial.ask()) for _ in range(4)]
        assert [parallel.ask() for _ in range(4)] == policies
        for policy in policies:
            told(parallel, policy)


@every_search
def test_what_was_not_asked_next_is_refused(search: Kind, space: SearchSpace) -> None:
    proposer = AutoAugmentProposer(space, 0, search=search)
    with pytest.raises(ValueError, match="every policy asked for has its score"):
        proposer.tell(NO_AUGMENTATION, 0.5)
    first, later = proposer.ask(), proposer.ask()
    with pytest.raises(ValueError, match="in the order asked"):
        proposer.tell(later, 0.5)
    proposer.tell(first, 0.5)
    proposer.tell(later, 0.5)


def test_chance_draws_every_choice_equally_often() -> None:
    sizes = (4, 11, 10)
    chance = UniformDecisions(sizes, rounds=10, seed=0)
    sequences = torch.tensor([chance.ask() for _ in range(400)])
    for kind, size in enumerate(sizes):
        expected = 4000 / size
        counts = sequences[:, kind::3].flatten().bincount(minlength=size)
        assert len(counts) == size
        assert ((counts - expected).abs() < 4 * math.sqrt(expected)).all()


def test_ppo_learns_from_log_probabilities_of_when_it_was_asked() -> None:
    """The log probabilities kept for 30 decisions sum to the log of the product of their softmaxes at that time."""
    ppo = PPODecisions((16, 11, 10), rounds=10, seed=0, batch=2)
    first, second = ppo.ask(), ppo.ask()
    asked = ppo.state_dict()["asked"]
    ppo.tell(first, 0.9)
    late = ppo.ask()
    ppo.tell(second, 0.1)
    (kept,) = ppo.state_dict()["asked"]
    assert kept[0].tolist() == late
    for decisions_T, log_probability_T in [*asked, kept]:
        assert len(decisions_T) == 30
        # Weights within a tenth of 0 make all softmaxes nearly uniform.
        assert float(log_probability_T.sum()) == pytest.approx(-10 * math.log(16 * 11 * 10), rel=0.02)


def test_tpe_hears_of_each_sub_policy_with_its_policys_score(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[list[int], float]] = []

    class Recorded(TPE):
        def tell(self, point, score):  # type: ignore[no-untyped-def]
            heard.append((list(point.values()), score))
            super().tell(point, score)

    monkeypatch.setattr(decisions, "TPE", Recorded)
    tpe = TPEDecisions((4, 11, 10), rounds=4, parts=2, seed=0)
    assert len(tpe.ask()) == 12
    tpe.tell([0, 1, 2, 3, 4, 5, 1, 6, 7, 2, 8, 9], 0.3)
    assert heard == [([0, 1, 2, 3, 4, 5], 0.3), ([1, 6, 7, 2, 8, 9], 0.3)]


# A reward with a planted best policy: every step is "color", always, at magnitude 7/9.

EVALUATIONS = 60


def closeness(policy: Policy, best: Step) -> float:
    """Return in [0, 1] how near `policy` is to doing `best` at every step: half the op, half its arguments."""
    steps = [step for sub in parts(policy) for step in sub.steps]
    reach = OPS[best.op].high - OPS[best.op].low
    right = [
        (0.5 + 0.25 * step.probability + 0.25 * (1 - abs(step.low - best.low) / reach)) * (step.op == best.op)
        for step in steps
    ]
    return sum(right) / len(right)


@pytest.fixture(scope="module")
def courses(space_of: SpaceOf) -> Callable[[Kind], torch.Tensor]:
    """Return what plays a search and returns the closeness, seeds x evaluations, of what it asked for."""
    space = space_of(*NAMES, "shear_x", "color")
    color = space.ops[-1]
    best = color.at(space.magnitude(7))

    @cache
    def play(search: Kind) -> torch.Tensor:
        courses = []
        for seed in range(5):
            proposer = AutoAugmentProposer(space, seed, search=search, sub_policies=2)
            noise, course = torch.Generator().manual_seed(seed), []
            for _ in range(EVALUATIONS):
                policy = proposer.ask()
                course.append(closeness(policy, best))
                proposer.tell(policy, 0.8 + 0.05 * course[-1] + 0.003 * float(torch.randn((), generator=noise)))
            courses.append(course)
        return torch.tensor(courses)

    return play


@pytest.mark.parametrize("search", ["ppo", "tpe"])
def test_a_planted_policy_is_approached_and_chance_is_beaten(
    search: Kind, courses: Callable[[Kind], torch.Tensor]
) -> None:
    learnt, chance = courses(search), courses("random")
    third = EVALUATIONS // 3
    assert learnt[:, -third:].mean() > learnt[:, :third].mean() + 0.1
    assert (learnt[:, -third:].mean(1) > chance[:, -third:].mean(1)).all()
    assert learnt.max(1).values.mean() > chance.max(1).values.mean() + 0.1
