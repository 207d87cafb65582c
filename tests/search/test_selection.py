"""Selection by perturbation on supernets whose best op is known, and the closed form that argues for it."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn import functional as F  # noqa: N812

from dastune.augment.cell import Cell
from dastune.augment.standard import StandardAugmentation
from dastune.data.images import Images
from dastune.models.network import Network
from dastune.models.table import MODELS
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.policy.topology import Topology, chain, dag
from dastune.search.search import SearchProgress
from dastune.search.selection import (
    FORK_RATE,
    FORK_STEPS,
    AdditionSelection,
    BatchNorm,
    Criterion,
    PerturbationSelection,
)
from dastune.search.supernet import Relaxation, Supernet
from dastune.seeds import derive, generator
from dastune.training.loop import Task

MakeTask = Callable[..., Task]
SpaceOf = Callable[..., SearchSpace]
Differences = Callable[[Any, Any], list[str]]
Through = Callable[[dict[str, Any]], dict[str, Any]]
Share = Callable[[Mapping[str, Any]], float]
CPU = torch.device("cpu")
DARTS = dag(2, 4)
CRITERIA: tuple[Criterion, ...] = ("accuracy", "loss")
TOPOLOGIES = {
    "single": chain(1),
    "chain-3": chain(3),
    "darts-1": dag(2, 1),
    "one input": dag(1, 6),
    "cells": dag(2, 2, 2),
}


def new_supernet(task: Task, space: SearchSpace, topology: Topology, relaxation: Relaxation = "blend") -> Supernet:
    cell = Cell(space, topology, torch.Generator().manual_seed(0), CPU)
    return Supernet(task, cell, relaxation, 0)


def selecting(supernet: Supernet, criterion: Criterion = "accuracy", **options: Any) -> PerturbationSelection:
    defaults: dict[str, Any] = {"batch_norm": "batch", "tuning_epochs": 1, "seed": 0}
    return PerturbationSelection(supernet, criterion=criterion, **{**defaults, **options})


def to_the_end(selection: PerturbationSelection | AdditionSelection) -> list[SearchProgress]:
    done: list[SearchProgress] = []
    while not selection.done:
        done.append(selection.step())
    return done


# Made-up scores on a real supernet: whether an image is classified right depends on what is masked alone.


class Scripted(Supernet):
    """Of 50 validation images, all of class 0, the first so many are classified right as `share` says."""

    def __init__(self, task: Task, space: SearchSpace, topology: Topology, share: Share) -> None:
        task.held_out._labels.zero_()
        super().__init__(task, Cell(space, topology, torch.Generator().manual_seed(0), CPU), "blend", 0)
        with torch.no_grad():
            self.cell.tau_EK.copy_(torch.tensor([2.0, 0.0, 1.0]).expand(topology.rows, 3))  # identity, by tau
        self._share = share
        self.asked: list[tuple[str, Any, int, int]] = []  # kind and candidate, images, seed of the draws
        self._blended, self._at = 0, 0
        self.cell.blend = self._blend  # type: ignore[method-assign, assignment]

    def _blend(self, images_BCHW: torch.Tensor, draws: torch.Generator, **masks: Any) -> torch.Tensor:
        [(kind, what)] = masks.items()
        self.asked.append((kind, what, len(images_BCHW), draws.initial_seed()))
        return images_BCHW

    def outputs(self, images_BCHW: torch.Tensor, weights: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        kind, what, count, _ = self.asked[-1]
        right_B = torch.arange(self._at, self._at + count) < 50 * self._share({kind: what}) - 1e-9
        self._at = (self._at + count) % 50
        return images_BCHW, torch.stack([right_B.float(), 1 - right_B.float()], 1)


@pytest.fixture
def scripted(make_task: MakeTask, space_of: SpaceOf) -> Callable[..., Scripted]:
    """Return the maker of supernets with three ops and batches of 20, 20 and 10 validation images."""
    space = space_of("identity", "invert", "rotate")

    def make(share: Share, topology: Topology = DARTS) -> Scripted:
        return Scripted(make_task(validation=50), space, topology, share)

    return make


def even(masks: Mapping[str, Any]) -> float:
    return 0.5


def op_of_row(masks: Mapping[str, Any]) -> float:
    """Without op 1 + r % 2 row r loses most; without row r the accuracy falls with r."""
    if "without_op" in masks:
        row, op = masks["without_op"]
        return 0.3 if op == 1 + row % 2 else 0.8
    return 0.9 - 0.02 * float(masks["without_row"])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_is_missed_most_stays_where_tau_says_identity(
    criterion: Criterion, scripted: Callable[..., Scripted]
) -> None:
    supernet = scripted(op_of_row)
    to_the_end(selecting(supernet, criterion))
    assert supernet.cell.decided == {row: 1 + row % 2 for row in range(14)}
    assert not supernet.cell.tau_EK.argmax(1).any()
    assert [supernet.cell.incoming(node) for node in range(4)] == [[0, 1], [3, 4], [7, 8], [12, 13]]
    nodes = supernet.cell.genotype().nodes
    assert [[edge.source for edge in edges] for edges in nodes] == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert [edge.step.op for edge in nodes[3]] == ["invert", "rotate"]  # rows 12 and 13


@pytest.mark.parametrize("criterion", CRITERIA)
def test_of_equals_the_first_wins(criterion: Criterion, scripted: Callable[..., Scripted]) -> None:
    supernet = scripted(even)
    to_the_end(selecting(supernet, criterion))
    assert set(supernet.cell.decided.values()) == {0}
    assert [supernet.cell.incoming(node) for node in range(4)] == [[0, 1], [3, 4], [7, 8], [12, 13]]


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_row_is_decided_and_every_node_keeps_what_it_may(
    topology: Topology, scripted: Callable[..., Scripted]
) -> None:
    supernet = scripted(even, topology)
    progress = to_the_end(selecting(supernet))
    assert set(supernet.cell.decided) == set(range(topology.rows))
    kept = [len(supernet.cell.incoming(node)) for node in range(topology.cell_nodes)]
    assert kept == [min(topology.kept or 9, len(topology.incoming_rows(node))) for node in range(topology.cell_nodes)]
    assert [one.done for one in progress] == [False] * (len(progress) - 1) + [True]
    assert {(one.steps, one.account) for one in progress} == {(0, "validate")}
    assert len(supernet.cell.genotype().nodes) == len(topology.nodes)


def test_every_candidate_is_scored_on_every_image_once_with_the_same_draws(scripted: Callable[..., Scripted]) -> None:
    supernet = scripted(even)
    to_the_end(selecting(supernet))
    candidates: dict[Any, list[tuple[int, int]]] = {}
    for kind, what, count, seed in supernet.asked:
        if kind == "without_op":
            candidates.setdefault(what, []).append((count, seed))
    assert len(candidates) == 14 * 3
    assert all([count for count, _ in seen] == [20, 20, 10] for seen in candidates.values())
    for row in range(14):
        assert candidates[row, 0] == candidates[row, 1] == candidates[row, 2]
    assert len({seed for seen in candidates.values() for _, seed in seen}) == 14 * 3
    # Then one edge less at a time: 3 candidates, then 4 and 3, then 5, 4 and 3, each in three batches.
    removals = [(what, seed) for kind, what, _, seed in supernet.asked if kind == "without_row"]
    assert len(removals) == 3 * (3 + (4 + 3) + (5 + 4 + 3))
    per_seed = Counter(seed for _, seed in removals)
    assert sorted(per_seed.values()) == sorted([size for size in (3, 4, 3, 5, 4, 3) for _ in range(3)])


def test_the_seed_decides_the_order_and_ops_come_before_edges(scripted: Callable[..., Scripted]) -> None:
    def order(seed: int) -> list[int]:
        supernet = scripted(even)
        to_the_end(selecting(supernet, seed=seed))
        kinds = [kind for kind, *_ in supernet.asked]
        assert kinds == sorted(kinds)  # without_op, without_row
        return list(dict.fromkeys(what[0] for kind, what, *_ in supernet.asked if kind == "without_op"))

    assert sorted(order(0)) == list(range(14))
    assert order(0) == order(0)
    assert len({tuple(order(seed)) for seed in range(5)}) == 5


def decide(selection: PerturbationSelection) -> None:
    """Make the decision that is due, slice by slice; begun, it stays due whatever the progress is."""
    while not selection.step().metrics:
        assert selection.due(0.0)


def test_decisions_are_spread_evenly_where_the_budget_is_short(scripted: Callable[..., Scripted]) -> None:
    selection = selecting(scripted(even), tuning_epochs=10**6)
    decisions = 14 + 1 + 2 + 3
    assert not selection.due(-0.01)
    for made in range(decisions):
        if made:
            assert not selection.due((made - 0.5) / decisions)
        assert selection.due((made + 0.01) / decisions)
        decide(selection)
        selection.trained()
    assert selection.done
    assert not selection.due(1.0)
    assert selection.summary()["decisions"] == decisions


def test_a_decision_waits_for_the_tuning_epochs_at_most(scripted: Callable[..., Scripted]) -> None:
    supernet = scripted(even)
    selection = selecting(supernet, tuning_epochs=2)
    assert supernet.per_epoch == 3
    assert selection.due(0.0)  # the first one begins the phase
    decide(selection)
    for made in range(1, 4):
        for _ in range(2 * 3):
            assert not selection.due(0.001)
            selection.trained()
        assert selection.due(0.001)
        decide(selection)
        assert selection.summary()["decisions"] == made + 1


def test_what_a_decision_reports(scripted: Callable[..., Scripted]) -> None:
    selection = selecting(scripted(op_of_row))
    assert selection.summary() == {"decisions": 0.0}
    reports = [selection.step().metrics for _ in range(3 * 3)]  # three ops, three batches each
    assert reports == [*[{}] * 8, {"decisions": 1.0}]
    assert selection.summary() == {"decisions": 1.0, "val_accuracy": 0.8}


@pytest.mark.parametrize("steps", [0, 4, 9, 126, 130, 150])
def test_resuming_a_selection_is_not_noticed(
    steps: int, scripted: Callable[..., Scripted], through_a_file: Through
) -> None:
    def random(masks: Mapping[str, Any]) -> float:
        return 0.02 * (sum(map(ord, str(masks))) % 50)

    supernets = [scripted(random) for _ in range(3)]
    unbroken, first, second = (selecting(supernet) for supernet in supernets)
    to_the_end(unbroken)
    for _ in range(steps):
        first.step()
    second.load_state_dict(through_a_file(first.state_dict()))
    cells = [supernet.cell for supernet in supernets]
    cells[2].decided, cells[2].removed = dict(cells[1].decided), set(cells[1].removed)
    supernets[2]._at = supernets[1]._at
    to_the_end(second)
    assert supernets[1].asked + supernets[2].asked == supernets[0].asked
    assert (cells[2].decided, cells[2].removed) == (cells[0].decided, cells[0].removed)


# On real supernets.


def test_a_mask_takes_one_op_away_and_scales_no_other_up(make_task: MakeTask, space_of: SpaceOf) -> None:
    supernet = new_supernet(make_task(), space_of("identity", "invert", "auto_contrast"), chain(1))
    seen: list[torch.Tensor] = []
    outputs = supernet.outputs
    supernet.outputs = lambda images, weights=None: (seen.append(images), outputs(images))[1]  # type: ignore[method-assign, assignment, func-returns-value]
    to_the_end(selecting(supernet))
    images_BCHW, _ = supernet.task.held_out.batch(torch.arange(20))
    low, high = (bound.amax((2, 3), True) for bound in (-images_BCHW, images_BCHW))
    contrasted = (images_BCHW + low) / (high + low)  # digits: no channel is flat
    transformed = (images_BCHW, 1 - images_BCHW, contrasted)
    weights_K = torch.softmax(supernet.cell.tau_EK.detach()[0], 0)
    for op, batch in enumerate(seen[::4]):  # 70 images in batches of 20
        expected = sum(weights_K[k] * transformed[k] for k in range(3) if k != op)
        torch.testing.assert_close(batch, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", ["small_cnn", "wide_resnet"])
@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_scores_use_the_statistics_they_are_told_to_and_leave_the_supernet_alone(
    batch_norm: BatchNorm, network: str, make_task: MakeTask, space_of: SpaceOf, differences: Differences
) -> None:
    standard = StandardAugmentation(crop_px=1, flip=True, cutout_px=4)
    task = make_task(network=network, dropout=0.3, validation=20, train=20, standard=standard)
    supernet = new_supernet(task, space_of("identity", "invert"), chain(1))
    for _ in range(3):
        supernet.train(0.05)
    selection = selecting(supernet, "loss", batch_norm=batch_norm)
    before = supernet.state_dict()
    selection.step()
    selection.step()
    [decided] = supernet.cell.decided.values()
    losses = []
    for op in range(2):
        draws = generator(0, "selection scores", 0, 0)
        images_BCHW, labels_B = task.held_out.batch(torch.arange(20))
        images_BCHW = task.standard.before_policy(images_BCHW, draws)
        supernet.cell.decided = {}
        with torch.no_grad():
            blended = supernet.cell.blend(images_BCHW, draws, without_op=(0, op))
            network_ = supernet.fork(0).network.train(batch_norm == "batch")  # a copy may be changed
            losses.append(float(F.cross_entropy(task.logits(network_, blended), labels_B)))
    assert losses[0] != losses[1]
    assert decided == max(range(2), key=losses.__getitem__)
    assert differences(supernet.state_dict(), before) == []
    assert all(module.training for module in supernet.network.modules())
    assert all(getattr(module, "track_running_stats", True) for module in supernet.network.modules())


def test_batch_and_running_statistics_differ(make_task: MakeTask, space_of: SpaceOf) -> None:
    losses = []
    for batch_norm in ("batch", "running"):
        supernet = new_supernet(make_task(), space_of("identity", "invert"), chain(1))
        selection = selecting(supernet, "loss", batch_norm=batch_norm)
        selection.step()
        losses.append(selection.state_dict()["losses"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_diverged_supernet_ends_with_a_valid_cell(
    criterion: Criterion, make_task: MakeTask, space_of: SpaceOf
) -> None:
    supernet = new_supernet(make_task(), space_of("identity", "invert"), dag(1, 3))
    with torch.no_grad():
        for weight in supernet.network.parameters():
            weight.fill_(math.nan)
    selection = selecting(supernet, criterion)
    to_the_end(selection)
    assert len(supernet.cell.genotype().nodes) == 3
    assert len(supernet.cell.decided) == 6
    assert all(math.isfinite(value) for value in selection.summary().values())


# A network that sees the right half of an image only. The classes differ on the left half: moving it is what is needed.


class Sight(Network):
    """Two classes: the upper or the lower quarter of the right half is the brighter one."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(_RightHalf(), nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten())
        self.head = nn.Linear(6, classes, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[9.0, -9.0] * 3, [-9.0, 9.0] * 3]))


class _RightHalf(nn.Module):
    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return images_BCHW[..., 8:]


@pytest.fixture
def sight(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, SearchSpace]:
    """A task whose classes differ on the left half, and a space whose second op moves that to the right."""
    monkeypatch.setitem(MODELS, "sight", SimpleNamespace(build=Sight))  # type: ignore[misc]
    random = np.random.default_rng(0)
    pixels = random.integers(0, 40, (90, 3, 16, 16)).astype(np.uint8)
    labels = np.arange(90) % 2
    for image, label in zip(pixels, labels, strict=True):
        image[:, 8 * label : 8 * label + 8, :8] += np.uint8(150)
    pixels[:, :, :, 8:] = 100 + random.integers(0, 9, (90, 3, 16, 8))  # of no class
    part = Images(pixels, labels, np.arange(90), CPU)
    task = replace(
        make_task(),
        train=part,
        held_out=part,
        classes=2,
        network="sight",
        network_options={},
        normalise=lambda images: images,
    )
    ops = (SpaceOp("identity", 0, 0, False), SpaceOp("translate_x", 0.5, 0.5, False), SpaceOp("constant", 0, 0, False))
    return task, SearchSpace(ops)


def optimal_tau(supernet: Supernet, images_BCHW: torch.Tensor, wanted_BCHW: torch.Tensor) -> None:
    """Learn tau of identity and T by the objective of Eq. 10: var(blend - m*); the third op has no weight."""
    tau_EK = supernet.cell.tau_EK
    optimiser = torch.optim.Adam([tau_EK], lr=0.1)
    for _ in range(150):
        with torch.no_grad():
            tau_EK[0, 2] = -30
        blended_BCHW = supernet.cell.blend(images_BCHW, torch.Generator())
        [tau_EK.grad] = torch.autograd.grad((blended_BCHW - wanted_BCHW).var(), [tau_EK])
        optimiser.step()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_perturbation_finds_the_op_that_is_needed_where_the_largest_tau_is_identity(
    criterion: Criterion, sight: tuple[Task, SearchSpace]
) -> None:
    task, space = sight
    supernet = new_supernet(task, space, chain(1))
    images_BCHW, _ = task.held_out.batch(torch.arange(90))
    left, right = images_BCHW[..., :8], images_BCHW[..., 8:]
    moved_BCHW = torch.cat([torch.zeros_like(right), left], 3)  # by half the width, exactly
    noise = torch.randn(images_BCHW.shape, generator=torch.Generator().manual_seed(1))
    wanted_BCHW = 0.7 * images_BCHW + 0.3 * moved_BCHW + 0.2 * noise  # m*, nearer to the image as it is
    optimal_tau(supernet, images_BCHW, wanted_BCHW)

    deviations = torch.stack([(each - wanted_BCHW).flatten() for each in (images_BCHW, moved_BCHW)])
    (var_i, covariance), (_, var_t) = torch.cov(deviations).tolist()
    assert var_i < var_t
    tau_K = supernet.cell.tau_EK.detach()[0]
    closed_form = math.log(var_t - covariance) - math.log(var_i - covariance)  # Eq. 24 less Eq. 23
    assert float(tau_K[0] - tau_K[1]) == pytest.approx(closed_form, abs=0.02)

    assert [edge.step.op for edge in supernet.cell.genotype().nodes[0]] == ["identity"]
    to_the_end(selecting(supernet, criterion))
    assert [edge.step.op for edge in supernet.cell.genotype().nodes[0]] == ["translate_x"]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_edge_that_is_needed_stays(criterion: Criterion, sight: tuple[Task, SearchSpace]) -> None:
    # Node 1 reads the image twice, and node 0: three edges, of which one moves the classes into sight.
    task, space = sight
    supernet = new_supernet(task, space, dag(2, 2))
    selection = selecting(supernet, criterion)
    supernet.cell.decided = {0: 0, 1: 0, 2: 2, 3: 1, 4: 2}  # row 3 moves, rows 2 and 4 show nothing
    selection._made = 5  # the ops are decided
    to_the_end(selection)
    assert supernet.cell.removed == {2}
    assert [edge.step.op for edge in supernet.cell.genotype().nodes[1]] == ["translate_x", "constant"]


def test_addition_finds_the_op_that_is_needed(sight: tuple[Task, SearchSpace]) -> None:
    # Validation images come with their left half in sight; the network has to learn it, from training images moved.
    task, space = sight
    images_BCHW, labels_B = task.held_out.batch(torch.arange(90))
    moved = torch.cat([torch.zeros(90, 3, 16, 8), images_BCHW[..., :8]], 3)
    pixels = (255 * moved).to(torch.uint8).numpy()
    task = replace(task, held_out=Images(pixels, labels_B.numpy(), np.arange(90), CPU))
    supernet = new_supernet(task, space, chain(1), "sample")
    with torch.no_grad():
        supernet.network.head.weight.zero_()
    selection = AdditionSelection(supernet, batch_norm="batch", tuning_epochs=1, seed=0)
    to_the_end(selection)
    assert supernet.cell.decided == {0: 1}


# Perturbation that adds.


def adding(task: Task, space: SearchSpace, topology: Topology, **options: Any) -> tuple[Supernet, AdditionSelection]:
    supernet = new_supernet(task, space, topology, "sample")
    for _ in range(2):
        supernet.train(0.05)
    defaults: dict[str, Any] = {"batch_norm": "running", "tuning_epochs": 1, "seed": 5}
    return supernet, AdditionSelection(supernet, **{**defaults, **options})


def test_all_forks_see_the_same_images_and_draws(
    make_task: MakeTask, space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(train=40, validation=20, batch_size=10, standard=StandardAugmentation(1, True, 4))
    supernet, selection = adding(task, space_of("identity", "rotate", "posterize"), chain(2))
    batches: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    training_batch = Supernet.training_batch

    def spied(self: Supernet, forced: Any = None) -> Any:
        relaxed, labels_B = training_batch(self, forced)
        batches.append((forced, relaxed.images_BCHW, labels_B))
        return relaxed, labels_B

    monkeypatch.setattr(Supernet, "training_batch", spied)
    for _ in range(3 * (FORK_STEPS + 2)):
        selection.step()
    [row] = supernet.cell.decided
    forks = [batches[op * FORK_STEPS : (op + 1) * FORK_STEPS] for op in range(3)]
    for op, fork in enumerate(forks):
        assert {forced for forced, *_ in fork} == {(row, op)}
    for one, *others in zip(*forks, strict=True):
        for other in others:
            assert torch.equal(one[2], other[2])
            assert torch.equal(one[1][5:], other[1][5:])  # the half that is not forced
            assert not torch.equal(one[1][:5], other[1][:5])
    assert not torch.equal(forks[0][0][1], forks[0][1][1])


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_the_best_fork_is_chosen_and_the_supernet_stays_as_it_is(
    batch_norm: BatchNorm, make_task: MakeTask, space_of: SpaceOf, differences: Differences
) -> None:
    task = make_task(network="wide_resnet", train=20, validation=30, batch_size=5, dropout=0.2)
    space = space_of("constant", "identity", "invert")
    supernet, selection = adding(task, space, chain(1), batch_norm=batch_norm)
    before, tau_EK = supernet.state_dict(), supernet.cell.tau_EK.detach().clone()
    losses: list[float] = []
    for op in range(3):  # by hand: one fork after the other
        fork = supernet.fork(derive(5, "fork", 0))
        for _ in range(FORK_STEPS):
            fork.train(FORK_RATE * 0.05, forced=(0, op))
        fork.network.train(batch_norm == "batch")
        batches = [task.held_out.batch(torch.arange(start, start + 5)) for start in range(0, 30, 5)]
        state = fork.network.state_dict()
        total = 0.0
        for images_BCHW, labels_B in batches:
            with torch.no_grad():
                total += float(F.cross_entropy(task.logits(fork.network, images_BCHW), labels_B, reduction="sum"))
            fork.network.load_state_dict(state)  # statistics and dropout as before
        losses.append(total)
    progress = []
    while not selection.done:
        told = selection.state_dict()["losses"]
        progress.append(selection.step())
    assert told[:2] == losses[:2]
    assert supernet.cell.decided == {0: losses.index(min(losses))}
    assert [(one.account, one.steps) for one in progress] == ([("search", 1)] * FORK_STEPS + [("validate", 0)] * 6) * 3
    assert progress[-1].done
    assert progress[-1].metrics == {"decisions": 1.0}
    assert differences(supernet.state_dict(), before) == []
    assert torch.equal(supernet.cell.tau_EK, tau_EK)


def test_diverged_forks_are_not_chosen(make_task: MakeTask, space_of: SpaceOf) -> None:
    supernet, selection = adding(make_task(), space_of("identity", "invert", "rotate"), chain(1))
    assert selection._chosen([math.nan, 3.0, 2.0], "op") == 2
    with torch.no_grad():
        supernet.network.head.weight.fill_(math.nan)
    to_the_end(selection)
    assert supernet.cell.decided == {0: 0}


@pytest.mark.parametrize("steps", [0, 7, FORK_STEPS, FORK_STEPS + 2, FORK_STEPS + 4 + 3])
def test_resuming_amid_a_fork_is_not_noticed(
    steps: int, make_task: MakeTask, space_of: SpaceOf, through_a_file: Through, differences: Differences
) -> None:
    task, space = make_task(train=20), space_of("identity", "rotate")
    (whole, unbroken), (part, first), (rest, second) = (adding(task, space, chain(2)) for _ in range(3))
    rest.train(0.05)
    for _ in range(45):
        unbroken.step()
    for _ in range(steps):
        first.step()
    state = first.state_dict()
    second.load_state_dict(through_a_file(state))
    rest.load_state_dict(through_a_file(part.state_dict()))
    rest.cell.decided = dict(part.cell.decided)
    rest.cell.tau_EK = part.cell.tau_EK
    for _ in range(45 - steps):
        second.step()
    assert rest.cell.decided == whole.cell.decided
    assert differences(second.state_dict(), unbroken.state_dict()) == []
    assert differences(state, first.state_dict()) == []  # and the state that was taken is as it was


# Why not the largest tau: arXiv 2403.15194, supplement B, equations 21 to 24.


def deviations(seed: int) -> tuple[float, float, float]:
    """Variances of T(x) - m* and x - m* and their covariance, of random data."""
    random = np.random.default_rng(seed)
    data = random.normal(size=(2, 50)) * random.uniform(0.2, 2, size=(2, 1)) + random.uniform(-1, 1) * random.normal(
        size=50
    )
    (var_t, covariance), (_, var_i) = np.cov(data)
    return float(var_t), float(var_i), float(covariance)


@pytest.mark.parametrize("seed", range(20))
def test_the_optimal_weight_of_two_ops_is_the_closed_form(seed: int) -> None:
    var_t, var_i, covariance = deviations(seed)

    def variance(theta_t: float) -> float:
        return theta_t**2 * var_t + (1 - theta_t) ** 2 * var_i + 2 * theta_t * (1 - theta_t) * covariance

    z = var_t + var_i - 2 * covariance
    theta_t, theta_i = (var_i - covariance) / z, (var_t - covariance) / z
    assert theta_t + theta_i == pytest.approx(1)
    assert minimize_scalar(variance).x == pytest.approx(theta_t, abs=1e-6)
    if min(theta_t, theta_i) > 0:  # else no softmax reaches it
        difference = minimize_scalar(lambda tau: variance(1 / (1 + math.exp(-tau))), bounds=(-30, 30), method="bounded")
        assert difference.x == pytest.approx(math.log(var_i - covariance) - math.log(var_t - covariance), abs=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_tau_is_that_of_the_image_nearest_the_optimum(seed: int) -> None:
    # The untouched image deviates least from what the network wants: identity wins, however useful T is.
    var_t, var_i, covariance = deviations(seed)
    z = var_t + var_i - 2 * covariance
    assert ((var_t - covariance) / z > (var_i - covariance) / z) is (var_i < var_t)
