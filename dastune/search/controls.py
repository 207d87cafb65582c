"""The controls that need no search: a fixed policy in a Search's place."""

from collections.abc import Mapping
from typing import Any

from dastune.policy.policy import NO_AUGMENTATION, Choice, Policy, Stages
from dastune.policy.space import SearchSpace
from dastune.search.search import SearchProgress


def trivial_policy(space: SearchSpace) -> Stages:
    """Return TrivialAugment (Müller and Hutter, ICCV 2021) over `space`: one op per image, drawn uniformly.

    Its magnitude is drawn uniformly over the op's range, for each image.
    """
    stage = tuple(Choice(weight=1, step=op.over_range()) for op in space.ops)
    return Stages(stages=(stage,), geometry=space.geometry)


def no_policy() -> Stages:
    """Return the policy that leaves images as they are."""
    return NO_AUGMENTATION


class Control:
    """A Search whose policy is known beforehand; its first step says that it is done."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def space_size_log10(self) -> float:
        """There is nothing to choose."""
        return 0.0

    def step(self, spent: float) -> SearchProgress:
        """Do nothing and say so."""
        return SearchProgress(steps=0, account="search", done=True)

    def best(self) -> Policy:
        """Return the fixed policy."""
        return self._policy

    def summary(self) -> Mapping[str, float]:
        """Return nothing: no child was trained."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
