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
from dastune.ops.table import GEOMETRIC, OPS
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


def taken_alone(images_BCHW: torch.Tensor) -> bool:
    """Return whether images of this size, on this device, go through a policy one by one."""
    return images_BCHW.device.type == "cpu" and images_BCHW[:1].numel() > LARGE_VALUES


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
        # A large image is alone, whatever the batch, so which way it goes depends on its own map.
        pixels = _translation_px(self.images_BCHW, matrix_B33, geometry) if taken_alone(self.images_BCHW) else None
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
    """What each image of a batch goes through at one step: op (its index, or SKIP), physical argument, seed."""

    # NumPy's, since it takes a fraction of torch's time for so few numbers.
    op_B: NDArray[np.int64]  # noqa: N815
    argument_B: NDArray[np.float32]  # noqa: N815
    seed_B: NDArray[np.int64]  # noqa: N815


class StepTable:
    """Steps side by side, so that each image of a batch can take its own."""

    def __init__(self, steps: Sequence[Step], geometry: Geometry) -> None:
        self.geometry = geometry
        # The geometric ones first: they share a warp.
        names = {step.op for step in steps} - {"identity"}
        self._ops = sorted(names, key=lambda name: (not OPS[name].geometric, name))
        self._geometric = sum(OPS[name].geometric for name in names)
        self._op_S = np.array([SKIP if step.op == "identity" else self._ops.index(step.op) for step in steps])
        self._low_S = np.array([step.low for step in steps])
        self._span_S = np.array([step.high - step.low for step in steps])
        self._signed_S = np.array([step.signed for step in steps], dtype=bool)
        self._probability_S = np.array([step.probability for step in steps])

    def drawn(self, which_B: NDArray[np.int64], draws_BD: NDArray[np.float64]) -> DrawnSteps:
        """Return what becomes of step `which_B[b]` (or SKIP) for image b with its DRAWS numbers `draws_BD[b]`."""
        magnitude_B, sign_B, coin_B, seed_B = draws_BD.T
        argument_B = self._low_S[which_B] + magnitude_B * self._span_S[which_B]
        argument_B = np.where(self._signed_S[which_B] & (sign_B < 0.5), -argument_B, argument_B)
        applied_B = (which_B != SKIP) & (coin_B < self._probability_S[which_B])
        op_B = np.where(applied_B, self._op_S[which_B], SKIP)
        return DrawnSteps(op_B, argument_B.astype(np.float32), (seed_B * 2.0**53).astype(np.int64))

    def apply(self, images_BCHW: torch.Tensor, which_SB: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Send image b through the steps `which_SB[:, b]` (SKIP: none), each with its magnitude, sign, coin and pixels.

        Args:
            images_BCHW: float32 in [0, 1].
            which_SB: int64 on the CPU; a row for each of the steps that come one after the other.
            generator: on the CPU.
        """
        return self.run(MaskedImages(images_BCHW), self.sequence(which_SB, generator)).images_BCHW

    def sequence(self, which_SB: torch.Tensor, generator: torch.Generator) -> list[DrawnSteps]:
        """Return what `apply` sends each image through."""
        return [
            self.drawn(which_B.numpy(), uniform_draws(len(which_B), DRAWS, generator).numpy()) for which_B in which_SB
        ]

    def run(self, batch: MaskedImages, sequence: Sequence[DrawnSteps]) -> MaskedImages:
        """Send each image through its drawn steps, one after the other; the batch itself stays as it is."""
        images_BCHW = batch.images_BCHW
        passes = self._passes(sequence, len(images_BCHW), images_BCHW.shape[-2:])
        return self._one_by_one(batch, passes) if taken_alone(images_BCHW) else self._by_op(batch, passes)

    def _passes(self, sequence: Sequence[DrawnSteps], count: int, size_HW: Sequence[int]) -> list["_Pass"]:
        """Plan the passes over the images: when each one is sampled, at which map, and which op follows."""
        passes = []
        waits_B, pending_B33 = np.zeros(count, dtype=bool), np.tile(np.eye(3, dtype=np.float32), (count, 1, 1))
        for drawn, map_B33 in zip(sequence, self._maps(sequence, count, size_HW), strict=True):
            changes_B = drawn.op_B >= self._geometric
            moves_B = (drawn.op_B != SKIP) & ~changes_B
            op_B = np.where(changes_B, drawn.op_B, SKIP)
            if self.geometry.sampling == "each":
                passes.append(_Pass(moves_B, map_B33, op_B, drawn.argument_B, drawn.seed_B))
                continue
            # Maps wait until an op follows that moves no pixels.
            samples_B = waits_B & changes_B
            passes.append(_Pass(samples_B, pending_B33, op_B, drawn.argument_B, drawn.seed_B))
            pending_B33 = np.where(samples_B[:, None, None], map_B33, pending_B33 @ map_B33)
            waits_B = (waits_B & ~changes_B) | moves_B
        if waits_B.any():
            last = sequence[-1]
            passes.append(_Pass(waits_B, pending_B33, np.full(count, SKIP), last.argument_B, last.seed_B))
        return passes

    def _maps(self, sequence: Sequence[DrawnSteps], count: int, size_HW: Sequence[int]) -> NDArray[np.float32]:
        """Return the geometric ops' maps (S, B, 3, 3) of S steps; the identity where an image takes another op."""
        arguments_6SB = np.zeros((len(GEOMETRIC), len(sequence), count), dtype=np.float32)
        for step, drawn in enumerate(sequence):
            for op, name in enumerate(self._ops[: self._geometric]):
                row = GEOMETRIC.index(name)
                np.copyto(arguments_6SB[row, step], drawn.argument_B, where=drawn.op_B == op)
        maps = geometric.matrices(torch.from_numpy(arguments_6SB).flatten(1), size_HW, self.geometry)
        maps_SB33: NDArray[np.float32] = maps.view(len(sequence), count, 3, 3).numpy()
        return maps_SB33

    def _one_by_one(self, batch: MaskedImages, passes: Sequence["_Pass"]) -> MaskedImages:
        """Take each image through all passes before the next: what is large stays in the cache."""
        arrived = batch.empty_like()
        drawn = [step.tensors(slice(None), batch.images_BCHW.device) for step in passes]
        for b in range(len(batch.images_BCHW)):
            row = slice(b, b + 1)
            image = batch[row]
            for step, tensors in zip(passes, drawn, strict=True):
                samples, op = bool(step.samples_B[b]), int(step.op_B[b])
                if samples or op != SKIP:
                    image = self._through(image, samples, op, *(values[row] for values in tensors))
            arrived[row] = image
        return arrived

    def _by_op(self, batch: MaskedImages, passes: Sequence["_Pass"]) -> MaskedImages:
        """Take all images through a pass before the next, those to which the same happens together."""
        device = batch.images_BCHW.device
        arrived = batch.empty_like() if passes else batch.clone()
        for step in passes:
            kind_B = 2 * step.op_B + step.samples_B
            order_B = np.argsort(kind_B, kind="stable")
            tensors = step.tensors(order_B, device)
            for kind, rows in _runs(kind_B[order_B], batch.images_BCHW):
                (op, samples), images = divmod(kind, 2), order_B[rows]
                if samples or op != SKIP:
                    changed = self._through(batch[images], bool(samples), op, *(values[rows] for values in tensors))
                    arrived[images] = changed
                elif batch is not arrived:
                    arrived[images] = batch[images]
            batch = arrived  # from the second pass on in place
        return arrived

    def _through(
        self,
        images: MaskedImages,
        samples: bool,
        op: int,
        map_N33: torch.Tensor,
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
    map_B33: NDArray[np.float32]  # noqa: N815
    op_B: NDArray[np.int64]  # noqa: N815
    argument_B: NDArray[np.float32]  # noqa: N815
    seed_B: NDArray[np.int64]  # noqa: N815

    def tensors(self, index: slice | NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return maps, arguments and seeds of the images `index` on a device."""
        arrays = (self.map_B33, self.argument_B, self.seed_B)
        return tuple(torch.from_numpy(array[index]).to(device, non_blocking=True) for array in arrays)


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
    """Return how far right and down a map moves a single image, or None if it does something else."""
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
