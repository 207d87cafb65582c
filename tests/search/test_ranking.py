"""Ranking: which policies are the best, and the one policy that they make."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from dastune.ops.spaces import TORCHVISION
from dastune.policy.policy import NO_AUGMENTATION, Choice, Policy, Stages, Step, SubPolicies, SubPolicy
from dastune.search.ranking import Ranking

ThroughAFile = Callable[[dict[str, Any]], dict[str, Any]]


def policy_of(index: int, sub_policies: int = 5) -> SubPolicies:
    """A policy like no other: its steps rotate by `index` degrees."""
    step = Step(op="rotate", low=index, high=index)
    return SubPolicies(sub_policies=(SubPolicy(steps=(step, step)),) * sub_policies)


def stages_of(index: int) -> Stages:
    return Stages(stages=((Choice(weight=1, step=Step(op="rotate", low=index, high=index)),),))


def parts(policy: Policy) -> tuple[SubPolicy, ...]:
    assert isinstance(policy, SubPolicies)
    return policy.sub_policies


def filled(keep: int, scores: list[float]) -> Ranking:
    ranking = Ranking(keep)
    for index, score in enumerate(scores):
        ranking.add(policy_of(index), score)
    return ranking


@pytest.mark.parametrize("keep", [1, 5])
def test_before_the_first_score_there_is_no_augmentation(keep: int) -> None:
    assert Ranking(keep).policy() == NO_AUGMENTATION


def test_the_best_policies_are_joined_best_first() -> None:
    kept_after = [[0], [1, 0], [1, 0, 2], [1, 3, 0], [1, 3, 4]]  # among equal scores the earlier first
    scores = [0.5, 0.7, 0.4, 0.7, 0.6]
    for count, kept in enumerate(kept_after, start=1):
        expected = sum((policy_of(index).sub_policies for index in kept), ())
        assert parts(filled(3, scores[:count]).policy()) == expected


def test_five_policies_of_five_make_25_sub_policies() -> None:
    assert [len(parts(filled(5, [0.1] * count).policy())) for count in (1, 4, 5, 8)] == [5, 20, 25, 25]


def test_one_kept_policy_is_the_best_as_it_is() -> None:
    assert filled(1, [0.2, 0.8, 0.8, 0.3]).policy() == policy_of(1)


@pytest.mark.parametrize("scores", list(product([0.1, 0.2, 0.3], repeat=3)))
def test_a_policy_that_comes_again_counts_once_with_its_better_score(scores: tuple[float, ...]) -> None:
    ranking = Ranking(2)
    for index, score in zip((0, 1, 0), scores, strict=True):
        ranking.add(policy_of(index), score)
    first, second = max(scores[0], scores[2]), scores[1]
    order = [0, 1] if first >= second else [1, 0]
    if scores[0] < second == first:  # the score that makes it equal came later than the other's
        order = [1, 0]
    assert parts(ranking.policy()) == sum((policy_of(index).sub_policies for index in order), ())


def test_what_is_joined_keeps_its_geometry() -> None:
    ranking = Ranking(2)
    for index, score in ((0, 0.5), (1, 0.4)):
        ranking.add(policy_of(index).model_copy(update={"geometry": TORCHVISION}), score)
    joined = ranking.policy()
    assert isinstance(joined, SubPolicies)
    assert joined.geometry == TORCHVISION
    assert len(joined.sub_policies) == 10


def test_stages_are_not_joined() -> None:
    ranking = Ranking(1)
    for index, score in enumerate([0.3, 0.5, 0.4]):
        ranking.add(stages_of(index), score)
    assert ranking.policy() == stages_of(1)


def test_resuming_is_not_noticed(through_a_file: ThroughAFile) -> None:
    scores = [0.5, 0.7, 0.4, 0.7, 0.6, 0.65]
    unbroken, first, second = filled(3, scores), filled(3, scores[:4]), filled(3, [0.9])
    second.load(through_a_file({"ranking": first.state()})["ranking"])
    assert second.policy() == first.policy()
    for index in (4, 5):
        second.add(policy_of(index), scores[index])
    assert second.policy() == unbroken.policy()


def test_a_copy_is_a_ranking_of_its_own() -> None:
    first = filled(2, [0.5, 0.4])
    copy, before = first.copy(), first.policy()
    copy.add(policy_of(7), 0.9)
    assert first.policy() == before
    assert parts(copy.policy())[:5] == policy_of(7).sub_policies
