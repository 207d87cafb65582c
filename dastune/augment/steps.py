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
# For CPUs: an op is given so many floats at once, so that caches hold what it makes of them; and images larger than so
# many are taken one by one.
CHUNK_VALUES = 2**19
LARGE_VALUES = 2**16


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

    def __getitem__(self, index: slice | NDArray[np.int64]) -> "MaskedImages":
        masks_BHW = None if self.masks_BHW is None else _taken(self.masks_BHW, index)
        return MaskedImages(_taken(self.images_BCHW, index), masks_BHW, self.ignore_index)

    def __setitem__(self, index: slice | NDArray[np.int64], value: "MaskedImages") -> None:
        _put(self.images_BCHW, index, value.images_BCHW)
        if self.masks_BHW is not None and value.masks_BHW is not None:
            _put(self.masks_BHW, index, value.masks_BHW)

    def clone(self) -> "MaskedImages":
        """Return a copy."""
        masks_BHW = None if self.masks_BHW is None else self.masks_BHW.clone()
        return MaskedImages(self.images_BCHW.clone(), masks_BHW, self.ignore_index)

    def empty_like(self) -> "MaskedImages":
        """Return as many images of the same size, unset."""
        masks_BHW = None if self.masks_BHW is None else torch.empty_like(self.masks_BHW)
        return MaskedImages(torch.empty_like(self.images_BCHW), masks_BHW, self.ignore_index)

    def warped(self, matrix_B33: torch.Tensor, geometry: Geometry) -> "MaskedImages":
        """Return the images moved by the matrices; masks move along, with the ignore index from outside."""
        pixels = _translation_px(self.images_BCHW, matrix_B33, geometry)
        if pixels:
            images_BCHW = geometric.shifted(self.images_BCHW, *pixels, geometry.fill)
        else:
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
        passes = self._passes(sequence, len(images_BCHW), images_BCHW.shape[-2:])
        if images_BCHW.device.type == "cpu" and images_BCHW[:1].numel() > LARGE_VALUES:
            return self._one_by_one(batch, passes)
        return self._by_op(batch, passes)

    def _passes(self, sequence: Sequence[DrawnSteps], count: int, size_HW: Sequence[int]) -> list["_Pass"]:
        """Plan the passes over the images: when each one is sampled, at which map, and which op follows."""
        passes = []
        waits_B, pending_B33 = np.zeros(count, dtype=bool), _no_maps(count)  # maps not yet sampled
        for drawn in sequence:
            moves_B = (drawn.op_B != SKIP) & (drawn.op_B < self._geometric)
            changes_B = drawn.op_B >= self._geometric
            op_B, map_B33 = np.where(changes_B, drawn.op_B, SKIP), self._maps(drawn, size_HW)
            if self.geometry.sampling == "each":
                passes.append(_Pass(moves_B, map_B33, op_B, drawn.argument_B, drawn.seed_B))
                continue
            samples_B = waits_B & changes_B
            passes.append(_Pass(samples_B, pending_B33, op_B, drawn.argument_B, drawn.seed_B))
            pending_B33 = torch.where(torch.from_numpy(samples_B)[:, None, None], map_B33, pending_B33 @ map_B33)
            waits_B = (waits_B & ~changes_B) | moves_B
        if waits_B.any():
            none_B = np.full(count, SKIP)
            passes.append(_Pass(waits_B, pending_B33, none_B, torch.zeros(count), torch.zeros(count).long()))
        return passes

    def _maps(self, drawn: DrawnSteps, size_HW: Sequence[int]) -> torch.Tensor:
        """Return the geometric ops' maps (B, 3, 3); the identity for images that take another op."""
        map_B33 = _no_maps(len(drawn.op_B))
        for op, name in enumerate(self._ops[: self._geometric]):
            rows = torch.from_numpy(np.flatnonzero(drawn.op_B == op))
            if len(rows):
                map_B33[rows] = geometric.matrix(name, drawn.argument_B[rows], size_HW, self.geometry)
        return map_B33

    def _one_by_one(self, batch: MaskedImages, passes: Sequence["_Pass"]) -> MaskedImages:
        """Take each image through all passes before the next: what is large stays in the cache."""
        arrived = batch.empty_like()
        for b in range(len(batch.images_BCHW)):
            row = slice(b, b + 1)
            image = batch[row]
            for step in passes:
                samples, op = bool(step.samples_B[b]), int(step.op_B[b])
                if samples or op != SKIP:
                    image = self._through(image, samples, step.map_B33[row], op, step.argument_B[row], step.seed_B[row])
            arrived[row] = image
        return arrived

    def _by_op(self, batch: MaskedImages, passes: Sequence["_Pass"]) -> MaskedImages:
        """Take all images through a pass before the next, those to which the same happens together."""
        device, arrived = batch.images_BCHW.device, batch.clone()
        for step in passes:
            kind_B = 2 * step.op_B + step.samples_B
            order_B = np.argsort(kind_B, kind="stable")
            map_B33, argument_B, seed_B = (
                values[order_B].to(device, non_blocking=True) for values in (step.map_B33, step.argument_B, step.seed_B)
            )
            for kind, rows in _runs(kind_B[order_B], batch.images_BCHW):
                op, samples = divmod(kind, 2)
                if samples or op != SKIP:
                    images = order_B[rows]
                    arrived[images] = self._through(
                        arrived[images], bool(samples), map_B33[rows], op, argument_B[rows], seed_B[rows]
                    )
        return arrived

    def _through(
        self,
        images: MaskedImages,
        samples: bool,
        map_N33: torch.Tensor,
        op: int,
        argument_N: torch.Tensor,
        seed_N: torch.Tensor,
    ) -> MaskedImages:
        """Return images that all go the same way through a pass."""
        if samples:
            images = images.warped(map_N33, self.geometry)
        if op == SKIP:
            return images
        changed_NCHW = OPS[self._ops[op]].function(images.images_BCHW, argument_N, seed_N)
        return MaskedImages(changed_NCHW, images.masks_BHW, images.ignore_index)


@dataclass(frozen=True)
class _Pass:
    """What happens to each image in one go: it is sampled at its map or not, then goes through an op or none (SKIP)."""

    samples_B: NDArray[np.bool_]  # noqa: N815
    map_B33: torch.Tensor  # noqa: N815
    op_B: NDArray[np.int64]  # noqa: N815
    argument_B: torch.Tensor  # noqa: N815
    seed_B: torch.Tensor  # noqa: N815


def _no_maps(count: int) -> torch.Tensor:
    """Return maps that leave images where they are."""
    return torch.eye(3).expand(count, 3, 3).clone()


def _runs(kind_B: NDArray[np.int64], images_BCHW: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """Yield the runs of equal values in sorted `kind_B`, on a CPU cut to what fits its cache."""
    size = len(kind_B)
    if images_BCHW.device.type == "cpu":
        size = max(1, CHUNK_VALUES // max(1, images_BCHW[:1].numel()))
    kinds, starts = np.unique(kind_B, return_index=True)
    bounds = pairwise([*starts.tolist(), len(kind_B)])
    for kind, (start, stop) in zip(kinds.tolist(), bounds, strict=True):
        for first in range(start, stop, size):
            yield kind, slice(first, min(first + size, stop))


def _translation_px(
    images_BCHW: torch.Tensor, matrix_B33: torch.Tensor, geometry: Geometry
) -> tuple[float, float] | None:
    """Return how far right and down a single image on a CPU is moved, or None for others and for other maps."""
    if len(images_BCHW) != 1 or images_BCHW.device.type != "cpu":
        return None
    height, width = images_BCHW.shape[-2:]
    (x_x, x_y, x), (y_x, y_y, y), _ = matrix_B33[0].tolist()
    if (x_x, x_y, y_x, y_y) != (1, 0, 0, 1):
        return None
    pixels = -x * width / 2, -y * height / 2
    if geometry.interpolation == "nearest" and any(abs(pixel - round(pixel)) > 1e-4 for pixel in pixels):
        return None
    return pixels


def _taken(values: torch.Tensor, index: slice | NDArray[np.int64]) -> torch.Tensor:
    """Return values[index]; torch's plain indexing with many indices takes several times as long on a CPU."""
    if isinstance(index, slice):
        return values[index]
    return values.index_select(0, torch.from_numpy(index).to(values.device, non_blocking=True))


def _put(values: torch.Tensor, index: slice | NDArray[np.int64], new: torch.Tensor) -> None:
    """Set values[index]; for many indices on a CPU by NumPy, which takes half of torch's time."""
    if isinstance(index, slice):
        values[index] = new
    elif values.device.type == "cpu":
        values.numpy()[index] = new.numpy()
    else:
        values.index_copy_(0, torch.from_numpy(index).to(values.device, non_blocking=True), new)
