"""The two seams of every search: Search (what a trial runs) and Proposer (what a black-box search asks)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dastune.policy.policy import Policy

Account = Literal["train", "validate", "search"]
ChildStatus = Literal["training", "scored", "stopped", "diverged"]


@dataclass(frozen=True)
class Child:
    """A training inside a black-box search that scores one policy, as it is after a step that worked on it.

    Attributes:
        index: 0, 1, ... in the order in which policies were asked for.
        epochs: how long it has been trained.
        score: its validation accuracy, in [0, 1], when it was last measured; None before.
        status: "training", "scored" (trained and validated whole), "stopped" (successive halving ended it early; its
            score is of then), "diverged" (its loss was not finite; it scores 0).
    """

    index: int
    policy: Policy
    epochs: float
    score: float | None
    status: ChildStatus


@dataclass(frozen=True)
class SearchProgress:
    """What one `Search.step` did.

    Attributes:
        steps: optimiser steps done in it (0 for a slice of evaluation), over all children trained at the same time; a
            budget in steps counts these.
        account: the sub-account its device time belongs to.
        metrics: named values to log, empty where there is nothing new.
        done: the search has nothing left to do (a grid walked to its end).
        children: the children worked on in it, all for the same time; empty for a search that has none.
        ended: the children that ended with it, worked on or not.
    """

    steps: int
    account: Account
    metrics: Mapping[str, float] = field(default_factory=dict)
    done: bool = False
    children: tuple[Child, ...] = ()
    ended: tuple[Child, ...] = ()


class Search(Protocol):
    """One method on one space with one seed.

    A search is driven by a plain loop: ``while budget left: search.step(spent)``. It never looks at a clock.
    """

    @property
    def space_size_log10(self) -> float:
        """log10 of the number of policies to choose from (Table 11's column), 0 without a choice."""

    def step(self, spent: float) -> SearchProgress:
        """Do one batch-sized slice of work; a batch for each child that is trained at the same time.

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

    @property
    def keep(self) -> int:
        """How many of the best policies make the search's result."""

    def ask(self) -> Policy | None:
        """Return the next policy to try, or None when there is none left; several may be asked before they are told."""

    def tell(self, policy: Policy, score: float) -> None:
        """Hear the validation accuracy, in [0, 1], of a child trained with `policy`; calls come in the order asked."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as tensors and plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
