"""Policies in words: every kind, ranges and signs with units, and nothing that a terminal would obey."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dastune.ops.spaces import TORCHVISION
from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Clip, Edge, Genotype, Stages, Step, SubPolicies, SubPolicy
from dastune.report.policy_text import policy_lines, printable, step_text, summary_lines

TURN = Step(op="rotate", low=9, high=9, probability=0.7)
INVERT = Step(op="invert")


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (INVERT, "invert"),
        (TURN, "rotate ±9 degrees (p 0.7)"),
        (Step(op="rotate", high=30), "rotate -30 to 30 degrees"),
        (Step(op="rotate", low=5, high=20), "rotate ±5 to ±20 degrees"),
        (Step(op="rotate", low=-5, high=20, signed=False), "rotate -5 to 20 degrees"),
        (Step(op="translate_x", low=-0.1, high=-0.1, signed=False), "translate_x -0.1 of the width"),
        (Step(op="posterize", low=4, high=8), "posterize 4 to 8 bits of 8"),
        (Step(op="zoom", high=0.3), "zoom factor 0.7 to 1.3"),
        (Step(op="color", high=0.9), "color factor 0.1 to 1.9"),
        (Step(op="color", low=0.45, high=0.45), "color factor 1 ±0.45"),
        (Step(op="color", low=-0.9, high=-0.9, signed=False), "color factor 0.1"),
        (Step(op="salt_and_pepper", low=0.6, high=0.95), "salt_and_pepper 0.6 to 0.95 of pixels (noise)"),
    ],
)
def test_steps(step: Step, text: str) -> None:
    assert step_text(step) == text


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_words(name: str) -> None:
    low, high = sorted((OPS[name].low, OPS[name].high))
    text = step_text(Step(op=name, low=low, high=high))
    assert text.startswith(name)
    assert OPS[name].unit.removesuffix(" less 1") in text


def test_sub_policies() -> None:
    policy = SubPolicies(
        sub_policies=(SubPolicy(steps=(TURN, INVERT), weight=3), SubPolicy(steps=())), geometry=TORCHVISION
    )
    assert policy_lines(policy) == [
        "2 sub-policies; each image goes through one",
        "geometry: nearest, shears about the corner, fill 0, translations by whole pixels",
        "   0   75.0 %  rotate ±9 degrees (p 0.7), then invert",
        "   1   25.0 %  nothing",
    ]


def test_stages_likeliest_first_and_alike_ones_once() -> None:
    stage = (Choice(weight=1, step=INVERT), Choice(weight=3, step=TURN))
    assert policy_lines(Stages(stages=(stage, stage, (Choice(weight=2, step=INVERT),)))) == [
        "3 stages; at each, an image goes through one of the steps",
        "stages 0 to 1, each",
        "       75.0 %  rotate ±9 degrees (p 0.7)",
        "       25.0 %  invert",
        "stage 2",
        "      100.0 %  invert",
    ]
    assert policy_lines(Stages()) == ["no stages: images stay as they are"]


def test_cells() -> None:
    nodes = ((Edge(source=0, step=TURN), Edge(source=1, step=INVERT)), (Edge(source=2, step=INVERT),))
    assert policy_lines(Genotype(inputs=2, nodes=nodes)) == [
        "cell of 2 nodes, each the mean of its edges; the last is the output",
        "node 0",
        "      from image    rotate ±9 degrees (p 0.7)",
        "      from image    invert",
        "node 1",
        "      from node 0   invert",
    ]
    drawn = policy_lines(Genotype(inputs=2, nodes=nodes, node="sample"))[0]
    assert drawn == "cell of 2 nodes, each one of its edges, drawn for each image; the last is the output"
    added = policy_lines(Genotype(inputs=2, nodes=nodes, node="sum"))[0]
    assert added == "cell of 2 nodes, each the sum of its edges, cut to [0, 1]; the last is the output"


def edge(source: int, op: str, step: float = 0.0) -> Edge:
    return Edge(source=source, step=Step(op=op, low=step, high=step, signed=False))


NODES = (
    (edge(0, "translate_x", 0.05), edge(1, "identity")),
    (edge(2, "zoom", 0.1), edge(0, "rotate", -7.5)),
)


def test_clips() -> None:
    assert policy_lines(Clip(inputs=2, nodes=NODES)) == [
        "clip of 8 frames, in time",
        "frame 4 is the image; steps away from it: 4 3 2 1 0 1 2 3 (symmetric)",
        "cell of 2 nodes, each the mean of its edges; the last is the output",
        "node 0",
        "      from image    translate_x 0.05 of the width a step, 0.2 of the width in frame 0",
        "      from image    identity",
        "node 1",
        "      from node 0   zoom factor 1.1 a step, factor 1.464 in frame 0",
        "      from image    rotate -7.5 degrees a step, -30 degrees in frame 0",
    ]
    assert summary_lines(Clip(nodes=((edge(0, "zoom", 0.1),),)), {})[0] == (
        "op shares, skipped steps as identity: zoom 100.0 %"
    )


def test_clips_of_other_forms() -> None:
    ramp = policy_lines(Clip(inputs=2, nodes=NODES, frames=5, profile="ramp", order="shuffled", geometry=TORCHVISION))
    assert ramp[:3] == [
        "clip of 5 frames, in an order drawn for each image",
        "geometry: nearest, shears about the corner, fill 0, translations by whole pixels",
        "frame 2 is the image; steps away from it: -2 -1 0 1 2 (ramp)",
    ]
    assert "translate_x 0.05 of the width a step, -0.1 of the width in frame 0" in ramp[5]
    assert "zoom factor 1.1 a step, factor 0.8264 in frame 0" in ramp[8]  # 1 / 1.21
    long = policy_lines(Clip(inputs=2, nodes=NODES, frames=64, order="one"))
    assert long[0] == "clip of 64 frames, of which each image becomes one, drawn for it"
    assert long[1] == "frame 32 is the image; steps away from it: 32 ... 0 ... 31 (symmetric)"
    still = policy_lines(Clip(inputs=2, nodes=NODES, frames=1))
    assert still[0] == "clip of 1 frame, in time"
    assert still[-1] == "      from image    rotate -7.5 degrees"


def test_shares_noise_and_provenance() -> None:
    policy = Stages(stages=((Choice(weight=1, step=INVERT), Choice(weight=3, step=Step(op="constant"))),))
    assert summary_lines(policy, {"study": "x", "budget": {"steps": 3}}) == [
        "op shares, skipped steps as identity: constant (noise) 75.0 %, invert 25.0 %",
        "noise mass: 75.0 %",
        "provenance:",
        "  study: x",
        '  budget: {"steps": 3}',
    ]
    assert summary_lines(policy, {})[-1] == "provenance: none in the file"


@given(
    st.recursive(st.text() | st.floats() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_what_a_file_holds_cannot_steer_a_terminal(value: Any) -> None:
    assert printable(value).isprintable()


def test_control_characters_are_spelt_out() -> None:
    assert printable("a\x1b[31mé\n") == "a\\x1b[31mé\\n"
