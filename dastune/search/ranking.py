"""Ranking: the best policies of a black-box search, and the one policy that they make."""

from typing import Any

from dastune.policy.policy import NO_AUGMENTATION, Policy, SubPolicies, policy_from_json, policy_to_json


class Ranking:
    """The `keep` best of the policies scored so far; among equal scores the earlier one is better."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._scores: dict[Policy, float] = {}

    def add(self, policy: Policy, score: float) -> None:
        """Take note of a score; a policy that comes again stays one policy, with its better score."""
        self._scores[policy] = max(score, self._scores.get(policy, score))
        best = sorted(self._scores.items(), key=lambda item: -item[1])
        self._scores = dict(best[: self._keep])

    def copy(self) -> "Ranking":
        """Return a ranking of its own with the same policies."""
        ranking = Ranking(self._keep)
        ranking._scores = dict(self._scores)
        return ranking

    @property
    def best_score(self) -> float | None:
        """The score of the best policy; None before the first."""
        return max(self._scores.values(), default=None)

    def policy(self) -> Policy:
        """Return the best policy, or the sub-policies of several, best first, as one; without any, no augmentation."""
        kept = list(self._scores)
        subs = tuple(sub for policy in kept if isinstance(policy, SubPolicies) for sub in policy.sub_policies)
        if len(kept) > 1 and isinstance(kept[0], SubPolicies):
            return SubPolicies(sub_policies=subs, geometry=kept[0].geometry)
        return kept[0] if kept else NO_AUGMENTATION

    def state(self) -> list[list[Any]]:
        """Return [policy as JSON, score] pairs, best first."""
        return [[policy_to_json(policy), score] for policy, score in self._scores.items()]

    def load(self, state: list[list[Any]]) -> None:
        """Take up where `state` was called."""
        self._scores = {policy_from_json(data): score for data, score in state}
