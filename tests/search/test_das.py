"""The alignment search: its closed form against autograd, its identity against double backward, and that it learns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F  # noqa: N812

from dastune.ops.spaces import SPACES
from dastune.ops.table import NOISE_LISTS
from dastune.policy.policy import noise_mass
from dastune.policy.space import SearchSpace
from dastune.search.das import (
    GRADIENT_DECAY,
    MOMENT_DECAY,
    RIDGE,
    TEMPERATURES,
    AlignmentSearch,
    ValidationView,
    alignment,
    calibration,
    last_layer_gradient,
    mean_entropy,
    observe,
)
from dastune.training.loop import Task

MakeTask = Callable[..., Task]
SpaceOf = Callable[..., SearchSpace]
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


def test_nothing_in_the_closed_form_waits_for_the_device() -> None:
    # Fake CUDA tensors have no values: a read of one raises.
    with FakeTensorMode():
        features, logits = torch.empty(8, F_, device="cuda"), torch.empty(8, K, device="cuda")
        labels = torch.empty(8, dtype=torch.int64, device="cuda")
        view = observe(observe(None, features, logits, labels), features, logits, labels)
        assert alignment(features, logits, labels, view).device.type == "cuda"


def test_features_that_never_vary_give_no_nan() -> None:
    _, weights_KF, labels_B = drawn()
    features_BF = torch.ones(B, F_, dtype=torch.float64)
    logits_BK = features_BF @ weights_KF.T
    view = observe(None, features_BF, logits_BK, labels_B)
    assert not alignment(features_BF, logits_BK, labels_B, view).any()


def test_entropy_by_hand() -> None:
    tau = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 200.0, 0.0, 0.0]], requires_grad=True)
    assert mean_entropy(tau) == pytest.approx(np.log(4) / 2)


# The search.


def searching(task: Task, space: SearchSpace, stages: int = 1, seed: int = 0) -> AlignmentSearch:
    return AlignmentSearch(task, space, stages=stages, tau_learning_rate=0.03, validation_batch=64, seed=seed)


def test_tau_moves_along_the_policy_gradient(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(), space_of("identity", "invert", "rotate"), stages=2)
    with torch.no_grad():
        search.tau_SK.copy_(torch.tensor([[0.5, 0.0, -0.5], [0.0, 1.0, 0.0]]))
    rewards_B = torch.tensor([1.0, 5.0, 2.5, 0.0])
    drawn_SB = torch.tensor([[0, 1, 2, 0], [2, 1, 1, 0]])
    p_SK = torch.softmax(search.tau_SK.detach(), 1)
    before = search.tau_SK.detach().clone()
    search._update_tau(rewards_B, drawn_SB, spent=0.0)
    centred_B = rewards_B - rewards_B.mean()
    scores_B = centred_B / centred_B.square().mean().sqrt()
    expected = torch.zeros(2, 3)
    for s in range(2):
        for b in range(4):
            for k in range(3):
                expected[s, k] -= scores_B[b] * (float(drawn_SB[s, b] == k) - p_SK[s, k]) / 4
    assert search.tau_SK.grad is not None
    torch.testing.assert_close(search.tau_SK.grad, expected)
    # Adam's first step is its learning rate against the gradient's sign.
    torch.testing.assert_close(search.tau_SK.detach() - before, -0.03 * expected.sign())
    assert search.tau_SK[0, 1] > before[0, 1]  # the op of the best image becomes likelier


def test_tau_s_learning_rate_falls_to_nought_with_the_budget(make_task: MakeTask, space_of: SpaceOf) -> None:
    moves = []
    for spent in (0.0, 0.5, 0.9):
        search = searching(make_task(), space_of("identity", "invert"))
        search.step(spent)
        moves.append(float(search.tau_SK.detach().abs().max()))
    assert moves == pytest.approx([0.03, 0.015, 0.003], rel=1e-3)


def test_a_batch_of_one_image_moves_nothing_and_breaks_nothing(make_task: MakeTask, space_of: SpaceOf) -> None:
    # One image is no comparison.
    search = searching(make_task(train=3, batch_size=1), space_of("identity", "invert"))
    for i in range(3):
        search.step(i / 3)
    assert not search.tau_SK.any()


def test_a_diverged_network_leaves_tau_and_the_policy_valid(make_task: MakeTask, space_of: SpaceOf) -> None:
    search = searching(make_task(learning_rate=1e6), space_of("identity", "invert", "constant"))
    for i in range(40):
        search.step(i / 40)
    assert not all(p.isfinite().all() for p in search._network.parameters())
    assert search.tau_SK.isfinite().all()
    assert sum(choice.weight for choice in search.best().stages[0]) == pytest.approx(1)
    assert all(np.isfinite(value) for value in search.summary().values())


def test_a_resumed_search_shares_nothing_with_the_state_it_took(make_task: MakeTask, space_of: SpaceOf) -> None:
    space: Any = space_of("identity", "invert", "rotate")
    first, second = searching(make_task(), space, seed=0), searching(make_task(), space, seed=1)
    first.step(0.0)
    second.load_state_dict(first.state_dict())
    expected = [first.step(0.1) and first.best() for _ in range(3)]
    assert [second.step(0.1) and second.best() for _ in range(3)] == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_ops_lose_their_weight_on_real_digits(seed: int, make_task: MakeTask, space_of: SpaceOf) -> None:
    space = space_of(*SPACES["das-image"].names, *NOISE_LISTS["default"][:8])
    task = make_task(train=150, validation=400, batch_size=50, channels=16, seed=seed)
    search = searching(task, space, seed=seed)
    for i in range(250):
        search.step(i / 250)
    assert noise_mass(search.best()) <= space.uniform_noise_share / 2
    assert search.summary()["val_accuracy"] > 0.8
