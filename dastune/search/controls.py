"""The controls that need no search: a fixed policy in a Search's place."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dastune.ops.spaces import SPACES, RangedOp
from dastune.policy.policy import NO_AUGMENTATION, Choice, Policy, Stages, Step
from dastune.policy.space import SearchSpace
from dastune.search.search import SearchProgress

# TrivialAugment's magnitudes, and the width in pixels of the images that its wide translations are made for.
WIDE_BINS, WIDE_SIDE = 31, 32


def trivial_policy(space: SearchSpace) -> Stages:
    """Return TrivialAugment (Müller and Hutter, ICCV 2021) over `space`: one op per image, drawn uniformly.

    Its magnitude is drawn uniformly over the op's range, for each image.
    """
    stage = tuple(Choice(weight=1, step=op.over_range()) for op in space.ops)
    return Stages(stages=(stage,), geometry=space.geometry)


def trivial_wide_policy() -> Stages:
    """Return TrivialAugmentWide as torchvision has it for images 32 pixels wide, over the space `trivial-wide`.

    Its magnitudes are 31 of each op's range, and not all between them. Images of another size are moved by the same
    fractions of their sides.
    """
    space = SPACES["trivial-wide"]
    stage = tuple(choice for op in space.ops for choice in _wide_choices(op))
    return Stages(stages=(stage,), geometry=space.geometry)


def _wide_choices(op: RangedOp) -> Iterator[Choice]:
    """Yield the op at each of its magnitudes, equally likely; those that mean the same are one choice."""
    # torchvision's magnitudes are float32, and it cuts to whole pixels: where 16 is meant, 15.999999 makes 15.
    if op.op.startswith("translate"):
        values = torch.linspace(WIDE_SIDE * op.low, WIDE_SIDE * op.high, WIDE_BINS).trunc() / WIDE_SIDE
    else:
        values = torch.linspace(op.low, op.high, WIDE_BINS)
    if op.op == "posterize":
        values = values.round()
    for value, count in Counter(values.tolist()).items():
        step = Step(op=op.op, low=value, high=value, signed=op.signed)
        yield Choice(weight=count / WIDE_BINS, step=step)


def uniform_policy(space: SearchSpace) -> Stages:
    """Return UniformAugment (LingChen et al., arXiv 2003.14348) over `space`: two ops one after the other.

    Each op is drawn uniformly, its magnitude uniformly over its range, and it is applied with a probability that is
    itself drawn uniformly from [0, 1], all anew for each image. Such an op is applied to one image in two, whatever
    else is drawn: probability 1/2 is the same policy.
    """
    steps = [op.over_range().model_copy(update={"probability": 0.5}) for op in space.ops]
    return Stages(stages=(tuple(Choice(weight=1, step=step) for step in steps),) * 2, geometry=space.geometry)


def no_policy() -> Stages:
    """Return the policy that leaves images as they are."""
    return NO_AUGMENTATION


class Control:
    """A Search whose policy is known beforehand; its first step says that it is done."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def space_size_log10(self) -> float:
        """There is nothing to choose."""
        return 0.0

    def step(self, spent: float) -> SearchProgress:
        """Do nothing and say so."""
        return SearchProgress(steps=0, account="search", done=True)

    def best(self) -> Policy:
        """Return the fixed policy."""
        return self._policy

    def summary(self) -> Mapping[str, float]:
        """Return nothing: no child was trained."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
