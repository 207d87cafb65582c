"""Image to video: an image is replicated into frames, which a cell moves step by step away from the middle one.

Frames go through a cell as frames_FBCHW, F = T - 1 of them: the middle one is the image, and no op touches it. All ops
of a clip are affine maps that depend on the frame alone, not on the image, so that a batch's images are sampled as
channels of one image, all frames and ops in one call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from dastune.augment.cell import Cell, Draws
from dastune.augment.policies import PolicyTransform
from dastune.augment.steps import uniform_draws
from dastune.ops import geometric
from dastune.ops.spaces import Geometry
from dastune.ops.table import at_distance
from dastune.policy.policy import Clip, Edge, Policy, Step
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.policy.topology import Topology


@dataclass(frozen=True)
class ClipForm:
    """The clips that a video cell makes; see `dastune.policy.policy.Clip`."""

    frames: int
    profile: Literal["symmetric", "ramp"]
    order: Literal["time", "shuffled", "one"]

    def distances(self) -> tuple[int, ...]:
        """How many steps the F frames beside the middle one are moved."""
        return _moving(self.frames, self.profile)


@cache
def _moving(frames: int, profile: Literal["symmetric", "ramp"]) -> tuple[int, ...]:
    still = Edge(source=0, step=Step(op="identity"))
    distances = Clip(frames=frames, profile=profile, nodes=((still,),)).distances
    return distances[: frames // 2] + distances[frames // 2 + 1 :]


def _maps(op: str, step: float, distances: Sequence[int], images: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Return the maps (F, 3, 3), output to input, of an op at so many steps; identity's leave all as it is."""
    if op == "identity":
        return torch.eye(3, device=images.device).expand(len(distances), 3, 3)
    arguments_F = torch.tensor([at_distance(op, step, distance) for distance in distances])
    return geometric.matrix(op, arguments_F, images.shape[-2:], geometry).to(images.device, non_blocking=True)


def _sampled(frames_FBCHW: torch.Tensor, maps_FM33: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Return each frame of all images after each of the M maps of the frame, (F, B, C, M, H, W)."""
    _, batch, channels, height, width = frames_FBCHW.shape
    fill = geometry.fill if len(geometry.fill) == 1 else geometry.fill * batch
    moved_FNMHW = geometric.warps(frames_FBCHW.flatten(1, 2), maps_FM33, geometry.interpolation, fill)
    return moved_FNMHW.view(-1, batch, channels, maps_FM33.shape[1], height, width)


def _clip(images_BCHW: torch.Tensor, frames_FBCHW: torch.Tensor) -> torch.Tensor:
    """Return clip_BTCHW: the frames, and the image in their middle."""
    middle = (len(frames_FBCHW) + 1) // 2
    parts = [frames_FBCHW[:middle], images_BCHW[None], frames_FBCHW[middle:]]
    return torch.cat(parts).transpose(0, 1)


def _replicated(images_BCHW: torch.Tensor, frames: int) -> torch.Tensor:
    return images_BCHW.expand(frames, *images_BCHW.shape)


class ClipTransform:
    """Makes clips of images as a `Clip` says; differentiable in the images.

    What is drawn for an image (an order, or one frame) is decided by its own numbers: two batches come out as one batch
    of both would.

    Args:
        policy: the discrete video cell.
        generator: on the CPU; nothing is drawn from it where frames come in time.
    """

    def __init__(self, policy: Clip, generator: torch.Generator) -> None:
        self.policy = policy
        self.generator = generator

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return clip_BTCHW; images_BCHW of one frame each where the policy's order is "one".

        Args:
            images_BCHW: float32 in [0, 1], as is the result.

        Raises:
            ValueError: images of another shape, or of other channels than the policy's fill.
        """
        policy = self.policy
        if images_BCHW.ndim != 4 or len(policy.geometry.fill) not in (1, images_BCHW.shape[1]):
            raise ValueError(
                f"images must be (B, C, H, W), and the policy's fill has {len(policy.geometry.fill)} values; got "
                f"{tuple(images_BCHW.shape)}"
            )
        if policy.order == "one":
            return self._one(images_BCHW)
        moving = _moving(policy.frames, policy.profile)
        if not moving:
            return images_BCHW[:, None]

        def moved(frames_FBCHW: torch.Tensor, step: Step) -> torch.Tensor:
            if step.op == "identity":
                return frames_FBCHW
            maps_F33 = _maps(step.op, step.low, moving, images_BCHW, policy.geometry)
            return _sampled(frames_FBCHW, maps_F33[:, None], policy.geometry).squeeze(3)

        frames_FBCHW = _through(policy, _replicated(images_BCHW, len(moving)), moved)
        clip_BTCHW = _clip(images_BCHW, frames_FBCHW)
        if policy.order == "time":
            return clip_BTCHW
        order_BT = uniform_draws(len(clip_BTCHW), policy.frames, self.generator).argsort(1).to(clip_BTCHW.device)
        return clip_BTCHW[torch.arange(len(clip_BTCHW), device=clip_BTCHW.device)[:, None], order_BT]

    def _one(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return of each image's clip one frame, each as likely."""
        policy, device = self.policy, images_BCHW.device
        frame_B = (uniform_draws(len(images_BCHW), 1, self.generator)[:, 0] * policy.frames).long()
        frame_B = frame_B.to(device, non_blocking=True)

        def moved(states_BCHW: torch.Tensor, step: Step) -> torch.Tensor:
            if step.op == "identity":
                return states_BCHW
            maps_B33 = _maps(step.op, step.low, policy.distances, images_BCHW, policy.geometry)[frame_B]
            return geometric.warp(states_BCHW, maps_B33, policy.geometry.interpolation, policy.geometry.fill)

        still_B111 = (frame_B == policy.frames // 2)[:, None, None, None]
        return torch.where(still_B111, images_BCHW, _through(policy, images_BCHW, moved))


def _through(policy: Clip, state: torch.Tensor, moved: Callable[[torch.Tensor, Step], torch.Tensor]) -> torch.Tensor:
    """Send a state through the nodes of a cell, each the mean of its edges."""
    states = [state] * policy.inputs
    for edges in policy.nodes:
        joined = torch.stack([moved(states[edge.source], edge.step) for edge in edges]).mean(0)
        states.append(joined)
    return states[-1]


def transform_of(policy: Policy, generator: torch.Generator) -> PolicyTransform | ClipTransform:
    """Return what applies a policy to images_BCHW; of a Clip whose order is not "one" it makes clip_BTCHW."""
    return ClipTransform(policy, generator) if isinstance(policy, Clip) else PolicyTransform(policy, generator)


class VideoCell(Cell):
    """The relaxed cell of image to video: candidate ops on every edge, which move a clip's frames.

    Each edge and op has a step of its own from frame to frame, drawn once, uniformly over the op's range; it is not
    learned. Nodes are means of their edges. The middle frame of a clip is the image, bit for bit, also where ops are
    blended or masked.

    Args:
        space: geometric ops and identity; ranges are of steps from one frame to the next.
        form: the clips.
        generator: of tau, and then of the steps.
    """

    def __init__(
        self, space: SearchSpace, topology: Topology, form: ClipForm, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__(space, topology, generator, device)
        self._form = form
        self._steps = [[_drawn_step(op, generator) for op in space.ops] for _ in range(topology.rows)]
        self._maps_of_rows: dict[tuple[int, tuple[int, ...], torch.device], torch.Tensor] = {}

    def blend(
        self,
        images_BCHW: torch.Tensor,
        generator: torch.Generator,
        *,
        without_op: tuple[int, int] | None = None,
        without_row: int | None = None,
    ) -> torch.Tensor:
        """Return clip_BTCHW with blended frames, differentiable in tau; arguments as for `Cell.blend`.

        Nothing is drawn from `generator`.
        """
        moving = self._form.distances()
        if not moving:
            return images_BCHW[:, None]
        weights_EK = torch.softmax(self.tau_EK, 1)

        def mixed(frames_FBCHW: torch.Tensor, place: int, row: int) -> torch.Tensor:
            ops = [self.decided[row]] if row in self.decided else list(range(len(self.space)))
            if without_op is not None and without_op[0] == row:
                ops.remove(without_op[1])
            weights_K = weights_EK.new_ones(len(self.space)) if row in self.decided else weights_EK[row]
            return self._blended(frames_FBCHW, row, ops, weights_K)

        frames_FBCHW = self._through(
            _replicated(images_BCHW, len(moving)), {*self.removed, without_row}, mixed
        )  # fmt: skip
        return _clip(images_BCHW, frames_FBCHW)

    def _blended(
        self, frames_FBCHW: torch.Tensor, row: int, ops: Sequence[int], weights_K: torch.Tensor
    ) -> torch.Tensor:
        """Return the frames after each of `ops`, added up by weight."""
        moving = [op for op in ops if self.space.names[op] != "identity"]
        still = [op for op in ops if self.space.names[op] == "identity"]
        total_FBCHW = torch.zeros_like(frames_FBCHW) if not still else weights_K[still].sum() * frames_FBCHW
        if moving:
            moved_FBCMHW = _sampled(frames_FBCHW, self._row_maps(row, frames_FBCHW)[:, moving], self.space.geometry)
            weights_1M = weights_K[moving][None]
            total_FBCHW = total_FBCHW + (weights_1M @ moved_FBCMHW.flatten(4)).view(frames_FBCHW.shape)
        return total_FBCHW

    @torch.no_grad()
    def sample(
        self, images_BCHW: torch.Tensor, generator: torch.Generator, *, forced: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, Draws]:
        """Return clip_BTCHW, for each clip and edge with one op drawn from softmax(tau), and what was drawn.

        Arguments as for `Cell.sample`.
        """
        draws = self._draws(len(images_BCHW), generator, forced)
        moving = self._form.distances()
        if not moving:
            return images_BCHW[:, None], draws
        if self.topology.is_chain:
            row_LB = self._orders_PS[draws.order_B].T
            op_LB = draws.op_LB.gather(0, row_LB)
        else:
            op_LB = draws.op_LB
            row_LB = torch.tensor([link.row for link in self.topology.links])[:, None].expand_as(op_LB)
        maps_FEK33 = torch.stack([self._row_maps(row, images_BCHW) for row in range(self.topology.rows)], 1)

        def sampled(frames_FBCHW: torch.Tensor, place: int, _: int) -> torch.Tensor:
            row_B, op_B = (index_LB[place].to(images_BCHW.device) for index_LB in (row_LB, op_LB))
            maps_FB133 = maps_FEK33[:, row_B, op_B][:, :, None]
            geometry = self.space.geometry
            flat_NCHW, maps_N133 = frames_FBCHW.flatten(0, 1), maps_FB133.flatten(0, 1)
            moved_NC1HW = geometric.warps(flat_NCHW, maps_N133, geometry.interpolation, geometry.fill)
            return moved_NC1HW.view(frames_FBCHW.shape)

        return _clip(images_BCHW, self._through(_replicated(images_BCHW, len(moving)), self.removed, sampled)), draws

    def _row_maps(self, row: int, images: torch.Tensor) -> torch.Tensor:
        """Return the maps (F, K, 3, 3) of all ops on a row, for images of this height, width and device."""
        key = row, tuple(images.shape[-2:]), images.device
        if key not in self._maps_of_rows:  # they never change
            named = zip(self.space.names, self._steps[row], strict=True)
            moving, geometry = self._form.distances(), self.space.geometry
            self._maps_of_rows[key] = torch.stack(
                [_maps(name, step, moving, images, geometry) for name, step in named], 1
            )
        return self._maps_of_rows[key]

    def clip(self) -> Clip:
        """Return the discrete cell, chosen as `genotype` does, each edge with its own step."""
        cell, form = self.genotype(), self._form
        return Clip(
            frames=form.frames,
            profile=form.profile,
            order=form.order,
            inputs=cell.inputs,
            nodes=cell.nodes,
            geometry=cell.geometry,
        )

    def _edge_step(self, row: int, op: int) -> Step:
        step = self._steps[row][op]
        return Step(op=self.space.names[op], low=step, high=step, signed=False)


def _drawn_step(op: SpaceOp, generator: torch.Generator) -> float:
    """Return an op's step between two frames, drawn uniformly over its range, its sign too where it has one."""
    share, sign = (float(draw) for draw in torch.rand(2, generator=generator, dtype=torch.float64))
    step = op.low + share * (op.high - op.low)
    return -step if op.signed and sign < 0.5 else step
