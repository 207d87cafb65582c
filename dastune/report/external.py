"""Published policies: found elsewhere, so kept apart from what a study compares."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from dastune.policy.references import REFERENCES
from dastune.report.plan import PUBLISHED, Plan
from dastune.report.stats import Cell


class _OfMethod(Protocol):
    @property
    def method(self) -> str: ...


_Item = TypeVar("_Item", bound=_OfMethod)


@dataclass(frozen=True)
class External:
    """A published policy that the study has trained and tested.

    Attributes:
        policy: its name in `dastune.policy.references`; "" where the study does not say.
        source: where it is published, and what it was found for; "" where that is not known.
    """

    cell: Cell
    policy: str
    source: str


def apart(items: Iterable[_Item], plan: Plan | None) -> tuple[list[_Item], list[_Item]]:
    """Return the cells, or rows, of the methods that the study compares, and those of published policies."""
    kinds = plan.methods if plan else {}
    own: list[_Item] = []
    published: list[_Item] = []
    for item in items:
        (published if kinds.get(item.method, item.method) == PUBLISHED else own).append(item)
    return own, published


def externals(published: Sequence[Cell], plan: Plan | None) -> list[External]:
    """Return what is known of the published policies of these cells."""
    names = plan.published if plan else {}
    found = []
    for cell in published:
        name = names.get(cell.method, "")
        found.append(External(cell, name, REFERENCES[name].source if name in REFERENCES else ""))
    return found
