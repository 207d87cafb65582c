"""Steps applied to a batch, another one to each image: the fast path of policies.

Everything random about an image is decided by numbers drawn for it on the CPU, so a GPU is never waited for and no
image's result depends on which others are in the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from dastune.ops import geometric
from dastune.ops.spaces import Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Step

SKIP = -1  # in place of a step's index: the image stays as it is
DRAWS = 4  # numbers that an image uses up at a step: magnitude, sign, coin, seed
CHUNK_VALUES = 2**17  # floats that an op is given at once on a CPU: they and what it makes of them stay in the cache


def uniform_draws(count: int, per_image: int, generator: torch.Generator) -> torch.Tensor:
    """Return float64 numbers (count, per_image) in [0, 1), image by image from `generator`, which is on the CPU.

    Two batches one after the other draw what one batch of both would.
    """
    return torch.rand(count, per_image, generator=generator, dtype=torch.float64)


def seeds_of(draws: torch.Tensor) -> torch.Tensor:
    """Return the ops' seeds, int64, that numbers in [0, 1) stand for."""
    return (draws * 2.0**53).long()


def apply_op(
    name: str, images_BCHW: torch.Tensor, argument_B: torch.Tensor, seed_B: torch.Tensor, geometry: Geometry
) -> torch.Tensor:
    """Apply one op to all images; differentiable in images and arguments."""
    if OPS[name].geometric:
        return geometric.move(name, images_BCHW, argument_B, geometry)
    return OPS[name].function(images_BCHW, argument_B, seed_B)


@dataclass(frozen=True)
class MaskedImages:
    """Images (B, C, H, W), float32 in [0, 1], and where wanted a mask (H, W) of class numbers for each."""

    images_BCHW: torch.Tensor  # noqa: N815  shapes are part of names
    masks_BHW: torch.Tensor | None = None  # noqa: N815
    ignore_index: int = 255

    def __getitem__(self, index: slice | torch.Tensor) -> "MaskedImages":
        masks_BHW = None if self.masks_BHW is None else self.masks_BHW[index]
        return MaskedImages(self.images_BCHW[index], masks_BHW, self.ignore_index)

    def __setitem__(self, index: slice | torch.Tensor, value: "MaskedImages") -> None:
        self.images_BCHW[index] = value.images_BCHW
        if self.masks_BHW is not None and value.masks_BHW is not None:
            self.masks_BHW[index] = value.masks_BHW

    def empty_like(self) -> "MaskedImages":
        """Return as many images of the same size, unset."""
        masks_BHW = None if self.masks_BHW is None else torch.empty_like(self.masks_BHW)
        return MaskedImages(torch.empty_like(self.images_BCHW), masks_BHW, self.ignore_index)

    def warped(self, matrix_B33: torch.Tensor, geometry: Geometry) -> "MaskedImages":
        """Return the images moved by the matrices; masks move along, with the ignore index from outside."""
        images_BCHW = geometric.warp(self.images_BCHW, matrix_B33, geometry.interpolation, geometry.fill)
        masks_BHW = self.masks_BHW
        if masks_BHW is not None:
            moved_B1HW = geometric.warp(masks_BHW[:, None].float(), matrix_B33, "nearest", (self.ignore_index,))
            masks_BHW = moved_B1HW[:, 0].to(masks_BHW.dtype)
        return MaskedImages(images_BCHW, masks_BHW, self.ignore_index)


@dataclass(frozen=True)
class DrawnSteps:
    """What each image of a batch goes through at one step: op (an index, or SKIP), argument, seed; all on the CPU."""

    op_B: NDArray[np.int64]  # noqa: N815
    argument_B: torch.Tensor  # noqa: N815
    seed_B: torch.Tensor  # noqa: N815


class StepTable:
    """Steps side by side, so that each image of a batch can take its own."""

    def __init__(self, steps: Sequence[Step], geometry: Geometry) -> None:
        self.geometry = geometry
        # The geometric ones first: they share a warp.
        names = {step.op for step in steps} - {"identity"}
        self._ops = sorted(names, key=lambda name: (not OPS[name].geometric, name))
        self._geometric = sum(OPS[name].geometric for name in names)
        indices = [SKIP if step.op == "identity" else self._ops.index(step.op) for step in steps]
        self._op_S = torch.tensor(indices, dtype=torch.int64)
        self._low_S = torch.tensor([step.low for step in steps], dtype=torch.float64)
        self._span_S = torch.tensor([step.high - step.low for step in steps], dtype=torch.float64)
        self._signed_S = torch.tensor([step.signed for step in steps], dtype=torch.bool)
        self._probability_S = torch.tensor([step.probability for step in steps], dtype=torch.float64)

    def drawn(self, which_B: torch.Tensor, draws_BD: torch.Tensor) -> DrawnSteps:
        """Return what becomes of step `which_B[b]` (int64, or SKIP) for image b with its DRAWS numbers `draws_BD`."""
        at_B = which_B.clamp(min=0)
        magnitude_B, sign_B, coin_B, seed_B = draws_BD.unbind(1)
        argument_B = self._low_S[at_B] + magnitude_B * self._span_S[at_B]
        argument_B = torch.where(self._signed_S[at_B] & (sign_B < 0.5), -argument_B, argument_B)
        applied_B = (which_B != SKIP) & (coin_B < self._probability_S[at_B])
        op_B = torch.where(applied_B, self._op_S[at_B], SKIP)
        return DrawnSteps(op_B.numpy(), argument_B.float(), seeds_of(seed_B))

    def apply(self, images_BCHW: torch.Tensor, which_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Send image b through step `which_B[b]` (SKIP: none), with its own magnitude, sign, coin and pixels.

        Args:
            images_BCHW: float32 in [0, 1].
            which_B: int64 on the CPU.
            generator: on the CPU.
        """
        drawn = self.drawn(which_B, uniform_draws(len(which_B), DRAWS, generator))
        return self.run(MaskedImages(images_BCHW), [drawn]).images_BCHW

    def run(self, batch: MaskedImages, sequence: Sequence[DrawnSteps]) -> MaskedImages:
        """Send each image through its drawn steps, one after the other; the batch itself stays as it is."""
        images_BCHW = batch.images_BCHW
        if images_BCHW.device.type == "cpu" and images_BCHW[:1].numel() > CHUNK_VALUES // 2:
            return self._one_by_one(batch, sequence)
        return self._by_op(batch, sequence)

    def _one_by_one(self, batch: MaskedImages, sequence: Sequence[DrawnSteps]) -> MaskedImages:
        """Take each image through all its steps before the next: what is large stays in the cache."""
        arrived = batch.empty_like()
        for b in range(len(batch.images_BCHW)):
            row = slice(b, b + 1)
            image, pending_133 = batch[row], None
            for drawn in sequence:
                op = int(drawn.op_B[b])
                if op == SKIP:
                    continue
                if op < self._geometric:
                    matrix_133 = self._matrix(op, drawn.argument_B[row], batch)
                    pending_133 = matrix_133 if pending_133 is None else pending_133 @ matrix_133
                if pending_133 is not None and (op >= self._geometric or self.geometry.sampling == "each"):
                    image, pending_133 = image.warped(pending_133, self.geometry), None
                if op >= self._geometric:
                    function = OPS[self._ops[op]].function
                    changed_1CHW = function(image.images_BCHW, drawn.argument_B[row], drawn.seed_B[row])
                    image = MaskedImages(changed_1CHW, image.masks_BHW, image.ignore_index)
            arrived[row] = image if pending_133 is None else image.warped(pending_133, self.geometry)
        return arrived

    def _by_op(self, batch: MaskedImages, sequence: Sequence[DrawnSteps]) -> MaskedImages:
        """Take all images through a step before the next, sorted so that those with the same op lie together."""
        count, device = len(batch.images_BCHW), batch.images_BCHW.device
        image_R = np.arange(count)  # row r of `batch` holds image image_R[r]
        map_R33 = torch.eye(3).repeat(count, 1, 1)  # of the geometric steps for which it has not been sampled yet
        waits_R = np.zeros(count, dtype=bool)  # whether there are such
        for drawn in sequence:
            order_R = np.argsort(drawn.op_B[image_R], kind="stable")
            batch, image_R = batch[_on(device, order_R)], image_R[order_R]
            map_R33, waits_R, op_R = map_R33[order_R], waits_R[order_R], drawn.op_B[image_R]
            self._sample(batch, map_R33, waits_R, waits_R & (op_R >= self._geometric))
            argument_R, seed_R = drawn.argument_B[image_R], drawn.seed_B[image_R]
            ends = np.searchsorted(op_R, np.arange(len(self._ops) + 1)).tolist()
            for op, (start, stop) in enumerate(pairwise(ends[: self._geometric + 1])):
                map_R33[start:stop] = map_R33[start:stop] @ self._matrix(op, argument_R[start:stop], batch)
            waits_R[ends[0] : ends[self._geometric]] = True
            if self.geometry.sampling == "each":
                self._sample(batch, map_R33, waits_R, waits_R)
            argument_R = argument_R.to(device, non_blocking=True)
            seed_R = seed_R.to(device, non_blocking=True)
            for op, (start, stop) in enumerate(pairwise(ends)):
                if op >= self._geometric:
                    for rows in _parts(start, stop, batch.images_BCHW):
                        self._change(op, batch.images_BCHW[rows], argument_R[rows], seed_R[rows])
        self._sample(batch, map_R33, waits_R, waits_R)
        return batch[_on(device, np.argsort(image_R))]

    def _sample(
        self,
        batch: MaskedImages,
        map_R33: torch.Tensor,
        waits_R: NDArray[np.bool_],
        which_R: NDArray[np.bool_],
    ) -> None:
        """Sample the rows `which_R` at their maps; none of these waits any longer."""
        places = np.flatnonzero(which_R)
        if not len(places):
            return
        waits_R[places] = False
        together = places[-1] - places[0] + 1 == len(places)
        for part in _parts(0, len(places), batch.images_BCHW):
            maps_N33 = map_R33[places[part]].to(batch.images_BCHW.device, non_blocking=True)
            rows = slice(places[0] + part.start, places[0] + part.stop) if together else places[part]
            index = rows if isinstance(rows, slice) else _on(batch.images_BCHW.device, rows)
            batch[index] = batch[index].warped(maps_N33, self.geometry)
        map_R33[places] = torch.eye(3)

    def _matrix(self, op: int, argument_N: torch.Tensor, batch: MaskedImages) -> torch.Tensor:
        return geometric.matrix(self._ops[op], argument_N, batch.images_BCHW.shape[-2:], self.geometry)

    def _change(self, op: int, images_NCHW: torch.Tensor, argument_N: torch.Tensor, seed_N: torch.Tensor) -> None:
        """Apply a non-geometric op in place."""
        images_NCHW.copy_(OPS[self._ops[op]].function(images_NCHW, argument_N, seed_N))


def _on(device: torch.device, indices: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(indices).to(device, non_blocking=True)


def _parts(start: int, stop: int, images_BCHW: torch.Tensor) -> Iterator[slice]:
    """Cut rows start .. stop - 1 into parts that fit a CPU's cache; a GPU takes them at once."""
    size = max(1, CHUNK_VALUES // max(images_BCHW[:1].numel(), 1)) if images_BCHW.device.type == "cpu" else stop - start
    for first in range(start, stop, max(size, 1)):
        yield slice(first, min(first + size, stop))
