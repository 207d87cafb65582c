"""AutoAugment as a Proposer: policies as sequences of decisions, made by a controller, by TPE or by chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dastune.policy.policy import Policy, SubPolicies, SubPolicy
from dastune.policy.space import SearchSpace
from dastune.search.decisions import Decisions, PPODecisions, TPEDecisions, UniformDecisions

STEPS_PER_SUB_POLICY = 2
PROBABILITY_LEVELS = 11


@dataclass(frozen=True)
class PolicyShape:
    """The policies AutoAugment chooses from (CVPR 2019, section 3), as sequences of decisions.

    A policy has `sub_policies` of two steps each; a step is three decisions: op, probability level (eleven, over
    [0, 1]) and magnitude level.
    """

    space: SearchSpace
    sub_policies: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many ops, probabilities and magnitudes there are to choose from."""
        return len(self.space), PROBABILITY_LEVELS, self.space.magnitude_levels

    @property
    def steps(self) -> int:
        """How many steps a policy has."""
        return self.sub_policies * STEPS_PER_SUB_POLICY

    @property
    def size_log10(self) -> float:
        """The decimal logarithm of the number of decision sequences: 32.5 for 16 ops, 11 and 10 levels, 5 x 2 steps."""
        return self.steps * math.log10(math.prod(self.sizes))

    def policy(self, decisions: Sequence[int]) -> SubPolicies:
        """Return the policy that a sequence of ``3 * steps`` decisions means."""
        steps = [
            self.space.ops[op].at(self.space.magnitude(magnitude), probability / (PROBABILITY_LEVELS - 1))
            for op, probability, magnitude in zip(decisions[::3], decisions[1::3], decisions[2::3], strict=True)
        ]
        starts = range(0, self.steps, STEPS_PER_SUB_POLICY)
        sub_policies = tuple(SubPolicy(steps=tuple(steps[i : i + STEPS_PER_SUB_POLICY])) for i in starts)
        return SubPolicies(sub_policies=sub_policies, geometry=self.space.geometry)


class AutoAugmentProposer:
    """AutoAugment (CVPR 2019, section 3): decisions make policies, and the best 5 policies, joined, are the result."""

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        search: Literal["ppo", "tpe", "random"] = "ppo",
        sub_policies: int = 5,
        keep_policies: int = 5,
        batch: int = 2,
    ) -> None:
        """Make a proposer.

        Args:
            space: the ops and the number of magnitudes.
            seed: of the decisions, and of the controller's weights.
            search: PPO, as published; TPE, from the sub-policies of good policies; or chance.
            sub_policies: in a policy.
            keep_policies: how many policies, the best, make up the result.
            batch: children per update of PPO's controller. Small, for budgets of tens of children: on a made-up reward
                with a child's noise pairs pull ahead of random policies within 30 to 45 children; one by one is
                hardly sooner and doubles the updates' cost, fours and eights come later even without noise.
        """
        self._shape = PolicyShape(space, sub_policies)
        self._keep = keep_policies
        self._decisions = _decisions(search, self._shape, seed, batch)
        self._asked: list[list[int]] = []  # in the order asked, those that have no score yet

    @property
    def space_size_log10(self) -> float:
        """The decimal logarithm of the number of policies."""
        return self._shape.size_log10

    @property
    def keep(self) -> int:
        """How many policies, the best, make up the result."""
        return self._keep

    def ask(self) -> Policy:
        """Return the next policy; several may be asked before they are told."""
        self._asked.append(self._decisions.ask())
        return self._shape.policy(self._asked[-1])

    def tell(self, policy: Policy, score: float) -> None:
        """Hear the score of the earliest policy that has none yet.

        Raises:
            ValueError: `policy` is not that policy.
        """
        if not self._asked:
            raise ValueError("tell needs a policy that was asked for; every policy asked for has its score already")
        expected = self._shape.policy(self._asked[0])
        if policy != expected:
            raise ValueError(f"tell needs the policies in the order asked; expected {expected}, got {policy}")
        self._decisions.tell(self._asked.pop(0), score)

    def state_dict(self) -> dict[str, Any]:
        """Return everything: what makes the decisions, and the policies without a score."""
        return {"decisions": self._decisions.state_dict(), "asked": [list(decisions) for decisions in self._asked]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._decisions.load_state_dict(state["decisions"])
        self._asked = [list(decisions) for decisions in state["asked"]]


def _decisions(search: Literal["ppo", "tpe", "random"], shape: PolicyShape, seed: int, batch: int) -> Decisions:
    match search:
        case "ppo":
            return PPODecisions(shape.sizes, shape.steps, seed, batch)
        case "tpe":
            return TPEDecisions(shape.sizes, shape.steps, shape.sub_policies, seed)
        case "random":
            return UniformDecisions(shape.sizes, shape.steps, seed)
