"""DAS as published: a blended cell, first-order bilevel updates, then perturbation-based selection.

Supplement C and F of "Your Image is My Video" (CVPR 2024). Per step: Adam on tau with the loss of a validation batch
that goes through the same blended cell (a clean one would give tau no gradient at all), then SGD on the weights with a
training batch. After `search_share` of the budget the edges are discretised one by one (DARTS-PT), with tuning between.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.augment.cell import Cell
from dastune.data.classification import Images
from dastune.policy.policy import Genotype
from dastune.policy.space import SearchSpace
from dastune.search.das import mean_entropy
from dastune.search.search import SearchProgress
from dastune.search.selection import KEPT_INPUTS, PerturbationSelection
from dastune.seeds import derive, generator
from dastune.training.loop import Batches, Task
from dastune.training.optim import set_learning_rate

TUNING_RATE = 0.1  # of the learning rate, between decisions (DARTS-PT)


class PaperSearch:
    """A Search for a Genotype.

    Args:
        task: search-train images for the weights, search-validation images for tau and for selection.
        space: candidate ops on every edge.
        inputs, nodes: shape of the cell; 2 and 4 make the 14 edges of DARTS.
        tau_learning_rate, tau_weight_decay: Adam's on tau; its betas are 0.5 and 0.999.
        search_share: share of the budget before selection starts.
        seed: of weights, tau, order, sampling and the order of decisions.

    Under a short budget decisions fall behind their schedule; edges that are undecided at the deadline take the op with
    the largest tau.
    """

    def __init__(
        self,
        task: Task,
        space: SearchSpace,
        *,
        inputs: int,
        nodes: int,
        tau_learning_rate: float,
        tau_weight_decay: float,
        search_share: float,
        seed: int,
    ) -> None:
        self._task = task
        self._seed = seed
        self._search_share = search_share
        self._generator = generator(seed, "das paper sampling")
        self.cell = Cell(space, inputs, nodes, self._generator, task.device)
        self._network = task.new_network(derive(seed, "das"))
        self._optimiser = task.recipe.optimiser(self._network)
        self._tau_optimiser = torch.optim.Adam(
            [self.cell.tau_EK], lr=tau_learning_rate, betas=(0.5, 0.999), weight_decay=tau_weight_decay
        )
        self._train = Batches(len(task.train), task.recipe.batch_size, derive(seed, "das train"))
        self._validation = Batches(len(task.held_out), task.recipe.batch_size, derive(seed, "das validation"))
        self._selection = PerturbationSelection(self.cell, task.held_out, task.recipe.batch_size, seed)

    @property
    def space_size_log10(self) -> float:
        """At each node the sources of its two edges, and one op of all on each: 180 x 15^8 for 4 nodes and 15 ops."""
        sources = [self.cell.inputs + node for node in range(self.cell.nodes)]
        kept = [min(count, KEPT_INPUTS) for count in sources]
        choices = sum(math.log10(math.comb(*counts)) for counts in zip(sources, kept, strict=True))
        return choices + sum(kept) * math.log10(len(self.cell.space))

    def step(self, spent: float) -> SearchProgress:
        """Do one bilevel step, or one batch of a decision that is due."""
        into_selection = (spent - self._search_share) / (1 - self._search_share)
        if self._selection.due(into_selection):
            return SearchProgress(steps=0, account="validate", metrics=self._selection.step(self._correct))
        self._update_tau()
        if into_selection < 0:
            rate = self._task.recipe.learning_rate_at(spent / self._search_share)
        else:
            rate = TUNING_RATE * self._task.recipe.learning_rate_at(into_selection)
        self._update_weights(rate)
        return SearchProgress(steps=1, account="search")

    def _logits(self, images_BCHW: torch.Tensor, draws: torch.Generator, **masks: Any) -> torch.Tensor:
        blended_BCHW = self.cell(images_BCHW, draws, **masks)
        logits_BK: torch.Tensor = self._network(self._task.normalise(blended_BCHW))
        return logits_BK

    def _update_tau(self) -> None:
        if len(self.cell.decided) == len(self.cell.edges):
            return
        images_BCHW, labels_B = self._batch(self._task.held_out, self._validation)
        loss = F.cross_entropy(self._logits(images_BCHW, self._generator), labels_B)
        [gradient_EK] = torch.autograd.grad(loss, [self.cell.tau_EK])
        self.cell.tau_EK.grad = gradient_EK.nan_to_num(0, 0, 0)  # of a network that has diverged
        self._tau_optimiser.step()

    def _update_weights(self, learning_rate: float) -> None:
        images_BCHW, labels_B = self._batch(self._task.train, self._train)
        with torch.no_grad():
            images_BCHW = self.cell(images_BCHW, self._generator)
            images_BCHW = self._task.standard.after_policy(images_BCHW, self._generator)
        loss = F.cross_entropy(self._network(self._task.normalise(images_BCHW)), labels_B)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        set_learning_rate(self._optimiser, learning_rate)
        self._optimiser.step()

    def _batch(self, images: Images, batches: Batches) -> tuple[torch.Tensor, torch.Tensor]:
        images_BCHW, labels_B = images.batch(batches.draw())
        return self._task.standard.before_policy(images_BCHW, self._generator), labels_B

    @torch.no_grad()
    def _correct(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor, masks: Mapping[str, Any]) -> int:
        """Return how many images are classified right; the network uses batch statistics, as DARTS-PT does.

        All candidates of a decision see the same random draws, so that they differ by what is masked alone.
        """
        draws = generator(self._seed, "das paper scores", *self._selection.place)
        return int((self._logits(images_BCHW, draws, **masks).argmax(1) == labels_B).sum())

    def best(self) -> Genotype:
        """Return the cell with decided ops where there are, else those with the largest tau."""
        return self.cell.genotype()

    def summary(self) -> Mapping[str, float]:
        """Return the entropy of tau in nats (mean over edges), decisions made, and validation accuracy of the last."""
        return {"tau_entropy": mean_entropy(self.cell.tau_EK), **self._selection.summary()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything; a copy, which later steps leave alone."""
        return {
            "network": deepcopy(self._network.state_dict()),
            "optimiser": deepcopy(self._optimiser.state_dict()),
            "tau": self.cell.tau_EK.detach().clone(),
            "decided": dict(self.cell.decided),
            "removed": sorted(self.cell.removed),
            "tau_optimiser": deepcopy(self._tau_optimiser.state_dict()),
            "train": self._train.state_dict(),
            "validation": self._validation.state_dict(),
            "selection": self._selection.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(deepcopy(state["optimiser"]))
        with torch.no_grad():
            self.cell.tau_EK.copy_(state["tau"])
        self.cell.decided = dict(state["decided"])
        self.cell.removed = set(state["removed"])
        self._tau_optimiser.load_state_dict(deepcopy(state["tau_optimiser"]))
        self._train.load_state_dict(state["train"])
        self._validation.load_state_dict(state["validation"])
        self._selection.load_state_dict(state["selection"])
        self._generator.set_state(state["generator"])
