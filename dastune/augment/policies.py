"""A Policy as a batch transform: another op and magnitude for each image."""

from collections.abc import Sequence

import torch

from dastune.ops import geometric
from dastune.ops.table import OPS
from dastune.policy.policy import Genotype, Policy, Stages, Step, SubPolicies

SKIP = -1  # in place of a step's index: the image stays as it is


class StepTable:
    """Steps side by side, so that each image of a batch can take its own.

    Which image takes which step, its magnitude and sign are drawn on the CPU: a GPU is never waited for. Noise ops draw
    their pixels on the images' device.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self._ops = sorted({step.op for step in steps})
        self._op_S = torch.tensor([self._ops.index(step.op) for step in steps], dtype=torch.int64)
        self._low_S = torch.tensor([step.low for step in steps])
        self._span_S = torch.tensor([step.high - step.low for step in steps])
        self._signed_S = torch.tensor([OPS[step.op].signed for step in steps], dtype=torch.bool)
        self._probability_S = torch.tensor([step.probability for step in steps])

    def apply(self, images_BCHW: torch.Tensor, which_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Send image b through step `which_B[b]` (SKIP: none), each with its own magnitude, sign and coin.

        Args:
            images_BCHW: float32 in [0, 1].
            which_B: int64 on the CPU.
            generator: on the CPU.
        """
        draws_3B = torch.rand(3, len(which_B), generator=generator)
        at_B = which_B.clamp(min=0)
        argument_B = self._low_S[at_B] + draws_3B[0] * self._span_S[at_B]
        argument_B = torch.where(self._signed_S[at_B] & (draws_3B[1] < 0.5), -argument_B, argument_B)
        applied_B = (which_B != SKIP) & (draws_3B[2] < self._probability_S[at_B])
        op_B = torch.where(applied_B, self._op_S[at_B], SKIP)
        return _apply_ops(images_BCHW, self._ops, op_B, argument_B, generator)


def _apply_ops(
    images_BCHW: torch.Tensor,
    names: Sequence[str],
    op_B: torch.Tensor,
    argument_B: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Apply op `names[op_B[b]]` to image b; all geometric ones in a single warp."""
    device = images_BCHW.device
    pixels = device_generator(generator, device)
    out_BCHW = images_BCHW.clone()
    moved: list[torch.Tensor] = []
    matrices: list[torch.Tensor] = []
    for index, name in enumerate(names):
        if name == "identity":
            continue
        rows = (op_B == index).nonzero()[:, 0]
        if not len(rows):
            continue
        argument = argument_B[rows].to(device, non_blocking=True)
        if OPS[name].geometric:
            moved.append(rows)
            matrices.append(geometric.matrix(name, argument, images_BCHW.shape[-2:]))
            continue
        rows = rows.to(device, non_blocking=True)
        out_BCHW[rows] = OPS[name].function(images_BCHW[rows], argument, pixels)
    if moved:
        rows = torch.cat(moved).to(device, non_blocking=True)
        out_BCHW[rows] = geometric.warp(images_BCHW[rows], torch.cat(matrices))
    return out_BCHW


def device_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return `generator` itself where `device` is a CPU, else a new one on `device` seeded from it."""
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def draw_choices(weights: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` indices drawn in proportion to `weights`, int64 on the CPU."""
    if count == 0:  # which multinomial refuses
        return torch.empty(0, dtype=torch.int64)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


class PolicyTransform:
    """Applies a Policy to image batches; every image draws for itself.

    Args:
        policy: what to apply.
        generator: on the CPU; same seed, same images.
    """

    def __init__(self, policy: Policy, generator: torch.Generator) -> None:
        self.policy = policy
        self.generator = generator
        self._tables: list[tuple[torch.Tensor, StepTable]] = []
        match policy:
            case Stages():
                for stage in policy.stages:
                    weights = torch.tensor([choice.weight for choice in stage], dtype=torch.float64)
                    self._tables.append((weights, StepTable([choice.step for choice in stage])))
            case SubPolicies():
                weights = torch.tensor([sub.weight for sub in policy.sub_policies], dtype=torch.float64)
                self._tables = [(weights, StepTable([step for sub in policy.sub_policies for step in sub.steps]))]
            case Genotype():
                steps = [edge.step for edges in policy.nodes for edge in edges]
                self._tables = [(torch.ones(1), StepTable([step])) for step in steps]

    @torch.no_grad()
    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the augmented batch. Images are float32 in [0, 1], in and out."""
        match self.policy:
            case Stages():
                for weights, table in self._tables:
                    which_B = draw_choices(weights, len(images_BCHW), self.generator)
                    images_BCHW = table.apply(images_BCHW, which_B, self.generator)
                return images_BCHW
            case SubPolicies():
                return self._sub_policies(images_BCHW, self.policy)
            case Genotype():
                return self._cell(images_BCHW, self.policy)

    def _sub_policies(self, images_BCHW: torch.Tensor, policy: SubPolicies) -> torch.Tensor:
        [(weights, table)] = self._tables
        lengths = torch.tensor([len(sub.steps) for sub in policy.sub_policies])
        starts = lengths.cumsum(0) - lengths
        drawn_B = draw_choices(weights, len(images_BCHW), self.generator)
        for position in range(int(lengths.max())):
            which_B = torch.where(position < lengths[drawn_B], starts[drawn_B] + position, SKIP)
            images_BCHW = table.apply(images_BCHW, which_B, self.generator)
        return images_BCHW

    def _cell(self, images_BCHW: torch.Tensor, policy: Genotype) -> torch.Tensor:
        states = [images_BCHW] * policy.inputs
        every = torch.zeros(len(images_BCHW), dtype=torch.int64)
        tables = iter(self._tables)
        for edges in policy.nodes:
            incoming = [next(tables)[1].apply(states[edge.source], every, self.generator) for edge in edges]
            states.append(torch.stack(incoming).mean(0))
        return states[-1]
