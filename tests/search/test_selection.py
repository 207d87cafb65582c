"""Perturbation-based selection on made-up supernets, and the closed form that argues for it."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from dastune.data.classification import Images
from dastune.search.selection import PerturbationSelection
from dastune.training.loop import Task

MakeTask = Callable[..., Task]
Accuracy = Callable[["FakeSupernet", Mapping[str, Any]], float]
OPS = 3  # identity, and two more


class FakeSupernet:
    """A cell without images: edges, tau (identity the largest everywhere), decisions."""

    def __init__(self, inputs: int = 2, nodes: int = 4) -> None:
        self.nodes = nodes
        self.edges = tuple((node, source) for node in range(nodes) for source in range(inputs + node))
        self.decided: dict[int, int] = {}
        self.removed: set[int] = set()
        self.tau_EK = torch.tensor([2.0, 0.0, 1.0]).repeat(len(self.edges), 1)

    def incoming(self, node: int) -> list[int]:
        return [edge for edge, (to, _) in enumerate(self.edges) if to == node and edge not in self.removed]


class Run:
    """A selection over 7 real images in batches of 3, whose scores come from a made-up accuracy."""

    def __init__(self, task: Task, accuracy: Accuracy, seed: int = 0, supernet: FakeSupernet | None = None) -> None:
        self.supernet = supernet or FakeSupernet()
        self.selection = PerturbationSelection(self.supernet, self.images(task), 3, seed)
        self._accuracy = accuracy
        self.asked: list[tuple[str, Any, tuple[int, int], int]] = []

    @staticmethod
    def images(task: Task) -> Images:
        return task.held_out

    def step(self) -> Mapping[str, float]:
        return self.selection.step(self._score)

    def _score(self, images: torch.Tensor, labels: torch.Tensor, masks: Mapping[str, Any]) -> int:
        assert len(images) == len(labels)
        [(kind, what)] = masks.items()
        self.asked.append((kind, what, self.selection.place, len(images)))
        return round(1000 * len(labels) * self._accuracy(self.supernet, masks))  # any number of hits will do

    def to_the_end(self) -> FakeSupernet:
        while self.selection.due(1.0):
            self.step()
        return self.supernet


@pytest.fixture
def task(make_task: MakeTask) -> Task:
    return make_task(validation=7)


def even(supernet: FakeSupernet, masks: Mapping[str, Any]) -> float:
    return 0.5


def op_of_edge(supernet: FakeSupernet, masks: Mapping[str, Any]) -> float:
    """Without op 1 + e % 2 edge e loses most; without edge e the accuracy falls with e."""
    if "without_op" in masks:
        edge, op = masks["without_op"]
        return 0.3 if op == 1 + edge % 2 else 0.8
    return 0.9 - 0.01 * float(masks["without_edge"])


def test_the_op_that_is_missed_most_wins_where_tau_says_identity(task: Task) -> None:
    supernet = Run(task, op_of_edge).to_the_end()
    assert supernet.decided == {edge: 1 + edge % 2 for edge in range(14)}
    assert not supernet.tau_EK.argmax(1).any()


def test_two_edges_a_node_stay_those_that_are_missed_most(task: Task) -> None:
    supernet = Run(task, op_of_edge).to_the_end()
    assert [supernet.incoming(node) for node in range(4)] == [[0, 1], [3, 4], [7, 8], [12, 13]]


def test_of_equals_the_first_wins(task: Task) -> None:
    supernet = Run(task, even).to_the_end()
    assert set(supernet.decided.values()) == {0}
    assert [supernet.incoming(node) for node in range(4)] == [[0, 1], [3, 4], [7, 8], [12, 13]]


@pytest.mark.parametrize(("inputs", "nodes"), [(1, 1), (1, 2), (2, 1), (1, 6)])
def test_every_edge_is_decided_and_no_node_loses_its_last_two(inputs: int, nodes: int, task: Task) -> None:
    supernet = Run(task, even, supernet=FakeSupernet(inputs, nodes)).to_the_end()
    assert set(supernet.decided) == set(range(len(supernet.edges)))
    assert [len(supernet.incoming(node)) for node in range(nodes)] == [min(2, inputs + node) for node in range(nodes)]


def test_every_candidate_is_scored_on_every_image_once(task: Task) -> None:
    run = Run(task, even)
    run.to_the_end()
    images: Counter[Any] = Counter()
    for kind, what, (made, _), count in run.asked:
        images[kind, what, made] += count
    assert set(images.values()) == {7}
    # 14 edges with 3 ops each; then one edge less at a time: 3, then 4 and 3, then 5, 4 and 3 candidates.
    assert sum(kind == "without_op" for kind, _, _ in images) == 14 * 3
    assert sum(kind == "without_edge" for kind, _, _ in images) == 3 + (4 + 3) + (5 + 4 + 3)
    # The place tells batches apart, and is the same for all candidates of a decision.
    assert Counter(place for *_, place, _ in run.asked)[0, 3] == 3


def test_the_seed_decides_the_order_and_edges_come_before_nodes(task: Task) -> None:
    def order(seed: int) -> list[int]:
        run = Run(task, even, seed)
        run.to_the_end()
        edges = [what[0] for kind, what, _, _ in run.asked if kind == "without_op"]
        kinds = [kind for kind, *_ in run.asked]
        assert kinds == sorted(kinds, reverse=True)
        return list(dict.fromkeys(edges))

    assert sorted(order(0)) == list(range(14))
    assert order(0) == order(0)
    assert len({tuple(order(seed)) for seed in range(5)}) == 5


def test_decisions_are_spread_over_the_phase_and_a_decision_begun_is_ended(task: Task) -> None:
    run = Run(task, even)
    decisions = 14 + 1 + 2 + 3
    assert not run.selection.due(-0.01)
    for made in range(decisions):
        assert not run.selection.due((made - 0.5) / decisions)
        assert run.selection.due((made + 0.01) / decisions)
        run.step()
        while run.selection.place[0] == made:
            assert run.selection.due(-1.0)
            run.step()
    assert not run.selection.due(1.0)
    assert run.selection.summary()["decisions"] == decisions


def test_what_a_decision_reports(task: Task) -> None:
    run = Run(task, op_of_edge)
    assert run.selection.summary() == {"decisions": 0.0}
    reports = [run.step() for _ in range(3 * 3)]  # three ops, three batches each
    assert reports[:-1] == [{}] * 8
    assert reports[-1] == {"decisions": 1.0, "val_accuracy": 800.0}
    assert run.selection.summary() == reports[-1]


@pytest.mark.parametrize("steps", [0, 4, 9, 126, 130, 150])
def test_resuming_is_not_noticed(steps: int, task: Task, through_a_file: Callable[..., Any]) -> None:
    def random(supernet: FakeSupernet, masks: Mapping[str, Any]) -> float:
        return math.sin(sum(map(ord, str(masks)))) ** 2

    unbroken, first, second = Run(task, random, 0), Run(task, random, 0), Run(task, random, 1)
    unbroken.to_the_end()
    for _ in range(steps):
        first.step()
    second.selection.load_state_dict(through_a_file(first.selection.state_dict()))
    second.supernet.decided, second.supernet.removed = dict(first.supernet.decided), set(first.supernet.removed)
    second.to_the_end()
    assert first.asked + second.asked == unbroken.asked
    assert (second.supernet.decided, second.supernet.removed) == (unbroken.supernet.decided, unbroken.supernet.removed)


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
