"""Outer gradients: how tau learns from validation images, and the weights' step that goes with it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.data.images import Images
from dastune.search.alignment import (
    GRADIENT_DECAY,
    ValidationView,
    alignment,
    calibration,
    observe,
    standardised,
)
from dastune.search.supernet import Relaxed, Supernet, aside, frozen
from dastune.seeds import derive
from dastune.training.loop import Batches

Validation = Literal["clean", "augmented"]
Outer: TypeAlias = tuple[torch.Tensor, ...]  # gradients in tau (E x K) and in the logits of orders (P)
Descend: TypeAlias = Callable[[Outer], None]

FORWARD_STEP = 0.01  # length of the finite difference in weight space, as DARTS' second order


class OuterGradient(Protocol):
    """One way to estimate dL_val / dtau."""

    def step(self, supernet: Supernet, descend: Descend, learning_rate: float) -> torch.Tensor | None:
        """Do one step of tau and one of the weights.

        Args:
            descend: takes the gradients in tau and in the orders' logits, and updates both along them.
            learning_rate: of the weights.

        Returns:
            The accuracy on the validation batch, a 0-d tensor on the device; None if none was looked at.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as tensors and plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""


class _Observer:
    """What the outer gradients that look at validation images share: their batches."""

    def __init__(self, images: Images, batch_size: int, validation: Validation, seed: int) -> None:
        self._images = images
        self._augmented = validation == "augmented"
        self._batches = Batches(len(images), batch_size, derive(seed, "das validation"))

    def _validation_batch(self, supernet: Supernet) -> tuple[Relaxed, torch.Tensor]:
        images_BCHW, labels_B = self._images.batch(self._batches.draw())
        self._images.expect(self._batches.ahead())
        return supernet.augmented(images_BCHW) if self._augmented else Relaxed(images_BCHW, None), labels_B

    def state_dict(self) -> dict[str, Any]:
        """Return order and position of the validation batches."""
        return {"batches": self._batches.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._batches.load_state_dict(state["batches"])


class NoGradient:
    """tau stays where it starts: the "blank" supernet that selection by perturbation needs no more than (DARTS-PT)."""

    def step(self, supernet: Supernet, descend: Descend, learning_rate: float) -> None:
        """Do one step of the weights."""
        supernet.train(learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""


class FirstOrder(_Observer):
    """The published estimator: the validation loss' own gradient at the weights as they are (DARTS' first order).

    Validation images go through the cell, since with clean ones the loss does not depend on tau. Of a blend it is the
    gradient through the pixels; of sampled ops the policy gradient of the images' losses.
    """

    def step(self, supernet: Supernet, descend: Descend, learning_rate: float) -> torch.Tensor:
        """Do one step of tau, then one of the weights."""
        relaxed, labels_B = self._validation_batch(supernet)
        with aside(supernet.network), frozen(supernet.network):
            _, logits_BK = supernet.outputs(relaxed.images_BCHW)
            losses_B = F.cross_entropy(logits_BK, labels_B, reduction="none")
            if relaxed.score_B is not None:
                losses_B = (losses_B - losses_B.mean()).detach()  # a baseline; the expectation is (B - 1) / B of it
            descend(outer_gradients(supernet, relaxed.mean(losses_B)))
        supernet.train(learning_rate)
        return _accuracy(logits_BK, labels_B)


class LookAhead(_Observer):
    """The exact gradient of the validation loss after one plain SGD step of the weights, by double backward.

    As DARTS' second order, without its finite difference. The reference for the alignment estimators; slow.
    """

    def step(self, supernet: Supernet, descend: Descend, learning_rate: float) -> torch.Tensor:
        """Do one step of tau, and one of the weights with the same training batch."""
        validation, validation_labels_B = self._validation_batch(supernet)
        relaxed, labels_B = supernet.training_batch()
        _, logits_BK = supernet.outputs(relaxed.images_BCHW)
        loss = relaxed.mean(F.cross_entropy(logits_BK, labels_B, reduction="none")).to(logits_BK.device)
        weights = supernet.weights()
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        ahead = {
            name: weight - learning_rate * gradient
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }
        with aside(supernet.network):
            _, validation_logits_BK = supernet.outputs(validation.images_BCHW, ahead)
        losses_B = F.cross_entropy(validation_logits_BK, validation_labels_B, reduction="none")
        outer = outer_gradients(supernet, validation.mean(losses_B))
        supernet.descend([gradient.detach() for gradient in gradients], learning_rate)
        descend(outer)
        return _accuracy(validation_logits_BK, validation_labels_B)


class Alignment(_Observer):
    """The default: alignment rewards on the last layer, in closed form, from the pass that the weights need anyway."""

    def __init__(self, images: Images, batch_size: int, validation: Validation, seed: int) -> None:
        super().__init__(images, batch_size, validation, seed)
        self._view: ValidationView | None = None

    def step(self, supernet: Supernet, descend: Descend, learning_rate: float) -> torch.Tensor:
        """Do one step of the weights, and one of tau with the same training batch."""
        with torch.no_grad(), aside(supernet.network):
            validation, validation_labels_B = self._validation_batch(supernet)
            outputs = supernet.outputs(validation.images_BCHW)
            self._view = observe(self._view, *outputs, validation_labels_B)
        relaxed, labels_B = supernet.training_batch()
        features_BF, logits_BK = supernet.outputs(relaxed.images_BCHW)
        losses_B = F.cross_entropy(logits_BK, labels_B, reduction="none")
        with torch.set_grad_enabled(relaxed.score_B is None):
            rewards_B = standardised(alignment(features_BF, logits_BK, labels_B, self._view), losses_B)
        _descend_both(supernet, descend, learning_rate, relaxed, losses_B, rewards_B)
        return _accuracy(outputs[1], validation_labels_B)

    def state_dict(self) -> dict[str, Any]:
        """Return the running means too."""
        return {**super().state_dict(), "view": None if self._view is None else asdict(self._view)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        super().load_state_dict(state)
        view, device = state["view"], self._images.device
        self._view = None if view is None else ValidationView(**{name: view[name].to(device) for name in view})


class ForwardAlignment(_Observer):
    """Alignment rewards over all weights, by one more forward pass of the training batch.

    A_i is the change of image i's loss along the running mean v of the validation gradient, as a one-sided finite
    difference with a step of FORWARD_STEP / |v|.
    """

    def __init__(self, images: Images, batch_size: int, validation: Validation, seed: int) -> None:
        super().__init__(images, batch_size, validation, seed)
        self._direction: dict[str, torch.Tensor] = {}

    def step(self, supernet: Supernet, descend: Descend, learning_rate: float) -> torch.Tensor:
        """Do one step of the weights, and one of tau with the same training batch."""
        validation, validation_labels_B = self._validation_batch(supernet)
        weights = supernet.weights()
        with aside(supernet.network):
            _, validation_logits_BK = supernet.outputs(validation.images_BCHW.detach())
        factor = calibration(validation_logits_BK, validation_labels_B)
        loss = F.cross_entropy(factor * validation_logits_BK, validation_labels_B)
        self._observe(dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True)))

        relaxed, labels_B = supernet.training_batch()
        blended = relaxed.score_B is None
        length = FORWARD_STEP / (_norm(self._direction) + 1e-12)
        moved = {name: weight.detach() + length * self._direction[name] for name, weight in weights.items()}
        # Before the weights' own pass: what dropout draws here is put back, so that both passes drop the same.
        with torch.set_grad_enabled(blended), aside(supernet.network):
            moved_logits_BK = supernet.outputs(relaxed.images_BCHW, moved)[1]
            moved_losses_B = F.cross_entropy(moved_logits_BK, labels_B, reduction="none")
        losses_B = F.cross_entropy(supernet.outputs(relaxed.images_BCHW)[1], labels_B, reduction="none")
        with torch.set_grad_enabled(blended):
            rewards_B = standardised((moved_losses_B - losses_B) / length, losses_B)
        _descend_both(supernet, descend, learning_rate, relaxed, losses_B, rewards_B)
        return _accuracy(validation_logits_BK, validation_labels_B)

    def _observe(self, gradients: Mapping[str, torch.Tensor]) -> None:
        self._direction = {
            name: self._direction[name].lerp(gradient, 1 - GRADIENT_DECAY) if self._direction else gradient
            for name, gradient in gradients.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the running mean too."""
        return {**super().state_dict(), "direction": dict(self._direction)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        super().load_state_dict(state)
        self._direction = {name: value.to(self._images.device) for name, value in state["direction"].items()}


def outer_gradients(supernet: Supernet, loss: torch.Tensor, *, keep_graph: bool = False) -> Outer:
    """Return the gradients of `loss` in tau, E x K, and in the orders' logits, P; 0 where it depends on none."""
    outer = supernet.cell.tau_EK, supernet.cell.order_P
    if not loss.requires_grad:  # ops that were decided on hide all that is open
        return tuple(torch.zeros_like(logits) for logits in outer)
    return torch.autograd.grad(loss, outer, retain_graph=keep_graph, allow_unused=True, materialize_grads=True)


def _descend_both(
    supernet: Supernet,
    descend: Descend,
    learning_rate: float,
    relaxed: Relaxed,
    losses_B: torch.Tensor,
    rewards_B: torch.Tensor,
) -> None:
    """Move the weights along the training loss, and tau so that images with high rewards become likelier."""
    outer = outer_gradients(supernet, -rewards_B.mean(), keep_graph=True) if relaxed.score_B is None else None
    supernet.descend(torch.autograd.grad(losses_B.mean(), list(supernet.network.parameters())), learning_rate)
    # Last, since sampled scores wait for the rewards: a GPU is busy with the weights meanwhile.
    descend(outer_gradients(supernet, -relaxed.mean(rewards_B)) if outer is None else outer)


def _norm(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    norms = [torch.linalg.vector_norm(tensor) for tensor in tensors.values()]
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def _accuracy(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    accuracy: torch.Tensor = (logits_BK.detach().argmax(1) == labels_B).float().mean()
    return accuracy
