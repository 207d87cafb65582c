"""SearchSpace: the ops a search may use, their ranges and magnitude levels, and how many policies that makes."""

from dataclasses import dataclass, replace
from itertools import pairwise

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

    @property
    def ranged_text(self) -> str:
        """The op with its range and unit: "rotate 10 to 20 degrees"."""
        op = OPS[self.name]
        return f"{self.name} {self.low:.4g} to {self.high:.4g} {op.unit}" if op.argument else self.name

    def split(self, parts: int) -> tuple["SpaceOp", ...]:
        """Return it over `parts` equal parts of its range, from `low` to `high`; itself where it has no range."""
        if self.low == self.high or parts == 1:
            return (self,)
        bounds = [self.low + (self.high - self.low) * index / parts for index in range(parts)]
        return tuple(SpaceOp(self.name, low, high, self.signed) for low, high in pairwise([*bounds, self.high]))

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
        ops: all of them, noise ops last; labels are distinct, and so are names unless the space is split.
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
        """The candidates' ops, in order."""
        return tuple(op.name for op in self.ops)

    @property
    def uniform_shares(self) -> tuple[float, ...]:
        """The shares of the candidates if all ops are equally likely; parts of one op share what is its."""
        return tuple(1 / (len(set(self.names)) * self.names.count(name)) for name in self.names)

    @property
    def uniform_noise_share(self) -> float:
        """The share of noise ops if all ops are equally likely."""
        return sum(share for op, share in zip(self.ops, self.uniform_shares, strict=True) if OPS[op.name].noise)

    def magnitude(self, level: int) -> float:
        """Return the magnitude in [0, 1] of `level` in 0 .. magnitude_levels - 1."""
        return level / (self.magnitude_levels - 1)

    def split(self, parts: int) -> "SearchSpace":
        """Return the space in which each op with a range is `parts` candidates, over equal parts of it, in order.

        Raises:
            ValueError: there are less than 1 parts.
        """
        if parts < 1:
            raise ValueError(f"parts must be at least 1, got {parts}")
        return replace(self, ops=tuple(part for op in self.ops for part in op.split(parts)))
