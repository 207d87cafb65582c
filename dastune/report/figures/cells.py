"""Policies drawn as graphs: cells with ops on their edges as in Figure 7 of DAS, stages, and sub-policies as chains.

All lengths are inches: a figure is as large as what it shows. Everything is read from left to right; the edges of noise
ops are dashed.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Clip, Genotype, Policy, Stages, Step, SubPolicies
from dastune.report.figures.style import COLORS, INK, style

MOST_STATES, MOST_EDGES = 9, 20  # of a cell
MOST_STAGES, TOP_OPS = 3, 6
TOP_SUB_POLICIES, MOST_STEPS = 6, 4

_BOX = 0.2  # height of a state
_ROW = 0.24  # between edges that lie above each other
_CHAIN_ROW = 0.34  # between chains
_EDGE = 1.5  # length of an edge with its op written on it
_UNIT, _CLIP_UNIT = 1.05, 1.35  # between neighbouring states of a cell
_RISE = 0.3  # of an arc, for each state that it passes
_MARGIN = 0.06
_POINTS = 7.0  # of texts
_THICKEST, _THIN = 7.0, 1.1  # points: an edge that all images take, and one that has no share


class _State(NamedTuple):
    """A box with a text, as wide as that; x and y are its middle."""

    x: float
    y: float
    text: str

    @property
    def half(self) -> float:
        """Half its width."""
        return max(_BOX, 0.055 * len(self.text) + 0.1) / 2 if self.text else 0.05


class _Edge(NamedTuple):
    """What is written on an edge, the share of images that take it, whether its op is noise, and how dark it is."""

    text: str
    share: float
    noise: bool = False
    alpha: float = 0.25  # of what is no single op


def policy_figure(policy: Policy) -> Figure | None:
    """Return a drawing of the policy; None where it has no steps, and of a cell too large to be read.

    Of stages and sub-policies the likeliest are drawn, and the others counted.
    """
    with style():
        match policy:
            case Genotype() | Clip():
                edges = sum(len(node) for node in policy.nodes)
                small = policy.inputs + len(policy.nodes) <= MOST_STATES and edges <= MOST_EDGES
                return _cell(policy) if small else None
            case Stages():
                return _stages(policy) if policy.stages else None
            case SubPolicies():
                return _chains(policy) if any(sub.steps for sub in policy.sub_policies) else None


def _cell(policy: Genotype | Clip) -> Figure:
    """Draw states on a line and edges as arcs, a node's first one above it, the second one below, and so on."""
    arcs = [
        (edge.source, policy.inputs + node, 1 if place % 2 == 0 else -1, edge.step)
        for node, edges in enumerate(policy.nodes)
        for place, edge in enumerate(edges)
    ]
    rise = {
        side: max((_RISE * (to - source) for source, to, of, _ in arcs if of == side), default=0) for side in (1, -1)
    }
    height = {side: max(_BOX, rise[side] + 0.3) for side in rise}
    names = ["image"] * policy.inputs + [str(node) for node in range(len(policy.nodes) - 1)] + ["output"]
    text, unit = (_step_text, _CLIP_UNIT) if isinstance(policy, Clip) else (_op_text, _UNIT)
    figure, axes = _canvas(unit * (len(names) - 1) + 0.7, height[1] + height[-1])
    states = [_State(0.35 + unit * place, height[-1], name) for place, name in enumerate(names)]
    used = _used(policy)
    for source, to, side, step in arcs:
        start, end, top = states[source], states[to], height[-1] + side * (_BOX / 2 + _RISE * (to - source))
        from_y = start.y + side * _BOX / 2
        control = from_y + (top - from_y) * 4 / 3  # of a cubic curve that is to reach `top`
        path = Path(
            [(start.x, from_y), (start.x + 0.2, control), (end.x - 0.2, control), (end.x, from_y)],
            [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
        )
        noise = OPS[step.op].noise
        _line(axes, path, noise, _THIN, 0.8 if to in used else 0.25)
        _text(axes, (start.x + end.x) / 2, top + side * 0.075, text(step), noise)
    _boxes(axes, states)
    return figure


def _used(policy: Genotype | Clip) -> set[int]:
    """Return the states that the output depends on."""
    used, waiting = set[int](), [policy.inputs + len(policy.nodes) - 1]
    while waiting:
        state = waiting.pop()
        if state not in used:
            used.add(state)
            waiting += [edge.source for edge in policy.nodes[state - policy.inputs]] if state >= policy.inputs else []
    return used


def _stages(policy: Stages) -> Figure:
    """Draw a chain of stages; between two states an edge for each likely op, as thick as it is likely."""
    alike = [(stage, len(list(same))) for stage, same in groupby(policy.stages)]
    shown = [(_ranked(stage), count) for stage, count in alike[:MOST_STAGES]]
    left_out = sum(count for _, count in alike[MOST_STAGES:])
    below = 0.2 * any(count > 1 for _, count in shown)
    height = max(len(edges) for edges, _ in shown) * _ROW + 0.1  # a text over each edge
    texts = ["image", *map(str, range(1, len(shown))), f"and {left_out} more" if left_out else "output"]
    places = [0.35 + place * (_EDGE + 0.8) for place in range(len(texts))]
    figure, axes = _canvas(places[-1] + 0.45, height + below)
    states = [_State(x, below + height / 2 - 0.05, text) for x, text in zip(places, texts, strict=True)]
    for (edges, count), start, end in zip(shown, states, states[1:], strict=False):
        top = start.y + (len(edges) - 1) * _ROW / 2
        middle = (start.x + end.x) / 2
        for row, edge in enumerate(edges):
            y = top - row * _ROW
            _line(axes, _bend(start, end, y), edge.noise, max(0.4, _THICKEST * edge.share), edge.alpha)
            _text(axes, middle, y + 0.09 + 0.03 * edge.share, edge.text, edge.noise)
        if count > 1:
            _text(axes, middle, top - (len(edges) - 0.3) * _ROW, f"{count} such stages in a row", False)
    _boxes(axes, states)
    return figure


def _bend(start: _State, end: _State, y: float) -> Path:
    """Return a way from one state to the next that is level, at `y`, where a text stands."""
    left, right = start.x + start.half, end.x - end.half
    near, far = left + 0.35, right - 0.35
    points = [
        (left, start.y), (left + 0.2, start.y), (near - 0.2, y), (near, y), (far, y), (far + 0.2, y),
        (right - 0.2, end.y), (right, end.y),
    ]  # fmt: skip
    return Path(points, [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3])


def _ranked(stage: Sequence[Choice]) -> list[_Edge]:
    """Return the likeliest ops of a stage, what is left of them, and what is skipped."""
    total = sum(choice.weight for choice in stage)
    shares: dict[str, float] = {}
    for choice in stage:
        shares[choice.step.op] = shares.get(choice.step.op, 0.0) + choice.weight / total * choice.step.probability
    ranked = sorted(((op, share) for op, share in shares.items() if share > 0), key=lambda item: (-item[1], item[0]))
    skipped, first, rest = 1 - sum(shares.values()), ranked[:TOP_OPS], ranked[TOP_OPS:]
    if rest and ranked[0][1] - ranked[-1][1] < 1e-9:
        applied = 1 - skipped
        edges = [_Edge(f"each of {len(ranked)} ops {_percent(ranked[0][1])}", applied)]
    else:
        edges = [_Edge(f"{op} {_percent(share)}", share, OPS[op].noise, 0.5) for op, share in first]
        left = sum(share for _, share in rest)
        edges += [_Edge(f"{len(rest)} more {_percent(left)}", left)] if rest else []
    return edges + ([_Edge(f"nothing {_percent(skipped)}", skipped)] if skipped > 1e-9 else [])


def _chains(policy: SubPolicies) -> Figure:
    """Draw the heaviest sub-policies, each as a chain behind the share of images that it is for."""
    total = sum(sub.weight for sub in policy.sub_policies)
    shown = sorted(policy.sub_policies, key=lambda sub: -sub.weight)[:TOP_SUB_POLICIES]
    steps = min(MOST_STEPS, max(len(sub.steps) for sub in shown))
    places = [0.62 + place * (_EDGE + 0.2) for place in range(steps + 1)]
    figure, axes = _canvas(places[-1] + 0.4, len(shown) * _CHAIN_ROW)
    for row, sub in enumerate(shown):
        y = (len(shown) - row - 0.62) * _CHAIN_ROW
        states = [_State(x, y, "") for x in places[: len(sub.steps) + 1]]
        axes.text(0.4, y, _percent(sub.weight / total), ha="right", va="center", fontsize=_POINTS)
        for step, start, end in zip(sub.steps, states, states[1:], strict=False):
            noise = OPS[step.op].noise
            _line(axes, _bend(start, end, y), noise, _THIN, 0.8 if step.probability else 0.25)
            _text(axes, (start.x + end.x) / 2, y + 0.09, _op_text(step), noise)
        if len(sub.steps) > steps:
            _text(axes, places[-1] + 0.25, y, "...", False)
        _boxes(axes, states)
    return figure


def _op_text(step: Step) -> str:
    return step.op if step.probability == 1 else f"{step.op} p {step.probability:.2g}"


def _step_text(step: Step) -> str:
    """Return an op with what it does from one frame to the next."""
    match step.op:
        case "identity":
            return step.op
        case "rotate":
            return f"{step.op} {step.low:.2g}°"
        case "zoom":
            return f"{step.op} by {1 + step.low:.3g}"
        case "translate_x" | "translate_y":
            return f"{step.op} {100 * step.low:.2g} %"
    return f"{step.op} {step.low:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure so large and a margin, and its axes, in inches."""
    figure = Figure(figsize=(width + 2 * _MARGIN, height + 2 * _MARGIN))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-_MARGIN, width + _MARGIN)
    axes.set_ylim(-_MARGIN, height + _MARGIN)
    axes.set_axis_off()
    return figure, axes


def _line(axes: Axes, path: Path, noise: bool, width: float, alpha: float) -> None:
    color, dash = (COLORS[1], (0, (3, 1.2))) if noise else (INK, "-")
    axes.add_patch(
        PathPatch(path, fill=False, edgecolor=color, linewidth=width, linestyle=dash, alpha=alpha, capstyle="butt")
    )


def _text(axes: Axes, x: float, y: float, text: str, noise: bool) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=_POINTS, color=COLORS[1] if noise else INK)


def _boxes(axes: Axes, states: Sequence[_State]) -> None:
    pad = 0.03
    for state in states:
        half = state.half - pad, _BOX / 2 - pad
        if not state.text:
            half = (0.02, 0.02)
        corner, size = (state.x - half[0], state.y - half[1]), (2 * half[0], 2 * half[1])
        axes.add_patch(
            FancyBboxPatch(corner, *size, boxstyle=f"round,pad={pad}", fill=False, edgecolor=INK, linewidth=0.8)
        )
        if state.text:
            _text(axes, state.x, state.y, state.text, False)
