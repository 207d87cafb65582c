"""Outer gradients against autograd, differences and enumeration; and what they leave alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from dastune.augment.cell import Cell, Draws
from dastune.augment.standard import StandardAugmentation
from dastune.models.network import Dropout
from dastune.policy.space import SearchSpace
from dastune.policy.topology import Topology, chain, dag
from dastune.search import outer_gradient
from dastune.search.alignment import GRADIENT_DECAY, LOSS_OFFSET, RIDGE
from dastune.search.outer_gradient import (
    FORWARD_STEP,
    Alignment,
    FirstOrder,
    ForwardAlignment,
    LookAhead,
    NoGradient,
    Outer,
    OuterGradient,
    Validation,
)
from dastune.search.supernet import Relaxation, Supernet
from dastune.training.loop import Task

MakeTask = Callable[..., Task]
SpaceOf = Callable[..., SearchSpace]
Slope = Callable[..., torch.Tensor]
Differences = Callable[[Any, Any], list[str]]
Weights = Mapping[str, torch.Tensor]
RATE = 0.3
LOOKERS = (FirstOrder, LookAhead, Alignment, ForwardAlignment)
SMOOTH = ("identity", "invert", "rotate", "contrast")
SAMPLED = ("identity", "invert", "brightness")
TWO_NODES = dag(inputs=1, nodes=2)


def supernet_of(task: Task, space: SearchSpace, topology: Topology, relaxation: Relaxation, seed: int = 0) -> Supernet:
    """A supernet whose tau, float64, is far from uniform."""
    cell = Cell(space, topology, torch.Generator().manual_seed(seed), torch.device("cpu"))
    random = torch.Generator().manual_seed(seed + 10)
    for name in ("tau_EK", "order_P"):
        logits = torch.randn(getattr(cell, name).shape, generator=random, dtype=torch.float64)
        setattr(cell, name, logits.requires_grad_())
    return Supernet(task, cell, relaxation, seed)


def looker(kind: type, task: Task, validation: Validation = "clean", batch_size: int = 6) -> Any:
    return kind(task.held_out, batch_size, validation, 3)


@dataclass
class Pass:
    """A batch on its way through the cell: images as they came, the generator before it, images behind it, draws."""

    before: torch.Tensor
    state: torch.Tensor
    after: torch.Tensor
    draws: Draws | None


class Spy:
    """What one step of an outer gradient saw and found."""

    def __init__(self, outer: OuterGradient, supernet: Supernet, rate: float = RATE) -> None:
        self.supernet, self.task, self.cell = supernet, supernet.task, supernet.cell
        self.weights = {name: weight.detach().clone() for name, weight in supernet.weights().items()}
        passes: list[Pass] = []
        found: list[Outer] = []
        with pytest.MonkeyPatch.context() as patch:
            for name in ("blend", "sample"):
                patch.setattr(self.cell, name, self._spied(getattr(self.cell, name), passes))
            self.accuracy = outer.step(supernet, found.append, rate)
        [self.outer] = found
        images, self.labels_B = self.task.train.seen[-1]  # type: ignore[attr-defined]
        [self.train] = [one for one in passes if one.before is images]
        self.validation_BCHW, self.validation_labels_B = self.task.held_out.seen[-1]  # type: ignore[attr-defined]
        others = [one for one in passes if one.before is self.validation_BCHW]
        self.validation = others[0] if others else None

    @staticmethod
    def _spied(method: Callable[..., Any], passes: list[Pass]) -> Callable[..., Any]:
        def spied(images: torch.Tensor, generator: torch.Generator, **options: Any) -> Any:
            state = generator.get_state()
            result = method(images, generator, **options)
            after, draws = result if isinstance(result, tuple) else (result, None)
            passes.append(Pass(images, state, after.detach(), draws))
            return result

        return spied

    def again(self, one: Pass, tau_EK: torch.Tensor) -> torch.Tensor:
        """Blend a batch with the draws it had, and another tau."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.cell, "tau_EK", tau_EK)
            generator = torch.Generator()
            generator.set_state(one.state)
            return self.cell.blend(one.before, generator)

    def losses(self, weights: Weights, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        logits_BK = functional_call(self.supernet.network, dict(weights), (self.task.normalise(images_BCHW),))
        return F.cross_entropy(logits_BK, labels_B, reduction="none")

    def validation_losses(self, weights: Weights, tau_EK: torch.Tensor | None = None) -> torch.Tensor:
        """Losses of the validation batch, as it went through the cell if it did; with another tau if given."""
        images_BCHW = self.validation_BCHW
        if self.validation is not None:
            images_BCHW = self.validation.after if tau_EK is None else self.again(self.validation, tau_EK)
        return self.losses(weights, images_BCHW, self.validation_labels_B)

    def scores(self, draws: Draws) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Derivatives of each image's log probability in tau and in the orders' logits, written out."""
        p_EK, p_P = torch.softmax(self.cell.tau_EK.detach(), 1), torch.softmax(self.cell.order_P.detach(), 0)
        scores = []
        for image in range(draws.op_LB.shape[1]):
            tau_EK, order_P = torch.zeros_like(p_EK), torch.zeros_like(p_P)
            for place, link in enumerate(self.cell.topology.links):
                tau_EK[link.row] -= p_EK[link.row]
                tau_EK[link.row, draws.op_LB[place, image]] += 1
            order_P -= p_P
            order_P[draws.order_B[image]] += 1
            scores.append((tau_EK, order_P))
        return scores

    def weighted(self, values_B: torch.Tensor, draws: Draws | None) -> Outer:
        """The policy gradient of `values_B`: the mean of value times score."""
        assert draws is not None
        pairs = list(zip(values_B, self.scores(draws), strict=True))
        return tuple(
            torch.stack([value * score[part] for value, score in pairs]).mean(0)  # tau, then orders
            for part in (0, 1)
        )


def gradients(losses: Callable[[Weights], torch.Tensor], weights: Weights) -> Iterator[dict[str, torch.Tensor]]:
    """Autograd's gradient of each loss in the weights."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    for loss in losses(leaves):
        yield dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True), strict=True))


def mean_gradient(losses: Callable[[Weights], torch.Tensor], weights: Weights) -> dict[str, torch.Tensor]:
    [gradient] = gradients(lambda leaves: losses(leaves).mean()[None], weights)
    return gradient


def ahead(losses: Callable[[Weights], torch.Tensor], weights: Weights) -> dict[str, torch.Tensor]:
    """One plain step of SGD."""
    gradient = mean_gradient(losses, weights)
    return {name: weight - RATE * gradient[name] for name, weight in weights.items()}


def along(losses: Callable[[Weights], torch.Tensor], weights: Weights, direction: Weights) -> torch.Tensor:
    """The derivative of each image's loss along a direction."""
    found = gradients(losses, weights)
    return torch.stack([torch.stack([(one[name] * direction[name]).sum() for name in weights]).sum() for one in found])


# LookAhead: the identity that the alignment rewards come from, for all weights of a network.


@pytest.mark.parametrize("validation", ["clean", "augmented"])
@pytest.mark.parametrize("topology", [chain(2), TWO_NODES, dag(2, 1, cells=2)], ids=["chain-2", "two nodes", "2 cells"])
def test_the_exact_gradient_of_sampled_ops_is_the_policy_gradient_of_the_alignment(
    topology: Topology, validation: Validation, exact_task: MakeTask, space_of: SpaceOf
) -> None:
    task = exact_task()
    supernet = supernet_of(task, space_of(*SAMPLED), topology, "sample")
    spy = Spy(looker(LookAhead, task, validation), supernet)

    def losses(weights: Weights) -> torch.Tensor:
        return spy.losses(weights, spy.train.after, spy.labels_B)

    moved = ahead(losses, spy.weights)
    v = mean_gradient(spy.validation_losses, moved)
    expected = [-RATE * part for part in spy.weighted(along(losses, spy.weights, v), spy.train.draws)]
    if validation == "augmented":  # and then the loss itself depends on what was drawn
        own = spy.weighted(spy.validation_losses(moved), spy.validation and spy.validation.draws)
        expected = [first + second for first, second in zip(expected, own, strict=True)]
    assert expected[0].abs().min() > 1e-6
    for found, wanted in zip(spy.outer, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("validation", ["clean", "augmented"])
def test_the_exact_gradient_of_a_blend_is_that_of_differences_through_two_nodes(
    validation: Validation, exact_task: MakeTask, space_of: SpaceOf, slope: Slope
) -> None:
    task = exact_task()
    supernet = supernet_of(task, space_of(*SMOOTH), TWO_NODES, "blend")
    spy = Spy(looker(LookAhead, task, validation), supernet)

    def validation_loss(tau_EK: torch.Tensor) -> float:
        images_BCHW = spy.again(spy.train, tau_EK)
        moved = ahead(lambda weights: spy.losses(weights, images_BCHW, spy.labels_B), spy.weights)
        return float(spy.validation_losses(moved, tau_EK).mean())

    expected = slope(validation_loss, supernet.cell.tau_EK)
    assert expected.abs().min() > 1e-7
    torch.testing.assert_close(spy.outer[0], expected, rtol=1e-5, atol=1e-9)
    assert not spy.outer[1].any()


# FirstOrder: what its gradient is, and that clean images give none.


@pytest.mark.parametrize("relaxation", ["sample", "blend"])
def test_first_order_has_no_gradient_in_clean_images_and_one_in_augmented_ones(
    relaxation: Relaxation, exact_task: MakeTask, space_of: SpaceOf
) -> None:
    task = exact_task()
    found: dict[str, torch.Tensor] = {}
    for validation in ("clean", "augmented"):
        supernet = supernet_of(task, space_of(*SMOOTH), TWO_NODES, relaxation)
        found[validation] = Spy(looker(FirstOrder, task, validation), supernet).outer[0]
    assert not found["clean"].any()
    assert found["augmented"].all()


def test_first_order_of_a_blend_is_the_gradient_of_differences_through_two_nodes(
    exact_task: MakeTask, space_of: SpaceOf, slope: Slope
) -> None:
    task = exact_task()
    supernet = supernet_of(task, space_of(*SMOOTH), TWO_NODES, "blend")
    spy = Spy(looker(FirstOrder, task, "augmented"), supernet)
    expected = slope(lambda tau: float(spy.validation_losses(spy.weights, tau).mean()), supernet.cell.tau_EK)
    assert expected.abs().min() > 1e-6
    torch.testing.assert_close(spy.outer[0], expected, rtol=1e-5, atol=1e-9)


def test_first_order_of_sampled_ops_has_the_gradient_of_the_expected_loss_by_enumeration(
    exact_task: MakeTask, space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, ops, orders = 2, ("identity", "invert", "auto_contrast"), 1
    task, topology = exact_task(), chain(orders)
    outer = looker(FirstOrder, task, "augmented", batch_size=images)
    supernet = supernet_of(task, space_of(*ops), topology, "sample")
    p_K = torch.softmax(supernet.cell.tau_EK.detach()[0], 0)
    mean_gradient_K, losses_BK = torch.zeros(3, dtype=torch.float64), torch.zeros(images, 3, dtype=torch.float64)
    supernet.descend = lambda gradients, rate: None  # type: ignore[method-assign]  # the weights stay
    start = outer.state_dict()
    for drawn in product(range(3), repeat=images):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "multinomial", _forced(drawn, task.recipe.batch_size))
            outer.load_state_dict(start)  # every draw is of the same images
            spy = Spy(outer, supernet)
        mean_gradient_K += p_K[list(drawn)].prod() * spy.outer[0][0]
        for image, loss in enumerate(spy.validation_losses(spy.weights)):
            losses_BK[image, drawn[image]] = loss.detach()
    # E = sum_k p_k loss_k, so dE / dtau_j = sum_k p_k (1[j = k] - p_j) loss_k.
    derivative_KK = torch.diag(p_K) - torch.outer(p_K, p_K)
    expected_K = (losses_BK @ derivative_KK).mean(0)
    assert expected_K.abs().min() > 1e-4
    # An image's own loss is part of the baseline, which takes 1 / B of the gradient away.
    torch.testing.assert_close(mean_gradient_K, expected_K * (images - 1) / images, rtol=1e-9, atol=1e-12)


def _forced(drawn: Sequence[int], training: int) -> Callable[..., torch.Tensor]:
    def multinomial(weights: torch.Tensor, count: int, **_: Any) -> torch.Tensor:
        ops = list(drawn) if count == len(drawn) else [0] * training
        return torch.tensor([ops])

    return multinomial


# Alignment and ForwardAlignment.


class Rewards:
    """What was standardised last: rewards and losses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rewards_B = self.losses_B = torch.empty(0)
        standardised = outer_gradient.standardised

        def spied(rewards_B: torch.Tensor, losses_B: torch.Tensor) -> torch.Tensor:
            self.rewards_B, self.losses_B = rewards_B.detach(), losses_B.detach()
            return standardised(rewards_B, losses_B)

        monkeypatch.setattr(outer_gradient, "standardised", spied)

    def divided(self) -> torch.Tensor:
        return self.rewards_B / (self.losses_B + LOSS_OFFSET)


@pytest.fixture
def rewards(monkeypatch: pytest.MonkeyPatch) -> Rewards:
    return Rewards(monkeypatch)


@pytest.mark.parametrize("kind", [Alignment, ForwardAlignment])
@pytest.mark.parametrize("topology", [chain(3), TWO_NODES], ids=["chain-3", "two nodes"])
def test_alignment_of_sampled_ops_is_the_policy_gradient_of_standardised_rewards(
    topology: Topology, kind: type, exact_task: MakeTask, space_of: SpaceOf, rewards: Rewards
) -> None:
    task = exact_task()
    spy = Spy(looker(kind, task), supernet_of(task, space_of(*SAMPLED), topology, "sample"))
    divided_B = rewards.divided()
    score_B = (divided_B - divided_B.mean()) / divided_B.std(correction=0)
    for found, wanted in zip(spy.outer, spy.weighted(-score_B, spy.train.draws), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(rewards.losses_B, spy.losses(spy.weights, spy.train.after, spy.labels_B).detach())


def closed_form(spy: Spy, view: Any, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Alignment rewards on the last layer of the network as it was, written out."""
    with torch.no_grad():
        network, weights = spy.supernet.network, spy.weights
        normalised_BCHW = spy.task.normalise(images_BCHW)
        inner = {name.removeprefix("features."): w for name, w in weights.items() if name.startswith("features.")}
        features_BF = functional_call(network.features, inner, (normalised_BCHW,))
        logits_BK = features_BF @ weights["head.weight"].T + weights["head.bias"]
        error_BK = torch.softmax(logits_BK, 1) - F.one_hot(spy.labels_B, 10)
        size = len(view.mean_F)
        damped_FF = view.covariance_FF + RIDGE * view.covariance_FF.trace() / size * torch.eye(size)
        direction_KF = view.gradient_KF @ damped_FF.inverse()
        return torch.einsum("bk,kf,bf->b", error_BK, direction_KF, features_BF - view.mean_F)


@pytest.mark.parametrize("validation", ["clean", "augmented"])
def test_alignment_looks_at_the_weights_before_their_step(
    validation: Validation, exact_task: MakeTask, space_of: SpaceOf, rewards: Rewards
) -> None:
    task = exact_task()
    outer = looker(Alignment, task, validation)
    supernet = supernet_of(task, space_of(*SAMPLED), chain(2), "sample")
    for _ in range(3):
        spy = Spy(outer, supernet)
        torch.testing.assert_close(rewards.rewards_B, closed_form(spy, outer._view, spy.train.after))


def test_the_surrogate_of_a_blend_is_that_of_differences(
    exact_task: MakeTask, space_of: SpaceOf, rewards: Rewards, slope: Slope
) -> None:
    task = exact_task()
    outer = looker(Alignment, task)
    supernet = supernet_of(task, space_of(*SMOOTH), TWO_NODES, "blend")
    Spy(outer, supernet)
    spy = Spy(outer, supernet)
    deviation = rewards.divided().std(correction=0)

    def surrogate(tau_EK: torch.Tensor) -> float:
        rewards_B = closed_form(spy, outer._view, spy.again(spy.train, tau_EK))
        return -float((rewards_B / (rewards.losses_B + LOSS_OFFSET)).mean() / deviation)

    expected = slope(surrogate, supernet.cell.tau_EK)
    assert expected.abs().min() > 1e-5
    torch.testing.assert_close(spy.outer[0], expected, rtol=1e-5, atol=1e-8)


def test_the_forward_surrogate_of_a_blend_is_that_of_differences(
    exact_task: MakeTask, space_of: SpaceOf, rewards: Rewards, slope: Slope
) -> None:
    task = exact_task()
    outer = looker(ForwardAlignment, task)
    supernet = supernet_of(task, space_of(*SMOOTH), TWO_NODES, "blend")
    spy = Spy(outer, supernet)
    deviation = rewards.divided().std(correction=0)
    moved, length = moved_along(spy.weights, outer._direction)

    def surrogate(tau_EK: torch.Tensor) -> float:
        images_BCHW = spy.again(spy.train, tau_EK)
        ends = [spy.losses(weights, images_BCHW, spy.labels_B) for weights in (moved, spy.weights)]
        return -float(((ends[0] - ends[1]) / length / (rewards.losses_B + LOSS_OFFSET)).mean() / deviation)

    expected = slope(surrogate, supernet.cell.tau_EK)
    assert expected.abs().min() > 1e-5
    torch.testing.assert_close(spy.outer[0], expected, rtol=1e-4, atol=1e-7)


def moved_along(weights: Weights, direction: Weights) -> tuple[dict[str, torch.Tensor], float]:
    length = FORWARD_STEP / float(torch.cat([part.flatten() for part in direction.values()]).norm())
    return {name: weight + length * direction[name] for name, weight in weights.items()}, length


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_forward_rewards_are_derivatives_along_the_running_validation_gradient(
    dropout: float, exact_task: MakeTask, space_of: SpaceOf, rewards: Rewards
) -> None:
    task = exact_task(dropout)
    outer = looker(ForwardAlignment, task)
    supernet = supernet_of(task, space_of(*SAMPLED), chain(2), "sample")
    [layer] = [module for module in supernet.network.modules() if isinstance(module, Dropout)]
    mean: dict[str, torch.Tensor] = {}
    for _ in range(3):
        before = layer.get_extra_state()  # both passes, and the weights' own, drop from here
        spy = Spy(outer, supernet)
        after = layer.get_extra_state()

        def observed(weights: Weights, spy: Spy = spy, before: torch.Tensor = before) -> torch.Tensor:
            layer.set_extra_state(before)
            logits_BK = functional_call(spy.supernet.network, dict(weights), (task.normalise(spy.validation_BCHW),))
            return best_tempered(logits_BK, spy.validation_labels_B)

        def trained(weights: Weights, spy: Spy = spy, before: torch.Tensor = before) -> torch.Tensor:
            layer.set_extra_state(before)
            return spy.losses(weights, spy.train.after, spy.labels_B)

        for name, gradient in mean_gradient(observed, spy.weights).items():
            mean[name] = GRADIENT_DECAY * mean.get(name, gradient) + (1 - GRADIENT_DECAY) * gradient
            torch.testing.assert_close(outer._direction[name], mean[name])
        derivative_B = along(trained, spy.weights, mean)
        assert (rewards.rewards_B - derivative_B).norm() < 0.02 * derivative_B.norm()
        layer.set_extra_state(after)


def best_tempered(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Losses at the temperature of the grid that makes them least, found by trying them all."""
    losses_TB = [F.cross_entropy(2 ** (-3 + 6 * t / 23) * logits_BK, labels_B, reduction="none") for t in range(24)]
    return min(losses_TB, key=lambda losses_B: losses_B.mean().item())


def test_decided_ops_that_hide_all_that_is_open_leave_tau_where_it_is(exact_task: MakeTask, space_of: SpaceOf) -> None:
    task = exact_task()
    for kind in LOOKERS:
        validation: Validation = "augmented" if kind is FirstOrder else "clean"
        supernet = supernet_of(task, space_of("identity", "constant"), TWO_NODES, "blend")
        supernet.cell.decided = {1: 1, 2: 1}  # both edges into the last node
        assert not Spy(looker(kind, task, validation), supernet).outer[0].any(), kind


# Nothing is disturbed.


def disturbed_task(network: str, make_task: MakeTask) -> Task:
    """Batch norm, and with the Wide ResNet dropout; images of a whole batch are cropped and cut."""
    return make_task(network=network, dropout=0.3, train=20, batch_size=5, standard=StandardAugmentation(1, True, 4))


def state_of(supernet: Supernet) -> dict[str, Any]:
    """Weights, BN buffers, dropout's generators, momentum, order and draws, and flags."""
    norms = [module for module in supernet.network.modules() if hasattr(module, "track_running_stats")]
    return {
        **supernet.state_dict(),
        "learns": [weight.requires_grad for weight in supernet.network.parameters()],
        "gradients": [weight.grad is None for weight in supernet.network.parameters()],
        "tracks": [norm.track_running_stats for norm in norms],
        "training": [module.training for module in supernet.network.modules()],
    }


@pytest.fixture(params=["small_cnn", "wide_resnet"])
def network(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("relaxation", ["sample", "blend"])
@pytest.mark.parametrize("kind", LOOKERS)
def test_a_step_leaves_what_training_alone_leaves(
    kind: type, relaxation: Relaxation, network: str, make_task: MakeTask, space_of: SpaceOf, differences: Differences
) -> None:
    task = disturbed_task(network, make_task)
    space = space_of("identity", "rotate", "posterize")
    first, plain = (supernet_of(task, space, chain(2), relaxation) for _ in range(2))
    for _ in range(2):
        looker(kind, task).step(first, lambda outer: None, 0.1)
        plain.train(0.1)
    assert differences(state_of(first), state_of(plain)) == []


@pytest.mark.parametrize("kind", LOOKERS)
def test_augmented_validation_images_change_the_draws_alone(
    kind: type, network: str, make_task: MakeTask, space_of: SpaceOf, differences: Differences
) -> None:
    task = disturbed_task(network, make_task)
    first, plain = (supernet_of(task, space_of("identity", "rotate"), chain(2), "blend") for _ in range(2))
    images_BCHW, _ = task.held_out.batch(torch.arange(6))
    looker(kind, task, "augmented").step(first, lambda outer: None, 0.1)
    plain.augmented(images_BCHW)
    plain.train(0.1)
    assert differences(state_of(first), state_of(plain)) == []


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("kind", LOOKERS)
def test_a_step_whose_validation_batch_breaks_leaves_everything(
    kind: type, network: str, make_task: MakeTask, space_of: SpaceOf, differences: Differences
) -> None:
    task = disturbed_task(network, make_task)
    supernet = supernet_of(task, space_of("identity", "rotate"), chain(2), "sample")
    before = state_of(supernet)

    def breaking(positions: torch.Tensor) -> Any:
        raise BrokenError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task.held_out, "batch", breaking)
        with pytest.raises(BrokenError):
            looker(kind, task).step(supernet, lambda outer: None, 0.1)
    assert differences(state_of(supernet), before) == []


# The pass of the network that is aside: how many go before it.
PASSES_ASIDE = [(FirstOrder, 0), (Alignment, 0), (ForwardAlignment, 0), (ForwardAlignment, 1), (LookAhead, 1)]


@pytest.mark.parametrize(("kind", "before"), PASSES_ASIDE)
def test_a_pass_that_breaks_leaves_what_the_ones_before_it_left(
    kind: type, before: int, network: str, make_task: MakeTask, space_of: SpaceOf, differences: Differences
) -> None:
    task = disturbed_task(network, make_task)
    first, plain = (supernet_of(task, space_of("identity", "rotate"), chain(2), "sample") for _ in range(2))
    passes: Iterator[int] = iter(range(10))

    def breaking(*_: Any) -> None:
        if next(passes) == before:
            raise BrokenError

    hook = first.network.head.register_forward_hook(breaking)
    with pytest.raises(BrokenError):
        looker(kind, task).step(first, lambda outer: None, 0.1)
    hook.remove()
    if before:  # the training batch was drawn
        batch, _ = plain.training_batch()
        if kind is LookAhead:  # and has gone through the network
            plain.outputs(batch.images_BCHW)
    assert differences(state_of(first), state_of(plain)) == []


def test_no_gradient_trains_the_weights_alone(make_task: MakeTask, space_of: SpaceOf, differences: Differences) -> None:
    task = disturbed_task("small_cnn", make_task)
    first, plain = (supernet_of(task, space_of("identity", "rotate"), chain(1), "sample") for _ in range(2))
    found: list[Outer] = []
    NoGradient().step(first, found.append, 0.1)
    plain.train(0.1)
    assert found == []
    assert differences(state_of(first), state_of(plain)) == []


@pytest.mark.parametrize("kind", LOOKERS)
def test_the_accuracy_is_that_of_the_validation_batch_by_hand(
    kind: type, exact_task: MakeTask, space_of: SpaceOf
) -> None:
    task = exact_task()
    spy = Spy(looker(kind, task, batch_size=20), supernet_of(task, space_of(*SAMPLED), chain(1), "sample"), 1e-9)
    logits_BK = functional_call(spy.supernet.network, spy.weights, (task.normalise(spy.validation_BCHW),))
    hits = sum(int(row.argmax()) == int(label) for row, label in zip(logits_BK, spy.validation_labels_B, strict=True))
    assert float(spy.accuracy) == pytest.approx(hits / 20)
