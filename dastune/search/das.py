"""DAS with sampled ops and alignment rewards: the default differentiable search.

Each image draws one op per stage from softmax(tau). For a one-step look-ahead of the weights, w' = w - lr grad L_train,
the derivative of the validation loss in tau is exactly a policy gradient,

    dL_val / dtau_j = -lr mean_i A_i (1[k_i = j] - softmax(tau)_j),    A_i = <grad L_val, grad loss_i>,

whose reward A_i says how well image i's gradient aligns with the validation gradient. The same holds for a look-ahead
along a preconditioned gradient, with A_i = <P grad L_val, grad loss_i>. On the last layer (features h, logits z) and
with P a regularised Newton step in its weights, A_i has a closed form that needs no further pass through the network:

    A_i = <softmax(z_i) - onehot(y_i), G (S + ridge I)^-1 (h_i - m)>,

where G is the validation gradient in the weights for centred features, and m and S are mean and covariance of the
validation features. The preconditioner is what makes it work: ReLU features share a large mean, along which any image
aligns with any other, and A_i without it is mostly that.

On top of it, G, m and S are running means over steps, the validation logits are calibrated by a temperature before
their loss is taken, and A_i is divided by (loss_i + offset), since large losses make large gradients that align by
chance.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.augment.steps import StepTable
from dastune.policy.policy import Choice, Stages
from dastune.policy.space import SearchSpace
from dastune.search.search import SearchProgress
from dastune.seeds import derive, generator
from dastune.training.loop import Batches, Task
from dastune.training.optim import set_learning_rate

GRADIENT_DECAY = 0.9  # of the running mean of the validation gradient
MOMENT_DECAY = 0.95  # of the running mean and covariance of the validation features
RIDGE = 0.1  # of the mean variance of the features
LOSS_OFFSET = 0.5  # nats
TEMPERATURES = 24  # tried in calibration, 1/8 to 8
SMOOTHING = 0.95  # of the running validation accuracy, for reports only


class AlignmentSearch:
    """A Search for a Stages policy: at each stage softmax(tau) over all ops, magnitudes uniform over their ranges.

    Args:
        task: search-train images (weights learn from them), search-validation images (tau learns from them, clean).
        space: candidate ops.
        stages: ops applied one after the other.
        tau_learning_rate: Adam's, falling linearly to 0 over the budget.
        validation_batch: validation images per step.
        seed: of weights, order and sampling.
    """

    def __init__(
        self,
        task: Task,
        space: SearchSpace,
        *,
        stages: int,
        tau_learning_rate: float,
        validation_batch: int,
        seed: int,
    ) -> None:
        self._task = task
        self._space = space
        self._tau_learning_rate = tau_learning_rate
        self._network = task.new_network(derive(seed, "das"))
        self._optimiser = task.recipe.optimiser(self._network)
        self._table = StepTable([op.over_range() for op in space.ops], space.geometry)
        self.tau_SK = torch.zeros(stages, len(space), requires_grad=True)
        self._tau_optimiser = torch.optim.Adam([self.tau_SK], lr=tau_learning_rate, betas=(0.5, 0.999))
        self._train = Batches(len(task.train), task.recipe.batch_size, derive(seed, "das train"))
        self._validation = Batches(len(task.held_out), validation_batch, derive(seed, "das validation"))
        self._generator = generator(seed, "das sampling")
        self._view: ValidationView | None = None
        self._accuracy: torch.Tensor | None = None

    @property
    def space_size_log10(self) -> float:
        """One op of all at each stage: stages x log10(ops)."""
        return len(self.tau_SK) * math.log10(len(self._space))

    def step(self, spent: float) -> SearchProgress:
        """Update the validation gradient, sample a training batch, update tau and the weights."""
        view = self._observe_validation()
        images_BCHW, labels_B, drawn_SB = self._sampled_batch()
        features_BF = self._network.features(self._task.normalise(images_BCHW))
        logits_BK = self._network.head(features_BF)
        losses_B = F.cross_entropy(logits_BK, labels_B, reduction="none")
        rewards_B = alignment(features_BF, logits_BK, labels_B, view) / (losses_B.detach() + LOSS_OFFSET)
        self._optimiser.zero_grad(set_to_none=True)
        losses_B.mean().backward()  # type: ignore[no-untyped-call]
        set_learning_rate(self._optimiser, self._task.recipe.learning_rate_at(spent))
        self._optimiser.step()
        # Last, since it waits for the rewards: a GPU is busy with the weights meanwhile.
        self._update_tau(rewards_B.cpu(), drawn_SB, spent)
        return SearchProgress(steps=1, account="search")

    @torch.no_grad()
    def _observe_validation(self) -> "ValidationView":
        """Fold one clean validation batch into the running view of the validation part, and return it."""
        images_BCHW, labels_B = self._task.held_out.batch(self._validation.draw())
        features_BF = self._network.features(self._task.normalise(images_BCHW))
        logits_BK = self._network.head(features_BF)
        self._view = observe(self._view, features_BF, logits_BK, labels_B)
        accuracy = (logits_BK.argmax(1) == labels_B).float().mean()
        self._accuracy = accuracy if self._accuracy is None else self._accuracy.lerp(accuracy, 1 - SMOOTHING)
        return self._view

    def _sampled_batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return images_BCHW, labels_B and the op drawn for each image at each stage, drawn_SB."""
        task = self._task
        images_BCHW, labels_B = task.train.batch(self._train.draw())
        images_BCHW = task.standard.before_policy(images_BCHW, self._generator)
        weights_SK = torch.softmax(self.tau_SK.detach().double(), 1)
        drawn_SB = torch.multinomial(weights_SK, len(labels_B), replacement=True, generator=self._generator)
        images_BCHW = self._table.apply(images_BCHW, drawn_SB, self._generator)
        return task.standard.after_policy(images_BCHW, self._generator), labels_B, drawn_SB

    def _update_tau(self, rewards_B: torch.Tensor, drawn_SB: torch.Tensor, spent: float) -> None:
        """One Adam step along the policy gradient of the standardised rewards."""
        if not rewards_B.isfinite().all():  # the network has diverged: tau stays what it was
            return
        rewards_B = (rewards_B - rewards_B.mean()) / (rewards_B.std(correction=0) + 1e-8)
        chosen_SBK = F.one_hot(drawn_SB, len(self._space)).float()
        weights_SK = torch.softmax(self.tau_SK.detach(), 1)
        self.tau_SK.grad = -torch.einsum("b,sbk->sk", rewards_B, chosen_SBK - weights_SK[:, None]) / len(rewards_B)
        set_learning_rate(self._tau_optimiser, self._tau_learning_rate * (1 - spent))
        self._tau_optimiser.step()

    def best(self) -> Stages:
        """Return softmax(tau) as it is, at each stage."""
        weights_SK = torch.softmax(self.tau_SK.detach().double(), 1).tolist()
        steps = [op.over_range() for op in self._space.ops]
        return Stages(
            stages=tuple(
                tuple(Choice(weight=weight, step=step) for weight, step in zip(weights, steps, strict=True))
                for weights in weights_SK
            ),
            geometry=self._space.geometry,
        )

    def summary(self) -> Mapping[str, float]:
        """Return the entropy of tau in nats (mean over stages) and the running validation accuracy."""
        summary = {"tau_entropy": mean_entropy(self.tau_SK)}
        if self._accuracy is not None:
            summary["val_accuracy"] = float(self._accuracy)
        return summary

    def state_dict(self) -> dict[str, Any]:
        """Return everything; a copy, which later steps leave alone."""
        return {
            "network": deepcopy(self._network.state_dict()),
            "optimiser": deepcopy(self._optimiser.state_dict()),
            "tau": self.tau_SK.detach().clone(),
            "tau_optimiser": deepcopy(self._tau_optimiser.state_dict()),
            "train": self._train.state_dict(),
            "validation": self._validation.state_dict(),
            "generator": self._generator.get_state(),
            "view": None if self._view is None else asdict(self._view),
            "accuracy": self._accuracy,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(deepcopy(state["optimiser"]))
        with torch.no_grad():
            self.tau_SK.copy_(state["tau"])
        self._tau_optimiser.load_state_dict(deepcopy(state["tau_optimiser"]))
        self._train.load_state_dict(state["train"])
        self._validation.load_state_dict(state["validation"])
        self._generator.set_state(state["generator"])
        device = self._task.device
        view, accuracy = state["view"], state["accuracy"]
        self._view = None if view is None else ValidationView(**{name: view[name].to(device) for name in view})
        self._accuracy = None if accuracy is None else accuracy.to(device)


def mean_entropy(tau_SK: torch.Tensor) -> float:
    """Return the entropy of softmax(tau_SK) in nats, the mean over its rows."""
    return float(torch.special.entr(torch.softmax(tau_SK.detach(), 1)).sum(1).mean())


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


@torch.no_grad()
def alignment(
    features_BF: torch.Tensor, logits_BK: torch.Tensor, labels_B: torch.Tensor, view: ValidationView
) -> torch.Tensor:
    """Return A_B: how much each image's last-layer step, preconditioned, lowers the validation loss, to first order."""
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


def calibration(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Return the factor on a grid from 1/8 to 8 by which these logits have the least cross entropy, a 0-d tensor."""
    factors_T = torch.logspace(-3, 3, TEMPERATURES, base=2, device=logits_BK.device)
    log_probabilities_TBK = torch.log_softmax(factors_T[:, None, None] * logits_BK, 2)
    chosen_TB = log_probabilities_TBK.gather(2, labels_B.expand(TEMPERATURES, -1)[..., None])[..., 0]
    return factors_T.take(chosen_TB.mean(1).argmax())  # plain indexing would wait for the device
