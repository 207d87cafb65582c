"""A policy of images as a batch transform: every image draws for itself."""

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from dastune.augment.steps import DRAWS, SKIP, DrawnSteps, MaskedImages, StepTable, uniform_draws
from dastune.policy.policy import Genotype, Stages, SubPolicies


class PolicyTransform:
    """Applies a policy to image batches (`dastune.augment.video` has clips); every image draws for itself.

    What happens to an image is decided by the numbers drawn for it: two batches, one after the other, come out as one
    batch of both would.

    Args:
        policy: what to apply.
        generator: on the CPU; same seed, same images.
    """

    def __init__(self, policy: SubPolicies | Stages | Genotype, generator: torch.Generator) -> None:
        self.policy = policy
        self.generator = generator
        if isinstance(policy, Genotype) and not policy.blends:
            policy = policy.paths()
        self._draw: _Stages | _SubPolicies | _Cell
        match policy:
            case Stages():
                self._draw = _Stages(policy)
            case SubPolicies():
                self._draw = _SubPolicies(policy)
            case Genotype():
                self._draw = _Cell(policy)

    @overload
    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor: ...
    @overload
    def __call__(
        self, images_BCHW: torch.Tensor, masks_BHW: torch.Tensor, ignore_index: int = ...
    ) -> tuple[torch.Tensor, torch.Tensor]: ...
    @torch.no_grad()
    def __call__(
        self, images_BCHW: torch.Tensor, masks_BHW: torch.Tensor | None = None, ignore_index: int = 255
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the augmented batch, and the masks if there are any.

        Args:
            images_BCHW: float32 in [0, 1], of 3 channels or 1, as is the result.
            masks_BHW: class numbers below 2^24, of an integer type. They go where geometric ops move the images, by
                nearest sampling; all other ops, noise ops too, leave them.
            ignore_index: what masks hold where an image has come from outside.

        Raises:
            ValueError: images or masks of another type or shape, an ignore index that masks of this type cannot hold,
                or masks for a cell that blends, whose images have no single mask.
        """
        _check_images(images_BCHW, len(self.policy.geometry.fill))
        if masks_BHW is not None:
            _check_masks(masks_BHW, images_BCHW, ignore_index)
        if isinstance(self._draw, _Cell):
            if masks_BHW is not None:
                raise ValueError('a cell that blends images has no mask for them; give it node="sample"')
            return self._draw.blended(images_BCHW, self.generator)
        draws_BD = uniform_draws(len(images_BCHW), self._draw.draws, self.generator).numpy()
        batch = MaskedImages(images_BCHW, masks_BHW, ignore_index)
        batch = self._draw.table.run(batch, self._draw(draws_BD))
        return batch.images_BCHW if batch.masks_BHW is None else (batch.images_BCHW, batch.masks_BHW)


def _check_images(images_BCHW: torch.Tensor, fill_values: int) -> None:
    if images_BCHW.ndim != 4 or not images_BCHW.is_floating_point() or images_BCHW.shape[1] not in (1, 3):
        raise ValueError(
            "images must be (B, C, H, W) with 1 or 3 channels, float32 in [0, 1] (8-bit images divided by 255); got "
            f"{tuple(images_BCHW.shape)}, {images_BCHW.dtype}"
        )
    if fill_values not in (1, images_BCHW.shape[1]):
        raise ValueError(
            f"the policy's fill has {fill_values} values, and the images have {images_BCHW.shape[1]} channels"
        )


def _check_masks(masks_BHW: torch.Tensor, images_BCHW: torch.Tensor, ignore_index: int) -> None:
    if masks_BHW.shape != (len(images_BCHW), *images_BCHW.shape[-2:]):
        raise ValueError(
            f"masks must be (B, H, W) as their images; got {tuple(masks_BHW.shape)} for {tuple(images_BCHW.shape)}"
        )
    if masks_BHW.is_floating_point() or masks_BHW.dtype == torch.bool:
        raise ValueError(f"masks must be class numbers of an integer type; got {masks_BHW.dtype}")
    held = torch.iinfo(masks_BHW.dtype)
    if not held.min <= ignore_index <= held.max:
        raise ValueError(f"ignore_index {ignore_index} does not fit masks of {masks_BHW.dtype}")


class _Stages:
    """What a Stages policy draws: at each stage one of its steps."""

    def __init__(self, policy: Stages) -> None:
        self.table = StepTable([choice.step for stage in policy.stages for choice in stage], policy.geometry)
        self.draws = len(policy.stages) * (1 + DRAWS)
        self._shares = [_shares([choice.weight for choice in stage]) for stage in policy.stages]

    def __call__(self, draws_BD: NDArray[np.float64]) -> list[DrawnSteps]:
        drawn, first = [], 0
        for draws_B5, shares_K in zip(_by_step(draws_BD, 1 + DRAWS), self._shares, strict=True):
            which_B = first + _drawn_index(shares_K, draws_B5[:, 0])
            drawn.append(self.table.drawn(which_B, draws_B5[:, 1:]))
            first += len(shares_K)
        return drawn


class _SubPolicies:
    """What a SubPolicies policy draws: one sub-policy, whose steps come in order."""

    def __init__(self, policy: SubPolicies) -> None:
        lengths = [len(sub.steps) for sub in policy.sub_policies]
        self.table = StepTable([step for sub in policy.sub_policies for step in sub.steps], policy.geometry)
        self.draws = 1 + max(lengths) * DRAWS
        self._shares = _shares([sub.weight for sub in policy.sub_policies])
        # Row k holds the indices of sub-policy k's steps.
        self._steps_KP = np.full((len(lengths), max(lengths)), SKIP)
        for steps_P, length, end in zip(self._steps_KP, lengths, np.cumsum(lengths), strict=True):
            steps_P[:length] = np.arange(end - length, end)

    def __call__(self, draws_BD: NDArray[np.float64]) -> list[DrawnSteps]:
        which_BP = self._steps_KP[_drawn_index(self._shares, draws_BD[:, 0])]
        steps = zip(which_BP.T, _by_step(draws_BD[:, 1:], DRAWS), strict=True)
        return [self.table.drawn(which_B, draws_B4) for which_B, draws_B4 in steps]


class _Cell:
    """A Genotype that blends: a node is the mean of its edges, or their sum."""

    def __init__(self, policy: Genotype) -> None:
        self._policy = policy
        self._table = StepTable([edge.step for edges in policy.nodes for edge in edges], policy.geometry)

    def blended(self, images_BCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        edges = sum(len(node) for node in self._policy.nodes)
        draws_BD = uniform_draws(len(images_BCHW), edges * DRAWS, generator).numpy()
        steps = iter(enumerate(_by_step(draws_BD, DRAWS)))
        states = [images_BCHW] * self._policy.inputs
        for node in self._policy.nodes:
            joined_BCHW = torch.zeros_like(images_BCHW)
            for edge in node:
                index, draws_B4 = next(steps)
                drawn = self._table.drawn(np.full(len(images_BCHW), index), draws_B4)
                joined_BCHW += self._table.run(MaskedImages(states[edge.source]), [drawn]).images_BCHW
            if len(node) > 1:
                joined_BCHW = joined_BCHW.div_(len(node)) if self._policy.node == "mean" else joined_BCHW.clamp_(0, 1)
            states.append(joined_BCHW)
        return states[-1]


def _by_step(draws_BD: NDArray[np.float64], per_step: int) -> list[NDArray[np.float64]]:
    """Return the numbers for each step, (B, per_step)."""
    return [draws_BD[:, at : at + per_step] for at in range(0, draws_BD.shape[1], per_step)]


def _shares(weights: Sequence[float]) -> NDArray[np.float64]:
    """Return the cumulative shares of the weights; the last is 1."""
    cumulative = np.cumsum(weights, dtype=np.float64)
    shares: NDArray[np.float64] = cumulative / cumulative[-1]
    return shares


def _drawn_index(shares_K: NDArray[np.float64], draws_B: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which of the shares numbers in [0, 1) fall into."""
    return np.searchsorted(shares_K, draws_B, side="right")
