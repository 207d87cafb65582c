"""Alignment rewards in closed form, against autograd of the last layer, and what they are scaled by."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F  # noqa: N812

from dastune.search.alignment import (
    GRADIENT_DECAY,
    LOSS_OFFSET,
    MOMENT_DECAY,
    RIDGE,
    TEMPERATURES,
    ValidationView,
    alignment,
    calibration,
    last_layer_gradient,
    observe,
    standardised,
)

B, F_, K = 12, 5, 4


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Last-layer features as after a ReLU, weights, labels; float64."""
    generator = torch.Generator().manual_seed(seed)
    features_BF = torch.randn(B, F_, generator=generator, dtype=torch.float64).clamp(min=-0.3) + 0.5
    weights_KF = torch.randn(K, F_, generator=generator, dtype=torch.float64)
    return features_BF, weights_KF, torch.randint(K, (B,), generator=generator)


def preconditioner(features_BF: torch.Tensor) -> torch.Tensor:
    """(S + ridge I)^-1, the long way round."""
    centred = (features_BF - features_BF.mean(0)).numpy()
    covariance = sum(np.outer(row, row) for row in centred) / len(centred)
    return torch.from_numpy(np.linalg.inv(covariance + RIDGE * np.trace(covariance) / F_ * np.eye(F_)))


def plain_view(features_BF: torch.Tensor, logits_BK: torch.Tensor, labels_B: torch.Tensor) -> ValidationView:
    """The view of one batch, not calibrated."""
    mean_F = features_BF.mean(0)
    centred_BF = features_BF - mean_F
    gradient_KF = last_layer_gradient(centred_BF, logits_BK, labels_B, torch.tensor(1.0, dtype=torch.float64))
    return ValidationView(gradient_KF, mean_F, centred_BF.T @ centred_BF / B)


def test_last_layer_gradient_is_autograd_s() -> None:
    features_BF, weights_KF, labels_B = drawn()
    scale = torch.tensor(0.7, dtype=torch.float64)
    weights_KF.requires_grad_()
    logits_BK = features_BF @ weights_KF.T
    (expected,) = torch.autograd.grad(F.cross_entropy(scale * logits_BK, labels_B), weights_KF)
    torch.testing.assert_close(last_layer_gradient(features_BF, logits_BK.detach(), labels_B, scale), expected)


def test_alignment_is_the_inner_product_of_autograd_s_gradients() -> None:
    # The last layer in centred coordinates: logits = W (h - m) + bias. Its gradients are taken by autograd.
    train_BF, weights_KF, labels_B = drawn(0)
    validation_BF, _, validation_labels_B = drawn(1)
    mean_F, bias_K = validation_BF.mean(0), torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)
    weights_KF.requires_grad_()

    def logits(features: torch.Tensor) -> torch.Tensor:
        return (features - mean_F) @ weights_KF.T + bias_K

    (validation_KF,) = torch.autograd.grad(F.cross_entropy(logits(validation_BF), validation_labels_B), weights_KF)
    preconditioned_KF = validation_KF @ preconditioner(validation_BF)
    expected = []
    for i in range(B):
        loss = F.cross_entropy(logits(train_BF[i : i + 1]), labels_B[i : i + 1])
        (image_KF,) = torch.autograd.grad(loss, weights_KF)
        expected.append((preconditioned_KF * image_KF).sum())
    with torch.no_grad():
        view = plain_view(validation_BF, logits(validation_BF), validation_labels_B)
        rewards_B = alignment(train_BF, logits(train_BF), labels_B, view)
    torch.testing.assert_close(rewards_B, torch.stack(expected), rtol=1e-9, atol=1e-12)


def test_the_policy_gradient_is_the_double_backward_of_a_preconditioned_look_ahead() -> None:
    train_BF, weights_KF, labels_B = drawn(2)
    validation_BF, _, validation_labels_B = drawn(3)
    mean_F, inverse_FF, lr = validation_BF.mean(0), preconditioner(validation_BF), 0.3
    tau_J = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    drawn_B = torch.arange(B) % 3  # op k_i of each image
    weights_KF.requires_grad_()

    # w' = w - lr P grad of sum_i p(k_i) / p_0(k_i) loss_i / B, with p_0 = p held fast: what sampling from p estimates.
    p_J = torch.softmax(tau_J, 0)
    losses_B = F.cross_entropy((train_BF - mean_F) @ weights_KF.T, labels_B, reduction="none")
    weighted = (p_J / p_J.detach())[drawn_B] @ losses_B / B
    (step_KF,) = torch.autograd.grad(weighted, weights_KF, create_graph=True)
    ahead_KF = weights_KF - lr * step_KF @ inverse_FF
    ahead_BK = (validation_BF - mean_F) @ ahead_KF.T
    (exact_J,) = torch.autograd.grad(F.cross_entropy(ahead_BK, validation_labels_B), tau_J)

    with torch.no_grad():
        view = plain_view(validation_BF, ahead_BK.detach(), validation_labels_B)  # the validation gradient at w'
        rewards_B = alignment(train_BF, (train_BF - mean_F) @ weights_KF.T, labels_B, view)
        identity_J = -lr * torch.stack([(rewards_B * ((drawn_B == j).double() - p_J[j])).mean() for j in range(3)])
    assert exact_J.abs().min() > 1e-4
    torch.testing.assert_close(identity_J, exact_J, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.02, 0.3, 1.0, 4.0, 100.0])
def test_calibration_is_next_to_the_best_factor(temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits_BK = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    labels_B = torch.multinomial(torch.softmax(logits_BK, 1), 1, generator=generator)[:, 0]
    logits_BK *= temperature

    def loss(log2_factor: float) -> float:
        return float(F.cross_entropy(2**log2_factor * logits_BK, labels_B))

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded").x
    found = float(calibration(logits_BK, labels_B).log2())
    assert abs(found - best) <= 6 / (TEMPERATURES - 1) + 1e-3
    assert loss(found) <= min(loss(step) for step in np.linspace(-3, 3, TEMPERATURES)) + 1e-12


def test_observe_keeps_running_means() -> None:
    view, expected = None, None
    for seed in range(4):
        features_BF, weights_KF, labels_B = drawn(seed)
        logits_BK = features_BF @ weights_KF.T
        view = observe(view, features_BF, logits_BK, labels_B)
        mean_F = features_BF.mean(0)
        if expected is not None:
            mean_F = MOMENT_DECAY * expected.mean_F + (1 - MOMENT_DECAY) * mean_F
        centred_BF = features_BF - mean_F  # about the running mean
        covariance_FF = centred_BF.T @ centred_BF / B
        gradient_KF = last_layer_gradient(centred_BF, logits_BK, labels_B, calibration(logits_BK, labels_B))
        if expected is not None:
            covariance_FF = MOMENT_DECAY * expected.covariance_FF + (1 - MOMENT_DECAY) * covariance_FF
            gradient_KF = GRADIENT_DECAY * expected.gradient_KF + (1 - GRADIENT_DECAY) * gradient_KF
        expected = ValidationView(gradient_KF, mean_F, covariance_FF)
        torch.testing.assert_close(view.mean_F, expected.mean_F)
        torch.testing.assert_close(view.covariance_FF, expected.covariance_FF)
        torch.testing.assert_close(view.gradient_KF, expected.gradient_KF)


def test_features_that_never_vary_give_no_nan() -> None:
    _, weights_KF, labels_B = drawn()
    features_BF = torch.ones(B, F_, dtype=torch.float64)
    logits_BK = features_BF @ weights_KF.T
    view = observe(None, features_BF, logits_BK, labels_B)
    assert not alignment(features_BF, logits_BK, labels_B, view).any()


def test_rewards_are_divided_by_the_losses_and_standardised_with_fixed_statistics() -> None:
    generator = torch.Generator().manual_seed(4)
    rewards_B, losses_B, outer_B = torch.randn(3, B, generator=generator, dtype=torch.float64)
    losses_B = losses_B.exp()
    divided = rewards_B.numpy() / (losses_B.numpy() + LOSS_OFFSET)
    rewards_B.requires_grad_()
    losses_B.requires_grad_()
    scores_B = standardised(rewards_B, losses_B)
    np.testing.assert_allclose(scores_B.detach().numpy(), (divided - divided.mean()) / divided.std(), rtol=1e-6)
    # The gradient is that of the rewards alone, each over its loss, all over the deviation as it is.
    gradient_B, none = torch.autograd.grad(scores_B @ outer_B, (rewards_B, losses_B), allow_unused=True)
    expected = outer_B.numpy() / (losses_B.detach().numpy() + LOSS_OFFSET) / divided.std()
    np.testing.assert_allclose(gradient_B.numpy(), expected, rtol=1e-6)
    assert none is None


def test_equal_rewards_are_no_comparison() -> None:
    assert not standardised(torch.full((3,), 2.5), torch.ones(3)).any()
    assert not standardised(torch.tensor([7.0]), torch.tensor([1.0])).any()


def test_rewards_are_differentiable_in_features_and_logits() -> None:
    features_BF, weights_KF, labels_B = drawn(5)
    view = plain_view(*(part.detach() for part in (features_BF, features_BF @ weights_KF.T)), labels_B)

    def rewards(features: torch.Tensor) -> torch.Tensor:
        return alignment(features, features @ weights_KF.T, labels_B, view)

    assert torch.autograd.gradcheck(rewards, (features_BF.requires_grad_(),))
