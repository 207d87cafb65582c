"""Alignment rewards: how much a step along one training image's loss would lower the validation loss.

For a one-step look-ahead of the weights, w' = w - lr P grad L_train with any fixed preconditioner P, and ops drawn from
softmax(tau), the derivative of the validation loss in tau is exactly a policy gradient,

    dL_val / dtau_j = -lr mean_i A_i (1[k_i = j] - softmax(tau)_j),    A_i = <P grad L_val, grad loss_i>,

whose reward A_i says how well image i's gradient aligns with the validation gradient. On the last layer (features h,
logits z), with P the regularised inverse of the features' covariance (the input factor of K-FAC, arXiv 1503.05671), A_i
has a closed form that needs no further pass through the network:

    A_i = <softmax(z_i) - onehot(y_i), G (S + ridge I)^-1 (h_i - m)>,

where G is the validation gradient in the weights for centred features, and m and S are mean and covariance of the
validation features. The preconditioner is what makes it work: ReLU features share a large mean, along which any image
aligns with any other, and A_i without it is mostly that.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

GRADIENT_DECAY = 0.9  # of the running mean of the validation gradient
MOMENT_DECAY = 0.95  # of the running mean and covariance of the validation features
RIDGE = 0.1  # of the mean variance of the features
LOSS_OFFSET = 0.5  # nats
TEMPERATURES = 24  # tried in calibration, 1/8 to 8


@dataclass(frozen=True)
class ValidationView:
    """Running means over validation batches: last-layer gradient, and mean and covariance of the features."""

    gradient_KF: torch.Tensor  # noqa: N815  shapes are part of names
    mean_F: torch.Tensor  # noqa: N815
    covariance_FF: torch.Tensor  # noqa: N815


@torch.no_grad()
def observe(
    view: ValidationView | None, features_BF: torch.Tensor, logits_BK: torch.Tensor, labels_B: torch.Tensor
) -> ValidationView:
    """Return `view` with one more batch folded in; the first batch is taken as it is."""
    mean_F = features_BF.mean(0)
    if view is not None:
        mean_F = view.mean_F.lerp(mean_F, 1 - MOMENT_DECAY)
    centred_BF = features_BF - mean_F
    covariance_FF = centred_BF.T @ centred_BF / len(features_BF)
    gradient_KF = last_layer_gradient(centred_BF, logits_BK, labels_B, calibration(logits_BK, labels_B))
    if view is not None:
        covariance_FF = view.covariance_FF.lerp(covariance_FF, 1 - MOMENT_DECAY)
        gradient_KF = view.gradient_KF.lerp(gradient_KF, 1 - GRADIENT_DECAY)
    return ValidationView(gradient_KF, mean_F, covariance_FF)


def alignment(
    features_BF: torch.Tensor, logits_BK: torch.Tensor, labels_B: torch.Tensor, view: ValidationView
) -> torch.Tensor:
    """Return A_B: how much each image's last-layer step, preconditioned, lowers the validation loss, to first order.

    Differentiable in features and logits.
    """
    error_BK = torch.softmax(logits_BK, 1) - F.one_hot(labels_B, logits_BK.shape[1])
    ridge = RIDGE * view.covariance_FF.diagonal().mean() + 1e-12
    damped_FF = view.covariance_FF + ridge * torch.eye(len(view.mean_F), dtype=ridge.dtype, device=ridge.device)
    direction_KF = torch.linalg.solve_ex(damped_FF, view.gradient_KF, left=False).result
    rewards_B: torch.Tensor = (error_BK * ((features_BF - view.mean_F) @ direction_KF.T)).sum(1)
    return rewards_B


def last_layer_gradient(
    features_BF: torch.Tensor, logits_BK: torch.Tensor, labels_B: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return the gradient, K x F, of the mean cross entropy of `scale` * logits in the last layer's weights."""
    error_BK = torch.softmax(scale * logits_BK, 1) - F.one_hot(labels_B, logits_BK.shape[1])
    gradient_KF: torch.Tensor = scale * error_BK.T @ features_BF / len(labels_B)
    return gradient_KF


@torch.no_grad()
def calibration(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Return the factor on a grid from 1/8 to 8 by which these logits have the least cross entropy, a 0-d tensor."""
    factors_T = torch.logspace(-3, 3, TEMPERATURES, base=2, device=logits_BK.device)
    log_probabilities_TBK = torch.log_softmax(factors_T[:, None, None] * logits_BK, 2)
    chosen_TB = log_probabilities_TBK.gather(2, labels_B.expand(TEMPERATURES, -1)[..., None])[..., 0]
    return factors_T.take(chosen_TB.mean(1).argmax())  # plain indexing would wait for the device


def standardised(rewards_B: torch.Tensor, losses_B: torch.Tensor) -> torch.Tensor:
    """Return rewards over (loss + LOSS_OFFSET), with mean 0 and standard deviation 1 over the batch.

    Large losses make large gradients, which align by chance; hence the division. Differentiable in the rewards, with
    all that they are scaled by held fixed.
    """
    scaled_B = rewards_B / (losses_B.detach() + LOSS_OFFSET)
    fixed_B = scaled_B.detach()
    standard_B: torch.Tensor = (scaled_B - fixed_B.mean()) / (fixed_B.std(correction=0) + 1e-8)
    return standard_B
