"""Random search over AutoAugment's policies: the control that learning searches have to beat."""

from collections.abc import Mapping
from typing import Any

import torch

from dastune.policy.policy import Policy, SubPolicies
from dastune.policy.space import SearchSpace
from dastune.search.auto_augment import PolicyShape, Ranking
from dastune.seeds import generator


class RandomProposer:
    """Asks for policies drawn uniformly from AutoAugment's space; the best one is the best child's own policy."""

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        sub_policies: int = 5,
        steps_per_sub_policy: int = 2,
        probability_levels: int = 11,
    ) -> None:
        self._shape = PolicyShape(space, sub_policies, steps_per_sub_policy, probability_levels)
        self._generator = generator(seed, "random_policies")
        self._ranking = Ranking(keep=1)

    @property
    def space_size_log10(self) -> float:
        """The decimal logarithm of the number of policies."""
        return self._shape.size_log10

    def ask(self) -> Policy:
        """Return a policy whose every op, probability and magnitude is drawn uniformly."""
        steps = self._shape.steps
        columns = [torch.randint(size, (steps,), generator=self._generator) for size in self._shape.sizes]
        return self._shape.policy(torch.stack(columns, dim=1).flatten().tolist())

    def tell(self, policy: Policy, score: float) -> None:
        """Hear a child's score."""
        assert isinstance(policy, SubPolicies)
        self._ranking.add(policy, score)

    def best(self) -> Policy:
        """Return the policy of the best child so far; before the first, no augmentation."""
        return self._ranking.policy()

    def state_dict(self) -> dict[str, Any]:
        """Return everything: generator and best policy."""
        return {"generator": self._generator.get_state(), "ranking": self._ranking.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._generator.set_state(state["generator"])
        self._ranking.load(state["ranking"])
