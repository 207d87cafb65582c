"""The published search: which loss gives tau a gradient, what is decided when, and how many cells there are."""

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from dastune.ops.spaces import SPACES
from dastune.policy.policy import Edge, Genotype
from dastune.policy.space import SearchSpace
from dastune.search.das_paper import PaperSearch
from dastune.training.loop import Task

MakeTask = Callable[..., Task]
SpaceOf = Callable[..., SearchSpace]


def searching(task: Task, space: SearchSpace, **options: Any) -> PaperSearch:
    defaults = {"inputs": 1, "nodes": 2, "tau_learning_rate": 3e-4, "tau_weight_decay": 1e-3, "search_share": 0.5}
    return PaperSearch(task, space, **{**defaults, "seed": 0, **options})


def validation_gradient(search: PaperSearch, task: Task, *, blended: bool) -> torch.Tensor:
    images, labels = task.held_out.batch(torch.arange(20))
    if blended:
        images = search.cell(images, torch.Generator().manual_seed(0))
    loss = F.cross_entropy(search._network(task.normalise(images)), labels)
    [gradient] = torch.autograd.grad(loss, [search.cell.tau_EK], allow_unused=True, materialize_grads=True)
    return gradient


def test_clean_validation_images_give_tau_no_gradient_and_blended_ones_do(
    make_task: MakeTask, space_of: SpaceOf
) -> None:
    task = make_task()
    search = searching(task, space_of("identity", "rotate", "posterize", "additive_gaussian"), inputs=2, nodes=3)
    assert not validation_gradient(search, task, blended=False).any()
    assert validation_gradient(search, task, blended=True).all()


def test_tau_learns_from_validation_and_weights_from_training_images(make_task: MakeTask, space_of: SpaceOf) -> None:
    task = make_task()
    search = searching(task, space_of("identity", "rotate"))
    seen: list[tuple[str, int]] = []

    def spy(part: str) -> None:
        images = getattr(task, part)
        batch = images.batch

        def spied(positions: torch.Tensor) -> Any:
            seen.append((part, len(positions)))
            return batch(positions)

        images.batch = spied

    spy("train")
    spy("held_out")
    tau, weights = search.cell.tau_EK.detach().clone(), search._network.head.weight.detach().clone()
    search._update_tau()
    assert seen == [("held_out", 20)]
    assert (search.cell.tau_EK.detach() - tau).abs().max() == pytest.approx(3e-4, rel=0.01)  # Adam's first step
    assert torch.equal(search._network.head.weight, weights)
    tau = search.cell.tau_EK.detach().clone()
    search._update_weights(0.05)
    assert seen[1:] == [("train", 20)]
    assert torch.equal(search.cell.tau_EK, tau)
    assert not torch.equal(search._network.head.weight, weights)


def test_learning_rates_of_search_and_tuning(
    make_task: MakeTask, space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = searching(make_task(learning_rate=0.1), space_of("identity", "rotate"))
    rates: list[float] = []
    monkeypatch.setattr(search, "_update_weights", rates.append)
    monkeypatch.setattr(search._selection, "due", lambda progress: False)
    for spent in (0.0, 0.25, 0.499999, 0.5, 0.75):
        search.step(spent)
    assert rates == pytest.approx([0.1, 0.05, 0, 0.01, 0.005], abs=1e-6)


def test_a_whole_search_decides_every_edge(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "rotate", "constant"), inputs=2, nodes=2)
    accounts = []
    for i in range(200):
        progress = search.step(i / 200)
        accounts.append((progress.account, progress.steps))
    assert set(accounts) == {("search", 1), ("validate", 0)}
    assert accounts[:100] == [("search", 1)] * 100
    # 5 edges of 3 ops and one node of 3 edges, 4 batches each
    assert accounts.count(("validate", 0)) == (5 * 3 + 3) * 4
    assert sorted(search.cell.decided) == list(range(5))
    assert len(search.cell.removed) == 1
    assert all(math.isfinite(value) for value in search.summary().values())
    [first, second] = search.best().nodes
    ops = {
        edge: search.cell.space.ops[op].name
        for edge, op in search.cell.decided.items()
        if edge not in search.cell.removed
    }
    assert [edge.step.op for edge in (*first, *second)] == list(ops.values())


def test_decisions_and_removed_edges_survive_a_resume(
    make_task: MakeTask, space_of: SpaceOf, through_a_file: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    space = space_of("identity", "rotate")
    first, second = (searching(make_task(), space, inputs=2, nodes=2, seed=seed) for seed in (0, 1))
    for i in range(200):
        first.step(i / 200)
    assert first.cell.removed
    second.load_state_dict(through_a_file(first.state_dict()))
    assert (second.cell.decided, second.cell.removed) == (first.cell.decided, first.cell.removed)
    for search in (first, second):
        search.step(0.99)
    assert second.best() == first.best()
    assert torch.equal(second._network.head.weight, first._network.head.weight)


def test_candidates_of_a_decision_see_the_same_draws(make_task: MakeTask, space_of: SpaceOf) -> None:
    task = make_task()
    search = searching(task, space_of("rotate", "additive_gaussian", "gaussian_replace"))
    images, labels = task.held_out.batch(torch.arange(20))
    seen: list[torch.Tensor] = []
    search._network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    state = search._generator.get_state()
    for _ in range(2):
        search._correct(images, labels, {"without_op": (2, 1)})
    assert torch.equal(seen[0], seen[1])
    search._correct(images, labels, {"without_op": (2, 0)})
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(search._generator.get_state(), state)  # nor does scoring change what is drawn later


def test_edges_cut_off_by_decided_noise_do_not_stop_the_search(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "constant"), inputs=1, nodes=2)
    search.cell.decided = {1: 1, 2: 1}  # both edges into the last node: nothing of the first node's edge is left
    assert search.step(0.1).steps == 1
    assert torch.equal(search.cell.tau_EK.grad, torch.zeros(3, 2))


def test_after_the_last_decision_tau_costs_nothing(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "rotate"))
    search.cell.decided = {0: 1, 1: 0, 2: 1}
    drawn = search.state_dict()["validation"]["next"]
    search.step(0.1)
    assert search.state_dict()["validation"]["next"] == drawn


def test_a_diverged_network_leaves_a_valid_cell(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(learning_rate=1e6), space_of("identity", "rotate"))
    for i in range(60):
        search.step(i / 60)
        assert len(search.best().nodes) == 2
    assert not all(p.isfinite().all() for p in search._network.parameters())
    assert search.cell.tau_EK.isfinite().all()
    assert all(math.isfinite(value) for value in search.summary().values())


@pytest.mark.parametrize(("inputs", "nodes"), [(1, 1), (1, 3), (2, 2)])
def test_the_space_is_all_cells_that_may_be_found(
    inputs: int, nodes: int, make_task: MakeTask, space_of: SpaceOf
) -> None:
    search = searching(make_task(), space_of("identity", "rotate"), inputs=inputs, nodes=nodes)
    steps = [op.over_range() for op in search.cell.space.ops]
    choices = []
    for node in range(nodes):
        sources = range(inputs + node)
        choices.append(
            [
                tuple(Edge(source=source, step=step) for source, step in zip(kept, drawn, strict=True))
                for kept in combinations(sources, min(2, len(sources)))
                for drawn in product(steps, repeat=len(kept))
            ]
        )
    cells = {Genotype(inputs=inputs, nodes=tuple(nodes)) for nodes in product(*choices)}
    assert search.best() in cells
    assert 10**search.space_size_log10 == pytest.approx(len(cells))


def test_the_space_of_darts_cell_and_das_ops(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of(*SPACES["das-image"].names), inputs=2, nodes=4)
    assert 10**search.space_size_log10 == pytest.approx(180 * 15**8)
