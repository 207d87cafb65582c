"""Differentiable augmentation search (DAS): tau and the weights of a network learn side by side, then tau is read.

What it is made of: a cell (`topology` and `relaxation`), an outer gradient (how tau hears from validation images) and
a selection (how a policy is made of tau). The published recipe is one choice of each, the default another.
"""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dastune.augment.cell import Cell
from dastune.augment.video import ClipForm, VideoCell
from dastune.data.images import Images
from dastune.policy.policy import Choice, Clip, Genotype, Stages
from dastune.policy.space import SearchSpace
from dastune.policy.topology import Topology
from dastune.search.outer_gradient import (
    Alignment,
    FirstOrder,
    ForwardAlignment,
    LookAhead,
    NoGradient,
    Outer,
    OuterGradient,
    Validation,
)
from dastune.search.search import SearchProgress
from dastune.search.selection import AdditionSelection, BatchNorm, Criterion, PerturbationSelection, Selection
from dastune.search.supernet import Relaxation, Supernet
from dastune.seeds import generator
from dastune.training.loop import Task
from dastune.training.optim import set_learning_rate

Estimator = Literal["alignment", "alignment_forward", "exact", "first_order", "none"]
SelectionRule = Literal["distribution", "perturbation", "perturbation_add", "argmax", "uniform"]

ESTIMATORS: dict[str, Callable[[Images, int, Validation, int], OuterGradient]] = {
    "alignment": Alignment,
    "alignment_forward": ForwardAlignment,
    "exact": LookAhead,
    "first_order": FirstOrder,
}
TAU_BETAS = (0.5, 0.999)  # of Adam (DARTS, and the DAS authors' code)
TUNING_RATE = 0.1  # of the learning rate, between decisions (DARTS-PT)
SMOOTHING = 0.95  # of the running validation accuracy, for reports only


@dataclass(frozen=True)
class DASOptions:
    """What a differentiable search is made of; `dastune.config.methods.Das` tells each.

    `search_share` is the share of the budget before selection starts, where selection takes time; `form` that of the
    clips in a search from image to video.
    """

    topology: Topology
    relaxation: Relaxation
    estimator: Estimator
    validation: Validation
    validation_batch: int
    selection: SelectionRule
    criterion: Criterion
    batch_norm: BatchNorm
    tuning_epochs: int
    search_share: float
    tau_learning_rate: float
    tau_weight_decay: float
    tau_schedule: Literal["linear", "constant"]
    form: ClipForm | None = None


class DivergedError(ArithmeticError):
    """Training a network came to infinities, or to no numbers at all."""


class DASSearch:
    """A Search for a Stages policy (a chain's distribution), a Genotype or a Clip (a discrete cell).

    Args:
        task: search-train images, from which the weights learn, and search-validation images, from which tau does.
        space: candidate ops on every edge.
        seed: of weights, tau, order, sampling and the order of decisions.
    """

    def __init__(self, task: Task, space: SearchSpace, options: DASOptions, seed: int) -> None:
        self._options = options
        sampled = options.relaxation == "sample"
        device = torch.device("cpu") if sampled else task.device
        draws = generator(seed, "das tau")
        if options.form is None:
            self.cell: Cell = Cell(space, options.topology, draws, device)
        else:
            self.cell = VideoCell(space, options.topology, options.form, draws, device)
        self._start_EK = self.cell.tau_EK.detach().clone()
        self._tau_optimiser = torch.optim.Adam(
            [self.cell.tau_EK, self.cell.order_P],
            lr=options.tau_learning_rate,
            betas=TAU_BETAS,
            weight_decay=options.tau_weight_decay,
        )
        self._supernet = Supernet(task, self.cell, options.relaxation, seed)
        self._outer: OuterGradient = NoGradient()
        if options.estimator != "none":
            estimator = ESTIMATORS[options.estimator]
            self._outer = estimator(task.held_out, options.validation_batch, options.validation, seed)
        self._selection = self._new_selection(seed)
        self._share = 1.0 if self._selection is None else options.search_share
        self._accuracy: torch.Tensor | None = None

    def _new_selection(self, seed: int) -> Selection | None:
        options = self._options
        if options.selection == "perturbation":
            return PerturbationSelection(
                self._supernet,
                criterion=options.criterion,
                batch_norm=options.batch_norm,
                tuning_epochs=options.tuning_epochs,
                seed=seed,
            )
        if options.selection == "perturbation_add":
            return AdditionSelection(
                self._supernet, batch_norm=options.batch_norm, tuning_epochs=options.tuning_epochs, seed=seed
            )
        return None

    @property
    def space_size_log10(self) -> float:
        """Of the discrete cells: one op on each kept edge (180 x 15^8 for darts-4 and 15 ops); 15^s for s stages."""
        return self._options.topology.size_log10(len(self.cell.space))

    def step(self, spent: float) -> SearchProgress:
        """Do one bilevel step, or one slice of a decision that is due."""
        into_selection = (spent - self._share) / (1 - self._share) if self._share < 1 else -1.0
        if self._selection is not None:
            if self._selection.done:
                return SearchProgress(steps=0, account="search", done=True)
            if self._selection.due(into_selection):
                return self._selection.step()
            self._selection.trained()
        recipe = self._supernet.task.recipe
        if into_selection < 0:
            rate = recipe.learning_rate_at(spent / self._share)
        else:
            rate = TUNING_RATE * recipe.learning_rate_at(into_selection)
        tau_learns = into_selection < 0 or self._options.tau_schedule == "constant"
        if len(self.cell.decided) == self.cell.topology.rows or not tau_learns:
            self._supernet.train(rate)
        else:
            accuracy = self._outer.step(self._supernet, lambda outer: self._descend(outer, spent), rate)
            if accuracy is not None:
                self._accuracy = accuracy if self._accuracy is None else self._accuracy.lerp(accuracy, 1 - SMOOTHING)
        return SearchProgress(steps=1, account="search")

    def _descend(self, outer: Outer, spent: float) -> None:
        """Update tau and the orders' logits by Adam."""
        rate = self._options.tau_learning_rate
        if self._options.tau_schedule == "linear":
            rate *= max(0.0, 1 - spent / self._share)
        # Of a network that has diverged nothing is learned. To look whether it has would wait for a GPU.
        finite = torch.stack([gradient.isfinite().all() for gradient in outer]).all()
        self.cell.tau_EK.grad, self.cell.order_P.grad = (torch.where(finite, gradient, 0.0) for gradient in outer)
        set_learning_rate(self._tau_optimiser, rate)
        self._tau_optimiser.step()

    def best(self) -> Stages | Genotype | Clip:
        """Return what tau and the decisions so far amount to.

        By `selection`: `distribution` softmax(tau) at each stage; `uniform` all ops alike, whatever tau says; `argmax`
        and `perturbation` the discrete cell, where undecided edges take the op with the largest tau;
        `perturbation_add` of a chain the stages, where undecided ones keep softmax(tau), else the discrete cell. From
        image to video always the discrete cell.
        """
        if isinstance(self.cell, VideoCell):
            return self.cell.clip()
        match self._options.selection:
            case "distribution":
                return self.cell.stages()
            case "uniform":
                return self._uniform()
            case "perturbation_add" if self.cell.topology.is_chain:
                return self.cell.stages()
        return self.cell.genotype()

    def _uniform(self) -> Stages:
        space = self.cell.space
        shares = zip(space.ops, space.uniform_shares, strict=True)
        stage = tuple(Choice(weight=share, step=op.over_range()) for op, share in shares)
        return Stages(stages=(stage,) * self.cell.topology.rows, geometry=space.geometry)

    def summary(self) -> Mapping[str, float]:
        """Return tau's entropy in nats (mean over rows), its distances, and what is known of accuracy and decisions.

        `tau_from_uniform` is the total variation distance of softmax(tau) from all ops alike, mean over rows;
        `tau_from_start` that from where it started.

        Raises:
            DivergedError: the network's weights are not finite, so that nothing is learned any more.
        """
        if not torch.stack([weight.isfinite().all() for weight in self._supernet.network.parameters()]).all():
            raise DivergedError(
                "the network of the search diverged: its weights are not finite; lower training.learning_rate, or set "
                "training.gradient_clip"
            )
        weights_EK = torch.softmax(self.cell.tau_EK.detach(), 1)
        uniform_K = torch.tensor(self.cell.space.uniform_shares, device=weights_EK.device)
        summary = {
            "tau_entropy": float(torch.special.entr(weights_EK).sum(1).mean()),
            "tau_from_uniform": _total_variation(weights_EK, uniform_K),
            "tau_from_start": _total_variation(weights_EK, torch.softmax(self._start_EK, 1)),
        }
        if self._accuracy is not None and math.isfinite(accuracy := float(self._accuracy)):
            summary["val_accuracy"] = accuracy
        return {**summary, **({} if self._selection is None else self._selection.summary())}

    def state_dict(self) -> dict[str, Any]:
        """Return everything; a copy, which later steps leave alone."""
        return {
            "supernet": self._supernet.state_dict(),
            "tau": self.cell.tau_EK.detach().clone(),
            "order": self.cell.order_P.detach().clone(),
            "start": self._start_EK,
            "decided": dict(self.cell.decided),
            "removed": sorted(self.cell.removed),
            "tau_optimiser": deepcopy(self._tau_optimiser.state_dict()),
            "outer": self._outer.state_dict(),
            "selection": None if self._selection is None else self._selection.state_dict(),
            "accuracy": self._accuracy,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._supernet.load_state_dict(state["supernet"])
        with torch.no_grad():
            self.cell.tau_EK.copy_(state["tau"])
            self.cell.order_P.copy_(state["order"])
            self._start_EK.copy_(state["start"])
        self.cell.decided = dict(state["decided"])
        self.cell.removed = set(state["removed"])
        self._tau_optimiser.load_state_dict(deepcopy(state["tau_optimiser"]))
        self._outer.load_state_dict(state["outer"])
        if self._selection is not None:
            self._selection.load_state_dict(state["selection"])
        accuracy = state["accuracy"]
        self._accuracy = None if accuracy is None else accuracy.to(self._supernet.task.device)


def _total_variation(first_EK: torch.Tensor, second_EK: torch.Tensor) -> float:
    return float((first_EK - second_EK).abs().sum(1).mean() / 2)
