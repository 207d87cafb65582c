"""Clips against frames made one by one, against torchvision, and against what is said of their frames."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torchvision.transforms.v2 import functional as F  # noqa: N812  the name everyone gives it

from dastune.augment.video import ClipForm, ClipTransform, VideoCell, transform_of
from dastune.ops.spaces import SPACES, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Clip, Edge, Step
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.policy.topology import Topology, chain, dag, named

CPU = torch.device("cpu")
SHEARS = SPACES["das-video-shear"].ops
SPACE = SearchSpace(tuple(SpaceOp(op.op, op.low, op.high, op.signed) for op in SHEARS))
STEPS = {"translate_x": 0.06, "translate_y": -0.1, "zoom": 0.2, "rotate": -13.0, "shear_x": 0.1, "shear_y": -0.08}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(op: str, argument: float = 0.0) -> Step:
    return Step(op=op, low=argument, high=argument, signed=False)


def clip_of(*ops: str, **options: Any) -> Clip:
    """One op after the other."""
    nodes = tuple((Edge(source=source, step=step(op, STEPS.get(op, 0.0))),) for source, op in enumerate(ops))
    return Clip(nodes=nodes, **options)


def one_by_one(policy: Clip, images: torch.Tensor) -> torch.Tensor:
    """Every frame of every clip on its own, by the ops themselves."""
    clips = []
    for image in images:
        frames = []
        for t in range(policy.frames):
            distance = t - policy.frames // 2
            if policy.profile == "symmetric":
                distance = abs(distance)
            states = [image[None]] * policy.inputs
            for edges in policy.nodes:
                moved = []
                for edge in edges:
                    argument = distance * edge.step.low
                    if edge.step.op == "zoom":
                        argument = (1 + edge.step.low) ** distance - 1
                    function = OPS[edge.step.op].function
                    moved.append(function(states[edge.source], torch.tensor([argument]), torch.tensor([0])))
                states.append(sum(moved[1:], moved[0]) / len(moved))
            frames.append(states[-1][0])
        clips.append(torch.stack(frames))
    return torch.stack(clips)


CELL = Clip(
    inputs=2,
    frames=6,
    nodes=(
        (Edge(source=0, step=step("rotate", 9.0)), Edge(source=1, step=step("identity"))),
        (Edge(source=2, step=step("zoom", -0.15)), Edge(source=0, step=step("translate_x", -0.07))),
        (Edge(source=3, step=step("shear_y", 0.06)), Edge(source=2, step=step("translate_y", 0.1))),
    ),
)


@pytest.mark.parametrize("profile", ["symmetric", "ramp"])
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@pytest.mark.parametrize("policy", [clip_of(op) for op in STEPS] + [clip_of("rotate", "zoom", "identity"), CELL])
def test_a_clip_is_its_frames_made_one_by_one(policy: Clip, frames: int, profile: str, images: torch.Tensor) -> None:
    policy = policy.model_copy(update={"frames": frames, "profile": profile})
    clip_BTCHW = ClipTransform(policy, seeded())(images[:3])
    assert clip_BTCHW.shape == (3, frames, 3, 16, 20)
    torch.testing.assert_close(clip_BTCHW, one_by_one(policy, images[:3]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("op", STEPS)
def test_steps_mean_what_they_mean_to_torchvision(op: str, images: torch.Tensor) -> None:
    height, width = images.shape[-2:]
    step_of = STEPS[op]
    clip_BTCHW = ClipTransform(clip_of(op, profile="ramp"), seeded())(images)
    for t in range(8):
        d = t - 4
        affine = {"angle": 0.0, "translate": [0.0, 0.0], "scale": 1.0, "shear": [0.0, 0.0]}
        match op:
            case "translate_x":
                affine["translate"] = [d * step_of * width, 0.0]
            case "translate_y":
                affine["translate"] = [0.0, d * step_of * height]
            case "zoom":
                affine["scale"] = (1 + step_of) ** d
            case "rotate":
                affine["angle"] = -d * step_of  # torchvision's affine turns clockwise
            case "shear_x":
                affine["shear"] = [math.degrees(math.atan(d * step_of)), 0.0]
            case "shear_y":
                affine["shear"] = [0.0, math.degrees(math.atan(d * step_of))]
        expected = F.affine(images, interpolation=F.InterpolationMode.BILINEAR, **affine)  # type: ignore[arg-type]
        torch.testing.assert_close(clip_BTCHW[:, t], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 7, 8])
@pytest.mark.parametrize("profile", ["symmetric", "ramp"])
def test_the_middle_frame_is_the_image_bit_for_bit(frames: int, profile: Any, images: torch.Tensor) -> None:
    policy = CELL.model_copy(update={"frames": frames, "profile": profile})
    assert torch.equal(ClipTransform(policy, seeded())(images)[:, frames // 2], images)
    cell = cell_of(dag(2, 3), ClipForm(frames, profile, "time"))
    assert torch.equal(cell.blend(images, seeded())[:, frames // 2], images)
    assert torch.equal(cell.blend(images, seeded(), without_op=(0, 1))[:, frames // 2], images)
    assert torch.equal(cell.sample(images, seeded())[0][:, frames // 2], images)


@pytest.mark.parametrize("frames", [3, 8])
def test_the_symmetric_profile_is_alike_on_both_sides(frames: int, images: torch.Tensor) -> None:
    clip_BTCHW = ClipTransform(CELL.model_copy(update={"frames": frames}), seeded())(images)
    middle = frames // 2
    for distance in range(1, (frames - 1) // 2 + 1):
        assert torch.equal(clip_BTCHW[:, middle - distance], clip_BTCHW[:, middle + distance])
        assert not torch.equal(clip_BTCHW[:, middle - distance], images)


def test_colour_and_time_are_not_scrambled(images: torch.Tensor) -> None:
    red_B1HW = images[:, :1]
    clip_BTCHW = ClipTransform(CELL, seeded())(images)
    alone_BT1HW = ClipTransform(CELL, seeded())(red_B1HW)
    torch.testing.assert_close(clip_BTCHW[:, :, :1], alone_BT1HW)


def test_a_clip_of_alike_frames_is_legal(images: torch.Tensor) -> None:
    clip_BTCHW = ClipTransform(clip_of("identity", "identity"), seeded())(images)
    assert torch.equal(clip_BTCHW, images[:, None].expand(-1, 8, -1, -1, -1))


def test_shuffling_keeps_each_clip_s_frames(images: torch.Tensor) -> None:
    policy = CELL.model_copy(update={"frames": 8, "profile": "ramp"})
    plain_BTCHW = ClipTransform(policy, seeded())(images)
    shuffled_BTCHW = ClipTransform(policy.model_copy(update={"order": "shuffled"}), seeded())(images)
    orders = set()
    for plain_TCHW, shuffled_TCHW in zip(plain_BTCHW, shuffled_BTCHW, strict=True):
        order = [next(t for t in range(8) if torch.equal(plain_TCHW[t], frame)) for frame in shuffled_TCHW]
        assert sorted(order) == list(range(8))
        orders.add(tuple(order))
    assert len(orders) == len(images)


def test_all_orders_of_frames_are_alike_likely(images: torch.Tensor) -> None:
    policy = clip_of("translate_x", frames=3, profile="ramp", order="shuffled")
    plain_TCHW = ClipTransform(policy.model_copy(update={"order": "time"}), seeded())(images[:1])[0]
    clips = ClipTransform(policy, seeded())(images[:1].expand(1200, -1, -1, -1))
    seen = [tuple((frame - plain_TCHW).abs().flatten(1).sum(1).argmin().item() for frame in clip) for clip in clips]
    assert chisquare([seen.count(order) for order in permutations(range(3))]).pvalue > 0.001


@pytest.mark.parametrize("profile", ["symmetric", "ramp"])
def test_one_frame_at_a_time_is_a_frame_of_the_clip(profile: str, images: torch.Tensor) -> None:
    policy = CELL.model_copy(update={"frames": 5, "profile": profile})
    many = images[:2].repeat(200, 1, 1, 1)
    one_BCHW = ClipTransform(policy.model_copy(update={"order": "one"}), seeded())(many)
    assert one_BCHW.shape == many.shape
    clip_BTCHW = ClipTransform(policy, seeded())(many)
    distances_BT = (clip_BTCHW - one_BCHW[:, None]).abs().flatten(2).amax(2)
    assert float(distances_BT.min(1).values.max()) < 2e-5
    still = [torch.equal(one, image) for one, image in zip(one_BCHW, many, strict=True)]
    assert 40 < sum(still) < 130  # one in five is the image itself, bit for bit
    if profile == "ramp":
        assert chisquare(torch.bincount(distances_BT.argmin(1), minlength=5).numpy()).pvalue > 0.001


@pytest.mark.parametrize("order", ["shuffled", "one"])
def test_two_batches_are_one_batch_of_both(order: str, images: torch.Tensor) -> None:
    policy = CELL.model_copy(update={"order": order})
    both = ClipTransform(policy, seeded(3))(images)
    transform = transform_of(policy, seeded(3))
    torch.testing.assert_close(torch.cat([transform(images[:5]), transform(images[5:])]), both, atol=1e-6, rtol=0)


def test_images_that_are_none_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        ClipTransform(CELL, seeded())(images[0])
    three = CELL.model_copy(update={"geometry": Geometry(fill=(0.1, 0.2, 0.3))})
    with pytest.raises(ValueError, match="fill has 3 values"):
        ClipTransform(three, seeded())(images[:, :1])


def test_what_comes_from_outside_has_the_fill_s_colour(images: torch.Tensor) -> None:
    policy = clip_of("translate_x", profile="ramp").model_copy(update={"geometry": Geometry(fill=(0.1, 0.2, 0.3))})
    clip_BTCHW = ClipTransform(policy, seeded())(images)
    for channel, grey in enumerate((0.1, 0.2, 0.3)):
        torch.testing.assert_close(clip_BTCHW[:, 7, channel, :, :3], torch.full((12, 16, 3), grey))


# The relaxed cell.


def cell_of(topology: Topology, form: ClipForm | None = None, space: SearchSpace = SPACE) -> VideoCell:
    """A cell whose tau is far from uniform."""
    cell = VideoCell(space, topology, form or ClipForm(6, "symmetric", "time"), seeded(5), CPU)
    with torch.no_grad():
        cell.tau_EK.copy_(torch.randn(cell.tau_EK.shape, generator=seeded(6)))
    return cell


def edge_policy(cell: VideoCell, row: int, op: int) -> Step:
    """What the cell has on a row, read from a discrete cell that was made to have it."""
    decided, cell.decided = cell.decided, {**cell.decided, row: op}
    for edges, links in zip(cell.clip().nodes, cell.topology.nodes, strict=True):
        for edge, link in zip(edges, links, strict=False):
            if link.row == row:
                cell.decided = decided
                return edge.step
    raise AssertionError


@pytest.mark.parametrize("masked", [None, 2])
def test_an_edge_blends_its_ops_by_weight_frame_by_frame(masked: int | None, images: torch.Tensor) -> None:
    cell = cell_of(chain(1))
    weights_K = torch.softmax(cell.tau_EK[0], 0).tolist()
    expected = torch.zeros(12, 6, 3, 16, 20)
    for op, weight in enumerate(weights_K):
        if op != masked:
            policy = Clip(frames=6, nodes=((Edge(source=0, step=edge_policy(cell, 0, op)),),))
            expected += weight * one_by_one(policy, images)
    expected[:, 3] = images
    without = None if masked is None else (0, masked)
    blended = cell.blend(images, seeded(), without_op=without)
    torch.testing.assert_close(blended, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("topology", [named("darts-2"), chain(3)])
def test_a_decided_cell_makes_the_clips_of_its_policy(topology: Topology, images: torch.Tensor) -> None:
    cell = cell_of(replace(topology, kept=None))
    cell.decided = {row: (3 * row + 1) % len(SPACE) for row in range(topology.rows)}
    with torch.no_grad():
        cell.order_P[0] = 1000.0  # stages of a chain in the order given
    expected = ClipTransform(cell.clip(), seeded())(images)
    torch.testing.assert_close(cell.blend(images, seeded()), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(cell.sample(images, seeded())[0], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("topology", [named("darts-2"), chain(2)])
def test_sampled_clips_are_those_of_what_was_drawn(topology: Topology, images: torch.Tensor) -> None:
    cell = cell_of(replace(topology, kept=None))
    clips, draws = cell.sample(images, seeded(4), forced=(0, 1))
    assert draws.op_LB[0, :6].tolist() == [1] * 6
    assert len(set(draws.order_B.tolist())) == (2 if topology.is_chain else 1)
    for i, clip_TCHW in enumerate(clips):
        order = cell.orders[int(draws.order_B[i])]
        nodes, place = [], 0
        for links in topology.nodes:
            edges = []
            for link in links:
                row = order[link.row]
                op = int(draws.op_LB[row if topology.is_chain else place, i])
                edges.append(Edge(source=link.source, step=edge_policy(cell, row, op)))
                place += 1
            nodes.append(tuple(edges))
        policy = Clip(frames=6, inputs=topology.inputs, nodes=tuple(nodes))
        torch.testing.assert_close(clip_TCHW, one_by_one(policy, images[i : i + 1])[0], atol=2e-5, rtol=0)


def test_tau_s_gradient_is_that_of_differences(images: torch.Tensor) -> None:
    cell = cell_of(named("darts-3"))
    weights = torch.randn(4, 6, 3, 16, 20, generator=seeded(1))

    def value() -> torch.Tensor:
        return (cell.blend(images[:4], seeded()) * weights).sum()

    [gradient_EK] = torch.autograd.grad(value(), [cell.tau_EK])
    assert (gradient_EK.abs().sum(1) > 0).all()  # of every edge
    for row, op in [(0, 0), (2, 3), (8, 1)]:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                cell.tau_EK[row, op] += sign * 0.01
            ends.append(float(value().detach()))
            with torch.no_grad():
                cell.tau_EK[row, op] -= sign * 0.01
        assert float(gradient_EK[row, op]) == pytest.approx((ends[0] - ends[1]) / 0.02, rel=0.02, abs=0.02)


def test_steps_are_drawn_once_from_the_seed_within_the_ranges() -> None:
    first, again = (cell_of(dag(2, 4)) for _ in range(2))
    steps = [edge_policy(first, row, op) for row in (0, 1) for op in range(len(SPACE))]
    assert steps == [edge_policy(again, row, op) for row in (0, 1) for op in range(len(SPACE))]
    assert len({s.low for s in steps if s.op != "identity"}) == 12  # each edge has its own
    many = VideoCell(SPACE, dag(2, 6), ClipForm(8, "symmetric", "time"), seeded(), CPU)
    for op, ranged in enumerate(SHEARS):
        values = [many._steps[row][op] for row in range(many.topology.rows)]
        assert all(abs(value) <= ranged.high for value in values)
        assert ranged.op == "identity" or min(values) < -0.3 * ranged.high < 0.3 * ranged.high < max(values)


@pytest.mark.parametrize("relaxation", ["blend", "sample"])
def test_a_gpu_is_not_waited_for_and_holds_all(
    relaxation: str, pretend_cuda: torch.device, images: torch.Tensor
) -> None:
    device = pretend_cuda if relaxation == "blend" else CPU
    cell = VideoCell(SPACE, named("darts-2"), ClipForm(8, "symmetric", "time"), seeded(), device)
    there_BCHW = torch.zeros(4, 3, 16, 20, device=pretend_cuda)
    clip_BTCHW = cell.blend(there_BCHW, seeded()) if relaxation == "blend" else cell.sample(there_BCHW, seeded())[0]
    assert clip_BTCHW.device.type == "cuda"
    assert clip_BTCHW.shape == (4, 8, 3, 16, 20)


@pytest.mark.parametrize("order", ["time", "shuffled", "one"])
def test_a_policy_s_clips_stay_on_their_gpu(order: str, pretend_cuda: torch.device) -> None:
    there_BCHW = torch.zeros(4, 3, 16, 20, device=pretend_cuda)
    made = ClipTransform(CELL.model_copy(update={"order": order}), seeded())(there_BCHW)
    assert made.device.type == "cuda"


def test_the_step_of_a_blend_on_meta(space_of: Callable[..., SearchSpace]) -> None:
    cell = VideoCell(SPACE, named("darts-2"), ClipForm(8, "symmetric", "time"), seeded(), torch.device("meta"))
    images_BCHW = torch.zeros(4, 3, 16, 20, device="meta")
    [gradient_EK] = torch.autograd.grad(cell.blend(images_BCHW, seeded()).sum(), [cell.tau_EK])
    assert gradient_EK.device.type == "meta"
