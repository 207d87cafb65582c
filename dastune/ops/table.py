"""OPS: the one list of operations, with what each argument means. Imports no torch, so that YAML can be checked fast.

An op is a function ``op(images_BCHW, argument_B, generator) -> images_BCHW`` in the module its row names. Images are
float32 in [0, 1]; ``argument_B`` is physical (degrees, a fraction of the side, bits ...), one per image, its sign
already drawn. `low` and `high` are the argument at magnitude 0 and 1; at magnitude m it is ``low + m * (high - low)``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    import torch

    OpFunction = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]

Module = Literal["geometric", "color", "noise"]


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: how policies and YAML call it; also the function's name in `module`.
        module: the module of this package that holds the function.
        argument: name of the physical argument, or "" if the op has none.
        unit: unit of the argument, for people.
        low, high: argument at magnitude 0 and at magnitude 1.
        signed: the sign of the argument is drawn per image, with probability 1/2 each.
        neutral_at_low: the op returns its input unchanged at argument `low`.
        gradient: how the gradient reaches the image ("exact", "straight-through", or "none" where nothing of the
            image is left).
        destroys: for noise ops, what information is lost; "" for the others.
    """

    name: str
    module: Module
    argument: str = ""
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    signed: bool = False
    neutral_at_low: bool = False
    gradient: Literal["exact", "straight-through", "none"] = "exact"
    destroys: str = ""

    @property
    def geometric(self) -> bool:
        """Whether the op moves pixels by an affine map (masks would have to move along)."""
        return self.module == "geometric"

    @property
    def noise(self) -> bool:
        """Whether the op destroys information on purpose."""
        return self.module == "noise"

    @property
    def function(self) -> "OpFunction":
        """The op itself; the first use imports torch."""
        return cast("OpFunction", getattr(import_module(f"dastune.ops.{self.module}"), self.name))
