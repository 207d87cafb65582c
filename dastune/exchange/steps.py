"""What exporters ask of a policy's steps: which happen, whether geometric ones meet, what ranges mean."""

from collections.abc import Iterator

from dastune.exchange.clips import ImagePolicy
from dastune.ops.table import OPS
from dastune.policy.policy import Genotype, Stages, Step, SubPolicies


def happens(step: Step) -> bool:
    """Return whether the step ever does anything."""
    return step.op != "identity" and step.probability > 0


def steps_that_happen(policy: ImagePolicy) -> Iterator[tuple[str, Step]]:
    """Yield the policy's steps that ever do anything, each with its place, for people."""
    match policy:
        case SubPolicies():
            for index, sub in enumerate(policy.sub_policies):
                if sub.weight > 0:
                    yield from ((f"sub-policy {index}", step) for step in sub.steps if happens(step))
        case Stages():
            for index, stage in enumerate(policy.stages):
                for choice in stage:
                    if choice.weight > 0 and happens(choice.step):
                        yield f"weight {choice.weight:.3g} in stage {index}", choice.step
        case Genotype():
            for index, edges in enumerate(policy.nodes):
                yield from ((f"node {index}", edge.step) for edge in edges if happens(edge.step))


def geometric_ops_can_meet(policy: ImagePolicy) -> bool:
    """Return whether an image can go through two geometric ops with no other op between them."""
    match policy:
        case Genotype():
            return geometric_ops_can_meet(policy.paths())
        case SubPolicies():
            return any(_meet([(step,) for step in sub.steps]) for sub in policy.sub_policies if sub.weight > 0)
        case Stages():
            return _meet([tuple(choice.step for choice in stage if choice.weight > 0) for stage in policy.stages])


def _meet(stages: list[tuple[Step, ...]]) -> bool:
    """Say so of stages, at each of which an image goes through one of the steps."""
    moved = False  # an image may come here whose last op was geometric
    for steps in stages:
        moves = any(happens(step) and OPS[step.op].geometric for step in steps)
        if moved and moves:
            return True
        skips = any(not happens(step) or step.probability < 1 for step in steps)
        moved = moves or (moved and skips)
    return False


def inverting_share(solarize: Step) -> float:
    """Return the share of solarize's thresholds up to 1: above, nothing is inverted, and libraries take none."""
    if solarize.high <= 1:
        return 1.0
    return max(1 - solarize.low, 0.0) / ((solarize.high - solarize.low) or 1.0)


def whole_bits(low: float, high: float) -> dict[int, float]:
    """Return the whole bits that posterize draws from [low, high], each with its probability."""
    if low == high:
        return {round(low): 1.0}
    shares = {bits: min(high, bits + 0.5) - max(low, bits - 0.5) for bits in range(round(low), round(high) + 1)}
    return {bits: share / (high - low) for bits, share in shares.items() if share > 0}
