"""How the edges of a differentiable search are wired: chains of stages, and DAGs as in DARTS. Imports no torch."""

import math
import re
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

LONGEST = 6  # stages of a chain, and nodes of a cell
KEPT_INPUTS = 2  # edges into a node in the end, as in DARTS


@dataclass(frozen=True)
class Link:
    """An edge of the unrolled DAG: the state that it reads, and the row of tau that is on it."""

    source: int
    row: int


@dataclass(frozen=True)
class Topology:
    """All cells unrolled into one DAG, whose last node is the output.

    States are numbered 0 .. inputs-1 for the inputs (each the image), then one per node.

    Attributes:
        inputs: 1 or 2 states that are the image.
        nodes: the edges into each node.
        rows: rows of tau, one for each edge of one cell; all cells share them, as in DARTS.
        join: what a node makes of its edges: their mean, or their sum cut to [0, 1].
        kept: edges that stay at each node in the end; None: all.
    """

    inputs: int
    nodes: tuple[tuple[Link, ...], ...]
    rows: int
    join: Literal["mean", "sum"] = "mean"
    kept: int | None = None

    @property
    def links(self) -> tuple[Link, ...]:
        """All edges of all cells, node by node."""
        return tuple(link for links in self.nodes for link in links)

    @property
    def is_chain(self) -> bool:
        """Whether each node has one edge, from the state just before it, with a row of its own."""
        return self.nodes == chain(len(self.nodes)).nodes

    @property
    def cell_nodes(self) -> int:
        """The number of nodes of one cell, which come first in `nodes`."""
        return list(accumulate(len(links) for links in self.nodes)).index(self.rows) + 1

    def incoming_rows(self, node: int) -> tuple[int, ...]:
        """Return the rows of the edges into a node of one cell."""
        return tuple(link.row for link in self.nodes[node])

    def size_log10(self, ops: int) -> float:
        """Return log10 of how many discrete cells there are: the sources of the edges kept, and one op of all on each.

        180 x 15^8 for `darts-4` and 15 ops. Cells share their edges, so more of them add nothing.
        """
        size = 0.0
        for links in self.nodes[: self.cell_nodes]:
            kept = min(len(links), self.kept or len(links))
            size += math.log10(math.comb(len(links), kept)) + kept * math.log10(ops)
        return size


def chain(length: int) -> Topology:
    """Return `length` stages, one after the other."""
    return Topology(inputs=1, nodes=tuple((Link(stage, stage),) for stage in range(length)), rows=length)


def dag(inputs: int, nodes: int, cells: int = 1, join: Literal["mean", "sum"] = "mean") -> Topology:
    """Return cells whose nodes read the cell's inputs and all its earlier nodes.

    A cell's output is its last node. The inputs of a cell are the outputs of the `inputs` cells before it; the image,
    where there is none. 2 inputs and 4 nodes make the 14 edges of DARTS.
    """
    outputs = list(range(inputs))
    unrolled: list[tuple[Link, ...]] = []
    for _ in range(cells):
        states = outputs[-inputs:]
        row = 0
        for _ in range(nodes):
            unrolled.append(tuple(Link(source, row + place) for place, source in enumerate(states)))
            row += len(states)
            states.append(inputs + len(unrolled) - 1)
        outputs.append(states[-1])
    rows = nodes * inputs + nodes * (nodes - 1) // 2
    return Topology(inputs, tuple(unrolled), rows, join, KEPT_INPUTS)


def named(name: str) -> Topology:
    """Return the topology of a name: `single`, `chain-2`, `darts-4`. Raises ValueError if there is none."""
    if name == "single":
        return chain(1)
    found = re.fullmatch(f"(chain|darts)-([1-{LONGEST}])", name)
    if found is None:
        raise ValueError(
            f"{name[:60]!r} is no topology; they are single, chain-1 to chain-{LONGEST} and darts-1 to darts-{LONGEST}"
        )
    size = int(found[2])
    return chain(size) if found[1] == "chain" else dag(2, size)
