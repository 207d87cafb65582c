"""The cell against its sums written out and differences; what it samples against its draws played one by one."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from dastune.augment.cell import Cell, Draws
from dastune.augment.steps import StepTable, apply_op
from dastune.ops import color
from dastune.ops.spaces import SPACES, TORCHVISION, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Edge, Genotype, Stages, policy_from_json, policy_to_json
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.policy.topology import Topology, chain, dag, named

SpaceOf = Callable[..., SearchSpace]
PLAIN = ("identity", "invert", "auto_contrast")  # without argument: no draw changes them
# All ops, and one of them twice, as where its range is cut into parts.
EVERYTHING = (*(SpaceOp(op.name, op.low, op.high, op.signed) for op in OPS.values()), SpaceOp("rotate", 30, 60, True))
GREY_NEAREST = TORCHVISION.model_copy(update={"fill": (0.4,)})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cell_of(space: SearchSpace, topology: Topology, spread: float = 1.0) -> Cell:
    """A cell whose tau is far from uniform."""
    cell = Cell(space, topology, seeded(5), torch.device("cpu"))
    with torch.no_grad():
        cell.tau_EK.copy_(spread * torch.randn(cell.tau_EK.shape, generator=seeded(6)))
    return cell


def plain_op(name: str, images: torch.Tensor) -> torch.Tensor:
    return OPS[name].function(images, torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.int64))


def blend(cell: Cell, row: int, images: torch.Tensor) -> torch.Tensor:
    """One edge of PLAIN ops, written out."""
    weights = torch.softmax(cell.tau_EK[row], 0)
    return sum((weights[k] * plain_op(name, images) for k, name in enumerate(PLAIN)), torch.zeros_like(images))


def one_op(space: SearchSpace, op: int, images: torch.Tensor, draws_B4: torch.Tensor) -> torch.Tensor:
    """One op of a space with the numbers drawn for each image: magnitude, sign, coin, seed."""
    magnitudes, signs, _, seeds = draws_B4.T
    ranged = space.ops[op]
    low, high = sorted((ranged.low, ranged.high))
    arguments = low + magnitudes * (high - low)
    if ranged.signed:
        arguments = torch.where(signs < 0.5, -arguments, arguments)
    return apply_op(ranged.name, images, arguments.float(), (seeds * 2**53).long(), space.geometry)


def joined(topology: Topology, edges: list[torch.Tensor]) -> torch.Tensor:
    total = torch.stack(edges).sum(0)
    if len(edges) == 1:
        return total
    return total / len(edges) if topology.join == "mean" else total.clamp(0, 1)


def written_out(
    cell: Cell,
    images: torch.Tensor,
    generator: torch.Generator,
    without_op: tuple[int, int] | None = None,
    without_row: int | None = None,
) -> torch.Tensor:
    """What `Cell.blend` means: op by op, edge by edge, with torch's own gradient throughout."""
    topology, ops = cell.topology, range(len(cell.space))
    draws = iter(torch.rand(len(topology.links), len(ops), len(images), 4, generator=generator, dtype=torch.float64))
    states = [images] * topology.inputs
    for links in topology.nodes:
        edges = []
        for link in links:
            draws_KB4 = next(draws)
            if link.row in cell.removed or link.row == without_row:
                continue
            after = [one_op(cell.space, op, states[link.source], draws_KB4[op]) for op in ops]
            if link.row in cell.decided:
                edges.append(after[cell.decided[link.row]])
                continue
            weights = torch.softmax(cell.tau_EK[link.row], 0)
            edges.append(torch.stack([weights[op] * after[op] for op in ops if (link.row, op) != without_op]).sum(0))
        states.append(joined(topology, edges))
    return states[-1]


CELLS: Mapping[str, tuple[Topology, Mapping[str, Any]]] = {
    "single": (chain(1), {}),
    "chain": (chain(3), {}),
    "chain without an op": (chain(2), {"without_op": (1, 4)}),
    "chain without a geometric op": (chain(2), {"without_op": (0, 1)}),
    "chain, decided": (chain(3), {"decided": {1: 4}}),
    "DAG": (dag(2, 3), {}),
    "DAG without an op": (dag(1, 3), {"without_op": (2, 29)}),
    "DAG without a row": (dag(1, 3), {"without_row": 2}),
    "DAG, decided and removed": (dag(2, 3), {"decided": {0: 12, 4: 2, 5: 20}, "removed": {3, 6}, "without_op": (7, 8)}),
    "cells": (dag(1, 2, cells=2), {"without_op": (1, 9)}),
    "cells of two inputs": (dag(2, 1, cells=3), {"decided": {1: 7}}),
    "sums": (dag(2, 2, cells=2, join="sum"), {"removed": {1}, "without_row": 2}),
}


@pytest.mark.parametrize("of_images", [False, True], ids=["", "and images"])
@pytest.mark.parametrize("geometry", [Geometry(), GREY_NEAREST], ids=["bilinear", "nearest"])
@pytest.mark.parametrize(("topology", "changes"), CELLS.values(), ids=CELLS)
def test_blend_and_its_gradients_are_those_written_out(
    topology: Topology, changes: Mapping[str, Any], geometry: Geometry, of_images: bool, images: torch.Tensor
) -> None:
    cell = cell_of(SearchSpace(EVERYTHING, geometry=geometry), topology)
    cell.tau_EK = cell.tau_EK.detach().double().requires_grad_()
    cell.decided, cell.removed = changes.get("decided", {}), changes.get("removed", set())
    options = {key: value for key, value in changes.items() if key.startswith("without")}
    few = images[:3].double().requires_grad_(of_images)
    upstream = torch.randn(few.shape, generator=seeded(1), dtype=torch.float64)
    sought = [cell.tau_EK, few] if of_images else [cell.tau_EK]

    expected = written_out(cell, few, seeded(), **options)
    result = cell.blend(few, seeded(), **options)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad((result * upstream).sum(), sought),
        torch.autograd.grad((expected * upstream).sum(), sought),
        rtol=1e-9,
        atol=1e-9,
    )
    with torch.no_grad():
        assert torch.equal(cell.blend(few, seeded(), **options), result)


def test_single_precision_is_enough(images: torch.Tensor, space_of: SpaceOf) -> None:
    cell = cell_of(space_of(*SPACES["das-image"].names), named("darts-4"))
    upstream = torch.randn(images.shape, generator=seeded(1))
    results = [blended(cell, images, seeded()) for blended in (Cell.blend, written_out)]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad((result * upstream).sum(), [cell.tau_EK])[0] for result in results]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4 * float(gradients[0].abs().max()))


def test_tau_starts_near_nought_by_the_seed(space_of: SpaceOf) -> None:
    space = space_of(*SPACES["das-image"].names)
    cells = [Cell(space, named("darts-4"), seeded(seed), torch.device("cpu")) for seed in (0, 0, 1)]
    first, again, other = (cell.tau_EK.detach() for cell in cells)
    assert first.shape == (14, 15)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.std()) == pytest.approx(1e-3, rel=0.2)


def test_the_cell_is_the_sum_of_its_plain_ops(space_of: SpaceOf, images: torch.Tensor) -> None:
    cell = cell_of(space_of(*PLAIN), dag(2, 2))
    # Rows in order: node 0 from inputs 0, 1; node 1 from inputs 0, 1 and node 0.
    first = (blend(cell, 0, images) + blend(cell, 1, images)) / 2
    second = (blend(cell, 2, images) + blend(cell, 3, images) + blend(cell, 4, first)) / 3
    torch.testing.assert_close(cell.blend(images, seeded()), second)


def test_gradient_of_tau_agrees_with_differences_through_two_nodes(space_of: SpaceOf, images: torch.Tensor) -> None:
    exact = ("identity", "invert", "rotate", "translate_x", "contrast", "sharpness", "solarize")
    cell = cell_of(space_of(*exact), dag(1, 2))
    small = (0.3 + 0.4 * images[:2, :, :8, :8]).double()
    weights = torch.rand(small.shape, generator=seeded(), dtype=torch.float64)

    def value(tau: torch.Tensor) -> torch.Tensor:
        cell.tau_EK = tau
        return (cell.blend(small, seeded()) * weights).sum()

    assert torch.autograd.gradcheck(value, (cell.tau_EK.detach().double().requires_grad_(),), eps=1e-6, atol=1e-5)


def test_gradient_reaches_every_op_of_every_edge(space_of: SpaceOf, images: torch.Tensor) -> None:
    # equalize and posterize too, whose straight-through gradient the first edges depend on.
    names = (*SPACES["das-image-contrast"].names, "gaussian_replace", "additive_gaussian")
    cell = cell_of(space_of(*names), named("darts-4"), spread=0.1)
    blended = cell.blend(images, seeded())
    (gradient,) = torch.autograd.grad((blended * images).sum(), [cell.tau_EK])
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


def test_masking_changes_no_other_draw(space_of: SpaceOf, images: torch.Tensor) -> None:
    names = ("identity", "rotate", "cutout", "gaussian_replace", "additive_gaussian")
    cell = cell_of(space_of(*names), chain(1))
    whole = cell.blend(images, seeded())
    parts = [whole - cell.blend(images, seeded(), without_op=(0, k)) for k in range(len(names))]
    torch.testing.assert_close(sum(parts, torch.zeros_like(images)), whole)

    two_edges = cell_of(space_of(*names), dag(2, 1))
    first, second = (two_edges.blend(images, seeded(), without_row=row) for row in (1, 0))
    torch.testing.assert_close((first + second) / 2, two_edges.blend(images, seeded()))


@pytest.mark.parametrize("only", ["rotate", "invert"])
def test_nothing_is_left_of_a_blend_without_its_only_op(only: str, space_of: SpaceOf, images: torch.Tensor) -> None:
    cell = cell_of(space_of(only), dag(2, 1))
    first, second = (cell.blend(images, seeded(), without_op=(row, 0)) for row in (1, 0))
    torch.testing.assert_close(first + second, cell.blend(images, seeded()))
    assert not cell_of(space_of(only), chain(1)).blend(images, seeded(), without_op=(0, 0)).any()


def test_what_has_no_weight_is_not_run(
    space_of: SpaceOf, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(space_of(*PLAIN), chain(2))
    runs = []
    invert = color.invert
    monkeypatch.setattr(color, "invert", lambda *args: runs.append(1) or invert(*args))
    cell.blend(images, seeded())
    assert len(runs) == 2
    cell.blend(images, seeded(), without_op=(0, 1))
    assert len(runs) == 3
    cell.decided = {0: 0, 1: 1}
    cell.blend(images, seeded())
    assert len(runs) == 4


def test_a_decided_edge_is_its_op_whatever_tau_says(space_of: SpaceOf, images: torch.Tensor) -> None:
    cell = cell_of(space_of(*PLAIN), dag(2, 1))
    cell.decided[0] = 1
    result = cell.blend(images, seeded())
    torch.testing.assert_close(result, (1 - images + blend(cell, 1, images)) / 2)
    (gradient,) = torch.autograd.grad(result.square().sum(), [cell.tau_EK])
    assert not gradient[0].any()
    assert gradient[1].all()
    with torch.no_grad():
        cell.tau_EK[0] += 3 * torch.arange(3)
    assert torch.equal(cell.blend(images, seeded()), result)


def played(cell: Cell, images: torch.Tensor, draws: Draws, generator: torch.Generator) -> torch.Tensor:
    """Play what was drawn, image by image and edge by edge."""
    topology = cell.topology
    numbers_LB4 = torch.rand(len(topology.links), len(images), 4, generator=generator, dtype=torch.float64)
    results = []
    for image in range(len(images)):
        order = cell.orders[draws.order_B[image]] if topology.is_chain else range(len(topology.links))
        states, place = [images[image : image + 1]] * topology.inputs, 0
        for links in topology.nodes:
            edges = []
            for link in links:
                op = int(draws.op_LB[order[place], image])
                if op >= 0:
                    edges.append(one_op(cell.space, op, states[link.source], numbers_LB4[place, image : image + 1]))
                place += 1
            states.append(joined(topology, edges))
        results.append(states[-1])
    return torch.cat(results)


def after_the_choices(cell: Cell, images: torch.Tensor) -> torch.Generator:
    """A generator from which ops, and orders where there are several, have been drawn."""
    generator = seeded()
    weights = torch.ones(len(cell.topology.links), len(cell.space), dtype=torch.float64)
    torch.multinomial(weights, len(images), replacement=True, generator=generator)
    if len(cell.orders) > 1:
        orders = torch.ones(len(cell.orders), dtype=torch.float64)
        torch.multinomial(orders, len(images), replacement=True, generator=generator)
    return generator


@pytest.mark.parametrize(
    "topology", [chain(1), chain(3), dag(2, 2), dag(1, 2, cells=2), dag(2, 2, join="sum"), dag(1, 1, cells=2)], ids=str
)
def test_sampled_images_are_the_draws_played_one_by_one(topology: Topology, images: torch.Tensor) -> None:
    cell = cell_of(SearchSpace(EVERYTHING), topology)
    if topology.rows > 2:
        cell.decided = {0: 3}
    if topology.join == "sum":
        cell.removed = {3}
    result, draws = cell.sample(images, seeded())
    assert draws.op_LB.shape == (len(topology.links), len(images))
    assert draws.op_LB.dtype == torch.int64
    torch.testing.assert_close(result, played(cell, images, draws, after_the_choices(cell, images)))
    assert not result.requires_grad


def test_a_sampled_chain_composes_maps_as_its_policy_does(space_of: SpaceOf, images: torch.Tensor) -> None:
    space = SearchSpace(space_of(*SPACES["das-image"].names).ops, geometry=Geometry(sampling="once"))
    cell = cell_of(space, chain(3))
    result, draws = cell.sample(images, seeded())
    stages_BS = torch.tensor(cell.orders)[draws.order_B]
    table = StepTable([op.over_range() for op in space.ops], space.geometry)
    which_SB = draws.op_LB.gather(0, stages_BS.T)
    assert torch.equal(result, table.apply(images, which_SB, after_the_choices(cell, images)))


def test_ops_are_drawn_from_the_softmax_of_tau(space_of: SpaceOf) -> None:
    cell = cell_of(space_of("identity", "invert", "auto_contrast", "solarize"), dag(1, 2))
    cell.decided, cell.removed = {1: 2}, {2}
    draws = cell.sample(torch.zeros(4000, 1, 1, 1), seeded())[1]
    expected = 4000 * torch.softmax(cell.tau_EK[0].detach().double(), 0)
    assert chisquare(draws.op_LB[0].bincount(minlength=4), expected).pvalue > 0.001
    assert draws.op_LB[1].unique().tolist() == [2]
    assert draws.op_LB[2].unique().tolist() == [-1]


def test_removing_an_edge_changes_no_other_draw(images: torch.Tensor) -> None:
    cell = cell_of(SearchSpace(EVERYTHING), dag(2, 1))
    whole, draws = cell.sample(images, seeded())
    parts = []
    for row in (0, 1):
        cell.removed = {row}
        part, others = cell.sample(images, seeded())
        assert torch.equal(others.op_LB[1 - row], draws.op_LB[1 - row])
        parts.append(part)
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)


@pytest.mark.parametrize(("count", "half"), [(12, 6), (5, 3), (1, 1)])
@pytest.mark.parametrize("topology", [chain(1), chain(3), dag(2, 2), dag(1, 2, cells=2)], ids=str)
def test_a_forced_op_is_all_that_changes_and_for_one_half(
    topology: Topology, count: int, half: int, images: torch.Tensor
) -> None:
    images = images[:count]
    cell = cell_of(SearchSpace(EVERYTHING), topology)
    row = topology.rows - 1
    free, drawn = cell.sample(images, seeded())
    result, draws = cell.sample(images, seeded(), forced=(row, 2))
    assert torch.equal(result[half:], free[half:])
    expected = drawn.op_LB.clone()
    for place, link in enumerate(topology.links):
        if link.row == row:
            expected[place, :half] = 2
    assert torch.equal(draws.op_LB, expected)
    assert torch.equal(draws.order_B, drawn.order_B)
    torch.testing.assert_close(result, played(cell, images, draws, after_the_choices(cell, images)))


@pytest.mark.parametrize("topology", [chain(1), chain(3), dag(2, 2), dag(1, 2, cells=2)], ids=str)
def test_log_probability_is_that_of_all_draws_together(topology: Topology, space_of: SpaceOf) -> None:
    cell = cell_of(space_of(*PLAIN), topology)
    with torch.no_grad():
        cell.order_P.copy_(torch.randn(cell.order_P.shape, generator=seeded(8)))
    if topology.rows > 2:
        cell.decided = {1: 2}
    if topology.kept == 2:
        cell.removed = {topology.rows - 1}
    draws = cell.sample(torch.zeros(9, 1, 1, 1), seeded())[1]
    result = cell.log_probability(draws)
    assert (result.shape, result.dtype) == ((9,), torch.float32)
    weights_EK, chances_P = torch.softmax(cell.tau_EK, 1), torch.softmax(cell.order_P, 0)
    expected = []
    for image in range(9):
        probability = chances_P[draws.order_B[image]]
        for link, op_B in zip(topology.links, draws.op_LB, strict=True):
            if link.row not in cell.decided and link.row not in cell.removed:
                probability = probability * weights_EK[link.row, op_B[image]]
        expected.append(probability.log())
    torch.testing.assert_close(result, torch.stack(expected))
    upstream = torch.randn(9, generator=seeded(3))
    gradients = [
        torch.autograd.grad((values * upstream).sum(), [cell.tau_EK, cell.order_P], retain_graph=True)
        for values in (result, torch.stack(expected))
    ]
    torch.testing.assert_close(*gradients)


def test_probabilities_of_all_draws_sum_to_one(space_of: SpaceOf) -> None:
    cell = cell_of(space_of(*PLAIN), chain(2))
    ops = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(2))
    draws = Draws(ops[:, :2].T, ops[:, 2])
    assert float(cell.log_probability(draws).detach().exp().sum()) == pytest.approx(1)


def test_stages_are_the_softmax_of_tau_in_the_likeliest_order(space_of: SpaceOf) -> None:
    cell = cell_of(space_of("identity", "invert", "rotate"), chain(3))
    steps = [op.over_range() for op in cell.space.ops]
    weights = torch.softmax(cell.tau_EK.detach().double(), 1)
    cell.decided[1] = 2
    stages = cell.stages()
    assert isinstance(stages, Stages)
    assert [[choice.step for choice in stage] for stage in stages.stages] == [steps, steps[2:], steps]
    assert [choice.weight for choice in stages.stages[0]] == pytest.approx(weights[0].tolist(), rel=1e-12)
    assert [choice.weight for choice in stages.stages[1]] == [1]
    assert [choice.weight for choice in stages.stages[2]] == pytest.approx(weights[2].tolist(), rel=1e-12)
    with torch.no_grad():
        cell.order_P[cell.orders.index((1, 2, 0))] = 1
    turned = cell.stages().stages
    assert turned == (stages.stages[1], stages.stages[2], stages.stages[0])
    with pytest.raises(ValueError, match="only a chain"):
        cell_of(cell.space, dag(1, 2)).stages()


def test_the_genotype_takes_the_largest_tau_and_the_two_strongest_edges(space_of: SpaceOf) -> None:
    cell = cell_of(space_of("identity", "invert", "rotate"), dag(2, 2))
    with torch.no_grad():
        cell.tau_EK.zero_()
        for row, op, value in ((0, 2, 1.0), (1, 1, 2.0), (2, 0, 1.0), (3, 1, 3.0), (4, 2, 2.0)):
            cell.tau_EK[row, op] = value
    steps = {op.name: op.over_range() for op in cell.space.ops}
    first = (Edge(source=0, step=steps["rotate"]), Edge(source=1, step=steps["invert"]))
    second = (Edge(source=1, step=steps["invert"]), Edge(source=2, step=steps["rotate"]))
    assert cell.genotype() == Genotype(inputs=2, nodes=(first, second))

    cell.decided[3] = 0  # a decision overrules tau
    cell.removed.add(4)
    assert cell.incoming(1) == [2, 3]
    replaced = (Edge(source=0, step=steps["identity"]), Edge(source=1, step=steps["identity"]))
    assert cell.genotype() == Genotype(inputs=2, nodes=(first, replaced))


def test_the_genotype_of_several_cells_repeats_their_rows_on_other_states(space_of: SpaceOf) -> None:
    cell = cell_of(space_of("identity", "invert"), dag(1, 2, cells=2, join="sum"))
    cell.decided = {0: 1, 1: 0, 2: 1}
    identity, invert = (op.over_range() for op in cell.space.ops)
    nodes = [
        (Edge(source=source, step=invert),)
        if len(edge) == 1
        else (Edge(source=source, step=identity), Edge(source=source + 1, step=invert))
        for source, edge in ((0, "a"), (0, "ab"), (2, "a"), (2, "ab"))
    ]
    assert cell.genotype() == Genotype(inputs=1, node="sum", nodes=tuple(nodes))


def test_a_chain_is_a_genotype_too_and_ops_of_one_name_are_told_apart() -> None:
    quarter, half = SpaceOp("rotate", 0, 90, True), SpaceOp("rotate", 90, 180, True)
    cell = cell_of(SearchSpace((quarter, half)), chain(2))
    cell.decided = {0: 1, 1: 0}
    expected = tuple((Edge(source=i, step=op.over_range()),) for i, op in enumerate((half, quarter)))
    assert cell.genotype() == Genotype(nodes=expected)


@pytest.mark.parametrize("topology", [named("darts-4"), dag(1, 1), dag(1, 6), dag(2, 2, cells=3)], ids=str)
def test_genotypes_keep_two_inputs_a_node_and_survive_json(topology: Topology, space_of: SpaceOf) -> None:
    genotype = cell_of(space_of(*SPACES["das-image"].names), topology).genotype()
    assert [len(edges) for edges in genotype.nodes] == [min(2, len(links)) for links in topology.nodes]
    assert policy_from_json(policy_to_json(genotype)) == genotype


def test_nothing_waits_for_the_device(pretend_cuda: torch.device, space_of: SpaceOf) -> None:
    images = torch.empty(4, 3, 8, 8, device=pretend_cuda)
    cell = Cell(space_of(*OPS), dag(1, 2), seeded(), pretend_cuda)
    blended = cell.blend(images, seeded(), without_op=(1, 2))
    assert blended.device.type == "cuda"
    assert blended.requires_grad
    draws = Draws(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    assert cell.log_probability(draws).device.type == "cuda"

    drawing = Cell(space_of(*OPS), dag(1, 2), seeded(), torch.device("cpu"))
    assert drawing.sample(images, seeded())[0].device.type == "cuda"


def test_gradients_wait_for_no_device(space_of: SpaceOf) -> None:
    meta = torch.device("meta")  # has no values at all
    cell = Cell(space_of(*SPACES["das-image"].names), dag(1, 2), seeded(), meta)
    blended = cell.blend(torch.empty(4, 3, 8, 8, device=meta), seeded(), without_op=(1, 2))
    [gradient] = torch.autograd.grad(blended.sum(), [cell.tau_EK])
    assert gradient.device.type == "meta"
