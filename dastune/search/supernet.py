"""Supernet: the network that a differentiable search trains, behind the cell whose tau it learns."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.augment.cell import Cell
from dastune.augment.video import VideoCell
from dastune.models.network import Dropout, Network
from dastune.seeds import derive, generator
from dastune.training.loop import Batches, Task
from dastune.training.optim import set_learning_rate

Relaxation = Literal["sample", "blend"]


@dataclass(frozen=True)
class Relaxed:
    """A batch that went through the cell.

    Attributes:
        images_BCHW: blended, and then differentiable in tau; or sampled. Of a video cell clip_BTCHW.
        score_B: 1 for each image, with the gradient d log p(ops drawn) / dtau if ops were sampled: what is weighted by
            it has as its gradient the policy gradient. None for a blend, which needs none.
    """

    images_BCHW: torch.Tensor  # noqa: N815  shapes are part of names
    score_B: torch.Tensor | None  # noqa: N815

    def mean(self, values_B: torch.Tensor) -> torch.Tensor:
        """Return the mean of `values_B`, weighted by the scores, on their device."""
        return values_B.mean() if self.score_B is None else (values_B.to(self.score_B.device) * self.score_B).mean()


class Supernet:
    """Network, optimiser and training batches, and the cell in front of them.

    Args:
        task: search-train images for the weights, search-validation images for tau and selection.
        cell: shared with all forks; where ops are sampled its tau is on the CPU, as all that draws.
        relaxation: whether images go through the cell blended or sampled.
        seed: of weights, order and sampling.
    """

    def __init__(self, task: Task, cell: Cell, relaxation: Relaxation, seed: int) -> None:
        self.task = task
        self.cell = cell
        self._relaxation = relaxation
        self.network = task.new_network(derive(seed, "das"))
        self._optimiser = task.recipe.optimiser(self.network)
        self._train = Batches(len(task.train), task.recipe.batch_size, derive(seed, "das train"))
        self._generator = generator(seed, "das sampling")

    @property
    def per_epoch(self) -> int:
        """Training batches of an epoch."""
        return self._train.per_epoch

    def fork(self, seed: int) -> "Supernet":
        """Return a copy of weights and optimiser behind the same cell, with batches and draws decided by `seed`."""
        fork = Supernet(self.task, self.cell, self._relaxation, seed)
        fork.network.load_state_dict(self.network.state_dict())
        fork._optimiser.load_state_dict(deepcopy(self._optimiser.state_dict()))
        return fork

    def training_batch(self, forced: tuple[int, int] | None = None) -> tuple[Relaxed, torch.Tensor]:
        """Return the next training batch, augmented as a final training would, and its labels.

        Args:
            forced: (row, op) that half of the batch, rounded up, takes; only where ops are sampled.
        """
        task = self.task
        images_BCHW, labels_B = task.train.batch(self._train.draw())
        task.train.expect(self._train.ahead())
        images_BCHW = task.standard.before_policy(images_BCHW, self._generator)
        if isinstance(self.cell, VideoCell):  # all standard augmentation comes before the clip (supplement, C)
            images_BCHW = task.standard.after_policy(images_BCHW, self._generator)
            return self.through_cell(images_BCHW, forced), labels_B
        relaxed = self.through_cell(images_BCHW, forced)
        images_BCHW = task.standard.after_policy(relaxed.images_BCHW, self._generator)
        return Relaxed(images_BCHW, relaxed.score_B), labels_B

    def through_cell(self, images_BCHW: torch.Tensor, forced: tuple[int, int] | None = None) -> Relaxed:
        """Send images, float32 in [0, 1], through the cell."""
        if self._relaxation == "blend":
            return Relaxed(self.cell.blend(images_BCHW, self._generator), None)
        images_BCHW, draws = self.cell.sample(images_BCHW, self._generator, forced=forced)
        log_probability_B = self.cell.log_probability(draws)
        return Relaxed(images_BCHW, torch.exp(log_probability_B - log_probability_B.detach()))

    def augmented(self, images_BCHW: torch.Tensor) -> Relaxed:
        """Send validation images through crop, flip and the cell, as DAS does in its tau step."""
        return self.through_cell(self.task.standard.before_policy(images_BCHW, self._generator))

    def outputs(
        self, images_BCHW: torch.Tensor, weights: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features_BF and logits_BK of images or clips; with other `weights` than the network's if given."""
        if weights is None:
            features_BF = self.task.features(self.network, images_BCHW)
            return features_BF, self.network.head(features_BF)
        outputs: tuple[torch.Tensor, torch.Tensor] = torch.func.functional_call(
            _Outputs(self), {f"network.{name}": weight for name, weight in weights.items()}, (images_BCHW,)
        )
        return outputs

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the weights by name."""
        return dict(self.network.named_parameters())

    def descend(self, gradients: Sequence[torch.Tensor], learning_rate: float) -> None:
        """Do the optimiser's step along the gradients of all weights, in their order."""
        for weight, gradient in zip(self.network.parameters(), gradients, strict=True):
            weight.grad = gradient
        set_learning_rate(self._optimiser, learning_rate)
        self.task.recipe.step(self._optimiser, self.network)
        self._optimiser.zero_grad(set_to_none=True)

    def train(self, learning_rate: float, forced: tuple[int, int] | None = None) -> None:
        """Do one step of the weights alone."""
        with torch.no_grad():
            relaxed, labels_B = self.training_batch(forced)
        loss = F.cross_entropy(self.outputs(relaxed.images_BCHW)[1], labels_B)
        self.descend(torch.autograd.grad(loss, list(self.network.parameters())), learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser, order and draws, without the cell; a copy, which later steps leave alone."""
        return {
            "network": deepcopy(self.network.state_dict()),
            "optimiser": deepcopy(self._optimiser.state_dict()),
            "train": self._train.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(deepcopy(state["optimiser"]))
        self._train.load_state_dict(state["train"])
        self._generator.set_state(state["generator"])


class _Outputs(nn.Module):
    """`Supernet.outputs` as a module, which torch's functional call needs."""

    def __init__(self, supernet: Supernet) -> None:
        super().__init__()
        self.network = supernet.network
        self._outputs = supernet.outputs

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._outputs(images_BCHW)


@contextmanager
def aside(network: Network) -> Iterator[None]:
    """Let passes through `network`, in training mode, leave no trace in BN statistics and dropout's draws."""
    # Statistics are not touched at all: restoring them would invalidate the graphs of the passes.
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    dropouts = {module: module.get_extra_state() for module in network.modules() if isinstance(module, Dropout)}
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for dropout, state in dropouts.items():
            dropout.set_extra_state(state)


@contextmanager
def frozen(network: Network) -> Iterator[None]:
    """Let no graph be built for the weights of `network`, which saves memory where only images need gradients."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
