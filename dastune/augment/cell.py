"""The relaxed policy of differentiable searches: on every edge all candidate ops, weighted by softmax(tau).

`Cell.blend` is the published one: pixels of all candidates are blended, and the result is differentiable in tau.
`Cell.sample` draws one op for each image and edge, as the discrete policy would.
"""

import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import reduce
from itertools import count, permutations
from typing import TypeAlias

import torch

from dastune.augment.candidates import Candidates
from dastune.augment.steps import SKIP, MaskedImages
from dastune.ops.image_op import clamped
from dastune.policy.policy import Choice, Edge, Genotype, Stages, Step
from dastune.policy.space import SearchSpace
from dastune.policy.topology import Link, Topology

_OnEdge: TypeAlias = Callable[[torch.Tensor, int, int], torch.Tensor]


@dataclass(frozen=True)
class Draws:
    """What each image of a batch drew, on the CPU.

    Attributes:
        op_LB: int64, the op's index for each edge of `Topology.links` and image; -1 on removed edges.
        order_B: int64, for each image the position in `Cell.orders`.
    """

    op_LB: torch.Tensor  # noqa: N815  shapes are part of names
    order_B: torch.Tensor  # noqa: N815


class Cell:
    """Candidate ops on every edge of a topology; the last node is the output.

    Each image draws its own magnitude and sign for every op, uniformly over the op's range.

    Where ops are sampled on a chain, the order of its stages is drawn too. Two useful ops in the wrong order are a
    local optimum of tau alone: neither stage gains by changing before the other does.

    Attributes:
        tau_EK: logits of K ops on E rows of edges, initialised 1e-3 N(0, 1) as in DARTS; lower by log(n) for each of
            the n parts of an op that was split, so that ops start alike.
        orders: the permutations of a chain's stages, the given one first; of a DAG that one only.
        order_P: their logits, initialised 0.
        decided: row -> index of the op it was discretised to.
        removed: rows that selection has taken out.
    """

    def __init__(
        self, space: SearchSpace, topology: Topology, generator: torch.Generator, device: torch.device
    ) -> None:
        self.space = space
        self.topology = topology
        self._candidates = Candidates(space)
        equal_K = torch.tensor(space.uniform_shares).log() + math.log(len(set(space.names)))
        start = equal_K + 1e-3 * torch.randn(topology.rows, len(space), generator=generator)
        self.tau_EK = start.to(device).requires_grad_()
        given = tuple(range(topology.rows))
        self.orders = tuple(permutations(given)) if topology.is_chain else (given,)
        self._orders_PS = torch.tensor(self.orders)
        self.order_P = torch.zeros(len(self.orders), device=device, requires_grad=True)
        self.decided: dict[int, int] = {}
        self.removed: set[int] = set()

    def incoming(self, node: int) -> list[int]:
        """Return the rows into a node of one cell that are still there."""
        return [row for row in self.topology.incoming_rows(node) if row not in self.removed]

    def blend(
        self,
        images_BCHW: torch.Tensor,
        generator: torch.Generator,
        *,
        without_op: tuple[int, int] | None = None,
        without_row: int | None = None,
    ) -> torch.Tensor:
        """Return the blended batch, differentiable in tau.

        On an edge the images become sum_k softmax(tau)_k op_k(images) (supplement, Eq. 4 for two ops).

        Args:
            images_BCHW: float32 in [0, 1].
            generator: on the CPU.
            without_op: (row, op) whose weight is set to 0 without renormalising the others (DARTS-PT, section 4).
            without_row: a row left out of its node.
        """
        # All edges draw, so that what is left out changes no other's draws.
        drawn = self._candidates.draws(len(self.topology.links), images_BCHW, generator)
        weights_EK = torch.softmax(self.tau_EK, 1)

        def mixed(states_BCHW: torch.Tensor, place: int, row: int) -> torch.Tensor:
            if row in self.decided:
                return self._candidates.applied(states_BCHW, self.decided[row], drawn[place])
            masked = without_op[1] if without_op and without_op[0] == row else None
            if masked is not None and len(self.space) == 1:
                return torch.zeros_like(states_BCHW)  # nothing is left to blend
            return self._candidates.blended(states_BCHW, weights_EK[row], drawn[place], masked)

        return self._through(images_BCHW, {*self.removed, without_row}, mixed)

    @torch.no_grad()
    def sample(
        self, images_BCHW: torch.Tensor, generator: torch.Generator, *, forced: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, Draws]:
        """Return the batch with one op drawn from softmax(tau) for each image and edge, and what was drawn.

        Args:
            images_BCHW: float32 in [0, 1].
            generator: on the CPU.
            forced: (row, op) that the first half of the batch, rounded up, takes. Nothing else changes: all other
                draws are what they are without it.
        """
        draws, table = self._draws(len(images_BCHW), generator, forced), self._candidates.table
        if self.topology.is_chain:
            played_LB = draws.op_LB.gather(0, self._orders_PS[draws.order_B].T)
            return table.run(MaskedImages(images_BCHW), table.sequence(played_LB, generator)).images_BCHW, draws
        steps = table.sequence(draws.op_LB, generator)

        def sampled(states_BCHW: torch.Tensor, place: int, _: int) -> torch.Tensor:
            return table.run(MaskedImages(states_BCHW), [steps[place]]).images_BCHW

        return self._through(images_BCHW, self.removed, sampled), draws

    def _draws(self, batch: int, generator: torch.Generator, forced: tuple[int, int] | None) -> Draws:
        """Return what each of so many images draws; see `sample`."""
        rows = [link.row for link in self.topology.links]
        drawn_LB = torch.multinomial(self._weights()[rows], batch, replacement=True, generator=generator)
        for place, row in enumerate(rows):
            if row in self.removed:
                drawn_LB[place] = SKIP
            elif forced and row == forced[0]:
                drawn_LB[place, : (batch + 1) // 2] = forced[1]
        order_B = torch.zeros(batch, dtype=torch.int64)
        if len(self.orders) > 1:
            chances_P = torch.softmax(self.order_P.detach().cpu().double(), 0)
            order_B = torch.multinomial(chances_P, batch, replacement=True, generator=generator)
        return Draws(drawn_LB, order_B)

    def _through(self, images_BCHW: torch.Tensor, gone: Container[int | None], edge: _OnEdge) -> torch.Tensor:
        """Send images through the DAG without the rows `gone`.

        `edge` makes an edge's images of the state that it reads, its place in `links` and its row.
        """
        places = count()
        states = [images_BCHW] * self.topology.inputs
        for links in self.topology.nodes:
            there = [(link, place) for link, place in zip(links, places, strict=False) if link.row not in gone]
            states.append(self._joined([edge(states[link.source], place, link.row) for link, place in there]))
        return states[-1]

    def _joined(self, edges: list[torch.Tensor]) -> torch.Tensor:
        """Return the node of its edges' images."""
        if len(edges) == 1:
            return edges[0]
        total_BCHW = reduce(torch.add, edges)
        return total_BCHW / len(edges) if self.topology.join == "mean" else clamped(total_BCHW, "exact")

    def _weights(self) -> torch.Tensor:
        """Return softmax(tau), float64 on the CPU; decided rows are 1 at their op."""
        weights_EK = torch.softmax(self.tau_EK.detach().cpu().double(), 1)
        for row, op in self.decided.items():
            weights_EK[row] = 0
            weights_EK[row, op] = 1
        return weights_EK

    def log_probability(self, draws: Draws) -> torch.Tensor:
        """Return the log probability of each image's draws (B,), differentiable in tau and in the orders' logits.

        Decided edges are certain.
        """
        open_links = [
            (place, link.row)
            for place, link in enumerate(self.topology.links)
            if link.row not in self.removed and link.row not in self.decided
        ]
        log_EK = torch.log_softmax(self.tau_EK, 1)
        index_LB = draws.op_LB.to(log_EK.device, non_blocking=True)
        total_B = torch.log_softmax(self.order_P, 0)[draws.order_B.to(log_EK.device, non_blocking=True)]
        for place, row in open_links:
            total_B = total_B + log_EK[row].gather(0, index_LB[place])
        return total_B

    @property
    def _stages_in_order(self) -> tuple[int, ...]:
        """For each stage of a chain the row of tau that is likeliest to be there; of a DAG all rows as they are."""
        return self.orders[int(self.order_P.argmax())]

    def stages(self) -> Stages:
        """Return softmax(tau) at each stage of a chain, in the likeliest order; a decided stage is its one op.

        Raises:
            ValueError: the topology is no chain.
        """
        if not self.topology.is_chain:
            raise ValueError("only a chain can be a policy of stages")
        weights_EK = self._weights()
        stages = []
        for row in self._stages_in_order:
            ops = [self.decided[row]] if row in self.decided else range(len(self.space))
            stages.append(
                tuple(Choice(weight=float(weights_EK[row, op]), step=self.space.ops[op].over_range()) for op in ops)
            )
        return Stages(stages=tuple(stages), geometry=self.space.geometry)

    def genotype(self) -> Genotype:
        """Return the discrete cell: decided ops, else the largest tau; `topology.kept` edges at each node.

        Where a node has more, those whose largest weight is largest stay (as DARTS).
        """
        weights_EK = torch.softmax(self.tau_EK.detach().cpu().double(), 1)
        nodes = []
        for links in self.topology.nodes:
            there = [link for link in links if link.row not in self.removed]
            strongest = sorted(there, key=lambda link: -float(weights_EK[link.row].max()))[: self.topology.kept]
            nodes.append(tuple(self._edge(link, weights_EK) for link in sorted(strongest, key=there.index)))
        return Genotype(
            inputs=self.topology.inputs, nodes=tuple(nodes), node=self.topology.join, geometry=self.space.geometry
        )

    def _edge(self, link: Link, weights_EK: torch.Tensor) -> Edge:
        row = self._stages_in_order[link.row]
        op = self.decided.get(row, int(weights_EK[row].argmax()))
        return Edge(source=link.source, step=self._edge_step(row, op))

    def _edge_step(self, row: int, op: int) -> Step:
        """Return what is on an edge whose row of tau was decided for an op."""
        return self.space.ops[op].over_range()
