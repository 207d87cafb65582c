"""Perturbation-based selection (DARTS-PT, ICLR 2021, section 4): what does the supernet lose without this op?"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch

from dastune.data.classification import Images
from dastune.seeds import generator

KEPT_INPUTS = 2  # edges into a node in the end, as in DARTS

Score = Callable[[torch.Tensor, torch.Tensor, Mapping[str, Any]], int]


class Supernet(Protocol):
    """What selection needs to know of a cell."""

    nodes: int
    edges: tuple[tuple[int, int], ...]
    decided: dict[int, int]
    removed: set[int]
    tau_EK: torch.Tensor  # noqa: N815  shapes are part of names

    def incoming(self, node: int) -> list[int]:
        """Return the edges into `node` that are still there."""


class PerturbationSelection:
    """Discretises a supernet, one decision after the other, one validation batch a step.

    First every edge, in random order: each op's weight is set to 0 in turn, without renormalising the others, and the
    op whose removal leaves the lowest validation accuracy is the edge's op (ties: the first). Then every node with more
    than two edges, in random order: as long as it has more, the edge whose removal leaves the highest accuracy goes.

    Args:
        cell: the supernet; its `decided` and `removed` are written here.
        validation: all of it is used for every score.
        batch_size: images per step.
        seed: of the order of the decisions.
    """

    def __init__(self, cell: Supernet, validation: Images, batch_size: int, seed: int) -> None:
        self._cell = cell
        self._validation = validation
        self._batch_size = batch_size
        random = generator(seed, "selection")
        edges = torch.randperm(len(cell.edges), generator=random).tolist()
        surplus = [node for node in range(cell.nodes) for _ in range(len(cell.incoming(node)) - KEPT_INPUTS)]
        nodes = [node for node in torch.randperm(cell.nodes, generator=random).tolist() if node in surplus]
        removals = [("node", node) for node in nodes for _ in range(surplus.count(node))]
        self._decisions: list[tuple[str, int]] = [("edge", edge) for edge in edges] + removals
        self._made = 0
        self._correct: list[int] = []
        self._next = 0
        self._accuracy: float | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Decisions made and the validation image that the next batch begins with."""
        return self._made, self._next

    def due(self, progress: float) -> bool:
        """Return whether a decision is to be worked on at the share `progress` of the selection phase (< 0: before).

        Decisions are spread evenly over the phase, the first at its beginning; a decision begun is ended.
        """
        if self._made >= len(self._decisions):
            return False
        return bool(self._correct) or progress >= self._made / len(self._decisions)

    def _candidates(self) -> list[dict[str, Any]]:
        kind, index = self._decisions[self._made]
        if kind == "edge":
            return [{"without_op": (index, op)} for op in range(self._cell.tau_EK.shape[1])]
        return [{"without_edge": edge} for edge in self._cell.incoming(index)]

    def step(self, score: Score) -> Mapping[str, float]:
        """Score one batch for one candidate of the decision at hand; decide after the last."""
        candidates = self._candidates()
        if self._next == 0:
            self._correct.append(0)
        stop = min(self._next + self._batch_size, len(self._validation))
        images_BCHW, labels_B = self._validation.batch(torch.arange(self._next, stop))
        self._correct[-1] += score(images_BCHW, labels_B, candidates[len(self._correct) - 1])
        self._next = stop % len(self._validation)
        if self._next or len(self._correct) < len(candidates):
            return {}
        return self._decide(candidates)

    def _decide(self, candidates: Iterable[Mapping[str, Any]]) -> Mapping[str, float]:
        kind, index = self._decisions[self._made]
        if kind == "edge":
            chosen = self._correct.index(min(self._correct))
            self._cell.decided[index] = chosen
        else:
            chosen = self._correct.index(max(self._correct))
            self._cell.removed.add(list(candidates)[chosen]["without_edge"])
        self._accuracy = max(self._correct) / len(self._validation)
        self._made, self._correct = self._made + 1, []
        return {"decisions": float(self._made), "val_accuracy": self._accuracy}

    def summary(self) -> Mapping[str, float]:
        """Return the decisions made and the best validation accuracy among the last one's candidates."""
        summary = {"decisions": float(self._made)}
        if self._accuracy is not None:
            summary["val_accuracy"] = self._accuracy
        return summary

    def state_dict(self) -> dict[str, Any]:
        """Return the decisions' order and the one at hand."""
        return {
            "decisions": [list(decision) for decision in self._decisions],
            "made": self._made,
            "correct": list(self._correct),
            "next": self._next,
            "accuracy": self._accuracy,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._decisions = [(kind, index) for kind, index in state["decisions"]]
        self._made, self._correct, self._next = state["made"], list(state["correct"]), state["next"]
        self._accuracy = state["accuracy"]
