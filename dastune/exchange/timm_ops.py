"""What timm's ops mean at each magnitude, and which of them means a step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dastune.ops.table import OPS
from dastune.policy.policy import Step

LARGEST = 10.0  # magnitude of timm's ranges
NEAREST = 0  # PIL.Image.Resampling.NEAREST
TRANSLATE = 0.45  # of the side at magnitude 10: timm's default translate_pct

Meaning = tuple[str, float, float, bool]  # op, low, high, signed


@dataclass(frozen=True)
class Row:
    """What an op's argument is at magnitude m: `start` + `span` * m / 10, in units of which `unit` make 1.

    Attributes:
        signed: timm draws the sign.
        whole: what is added to `start` is cut to whole units.
        shift: added to a range of uniform arguments where `whole`, so that they do what the cut ones do.
        beyond: the formula holds above magnitude 10 too.
    """

    op: str
    start: float = 0.0
    span: float = 0.0
    signed: bool = False
    unit: float = 1.0
    whole: bool = False
    shift: float = 0.0
    beyond: bool = False

    def steps(self, magnitude: float, uniform: bool, probability: float = 1.0) -> list[tuple[float, Step]]:
        """Return what `magnitude`, or one drawn uniformly from 0 to it, means: one of these steps, with their shares.

        There are two where a shifted range begins below 0: there, bits and thresholds do what 0 does.

        Raises:
            pydantic.ValidationError: the op takes no such argument.
        """
        reach = magnitude / LARGEST * self.span
        ends = [self.start + (int(reach) if self.whole else reach)] * 2
        if uniform and reach:
            ends = sorted((self.start + self.shift, self.start + self.shift + reach))
        low, high = (end / self.unit for end in ends)
        below = min(-low / (high - low), 1.0) if self.whole and low < 0 else 0.0
        ranges = [(below, 0.0, 0.0), (1 - below, max(low, 0.0), high)] if below else [(1.0, low, high)]
        return [
            (share, Step(op=self.op, low=low, high=high, probability=probability, signed=self.signed))
            for share, low, high in ranges
            if share > 0
        ]

    def magnitudes(self, step: Step, uniform: bool) -> Iterator[float]:
        """Yield the magnitudes that may mean `step`, plain ones first."""
        yield from (float(magnitude) for magnitude in range(int(LARGEST) + 1))
        if not self.span:
            return
        end = (step.low if self.span < 0 else step.high) * self.unit if uniform else _whole(step.op, step.high)
        # A whole number is aimed at in the middle of those that are cut to it.
        middle = math.copysign(0.5, self.span) if self.whole and not uniform else 0.0
        magnitude = (end - self.start - (self.shift if uniform else 0.0) + middle) / self.span * LARGEST
        if 0 <= magnitude <= (math.inf if self.beyond else LARGEST):
            yield magnitude


def _enhancements() -> dict[str, Row]:
    names = ("Color", "Contrast", "Brightness", "Sharpness")
    rows = {name: Row(name.lower(), -0.9, 1.8, beyond=True) for name in names}
    # Above magnitude 10 the factor is cut on one side, at 0.1.
    return rows | {f"{name}Increasing": Row(name.lower(), 0.0, 0.9, signed=True) for name in names}


def rows(translate: float = TRANSLATE) -> dict[str, Row]:
    """Return timm's ops by name; `translate` is the hparam translate_pct."""
    shift = {f"Translate{axis}Rel": Row(f"translate_{axis.lower()}", 0, translate, True, beyond=True) for axis in "XY"}
    return _ROWS | shift


_ROWS = {
    "AutoContrast": Row("auto_contrast"),
    "Equalize": Row("equalize"),
    "Invert": Row("invert"),
    "Rotate": Row("rotate", 0, 30, signed=True, beyond=True),
    "ShearX": Row("shear_x", 0, 0.3, signed=True, beyond=True),
    "ShearY": Row("shear_y", 0, 0.3, signed=True, beyond=True),
    **_enhancements(),
    "PosterizeOriginal": Row("posterize", 4, 4, whole=True, shift=-0.5),
    "PosterizeIncreasing": Row("posterize", 4, -4, whole=True, shift=0.5),
    "Posterize": Row("posterize", 0, 4, whole=True, shift=-0.5),
    # Grey level k is inverted at threshold t where k >= t: at the whole part of t, where k > t - 1.
    "SolarizeIncreasing": Row("solarize", 256, -256, unit=255, whole=True),
    "Solarize": Row("solarize", 0, 256, unit=255, whole=True, shift=-1),
    "SolarizeAdd": Row("solarize_add", 0, 110, unit=255, whole=True),
    "Desaturate": Row("color", -0.5, -0.5),
}


def meaning(step: Step) -> Meaning:
    """Return what tells the step's pixels from those of other steps on 8 bits; probability left aside."""
    if not OPS[step.op].argument:
        return step.op, 0.0, 0.0, False
    low, high = step.low, step.high
    if low == high:
        low = high = _whole(step.op, low)
    return step.op, round(low, 9), round(high, 9), step.signed and high > 0


def _whole(op: str, argument: float) -> float:
    """Return the fixed argument of an op that knows whole bits or levels only, in these; of others as it is."""
    if op == "posterize":
        return min(max(round(argument), 0), 8)
    if op == "solarize":
        return min(max(math.ceil(255 * argument - 1e-6), 0), 256)
    return round(255 * argument) if op == "solarize_add" else argument


def op_arguments(step: Step) -> dict[str, Any] | None:
    """Return what timm's AugmentOp is called with to mean `step`: name, prob, magnitude, hparams. None: nothing."""
    uniform = step.low < step.high and OPS[step.op].argument != ""
    for name, row in rows().items():
        if row.op != step.op:
            continue
        for magnitude in row.magnitudes(step, uniform):
            if [meaning(one) for _, one in row.steps(magnitude, uniform)] == [meaning(step)]:
                more: dict[str, Any] = {"magnitude_std": math.inf} if uniform else {}
                more |= {"magnitude_max": magnitude} if magnitude > LARGEST else {}
                return {"name": name, "prob": step.probability, "magnitude": magnitude, "hparams": more}
    return None
