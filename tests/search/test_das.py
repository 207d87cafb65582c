"""DASSearch: schedules, what becomes of gradients and decisions, what is found and told, and that it learns."""

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import pytest
import torch

from dastune.config.methods import Das
from dastune.ops.spaces import SPACES
from dastune.ops.table import NOISE_LISTS
from dastune.policy.policy import Edge, Genotype, Stages, noise_mass
from dastune.policy.space import SearchSpace
from dastune.search.das import SMOOTHING, DASSearch, DivergedError
from dastune.search.table import Setting, build_search
from dastune.training.loop import Task

MakeTask = Callable[..., Task]
SpaceOf = Callable[..., SearchSpace]
Differences = Callable[[Any, Any], list[str]]
BLEND: dict[str, Any] = {"relaxation": "blend", "estimator": "first_order", "validation": "augmented"}
ESTIMATORS = ("alignment", "alignment_forward", "exact", "first_order", "none")
RULES = ("distribution", "perturbation", "perturbation_add", "argmax", "uniform")
TAU_23 = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])


def searching(task: Task, space: SearchSpace, seed: int = 0, **options: Any) -> DASSearch:
    search = build_search(Das(method="das", **options), Setting(task, space, child_epochs=3, seed=seed))
    assert isinstance(search, DASSearch)
    return search


def run(search: DASSearch, steps: int) -> DASSearch:
    for i in range(steps):
        search.step(i / steps)
    return search


def set_tau(search: DASSearch, tau_EK: torch.Tensor) -> None:
    with torch.no_grad():
        search.cell.tau_EK.copy_(tau_EK)


# How tau moves.


@pytest.mark.parametrize("estimator", ["alignment", "first_order"])
def test_tau_s_learning_rate_falls_to_nought_with_the_budget_or_stays(
    estimator: str, make_task: MakeTask, space_of: SpaceOf
) -> None:
    moves: dict[str, list[float]] = {"linear": [], "constant": []}
    for schedule, found in moves.items():
        for spent in (0.0, 0.5, 0.9):
            options = {"estimator": estimator, "validation": "augmented", "tau_schedule": schedule}
            search = searching(make_task(), space_of("identity", "invert"), **options)
            start_EK = search.cell.tau_EK.detach().clone()
            search.step(spent)
            found.append(float((search.cell.tau_EK.detach() - start_EK).abs().max()))  # Adam's first step is its rate
    assert moves["linear"] == pytest.approx([0.03, 0.015, 0.003], rel=1e-2)
    assert moves["constant"] == pytest.approx([0.03] * 3, rel=1e-2)


def test_a_linear_schedule_ends_where_the_selection_begins(
    make_task: MakeTask, space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"selection": "perturbation", "search_share": 0.5, "tau_schedule": "linear", **BLEND}
    moves = []
    for spent in (0.0, 0.25, 0.4999, 0.5, 0.9):
        search = searching(make_task(), space_of("identity", "invert"), **options)
        monkeypatch.setattr(search._selection, "due", lambda progress: False)
        start_EK = search.cell.tau_EK.detach().clone()
        search.step(spent)
        moves.append(float((search.cell.tau_EK.detach() - start_EK).abs().max()))
    assert moves == pytest.approx([0.03, 0.015, 0, 0, 0], abs=1e-4)


def test_tau_and_orders_are_updated_by_adam_along_the_gradients(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "invert", "rotate"), stages=2, tau_weight_decay=0.01)
    logits = [part.detach().clone().requires_grad_() for part in (search.cell.tau_EK, search.cell.order_P)]
    adam = torch.optim.Adam(logits, lr=0.03, betas=(0.5, 0.999), weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    for i in range(5):
        gradients = tuple(torch.randn(part.shape, generator=generator) for part in logits)
        search._descend(gradients, i / 5)
        for part, gradient in zip(logits, gradients, strict=True):
            part.grad = gradient
        adam.param_groups[0]["lr"] = 0.03 * (1 - i / 5)
        adam.step()
    assert torch.equal(search.cell.tau_EK, logits[0])
    assert torch.equal(search.cell.order_P, logits[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_of_a_diverged_network_change_nothing(bad: float, make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "invert"), stages=2)
    before = search.state_dict()
    for part in (0, 1):
        gradients = [torch.ones(2, 2), torch.ones(2)]
        gradients[part].view(-1)[0] = bad
        search._descend(tuple(gradients), 0.0)
    assert torch.equal(search.cell.tau_EK, before["tau"])
    assert torch.equal(search.cell.order_P, before["order"])


def test_a_batch_of_one_image_moves_nothing_and_breaks_nothing(make_task: MakeTask, space_of: SpaceOf) -> None:
    # One image is no comparison.
    search = searching(make_task(train=3, batch_size=1), space_of("identity", "invert"))
    start_EK = search.cell.tau_EK.detach().clone()
    run(search, 3)
    assert torch.equal(search.cell.tau_EK, start_EK)


def test_without_an_estimator_tau_stays_where_it_starts(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "invert"), estimator="none", selection="uniform")
    start_EK = search.cell.tau_EK.detach().clone()
    assert float(start_EK.abs().max()) < 1e-2
    run(search, 5)
    assert torch.equal(search.cell.tau_EK, start_EK)
    assert "val_accuracy" not in search.summary()


def test_a_null_validation_batch_is_the_recipe_s(make_task: MakeTask, space_of: SpaceOf) -> None:
    for options, images in (({}, 64), ({"validation_batch": None}, 20), ({"validation_batch": 7}, 7)):
        task, sizes = make_task(), []
        batch = task.held_out.batch
        task.held_out.batch = lambda positions, batch=batch, sizes=sizes: (  # type: ignore[method-assign, misc]
            sizes.append(len(positions)) or batch(positions)
        )
        searching(task, space_of("identity", "invert"), **options).step(0.0)
        assert sizes == [images]


# The weights' learning rate, and decisions.


@pytest.mark.parametrize("selection", ["perturbation", "distribution"])
def test_learning_rates_of_search_and_tuning(
    selection: str, make_task: MakeTask, space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"selection": selection, "search_share": 0.5, **BLEND}
    search = searching(make_task(learning_rate=0.1), space_of("identity", "rotate"), **options)
    rates: list[float] = []
    monkeypatch.setattr(search._supernet, "train", rates.append)
    if search._selection is not None:
        monkeypatch.setattr(search._selection, "due", lambda progress: False)
    for spent in (0.0, 0.25, 0.499999, 0.5, 0.75):
        search.step(spent)
    # Cosine to 0 over the search; where a selection follows, a tenth of it once more.
    whole = [0.1 * (1 + math.cos(math.pi * spent)) / 2 for spent in (0.0, 0.25, 0.499999, 0.5, 0.75)]
    assert rates == pytest.approx([0.1, 0.05, 0, 0.01, 0.005] if selection == "perturbation" else whole, abs=1e-6)


def test_a_whole_search_decides_every_edge(make_task: MakeTask, space_of: SpaceOf) -> None:
    topology = {"inputs": 2, "nodes": 2}
    space = space_of("identity", "rotate", "constant")
    search = searching(make_task(), space, preset="paper", topology=topology, search_share=0.5)
    told = []
    for i in range(150):
        progress = search.step(i / 150)
        told.append((progress.account, progress.steps))
        if progress.done:
            break
    assert told[:75] == [("search", 1)] * 75
    assert set(told) == {("search", 1), ("validate", 0)}
    # 5 edges of 3 ops and one node of 3 edges, 4 batches each
    assert told.count(("validate", 0)) == (5 * 3 + 3) * 4
    assert told[-1] == ("validate", 0)
    assert sorted(search.cell.decided) == list(range(5))
    assert len(search.cell.removed) == 1
    assert search.summary()["decisions"] == 6
    assert all(math.isfinite(value) for value in search.summary().values())
    best = search.best()
    assert isinstance(best, Genotype)
    left = [row for row in range(5) if row not in search.cell.removed]
    names = [space.ops[search.cell.decided[row]].name for row in left]
    assert [edge.step.op for edges in best.nodes for edge in edges] == names
    assert search.step(0.99).done


@pytest.mark.parametrize("steps", [5, 12, 25])
def test_a_budget_too_short_for_all_decisions_leaves_a_valid_cell(
    steps: int, make_task: MakeTask, space_of: SpaceOf
) -> None:
    search = searching(make_task(), space_of("identity", "rotate"), preset="paper")
    for i in range(steps):
        search.step(i / steps)
        best = search.best()
        assert isinstance(best, Genotype)
        assert [len(edges) for edges in best.nodes] == [2, 2, 2, 2]
    assert search.summary()["decisions"] < 14 + 6


def test_after_the_last_op_is_decided_tau_costs_nothing(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "rotate"), preset="paper", topology={"inputs": 1, "nodes": 2})
    search.cell.decided = {0: 1, 1: 0, 2: 1}
    drawn = search.state_dict()["outer"]["batches"]["next"]
    assert search.step(0.1).steps == 1
    assert search.state_dict()["outer"]["batches"]["next"] == drawn


@pytest.mark.parametrize("selection", ["distribution", "argmax", "uniform"])
def test_searches_without_decisions_are_never_done(selection: str, make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "rotate"), selection=selection)
    for spent in (0.0, 0.5, 0.99999):
        progress = search.step(spent)
        assert (progress.steps, progress.account, progress.done) == (1, "search", False)


# What is found.


def names(best: Stages | Genotype) -> list[list[str]]:
    if isinstance(best, Stages):
        return [[choice.step.op for choice in stage] for stage in best.stages]
    return [[edge.step.op for edge in edges] for edges in best.nodes]


@pytest.mark.parametrize("rule", RULES)
def test_what_a_chain_is_read_as(rule: str, make_task: MakeTask, space_of: SpaceOf) -> None:
    space = space_of("identity", "invert", "rotate")
    options = BLEND if rule == "perturbation" else {}
    search = searching(make_task(), space, stages=2, selection=rule, **options)
    set_tau(search, TAU_23)
    best = search.best()
    if rule in ("argmax", "perturbation"):
        assert isinstance(best, Genotype)
        assert names(best) == [["invert"], ["identity"]]
        assert best.inputs == 1
        assert [edges[0].source for edges in best.nodes] == [0, 1]
        return
    assert isinstance(best, Stages)
    assert names(best) == [["identity", "invert", "rotate"]] * 2
    weights = [[choice.weight for choice in stage] for stage in best.stages]
    expected = [[math.exp(value) / sum(map(math.exp, row)) for value in row] for row in TAU_23.tolist()]
    if rule == "uniform":
        assert [weight / sum(row) for row in weights for weight in row] == pytest.approx([1 / 3] * 6)
    else:
        assert [weight for row in weights for weight in row] == pytest.approx([w for row in expected for w in row])
    rotate = best.stages[0][2].step
    assert (rotate.low, rotate.high, rotate.signed) == (space.ops[2].low, space.ops[2].high, True)


def test_decisions_overrule_tau(make_task: MakeTask, space_of: SpaceOf) -> None:
    space = space_of("identity", "invert", "rotate")
    for rule, expected in (
        ("perturbation", [["invert"], ["rotate"]]),
        ("perturbation_add", [["identity", "invert", "rotate"], ["rotate"]]),
    ):
        options = BLEND if rule == "perturbation" else {}
        search = searching(make_task(), space, stages=2, selection=rule, **options)
        set_tau(search, TAU_23)
        search.cell.decided = {1: 2}
        assert names(search.best()) == expected


def test_perturbation_that_adds_finds_a_discrete_cell_in_a_dag(make_task: MakeTask, space_of: SpaceOf) -> None:
    options = {"topology": {"inputs": 1, "nodes": 2}, "selection": "perturbation_add"}
    search = searching(make_task(), space_of("identity", "invert"), **options)
    set_tau(search, torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    search.cell.decided = {1: 1}
    assert names(search.best()) == [["invert"], ["invert", "invert"]]


def test_stages_come_in_the_likeliest_order(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "invert", "rotate"), stages=2, selection="argmax")
    set_tau(search, TAU_23)
    assert names(search.best()) == [["invert"], ["identity"]]
    with torch.no_grad():
        search.cell.order_P[1] = 0.1
    assert names(search.best()) == [["identity"], ["invert"]]


def test_split_ranges_are_candidates_of_their_own(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "rotate", "gaussian_replace"), magnitude_ranges=3)
    # One third of the images goes through each op, however many parts it has.
    assert noise_mass(search.best()) == pytest.approx(1 / 3, abs=2e-3)
    assert search.summary()["tau_from_uniform"] < 2e-3
    labels = [op.ranged_text for op in search.cell.space.ops]
    assert labels[:4] == ["identity", *(f"rotate {low} to {low + 10} degrees" for low in (0, 10, 20))]
    assert len(set(labels)) == len(labels) == search.cell.tau_EK.shape[1]
    set_tau(search, torch.zeros_like(search.cell.tau_EK))
    best = search.best()
    assert isinstance(best, Stages)
    steps = [(choice.step.op, choice.step.low, choice.step.high) for choice in best.stages[0]]
    assert steps[1:4] == [("rotate", 0, 10), ("rotate", 10, 20), ("rotate", 20, 30)]
    assert noise_mass(best) == pytest.approx(sum(label.startswith("gaussian") for label in labels) / len(labels))
    assert search.space_size_log10 == pytest.approx(math.log10(len(labels)))


@pytest.mark.parametrize(("schedule", "looks"), [("linear", False), ("constant", True)])
def test_between_decisions_only_a_tau_that_still_learns_is_paid_for(
    schedule: str, looks: bool, make_task: MakeTask, space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"selection": "perturbation_add", "tau_schedule": schedule, "validation_batch": 10}
    search = searching(make_task(), space_of("identity", "invert"), **options)
    monkeypatch.setattr(search._selection, "due", lambda progress: False)
    search.step(0.1)
    tau, weights = search.cell.tau_EK.detach().clone(), search._supernet.network.head.weight.detach().clone()
    seen = search.state_dict()["outer"]["batches"]["next"]
    assert search.step(0.7).steps == 1
    assert not torch.equal(search._supernet.network.head.weight, weights)
    assert (search.state_dict()["outer"]["batches"]["next"] != seen) is looks
    assert torch.equal(search.cell.tau_EK, tau) is not looks


# What is told.


def test_the_summary_of_tau_by_hand(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "invert", "rotate", "solarize"), stages=2)
    set_tau(search, torch.tensor([[0.0] * 4, [200.0, 0.0, 0.0, 0.0]]))
    search._start_EK = torch.tensor([[0.0, 200.0, 0.0, 0.0], [0.0] * 4])
    summary = search.summary()
    assert summary == {
        "tau_entropy": pytest.approx(math.log(4) / 2),
        "tau_from_uniform": pytest.approx((0 + 0.75) / 2),
        "tau_from_start": pytest.approx((0.75 + 0.75) / 2),
    }


def test_the_start_of_tau_is_no_distance_away(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "invert"), stages=2)
    assert search.summary()["tau_from_start"] == 0
    assert 0 < search.summary()["tau_from_uniform"] < 1e-2
    search.step(0.0)
    assert 0.005 < search.summary()["tau_from_start"] < 0.02  # 0.03 in the logits is a quarter of that in weights


def test_the_validation_accuracy_is_a_running_mean(
    make_task: MakeTask, space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = searching(make_task(), space_of("identity", "invert"))
    told, mean = iter([0.5, 0.75, 0.25]), 0.5
    monkeypatch.setattr(search._outer, "step", lambda *_: torch.tensor(next(told)))
    for value in (0.5, 0.75, 0.25):
        search.step(0.0)
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        assert search.summary()["val_accuracy"] == pytest.approx(mean)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("selection", ["distribution", "perturbation", "perturbation_add"])
def test_a_diverged_network_leaves_tau_and_the_policy_valid(
    selection: str, estimator: str, make_task: MakeTask, space_of: SpaceOf
) -> None:
    relaxation = "blend" if selection == "perturbation" else "sample"
    options = {"relaxation": relaxation, "estimator": estimator, "validation": "augmented"}
    task = make_task(learning_rate=1e6, train=20, validation=20)
    search = searching(task, space_of("identity", "rotate", "constant"), selection=selection, **options)
    for i in range(40):
        if search.step(i / 40).done:
            break
        assert len(names(search.best())) == 1
    assert not all(weight.isfinite().all() for weight in search._supernet.network.parameters())
    assert search.cell.tau_EK.isfinite().all()
    with pytest.raises(DivergedError, match=r"training\.learning_rate"):
        search.summary()


# The space.


@pytest.mark.parametrize(("inputs", "nodes"), [(1, 1), (1, 3), (2, 2)])
def test_the_space_is_all_cells_that_may_be_found(
    inputs: int, nodes: int, make_task: MakeTask, space_of: SpaceOf
) -> None:
    topology = {"inputs": inputs, "nodes": nodes}
    search = searching(make_task(), space_of("identity", "rotate"), preset="paper", topology=topology)
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


@pytest.mark.parametrize(
    ("topology", "size"),
    [
        ("darts-4", 180 * 15**8),
        ({"cells": 2}, 180 * 15**8),  # which share their edges
        ("single", 15),
        ("chain-3", 15**3),
        ("darts-1", 15**2),
    ],
)
def test_the_space_of_das_ops(topology: Any, size: int, make_task: MakeTask, space_of: SpaceOf) -> None:
    space = space_of(*SPACES["das-image"].names)
    search = searching(make_task(), space, topology=topology, selection="argmax")
    assert 10**search.space_size_log10 == pytest.approx(size)


# As a whole.


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "options",
    [{"stages": 2}, {"estimator": "alignment_forward"}, {"estimator": "exact"}, BLEND],
    ids=["alignment", "forward", "exact", "blended first order"],
)
def test_the_same_seed_gives_the_same_tau_bit_for_bit(
    options: dict[str, Any], precision: str, make_task: MakeTask, space_of: SpaceOf
) -> None:
    space = space_of(*SPACES["das-image"].names, "gaussian_replace")
    first, second = (run(searching(make_task(precision=precision), space, **options), 30).cell for _ in range(2))
    assert torch.equal(first.tau_EK, second.tau_EK)
    assert torch.equal(first.order_P, second.order_P)


def test_noise_ops_lose_their_weight_on_real_digits(make_task: MakeTask, space_of: SpaceOf) -> None:
    space = space_of(*SPACES["das-image"].names, *NOISE_LISTS["default"][:8])
    task = make_task(train=150, validation=400, batch_size=50, channels=16)
    search = run(searching(task, space), 200)
    assert noise_mass(search.best()) <= space.uniform_noise_share / 2
    assert search.summary()["val_accuracy"] > 0.8
