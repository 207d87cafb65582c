"""The two seams of every search: Search (what a trial runs) and Proposer (what a black-box search asks)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dastune.policy.policy import Policy

Account = Literal["train", "validate", "search"]


@dataclass(frozen=True)
class SearchProgress:
    """What one `Search.step` did.

    Attributes:
        steps: optimiser steps done in it (0 for a slice of evaluation); a budget in steps counts these.
        account: the sub-account its device time belongs to.
        metrics: named values to log, empty where there is nothing new.
        done: the search has nothing left to do (a grid walked to its end).
    """

    steps: int
    account: Account
    metrics: Mapping[str, float] = field(default_factory=dict)
    done: bool = False


class Search(Protocol):
    """One method on one space with one seed.

    A search is driven by a plain loop: ``while budget left: search.step(spent)``. It never looks at a clock.
    """

    @property
    def space_size_log10(self) -> float:
        """log10 of the number of policies to choose from (Table 11's column), 0 without a choice."""

    def step(self, spent: float) -> SearchProgress:
        """Do one batch-sized slice of work.

        Args:
            spent: the share of the budget already charged, in [0, 1); schedules over the budget are functions of it.
        """

    def best(self) -> Policy:
        """Return the best policy so far; callable between any two steps, also before the first."""

    def summary(self) -> Mapping[str, float]:
        """Return what is known of the search as a whole: `val_accuracy`, `children`, entropies ...; else no key."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything, generators and a half-trained child included, as tensors and plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called: the steps that follow are the same, bit for bit on a CPU."""


class Proposer(Protocol):
    """The asking half of a black-box search: proposes policies, hears how their children scored."""

    @property
    def space_size_log10(self) -> float:
        """log10 of the number of policies it chooses from."""

    def ask(self) -> Policy | None:
        """Return the next policy to try, or None when there is none left."""

    def tell(self, policy: Policy, score: float) -> None:
        """Hear the validation accuracy, in [0, 1], of a child trained with `policy`; calls come in the order asked."""

    def best(self) -> Policy:
        """Return the policy to use at this moment; before the first `tell` a policy that needs no search."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as tensors and plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
