"""Clips, of which other libraries can take one frame at a time: each frame is a sub-policy."""

import math
from collections import Counter
from typing import TypeAlias

from dastune.errors import UserError
from dastune.ops.table import OPS, at_distance
from dastune.policy.policy import MOST_PATHS, Clip, Edge, Genotype, Policy, Stages, Step, SubPolicies, SubPolicy

ImagePolicy: TypeAlias = SubPolicies | Stages | Genotype
"""A policy that makes images of images."""


def as_images(policy: Policy, to: str) -> ImagePolicy:
    """Return the policy itself, or the sub-policies of a clip of which one frame is drawn for each image.

    Where the clip's cell averages images, one of its paths is drawn instead, as for a genotype.

    Args:
        to: the library or form, for people.

    Raises:
        UserError: the policy makes clips, or there are more than MOST_PATHS paths.
    """
    if not isinstance(policy, Clip):
        return policy
    if policy.order != "one":
        raise UserError(
            f"the policy cannot be exported to {to}: it makes a clip of each image, of {policy.frames} frames, and "
            'other libraries take policies of images only. With "order": "one" in the policy file, one frame is drawn '
            "for each image; dastune.transform makes the clips."
        )
    subs: list[SubPolicy] = []
    for distance, frames in Counter(policy.distances).items():
        ways = _paths(policy, distance) if distance else [SubPolicy(steps=())]
        subs += [way.model_copy(update={"weight": frames * way.weight}) for way in ways]
        if len(subs) > MOST_PATHS:
            raise UserError(f"the clip's frames have more than {MOST_PATHS:,} paths, too many to write out")
    # A clip samples at each edge, whatever its geometry says of ops in a row.
    return SubPolicies(sub_policies=tuple(subs), geometry=policy.geometry.model_copy(update={"sampling": "each"}))


def _paths(policy: Clip, distance: int) -> tuple[SubPolicy, ...]:
    """Return the paths of a frame through the cell."""
    nodes = tuple(
        tuple(Edge(source=edge.source, step=_at(edge.step, distance)) for edge in edges) for edges in policy.nodes
    )
    return Genotype(inputs=policy.inputs, nodes=nodes).paths().sub_policies


def _at(step: Step, distance: int) -> Step:
    """Return the step of a frame; beyond what is legal no image is left, or a turn repeats itself."""
    argument = at_distance(step.op, step.low, distance)
    least, most = OPS[step.op].legal
    argument = math.fmod(argument, 360) if step.op == "rotate" else min(max(argument, least), most)
    return Step(op=step.op, low=argument, high=argument, signed=False)
