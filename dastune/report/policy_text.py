"""A policy in words, for the terminal and for under its picture."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from dastune import errors
from dastune.ops.spaces import DASTUNE
from dastune.ops.table import OPS, at_distance
from dastune.policy.policy import Choice, Clip, Edge, Genotype, Policy, Stages, Step, SubPolicies, noise_mass, op_shares

_JOINED = {
    "mean": "the mean of its edges",
    "sum": "the sum of its edges, cut to [0, 1]",
    "sample": "one of its edges, drawn for each image",
}
_ORDERS = {
    "time": "in time",
    "shuffled": "in an order drawn for each image",
    "one": "of which each image becomes one, drawn for it",
}
_MOST_DISTANCES = 16  # written out


def policy_lines(policy: Policy) -> list[str]:
    """Return what the policy is and does: its kind, its geometry where it is not dastune's own, and its steps."""
    return [_kind(policy), *_geometry(policy), *_steps(policy)]


def summary_lines(policy: Policy, provenance: Mapping[str, Any]) -> list[str]:
    """Return how often each op is applied, how much of that is noise, and where the policy comes from."""
    ranked = sorted(op_shares(policy).items(), key=lambda item: (-item[1], item[0]))
    shares = ", ".join(f"{op}{' (noise)' if OPS[op].noise else ''} {_percent(share).strip()}" for op, share in ranked)
    lines = [f"op shares, skipped steps as identity: {shares}", f"noise mass: {_percent(noise_mass(policy)).strip()}"]
    known = [f"  {printable(key)}: {printable(value)}" for key, value in provenance.items()]
    return lines + (["provenance:", *known] if known else ["provenance: none in the file"])


def step_text(step: Step) -> str:
    """Return the step in words, such as "rotate ±9 degrees (p 0.7)"; p is its probability."""
    argument = f" {_argument(step)}" if OPS[step.op].argument else ""
    probability = f" (p {step.probability:.4g})" if step.probability < 1 else ""
    return step.op + argument + (" (noise)" if OPS[step.op].noise else "") + probability


def printable(value: Any) -> str:
    """Return a value of a file for the terminal: JSON unless it is a text, without control characters."""
    return errors.printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _argument(step: Step) -> str:
    """Return the range of the argument with its unit; zoom and enhancements as the factor that users of PIL know."""
    unit = OPS[step.op].unit
    if unit != "factor less 1":
        return f"{_range(step, 0)} {unit}"
    return f"factor {'1 ' if step.signed and step.low > 0 else ''}{_range(step, 1)}"


def _range(step: Step, centre: float) -> str:
    low, high = step.low, step.high
    if step.signed and low > 0:
        return f"±{low:.4g}" if low == high else f"±{low:.4g} to ±{high:.4g}"
    if step.signed:  # a range from 0 with a random sign
        low = -high
    return f"{centre + low:.4g}" if low == high else f"{centre + low:.4g} to {centre + high:.4g}"


def _kind(policy: Policy) -> str:
    match policy:
        case Clip():
            return f"clip of {_count(policy.frames, 'frame', 'frames')}, {_ORDERS[policy.order]}"
        case SubPolicies():
            return f"{_count(len(policy.sub_policies), 'sub-policy', 'sub-policies')}; each image goes through one"
        case Stages():
            if not policy.stages:
                return "no stages: images stay as they are"
            return f"{_count(len(policy.stages), 'stage', 'stages')}; at each, an image goes through one of the steps"
        case Genotype():
            nodes = _count(len(policy.nodes), "node", "nodes")
            return f"cell of {nodes}, each {_JOINED[policy.node]}; the last is the output"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _geometry(policy: Policy) -> list[str]:
    geometry = policy.geometry
    if geometry == DASTUNE:
        return []
    fill = ", ".join(f"{value:.3g}" for value in geometry.fill)
    whole = ", translations by whole pixels" if geometry.whole_pixels else ""
    once = ", sampled once for geometric ops in a row" if geometry.sampling == "once" else ""
    return [f"geometry: {geometry.interpolation}, shears about the {geometry.shear_about}, fill {fill}{whole}{once}"]


def _steps(policy: Policy) -> Iterator[str]:
    match policy:
        case SubPolicies():
            total = sum(sub.weight for sub in policy.sub_policies)
            for index, sub in enumerate(policy.sub_policies):
                steps = ", then ".join(map(step_text, sub.steps)) or "nothing"
                yield f"{index:>4}  {_percent(sub.weight / total)}  {steps}"
        case Stages():
            first = 0
            for stage, alike in groupby(policy.stages):
                count = len(list(alike))
                yield f"stage {first}" if count == 1 else f"stages {first} to {first + count - 1}, each"
                yield from _choices(stage)
                first += count
        case Genotype():
            for index, edges in enumerate(policy.nodes):
                yield f"node {index}"
                yield from _edges(edges, policy.inputs)
        case Clip():
            steps = f"steps away from it: {_distances(policy)} ({policy.profile})"
            yield f"frame {policy.frames // 2} is the image; {steps}"
            nodes = _count(len(policy.nodes), "node", "nodes")
            yield f"cell of {nodes}, each {_JOINED['mean']}; the last is the output"
            for index, edges in enumerate(policy.nodes):
                yield f"node {index}"
                yield from _moves(edges, policy)


def _choices(stage: Sequence[Choice]) -> Iterator[str]:
    total = sum(choice.weight for choice in stage)
    for choice in sorted(stage, key=lambda choice: -choice.weight):
        yield f"      {_percent(choice.weight / total)}  {step_text(choice.step)}"


def _edges(edges: Sequence[Edge], inputs: int) -> Iterator[str]:
    for edge in edges:
        yield f"      from {_state(edge.source, inputs):<8} {step_text(edge.step)}"


def _moves(edges: Sequence[Edge], policy: Clip) -> Iterator[str]:
    """Yield what each edge does at a step, and in frame 0, which is the farthest from the middle."""
    farthest = policy.distances[0]
    for edge in edges:
        moved = ""
        if OPS[edge.step.op].argument and farthest:
            moved = f" a step, {_at_distance(edge.step, farthest)} in frame 0"
        yield f"      from {_state(edge.source, policy.inputs):<8} {step_text(edge.step)}{moved}"


def _at_distance(step: Step, distance: int) -> str:
    argument = at_distance(step.op, step.low, distance)
    return _argument(step.model_copy(update={"low": argument, "high": argument}))


def _distances(policy: Clip) -> str:
    found = policy.distances
    if len(found) <= _MOST_DISTANCES:
        return " ".join(map(str, found))
    return f"{found[0]} ... 0 ... {found[-1]}"


def _state(source: int, inputs: int) -> str:
    return "image" if source < inputs else f"node {source - inputs}"


def _percent(share: float) -> str:
    return f"{100 * share:5.1f} %"
