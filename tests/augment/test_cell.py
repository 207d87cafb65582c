"""The cell against its sum written out, its gradient against differences, and what selection asks of it."""

from collections.abc import Callable

import pytest
import torch

from dastune.augment.cell import Cell
from dastune.ops.spaces import SPACES
from dastune.ops.table import OPS
from dastune.policy.policy import Edge, Genotype, policy_from_json, policy_to_json
from dastune.policy.space import SearchSpace
from dastune.seeds import generator

SpaceOf = Callable[..., SearchSpace]
PLAIN = ("identity", "invert", "auto_contrast")  # without argument: no draw changes them


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cell_of(space: SearchSpace, inputs: int = 2, nodes: int = 4, spread: float = 1.0) -> Cell:
    """A cell whose tau is far from uniform."""
    cell = Cell(space, inputs, nodes, seeded(5), torch.device("cpu"))
    with torch.no_grad():
        cell.tau_EK.copy_(spread * torch.randn(cell.tau_EK.shape, generator=seeded(6)))
    return cell


def plain_op(name: str, images: torch.Tensor) -> torch.Tensor:
    return OPS[name].function(images, torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.int64))


def blend(cell: Cell, edge: int, images: torch.Tensor) -> torch.Tensor:
    """One edge of PLAIN ops, written out."""
    weights = torch.softmax(cell.tau_EK[edge], 0)
    return sum((weights[k] * plain_op(name, images) for k, name in enumerate(PLAIN)), torch.zeros_like(images))


@pytest.mark.parametrize(("inputs", "nodes", "edges"), [(2, 4, 14), (1, 1, 1), (1, 2, 3), (1, 4, 10), (2, 1, 2)])
def test_every_node_reads_all_earlier_states(inputs: int, nodes: int, edges: int, space_of: SpaceOf) -> None:
    cell = Cell(space_of(*PLAIN), inputs, nodes, seeded(), torch.device("cpu"))
    assert len(cell.edges) == edges
    assert cell.tau_EK.shape == (edges, 3)
    assert [len(cell.incoming(node)) for node in range(nodes)] == [inputs + node for node in range(nodes)]


def test_tau_starts_near_nought_by_the_seed(space_of: SpaceOf) -> None:
    space = space_of(*SPACES["das-image"].names)
    first, again, other = (Cell(space, 2, 4, seeded(s), torch.device("cpu")).tau_EK.detach() for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.std()) == pytest.approx(1e-3, rel=0.2)


def test_the_cell_is_the_sum_written_out(space_of: SpaceOf, images: torch.Tensor) -> None:
    cell = cell_of(space_of(*PLAIN), inputs=2, nodes=2)
    # Edges in order: node 0 from inputs 0, 1; node 1 from inputs 0, 1 and node 0.
    first = (blend(cell, 0, images) + blend(cell, 1, images)) / 2
    second = (blend(cell, 2, images) + blend(cell, 3, images) + blend(cell, 4, first)) / 3
    torch.testing.assert_close(cell(images, seeded()), second)


def test_ops_on_an_edge_draw_an_argument_for_each_image(space_of: SpaceOf, images: torch.Tensor) -> None:
    names = ("rotate", "solarize", "brightness")
    cell = cell_of(space_of(*names), inputs=1, nodes=1)
    draws = generator(int(torch.randint(2**62, (), generator=seeded())), 0)
    weights = torch.softmax(cell.tau_EK[0], 0)
    expected = torch.zeros_like(images)
    for weight, name in zip(weights, names, strict=True):
        magnitudes, signs, _, seeds = torch.rand(len(images), 4, generator=draws, dtype=torch.float64).T
        low, high = sorted((OPS[name].low, OPS[name].high))
        arguments = low + magnitudes * (high - low)
        if OPS[name].signed:
            arguments = torch.where(signs < 0.5, -arguments, arguments)
        expected = expected + weight * OPS[name].function(images, arguments.float(), (seeds * 2**53).long())
    torch.testing.assert_close(cell(images, seeded()), expected)


def test_gradient_of_tau_agrees_with_differences_through_two_nodes(space_of: SpaceOf, images: torch.Tensor) -> None:
    exact = ("identity", "invert", "rotate", "translate_x", "contrast", "sharpness", "solarize")
    cell = cell_of(space_of(*exact), inputs=1, nodes=2)
    small = (0.3 + 0.4 * images[:2, :, :8, :8]).double()
    weights = torch.rand(small.shape, generator=seeded(), dtype=torch.float64)

    def value(tau: torch.Tensor) -> torch.Tensor:
        cell.tau_EK = tau
        return (cell(small, seeded()) * weights).sum()

    assert torch.autograd.gradcheck(value, (cell.tau_EK.detach().double().requires_grad_(),), eps=1e-6, atol=1e-5)


def test_gradient_reaches_every_op_of_every_edge(space_of: SpaceOf, images: torch.Tensor) -> None:
    # equalize and posterize too, whose straight-through gradient the first edges depend on.
    cell = cell_of(space_of(*SPACES["das-image-contrast"].names, "gaussian_replace", "additive_gaussian"), spread=0.1)
    blended = cell(images, seeded())
    (gradient,) = torch.autograd.grad((blended * images).sum(), [cell.tau_EK])
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


def test_a_masked_op_is_left_out_and_the_others_are_not_scaled_up(space_of: SpaceOf, images: torch.Tensor) -> None:
    cell = cell_of(space_of(*PLAIN), inputs=1, nodes=1)
    weights = torch.softmax(cell.tau_EK[0], 0)
    for k, name in enumerate(PLAIN):
        masked = cell(images, seeded(), without_op=(0, k))
        torch.testing.assert_close(masked, cell(images, seeded()) - weights[k] * plain_op(name, images))


def test_masking_changes_no_other_draw(space_of: SpaceOf, images: torch.Tensor) -> None:
    names = ("identity", "rotate", "cutout", "gaussian_replace", "additive_gaussian")
    cell = cell_of(space_of(*names), inputs=1, nodes=1)
    whole = cell(images, seeded())
    parts = [whole - cell(images, seeded(), without_op=(0, k)) for k in range(len(names))]
    torch.testing.assert_close(sum(parts, torch.zeros_like(images)), whole)

    two_edges = cell_of(space_of(*names), inputs=2, nodes=1)
    first, second = (two_edges(images, seeded(), without_edge=edge) for edge in (1, 0))
    torch.testing.assert_close((first + second) / 2, two_edges(images, seeded()))


def test_an_edge_left_out_or_removed_is_not_in_the_mean(space_of: SpaceOf, images: torch.Tensor) -> None:
    cell = cell_of(space_of(*PLAIN), inputs=2, nodes=2)
    without = cell(images, seeded(), without_edge=2)
    first = (blend(cell, 0, images) + blend(cell, 1, images)) / 2
    torch.testing.assert_close(without, (blend(cell, 3, images) + blend(cell, 4, first)) / 2)
    cell.removed.add(2)
    assert cell.incoming(1) == [3, 4]
    assert torch.equal(cell(images, seeded()), without)


def test_a_decided_edge_is_its_op_whatever_tau_says(space_of: SpaceOf, images: torch.Tensor) -> None:
    cell = cell_of(space_of(*PLAIN), inputs=2, nodes=1)
    cell.decided[0] = 1
    result = cell(images, seeded())
    torch.testing.assert_close(result, (1 - images + blend(cell, 1, images)) / 2)
    (gradient,) = torch.autograd.grad(result.square().sum(), [cell.tau_EK])
    assert not gradient[0].any()
    assert gradient[1].all()
    with torch.no_grad():
        cell.tau_EK[0] += 3 * torch.arange(3)
    assert torch.equal(cell(images, seeded()), result)


def test_the_genotype_takes_the_largest_tau_and_the_two_strongest_edges(space_of: SpaceOf) -> None:
    cell = cell_of(space_of("identity", "invert", "rotate"), inputs=2, nodes=2)
    with torch.no_grad():
        cell.tau_EK.zero_()
        for edge, op, value in ((0, 2, 1.0), (1, 1, 2.0), (2, 0, 1.0), (3, 1, 3.0), (4, 2, 2.0)):
            cell.tau_EK[edge, op] = value
    steps = {op.name: op.over_range() for op in cell.space.ops}
    first = (Edge(source=0, step=steps["rotate"]), Edge(source=1, step=steps["invert"]))
    second = (Edge(source=1, step=steps["invert"]), Edge(source=2, step=steps["rotate"]))
    assert cell.genotype() == Genotype(inputs=2, nodes=(first, second))

    cell.decided[3] = 0  # a decision overrules tau
    cell.removed.add(4)
    replaced = (Edge(source=0, step=steps["identity"]), Edge(source=1, step=steps["identity"]))
    assert cell.genotype() == Genotype(inputs=2, nodes=(first, replaced))


@pytest.mark.parametrize(("inputs", "nodes"), [(2, 4), (1, 1), (1, 6)])
def test_genotypes_keep_two_inputs_a_node_and_survive_json(inputs: int, nodes: int, space_of: SpaceOf) -> None:
    genotype = cell_of(space_of(*SPACES["das-image"].names), inputs, nodes).genotype()
    assert [len(edges) for edges in genotype.nodes] == [min(2, inputs + node) for node in range(nodes)]
    assert policy_from_json(policy_to_json(genotype)) == genotype


def test_nothing_waits_for_the_device(pretend_cuda: torch.device, space_of: SpaceOf) -> None:
    cell = Cell(space_of(*OPS), 1, 2, seeded(), pretend_cuda)
    blended = cell(torch.empty(4, 3, 8, 8, device=pretend_cuda), seeded(), without_op=(1, 2))
    assert blended.device.type == "cuda"
    assert blended.requires_grad
