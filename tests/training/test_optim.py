"""Learning rates by hand, and SGD by its equations."""

import math

import pytest
import torch

from dastune.training.optim import Recipe, set_learning_rate


def recipe(schedule: str = "cosine", momentum: float = 0.9) -> Recipe:
    return Recipe(10, 0.2, momentum, 0.01, schedule)  # type: ignore[arg-type]


def test_cosine_falls_from_the_largest_to_nought() -> None:
    rates = [recipe().learning_rate_at(progress) for progress in (0, 0.25, 0.5, 0.75, 1, 1.2)]
    half = math.sqrt(0.5) / 2
    assert rates == pytest.approx([0.2, 0.2 * (0.5 + half), 0.1, 0.2 * (0.5 - half), 0, 0])


@pytest.mark.parametrize("third", [1, 7, 30, 333])
def test_steps_fall_after_each_third(third: int) -> None:
    rates = [recipe("step").learning_rate_at(step / (3 * third)) for step in range(3 * third)]
    assert rates == pytest.approx([0.2] * third + [0.02] * third + [0.002] * third)
    assert recipe("step").learning_rate_at(1.0) == pytest.approx(0.002)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_optimiser_is_sgd_with_nesterov_momentum(momentum: float) -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    optimiser = recipe(momentum=momentum).optimiser(net)
    weight, velocity = float(net.weight.detach()), 0.0
    for rate, gradient in ((0.2, 1.0), (0.1, -2.0), (0.05, 0.5)):
        set_learning_rate(optimiser, rate)
        net.weight.grad = torch.tensor([[gradient]])
        optimiser.step()
        decayed = gradient + 0.01 * weight
        velocity = momentum * velocity + decayed
        weight -= rate * (decayed + momentum * velocity)
        assert float(net.weight.detach()) == pytest.approx(weight, abs=1e-6)


@pytest.mark.parametrize("clip", [None, 0.5, 1.0, 5.0, 100.0])
def test_a_gradient_that_is_too_long_is_scaled_to_the_clip_over_all_weights_together(clip: float | None) -> None:
    network = torch.nn.Linear(2, 1)
    network.weight.grad, network.bias.grad = torch.tensor([[2.0, -6.0]]), torch.tensor([3.0])  # of length 7
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    before = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    clipped = Recipe(10, 0.2, 0.9, 0.0, "cosine", clip)
    clipped.step(optimiser, network)
    moved = torch.cat([parameter.detach().flatten() for parameter in network.parameters()]) - before
    length = 7.0 if clip is None else min(clip, 7.0)
    torch.testing.assert_close(moved, -torch.tensor([2.0, -6.0, 3.0]) * length / 7, rtol=1e-5, atol=1e-6)
