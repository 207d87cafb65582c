"""AutoAugment as a Proposer: the controller samples policies, PPO learns from how their children scored."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dastune.policy.policy import NO_AUGMENTATION, Policy, SubPolicies, SubPolicy, policy_from_json, policy_to_json
from dastune.policy.space import SearchSpace
from dastune.search.controller import PPO, Controller
from dastune.seeds import generator


@dataclass(frozen=True)
class PolicyShape:
    """The policies AutoAugment chooses from (CVPR 2019, section 3), as sequences of decisions.

    A policy has `sub_policies` of `steps_per_sub_policy` steps each; a step is three decisions: op, probability level
    and magnitude level.
    """

    space: SearchSpace
    sub_policies: int = 5
    steps_per_sub_policy: int = 2
    probability_levels: int = 11

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many ops, probabilities and magnitudes there are to choose from."""
        return len(self.space), self.probability_levels, self.space.magnitude_levels

    @property
    def steps(self) -> int:
        """How many steps a policy has."""
        return self.sub_policies * self.steps_per_sub_policy

    @property
    def size_log10(self) -> float:
        """The decimal logarithm of the number of decision sequences: 32.5 for 16 ops, 11 and 10 levels, 5 x 2 steps."""
        return self.steps * math.log10(math.prod(self.sizes))

    def policy(self, decisions: Sequence[int]) -> SubPolicies:
        """Return the policy that a sequence of ``3 * steps`` decisions means."""
        steps = [
            self.space.ops[op].at(self.space.magnitude(magnitude), probability / (self.probability_levels - 1))
            for op, probability, magnitude in zip(decisions[::3], decisions[1::3], decisions[2::3], strict=True)
        ]
        per_sub_policy = self.steps_per_sub_policy
        starts = range(0, self.steps, per_sub_policy)
        sub_policies = tuple(SubPolicy(steps=tuple(steps[i : i + per_sub_policy])) for i in starts)
        return SubPolicies(sub_policies=sub_policies, geometry=self.space.geometry)


class Ranking:
    """The `keep` best of the policies told so far; among equal scores the earlier one is better."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._scores: dict[SubPolicies, float] = {}

    def add(self, policy: SubPolicies, score: float) -> None:
        """Take note of a score; a policy that comes again stays one policy, with its better score."""
        self._scores[policy] = max(score, self._scores.get(policy, score))
        best = sorted(self._scores.items(), key=lambda item: -item[1])
        self._scores = dict(best[: self._keep])

    def policy(self) -> Policy:
        """Return the sub-policies of all kept policies, best first, as one; without any, no augmentation."""
        if not self._scores:
            return NO_AUGMENTATION
        sub_policies = tuple(sub for policy in self._scores for sub in policy.sub_policies)
        return SubPolicies(sub_policies=sub_policies, geometry=next(iter(self._scores)).geometry)

    def state(self) -> list[list[Any]]:
        """Return [policy as JSON, score] pairs, best first."""
        return [[policy_to_json(policy), score] for policy, score in self._scores.items()]

    def load(self, state: list[list[Any]]) -> None:
        """Take up where `state` was called."""
        policies = [(policy_from_json(data), score) for data, score in state]
        self._scores = {policy: score for policy, score in policies if isinstance(policy, SubPolicies)}


class AutoAugmentProposer:
    """AutoAugment (CVPR 2019, section 3): PPO trains a controller; the best 5 policies, joined, are the result."""

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        sub_policies: int = 5,
        steps_per_sub_policy: int = 2,
        probability_levels: int = 11,
        keep_policies: int = 5,
        batch: int = 2,
    ) -> None:
        """Make a proposer.

        Args:
            space: the ops and the number of magnitudes.
            seed: of the controller's weights and decisions.
            sub_policies: in a policy.
            steps_per_sub_policy: ops one after the other.
            probability_levels: spread over [0, 1].
            keep_policies: how many policies, the best, make up the result.
            batch: children per update of the controller. Small, for budgets of tens of children: on a made-up reward
                with a child's noise pairs pull ahead of random policies within 30 to 45 children; one by one is
                hardly sooner and doubles the updates' cost, fours and eights come later even without noise.
        """
        self._shape = PolicyShape(space, sub_policies, steps_per_sub_policy, probability_levels)
        self._batch = batch
        self._generator = generator(seed, "auto_augment", "decisions")
        weights = generator(seed, "auto_augment", "weights")
        self._ppo = PPO(Controller(self._shape.sizes, self._shape.steps, weights))
        self._ranking = Ranking(keep_policies)
        # Decisions and their log probabilities (T each) of the children since the last update, in the order asked,
        # and the scores of those told: the first ones.
        self._asked: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._scores: list[float] = []

    @property
    def space_size_log10(self) -> float:
        """The decimal logarithm of the number of policies."""
        return self._shape.size_log10

    @torch.no_grad()
    def ask(self) -> Policy:
        """Return a policy sampled from the controller; several may be asked before they are told."""
        controller = self._ppo.controller
        decisions_BT = controller.sample(1, self._generator)
        self._asked.append((decisions_BT[0], controller.log_probabilities(decisions_BT)[0][0]))
        return self._shape.policy(decisions_BT[0].tolist())

    def tell(self, policy: Policy, score: float) -> None:
        """Hear the score of the earliest policy that has none yet; every `batch` of them update the controller.

        Raises:
            ValueError: `policy` is not that policy.
        """
        self._ranking.add(self._expected(policy), score)
        self._scores.append(score)
        if len(self._scores) == self._batch:
            decisions, log_probabilities = zip(*self._asked[: self._batch], strict=True)
            self._ppo.update(torch.stack(decisions), torch.stack(log_probabilities), torch.tensor(self._scores))
            del self._asked[: self._batch], self._scores[:]

    def best(self) -> Policy:
        """Return the sub-policies of the best `keep_policies` policies, or of all while fewer were told."""
        return self._ranking.policy()

    def _expected(self, policy: Policy) -> SubPolicies:
        if len(self._scores) == len(self._asked):
            raise ValueError("tell needs a policy that was asked for; every policy asked for has its score already")
        expected = self._shape.policy(self._asked[len(self._scores)][0].tolist())
        if policy != expected:
            raise ValueError(f"tell needs the policies in the order asked; expected {expected}, got {policy}")
        return expected

    def state_dict(self) -> dict[str, Any]:
        """Return everything: weights, Adam, baseline, generator, ranking, and what was asked but not learnt from."""
        return {
            "ppo": self._ppo.state_dict(),
            "generator": self._generator.get_state(),
            "ranking": self._ranking.state(),
            "asked": [list(pair) for pair in self._asked],
            "scores": list(self._scores),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._ppo.load_state_dict(state["ppo"])
        self._generator.set_state(state["generator"])
        self._ranking.load(state["ranking"])
        self._asked = [(decisions_T, log_probability_T) for decisions_T, log_probability_T in state["asked"]]
        self._scores = list(state["scores"])
