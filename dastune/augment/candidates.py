"""All candidate ops of an edge at once: what is drawn for them, and their blend by weight.

The derivative in an op's weight is the inner product of what the op makes of the images with the gradient that comes
back. To have it there, the geometric ops' results are kept, since sampling takes long; the other ops are applied again,
which takes less time than a graph through all of them, and no memory. Where the images need a gradient too, each of
these ops has a graph of its own for just as long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from dastune.augment.steps import DRAWS, StepTable, apply_op, uniform_draws
from dastune.ops import geometric
from dastune.ops.table import GEOMETRIC, OPS
from dastune.policy.space import SearchSpace


@dataclass(frozen=True)
class Arguments:
    """What is drawn for each image and each of K ops: physical argument and seed; and the maps of G geometric ops."""

    argument_KB: torch.Tensor  # noqa: N815  shapes are part of names
    seed_KB: torch.Tensor  # noqa: N815
    map_GB33: torch.Tensor  # noqa: N815


class Candidates:
    """The ops of a space side by side, of which several may have the same name."""

    def __init__(self, space: SearchSpace) -> None:
        self.table = StepTable([op.over_range() for op in space.ops], space.geometry)
        self._names = space.names
        self._geometry = space.geometry
        self._geometric = [op for op, name in enumerate(space.names) if OPS[name].geometric]
        self._others = [op for op, name in enumerate(space.names) if not OPS[name].geometric]

    def draws(self, edges: int, images_BCHW: torch.Tensor, generator: torch.Generator) -> list[Arguments]:
        """Draw for each edge an argument for each op and image, from `generator`, which is on the CPU."""
        ops, batch, device = len(self._names), len(images_BCHW), images_BCHW.device
        which_EKB = np.broadcast_to(np.arange(ops)[:, None], (edges, ops, batch))
        drawn = self.table.drawn(which_EKB.ravel(), uniform_draws(which_EKB.size, DRAWS, generator).numpy())
        argument_EKB, seed_EKB = (
            torch.from_numpy(values).view(edges, ops, batch) for values in (drawn.argument_B, drawn.seed_B)
        )
        arguments_6EGB = torch.zeros(len(GEOMETRIC), edges, len(self._geometric), batch)
        for place, op in enumerate(self._geometric):
            arguments_6EGB[GEOMETRIC.index(self._names[op]), :, place] = argument_EKB[:, op]
        maps = geometric.matrices(arguments_6EGB.flatten(1), images_BCHW.shape[-2:], self._geometry)
        tensors = (argument_EKB, seed_EKB, maps.view(*arguments_6EGB.shape[1:], 3, 3))
        by_edge = zip(*(tensor.to(device, non_blocking=True) for tensor in tensors), strict=True)
        return [Arguments(*of_edge) for of_edge in by_edge]

    def blended(
        self, images_BCHW: torch.Tensor, weights_K: torch.Tensor, arguments: Arguments, masked: int | None = None
    ) -> torch.Tensor:
        """Return sum_k weights_k op_k(images) without op `masked`; differentiable, once, in weights and images."""
        ops = [op for op in (*self._geometric, *self._others) if op != masked]
        weights = weights_K.unbind()
        weights_N = torch.stack([weights[op] for op in ops])
        blended_BCHW: torch.Tensor = _Blend.apply(weights_N, images_BCHW, self, ops, arguments)
        return blended_BCHW

    def applied(self, images_BCHW: torch.Tensor, op: int, arguments: Arguments) -> torch.Tensor:
        """Return the images after one op; differentiable in them."""
        argument_B, seed_B = arguments.argument_KB[op], arguments.seed_KB[op]
        return apply_op(self._names[op], images_BCHW, argument_B, seed_B, self._geometry)

    def moved(self, images_BCHW: torch.Tensor, ops: Sequence[int], arguments: Arguments) -> torch.Tensor:
        """Return the images after each of the M geometric ops among `ops`, (B, C, M, H, W), all sampled in one go."""
        moving = [arguments.map_GB33[self._geometric.index(op)] for op in ops if op in self._geometric]
        if not moving:
            return images_BCHW[:, :, None][:, :, :0]
        return geometric.warps(images_BCHW, torch.stack(moving, 1), self._geometry.interpolation, self._geometry.fill)

    def pulled_back(
        self, images_BCHW: torch.Tensor, op: int, arguments: Arguments, gradient_BCHW: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images after one op, and the gradient that reaches them before it."""
        if OPS[self._names[op]].gradient == "straight-through":
            return self.applied(images_BCHW, op, arguments), gradient_BCHW
        with torch.enable_grad():
            images_BCHW = images_BCHW.detach().requires_grad_()
            applied_BCHW = self.applied(images_BCHW, op, arguments)
        [back_BCHW] = torch.autograd.grad(applied_BCHW, [images_BCHW], [gradient_BCHW])
        return applied_BCHW.detach(), back_BCHW


class _Blend(torch.autograd.Function):
    """What N ops make of the images, geometric ones first, added up by weight."""

    @staticmethod
    def forward(
        ctx: Any,
        weights_N: torch.Tensor,
        images_BCHW: torch.Tensor,
        candidates: Candidates,
        ops: Sequence[int],
        arguments: Arguments,
    ) -> torch.Tensor:
        moved_BCMHW = candidates.moved(images_BCHW, ops, arguments)
        ctx.of_ops = candidates, ops, arguments
        ctx.save_for_backward(weights_N, images_BCHW, None if ctx.needs_input_grad[1] else moved_BCMHW)
        blended_BCHW = torch.zeros_like(images_BCHW)
        for weight, term_BCHW in zip(weights_N, _terms(images_BCHW, moved_BCMHW, *ctx.of_ops), strict=True):
            blended_BCHW.addcmul_(term_BCHW, weight)
        return blended_BCHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BCHW: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weights_N, images_BCHW, moved_BCMHW = ctx.saved_tensors
        candidates, ops, arguments = ctx.of_ops
        gradient_N = gradient_BCHW.flatten()
        if moved_BCMHW is not None:
            terms = _terms(images_BCHW, moved_BCMHW, *ctx.of_ops)
            products = [torch.dot(term_BCHW.flatten(), gradient_N) for term_BCHW in terms]
            return torch.stack(products), None, None, None, None
        products = []
        total_BCHW = torch.zeros_like(images_BCHW)
        for weight, op in zip(weights_N, ops, strict=True):
            term_BCHW, back_BCHW = candidates.pulled_back(images_BCHW, op, arguments, gradient_BCHW)
            products.append(torch.dot(term_BCHW.flatten(), gradient_N))
            total_BCHW.addcmul_(back_BCHW, weight)
        return torch.stack(products), total_BCHW, None, None, None


def _terms(
    images_BCHW: torch.Tensor,
    moved_BCMHW: torch.Tensor,
    candidates: Candidates,
    ops: Sequence[int],
    arguments: Arguments,
) -> Iterator[torch.Tensor]:
    """Yield the images after each op, of which the first M are there already."""
    yield from moved_BCMHW.unbind(2)
    for op in ops[moved_BCMHW.shape[2] :]:
        yield candidates.applied(images_BCHW, op, arguments)
