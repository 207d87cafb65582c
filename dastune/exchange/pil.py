"""What of a policy a library cannot express that samples as PIL does: nearest pixels, shears about the corner."""

from collections.abc import Callable, Iterator

from dastune.exchange.clips import ImagePolicy
from dastune.exchange.refusals import Refusals
from dastune.exchange.steps import geometric_ops_can_meet, steps_that_happen
from dastune.ops.spaces import Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Step


def check(
    to: str, policy: ImagePolicy, step_fault: Callable[[Step], str], fill_fault: Callable[[tuple[float, ...]], str]
) -> None:
    """Raise UserError with all that `to` cannot express of `policy`.

    Args:
        to: the library or form, for people.
        step_fault: why it cannot express a step, "" if it can.
        fill_fault: why it cannot express a geometry's fill, "" if it can.
    """
    refusals = Refusals.of_export(to)
    moving = set()
    for where, step in steps_that_happen(policy):
        fault = step_fault(step)
        if fault:
            refusals.add(step.op, fault, where)
        elif OPS[step.op].geometric:
            moving.add(step.op)
    if moving:
        for what, why in _faults(policy.geometry, moving, geometric_ops_can_meet(policy)):
            refusals.add(what, why)
        fault = fill_fault(policy.geometry.fill)
        if fault:
            refusals.add(f"geometry.fill {policy.geometry.fill}", fault)
    refusals.check()


def _faults(geometry: Geometry, moving: set[str], ops_meet: bool) -> Iterator[tuple[str, str]]:
    """Yield what of the geometry cannot be expressed, and why, for the geometric ops `moving`."""
    if geometry.interpolation != "nearest":
        yield (
            f"geometry.interpolation {geometry.interpolation!r}",
            "PIL does not blend with the fill at the image's border; write 'nearest'",
        )
    if geometry.shear_about != "corner" and moving & {"shear_x", "shear_y"}:
        yield f"geometry.shear_about {geometry.shear_about!r}", "it shears about the top left corner; write 'corner'"
    if geometry.whole_pixels and moving & {"translate_x", "translate_y"}:
        yield "geometry.whole_pixels true", "it rounds to whole pixels where this cuts; write false"
    if geometry.sampling != "each" and ops_meet:
        yield f"geometry.sampling {geometry.sampling!r}", "it samples for each op; write 'each'"
