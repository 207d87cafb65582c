"""Policies as Fast AutoAugment, DADA and others publish them: lists of sub-policies of [name, probability, level].

Names, ranges and meanings are those of Fast AutoAugment's code (Lim et al., NeurIPS 2019), which that of DADA (Li et
al., ECCV 2020) repeats: levels in [0, 1], PIL's ops on 8 bits, the nearest pixel, shears about the top left corner,
black from outside. One sub-policy is drawn for an image, all equally likely. dastune's ops are within 2/255 of PIL's.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, TypeAlias

from dastune.errors import UserError, nearest, shortened
from dastune.exchange.clips import ImagePolicy
from dastune.exchange.literals import MOST_SUB_POLICIES, literal
from dastune.exchange.pil import check
from dastune.exchange.refusals import Refusals
from dastune.exchange.steps import happens, whole_bits
from dastune.ops.spaces import Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Genotype, Stages, Step, SubPolicies, SubPolicy

GEOMETRY = Geometry(interpolation="nearest", shear_about="corner")

Entry: TypeAlias = tuple[str, float, float]  # name, probability, level
Case: TypeAlias = tuple[Entry, ...]  # a sub-policy

_FORM = (
    f"a published policy is a list of 1 to {MOST_SUB_POLICIES:,} sub-policies, such as "
    '[[["Invert", 0.1, 0.2], ["Contrast", 0.9, 0.8]], [["Rotate", 0.5, 0.6]]]'
)
_REMEDY = "dastune reads only what it can apply alike."


@dataclass(frozen=True)
class _Row:
    """The argument of a published op at level 0 and 1, in dastune's units.

    `signed`: its absolute value is used, with a random sign. `whole`: it is cut to a whole number.
    """

    op: str
    low: float = 0.0
    high: float = 0.0
    signed: bool = False
    whole: bool = False

    def step(self, probability: float, level: float) -> Step:
        """Return the step of the level in [0, 1]."""
        argument = self.low + level * (self.high - self.low)
        argument = abs(argument) if self.signed else int(argument) if self.whole else argument
        return Step(op=self.op, low=argument, high=argument, probability=probability, signed=self.signed)


_ROWS = {
    "ShearX": _Row("shear_x", -0.3, 0.3, signed=True),
    "ShearY": _Row("shear_y", -0.3, 0.3, signed=True),
    "TranslateX": _Row("translate_x", -0.45, 0.45, signed=True),
    "TranslateY": _Row("translate_y", -0.45, 0.45, signed=True),
    "Rotate": _Row("rotate", -30.0, 30.0, signed=True),
    "AutoContrast": _Row("auto_contrast"),
    "Invert": _Row("invert"),
    "Equalize": _Row("equalize"),
    "Solarize": _Row("solarize", 0.0, 256 / 255),
    "Posterize2": _Row("posterize", 0.0, 4.0, whole=True),
    "Posterize": _Row("posterize", 4.0, 8.0, whole=True),
    "Contrast": _Row("contrast", -0.9, 0.9),
    "Color": _Row("color", -0.9, 0.9),
    "Brightness": _Row("brightness", -0.9, 0.9),
    "Sharpness": _Row("sharpness", -0.9, 0.9),
}
_NAMES = {row.op: name for name, row in _ROWS.items()}
_CUTOUT = _Row("cutout", 0.0, 0.2)
_REFUSED = {
    "Cutout": "it fills with the colour (125, 123, 114) and does not clip its square at the left and the top; take it "
    "out, or read it as dastune's cutout all the same (--grey-cutout; in Python grey_cutout=True)",
    "CutoutAbs": "its side is in pixels, not a share of the image's",
    "TranslateXAbs": "it moves by pixels; write TranslateX, whose level is of a share of the width",
    "TranslateYAbs": "it moves by pixels; write TranslateY, whose level is of a share of the height",
    "SamplePairing": "it blends with another image, and an op of dastune sees one image; take it out",
    "Flip": "no op of dastune flips, its standard augmentation does; take it out",
}


def exported(policy: ImagePolicy) -> list[list[list[Any]]]:
    """Return the policy as a list of sub-policies, each a list of [name, probability, level].

    What such a list does not draw itself (the choice of a stage, the sign of an enhancement, a weight) is written out:
    a sub-policy for each case, as often as is its share.

    Raises:
        UserError: names all that such a list cannot express.
    """
    check("published", policy, _step_fault, _fill_fault)
    cases = _cases(policy)
    common = math.lcm(*(share.denominator for share in cases.values()))
    if common > MOST_SUB_POLICIES:
        raise _too_many(f"{common:,} times in all, to be drawn by their weights")
    times = {case: int(share * common) for case, share in cases.items()}
    return [[list(entry) for entry in case] for case, count in times.items() for _ in range(count)]


def exported_text(policy: ImagePolicy) -> str:
    """Return the JSON of `exported`, one sub-policy a line.

    Raises:
        UserError: as `exported`.
    """
    lines = ",\n".join(f"  {json.dumps(entries)}" for entries in exported(policy))
    return f"[\n{lines}\n]\n"


def imported(source: str | Sequence[Any], grey_cutout: bool = False) -> SubPolicies:
    """Return the policy of a published list.

    Args:
        source: the list, or its text in JSON or as Python writes it; a text is read and not executed.
        grey_cutout: read Cutout as dastune's cutout, although it fills with grey and clips its square at all sides.

    Raises:
        UserError: names all that is no published list, or that a policy cannot mean.
    """
    data = literal(source, _FORM) if isinstance(source, str) else source
    if not isinstance(data, list | tuple) or not 0 < len(data) <= MOST_SUB_POLICIES:
        raise UserError(f"'{shortened(source)}' is no such list; {_FORM}")
    refusals = Refusals("the list cannot be read as a policy", _REMEDY)
    rows = _ROWS | ({"Cutout": _CUTOUT} if grey_cutout else {})
    subs = []
    for index, entries in enumerate(data):
        place = f"sub-policy {index}"
        if not isinstance(entries, list | tuple):
            refusals.add(shortened(entries), "a sub-policy is a list of ops [name, probability, level]", place)
            continue
        steps = [_step(entry, rows, refusals, place) for entry in entries]
        subs.append(SubPolicy(steps=tuple(filter(happens, steps))))
    refusals.check()
    return SubPolicies(sub_policies=tuple(subs), geometry=GEOMETRY)


def _step(entry: Any, rows: dict[str, _Row], refusals: Refusals, where: str) -> Step:
    """Return the step of [name, probability, level]; identity where it is refused."""
    nothing = Step(op="identity")
    if not isinstance(entry, list | tuple) or len(entry) != 3 or not isinstance(entry[0], str):
        refusals.add(shortened(entry), "an op is written [name, probability, level]", where)
        return nothing
    name, probability, level = entry
    if name not in rows:
        unknown = f"Fast AutoAugment has no such op; {nearest(name, rows)}"
        refusals.add(name, _REFUSED.get(name, unknown), where)
        return nothing
    for what, number in (("probability", probability), ("level", level)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
            refusals.add(name, f"its {what} must be a number from 0 to 1, not {shortened(number)}", where)
            return nothing
    return rows[name].step(probability, level)


def _step_fault(step: Step) -> str:
    """Return why a published list cannot express `step`; "" if it can."""
    if step.op == "cutout":
        return "Fast AutoAugment's fills with another colour, and clips its square at two sides only; take it out"
    if step.op not in _NAMES:
        return "Fast AutoAugment has no such op; take it out"
    row = _ROWS[_NAMES[step.op]]
    if not OPS[step.op].argument or step.op == "posterize":
        return ""
    if step.low != step.high:
        return f"its argument is drawn from {step.low:g} to {step.high:g}, and a published level is fixed"
    if row.signed and step.high != 0 and not step.signed:
        return "its argument has no random sign, and a published one always has; write signed true"
    if not all(-1e-7 <= level <= 1 + 1e-7 for level in _levels(step)):  # float32 makes 0.30000001 of 0.3
        return f"its argument {step.high:g} is outside the published range, {row.low:g} to {row.high:g}"
    return ""


def _fill_fault(fill: tuple[float, ...]) -> str:
    return "" if set(fill) == {0} else "Fast AutoAugment fills with black; write [0.0]"


def _levels(step: Step) -> list[float]:
    """Return the levels that mean `step`, equally likely."""
    row = _ROWS[_NAMES[step.op]]
    arguments = [-step.high, step.high] if step.signed and not row.signed else [step.high]
    span = row.high - row.low
    return [round((argument - row.low) / span, 12) if span else 0.0 for argument in arguments]


def _entries(step: Step) -> list[tuple[Fraction, Entry | None]]:
    """Return the published ops of which one means `step`, each with its probability; None: nothing happens."""
    if not happens(step):
        return [(Fraction(1), None)]
    if step.op == "posterize":
        bits = whole_bits(step.low, step.high)
        shares = _shares(list(bits.values()), "the shares of posterize's bits")
        return [(share, _posterize(bit, step.probability)) for share, bit in zip(shares, bits, strict=True)]
    levels = _levels(step)
    return [(Fraction(1, len(levels)), (_NAMES[step.op], step.probability, min(max(at, 0.0), 1.0))) for at in levels]


def _posterize(bits: int, probability: float) -> Entry:
    return ("Posterize", probability, (bits - 4) / 4) if bits >= 4 else ("Posterize2", probability, bits / 4)


def _cases(policy: ImagePolicy) -> dict[Case, Fraction]:
    """Return the sub-policies that the policy amounts to, and the share of each."""
    match policy:
        case Genotype():
            return _cases(policy.paths())
        case SubPolicies():
            drawn = [sub for sub in policy.sub_policies if sub.weight > 0]
            shares = _shares([sub.weight for sub in drawn], "the weights of the sub-policies")
            slots = [[_entries(step) for step in sub.steps] for sub in drawn]
            return _written_out(list(zip(shares, slots, strict=True)))
        case Stages():
            return _written_out([(Fraction(1), [_stage(index, policy) for index in range(len(policy.stages))])])


def _stage(index: int, policy: Stages) -> list[tuple[Fraction, Entry | None]]:
    stage = [choice for choice in policy.stages[index] if choice.weight > 0]
    shares = _shares([choice.weight for choice in stage], f"the weights of stage {index}")
    return [
        (share * part, entry)
        for share, choice in zip(shares, stage, strict=True)
        for part, entry in _entries(choice.step)
    ]


def _written_out(weighted: list[tuple[Fraction, list[list[tuple[Fraction, Entry | None]]]]]) -> dict[Case, Fraction]:
    """Return the cases of sub-policies whose every place has several entries of which one is drawn."""
    count = sum(math.prod(len(slot) for slot in slots) for share, slots in weighted if share)
    if count > MOST_SUB_POLICIES:
        raise _too_many(f"{count:,} times, written out")
    cases: dict[Case, Fraction] = {}
    for weight, slots in weighted:
        for drawn in product(*slots) if weight else ():
            case = tuple(entry for _, entry in drawn if entry is not None)
            cases[case] = cases.get(case, Fraction(0)) + math.prod((share for share, _ in drawn), start=weight)
    return cases


def _shares(weights: Sequence[float], what: str) -> list[Fraction]:
    """Return the weights as shares that sum to 1. Raises UserError where they are no shares of a common count."""
    total = sum(weights)
    shares = [Fraction(weight / total).limit_denominator(MOST_SUB_POLICIES) for weight in weights]
    off = max(abs(float(share) - weight / total) for share, weight in zip(shares, weights, strict=True))
    if off > 1e-9 or sum(shares) != 1:
        refusals = Refusals.of_export("published")
        refusals.add(what, "the list draws its sub-policies equally likely; write weights such as 1, 2 and 3")
        refusals.check()
    return shares


def _too_many(how: str) -> UserError:
    return UserError(
        f"the policy cannot be exported to published: its sub-policies would stand in the list {how}; "
        f"at most {MOST_SUB_POLICIES:,} are written. dastune.transform applies every policy."
    )
