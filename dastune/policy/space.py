"""SearchSpace: the ops a search may use, their ranges and magnitude levels, and how many policies that makes."""

from dataclasses import dataclass

from dastune.ops.spaces import DASTUNE, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Step


@dataclass(frozen=True)
class SpaceOp:
    """An op as a space offers it: `low` and `high` are its physical argument at magnitude 0 and 1.

    Where `signed`, the sign of the argument is drawn for each image.
    """

    name: str
    low: float
    high: float
    signed: bool

    def at(self, magnitude: float, probability: float = 1.0) -> Step:
        """Return the step with the fixed argument of `magnitude` in [0, 1]."""
        argument = self.low + magnitude * (self.high - self.low)
        return Step(op=self.name, low=argument, high=argument, probability=probability, signed=self.signed)

    def over_range(self) -> Step:
        """Return the step that draws its magnitude uniformly from [0, 1] for each image."""
        low, high = sorted((self.low, self.high))
        return Step(op=self.name, low=low, high=high, signed=self.signed)


@dataclass(frozen=True)
class SearchSpace:
    """The ops a search may use at one noise level: the study's own and the first `noise_level` noise ops.

    Attributes:
        ops: all of them, noise ops last; names are distinct.
        magnitude_levels: how many magnitudes a method with discrete magnitudes chooses from, spread over [0, 1].
        geometry: how geometric ops sample.
    """

    ops: tuple[SpaceOp, ...]
    magnitude_levels: int = 10
    geometry: Geometry = DASTUNE

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def names(self) -> tuple[str, ...]:
        """The ops' names, in order."""
        return tuple(op.name for op in self.ops)

    @property
    def uniform_noise_share(self) -> float:
        """The share of noise ops if all ops are equally likely."""
        return sum(OPS[op.name].noise for op in self.ops) / len(self.ops)

    def magnitude(self, level: int) -> float:
        """Return the magnitude in [0, 1] of `level` in 0 .. magnitude_levels - 1."""
        return level / (self.magnitude_levels - 1)
