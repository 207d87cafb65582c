"""The cell of DAS as published: a DAG whose edges blend all candidate ops by softmax(tau)."""

import numpy as np
import torch

from dastune import seeds
from dastune.augment.steps import DRAWS, StepTable, apply_op, uniform_draws
from dastune.policy.policy import Edge, Genotype
from dastune.policy.space import SearchSpace


class Cell:
    """Inputs, nodes, and an edge from every earlier state to every node; the last node is the output.

    On edge e the images become sum_k softmax(tau_e)_k op_k(images) (supplement, Eq. 4 for two ops); a node is the mean
    over its edges. Each image draws its own magnitude and sign for every op, uniformly over the op's range.

    Attributes:
        tau_EK: logits of K ops on E edges, initialised 1e-3 N(0, 1) as in DARTS.
        decided: edge -> index of the op it was discretised to.
        removed: edges that selection has taken out.
    """

    def __init__(
        self, space: SearchSpace, inputs: int, nodes: int, generator: torch.Generator, device: torch.device
    ) -> None:
        self.space = space
        self._table = StepTable([op.over_range() for op in space.ops], space.geometry)
        self.inputs = inputs
        self.edges = tuple((node, source) for node in range(nodes) for source in range(inputs + node))
        self.nodes = nodes
        start = 1e-3 * torch.randn(len(self.edges), len(space), generator=generator)
        self.tau_EK = start.to(device).requires_grad_()
        self.decided: dict[int, int] = {}
        self.removed: set[int] = set()

    def incoming(self, node: int) -> list[int]:
        """Return the edges into `node` that are still there."""
        return [edge for edge, (to, _) in enumerate(self.edges) if to == node and edge not in self.removed]

    def __call__(
        self,
        images_BCHW: torch.Tensor,
        generator: torch.Generator,
        *,
        without_op: tuple[int, int] | None = None,
        without_edge: int | None = None,
    ) -> torch.Tensor:
        """Return the blended batch, differentiable in tau.

        Args:
            images_BCHW: float32 in [0, 1].
            generator: on the CPU.
            without_op: (edge, op) whose weight is set to 0 without renormalising the others (DARTS-PT, section 4).
            without_edge: an edge left out of its node's mean.
        """
        # A stream for each edge and one seed for all, so that what is left out changes no other edge's draws.
        seed = int(torch.randint(2**62, (), generator=generator))
        states = [images_BCHW] * self.inputs
        for node in range(self.nodes):
            edges = [edge for edge in self.incoming(node) if edge != without_edge]
            masked = [without_op[1] if without_op and without_op[0] == edge else None for edge in edges]
            mixed = [
                self._mixed_op(states[self.edges[edge][1]], edge, op, seeds.generator(seed, edge))
                for edge, op in zip(edges, masked, strict=True)
            ]
            states.append(torch.stack(mixed).mean(0))
        return states[-1]

    def _mixed_op(
        self, images_BCHW: torch.Tensor, edge: int, masked: int | None, draws: torch.Generator
    ) -> torch.Tensor:
        if edge in self.decided:
            return self._op(images_BCHW, self.decided[edge], draws)
        weights_K = torch.softmax(self.tau_EK[edge], 0)
        blended_BCHW = torch.zeros_like(images_BCHW)
        for op in range(len(self.space)):
            transformed_BCHW = self._op(images_BCHW, op, draws)  # a masked op draws too, for those after it
            if op != masked:
                blended_BCHW = blended_BCHW + weights_K[op] * transformed_BCHW
        return blended_BCHW

    def _op(self, images_BCHW: torch.Tensor, index: int, draws: torch.Generator) -> torch.Tensor:
        batch, device = len(images_BCHW), images_BCHW.device
        drawn = self._table.drawn(np.full(batch, index), uniform_draws(batch, DRAWS, draws).numpy())
        argument_B, seed_B = (
            torch.from_numpy(values).to(device, non_blocking=True) for values in (drawn.argument_B, drawn.seed_B)
        )
        return apply_op(self.space.ops[index].name, images_BCHW, argument_B, seed_B, self.space.geometry)

    def genotype(self) -> Genotype:
        """Return the discrete cell: decided ops, the largest tau on undecided edges; two inputs a node at the most.

        Where a node still has more than two edges, the two whose largest weight is largest stay (as DARTS).
        """
        weights_EK = torch.softmax(self.tau_EK.detach(), 1).cpu()
        nodes = []
        for node in range(self.nodes):
            strongest = sorted(self.incoming(node), key=lambda edge: -float(weights_EK[edge].max()))[:2]
            nodes.append(tuple(self._edge(edge, weights_EK[edge]) for edge in sorted(strongest)))
        return Genotype(inputs=self.inputs, nodes=tuple(nodes), geometry=self.space.geometry)

    def _edge(self, edge: int, weights_K: torch.Tensor) -> Edge:
        op = self.decided.get(edge, int(weights_K.argmax()))
        return Edge(source=self.edges[edge][1], step=self.space.ops[op].over_range())
