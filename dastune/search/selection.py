"""Selection by perturbation: what does the supernet lose without this op, or gain by more of it?

Decisions are made one after the other, one batch-sized slice a step, so that the deadline may strike at any of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.search.search import SearchProgress
from dastune.search.supernet import Supernet, aside
from dastune.seeds import derive, generator

Criterion = Literal["accuracy", "loss"]
BatchNorm = Literal["batch", "running"]
Candidate: TypeAlias = tuple[Literal["op", "row"], int, int]

FORK_STEPS = 15  # of a fork, before its validation loss is taken
FORK_RATE = 0.5  # of the largest learning rate, in a fork
FORK_IMAGES = 1000  # validation images for a fork's loss, at most


class Selection(ABC):
    """Decides row by row of tau which op stays, and where nodes have too many edges which edges go.

    Args:
        supernet: its cell's `decided` and `removed` are written here.
        images: validation images that score each candidate, the first so many.
        tuning_epochs: of training after each decision; fewer where the budget does not allow so many.
        seed: of the order of decisions and of all draws.
    """

    def __init__(
        self, supernet: Supernet, *, images: int, batch_norm: BatchNorm, tuning_epochs: int, seed: int
    ) -> None:
        self._supernet = supernet
        self._images = images
        self._batch_norm = batch_norm
        self._tuning_steps = tuning_epochs * supernet.per_epoch
        self._seed = seed
        self._decisions = self._in_order(generator(seed, "selection"))
        self._made = 0
        self._tuned = 0  # training steps since the last decision
        self._losses: list[float] = []  # of the candidates scored so far; the last one's may be in the making
        self._next = 0  # the validation image that the next slice begins with
        self._accuracy: float | None = None

    @abstractmethod
    def _in_order(self, random: torch.Generator) -> list[tuple[Literal["op", "row"], int]]:
        """Return the decisions: an op for a row ("op"), or a row to take out of a node of a cell ("row")."""

    @abstractmethod
    def _slice(self, candidate: Candidate) -> tuple[bool, SearchProgress]:
        """Work on the candidate's score, `_losses[-1]`; return whether that is complete."""

    @abstractmethod
    def _chosen(self, losses: Sequence[float], kind: Literal["op", "row"]) -> int:
        """Return the position of the candidate that is decided for."""

    @property
    def done(self) -> bool:
        """Whether all decisions are made."""
        return self._made >= len(self._decisions)

    def trained(self) -> None:
        """Hear that the supernet did a training step."""
        self._tuned += 1

    def due(self, progress: float) -> bool:
        """Return whether a decision is to be worked on at the share `progress` of the selection phase (< 0: before).

        A decision follows the one before it after the tuning epochs, or when its time has come if all are spread
        evenly over the phase, whichever is first; the first one begins the phase. A decision begun is ended.
        """
        if self.done or progress < 0:
            return False
        tuned = self._made == 0 or self._tuned >= self._tuning_steps
        return bool(self._losses) or tuned or progress >= self._made / len(self._decisions)

    def _candidates(self) -> list[Candidate]:
        kind, index = self._decisions[self._made]
        if kind == "op":
            return [("op", index, op) for op in range(self._supernet.cell.tau_EK.shape[1])]
        return [("row", row, 0) for row in self._supernet.cell.incoming(index)]

    def step(self) -> SearchProgress:
        """Do one slice of the decision at hand; decide after the last."""
        candidates = self._candidates()
        if not self._losses:
            self._losses.append(0.0)
        complete, progress = self._slice(candidates[len(self._losses) - 1])
        if not complete:
            return progress
        if len(self._losses) < len(candidates):
            self._losses.append(0.0)
            return progress
        kind, index = self._decisions[self._made]
        _, row, op = candidates[self._chosen(self._losses, kind)]
        if kind == "op":
            self._supernet.cell.decided[index] = op
        else:
            self._supernet.cell.removed.add(row)
        self._made, self._tuned, self._losses = self._made + 1, 0, []
        metrics = {"decisions": float(self._made)}
        return SearchProgress(progress.steps, progress.account, metrics, done=self.done)

    def _validation_slice(self) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Return the next validation images of a candidate, their labels, and whether they are its last."""
        held_out = self._supernet.task.held_out
        size = self._supernet.task.recipe.batch_size
        stop = min(self._next + size, self._images)
        images_BCHW, labels_B = held_out.batch(torch.arange(self._next, stop))
        self._next = stop % self._images
        held_out.expect(torch.arange(self._next, min(self._next + size, self._images)))
        return images_BCHW, labels_B, self._next == 0

    @torch.no_grad()
    def _logits(self, supernet: Supernet, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits of a clean or augmented batch, in the stated mode of batch norm, which is left alone."""
        supernet.network.train(self._batch_norm == "batch")
        try:
            with aside(supernet.network):
                return supernet.outputs(images_BCHW)[1]
        finally:
            supernet.network.train()

    def summary(self) -> dict[str, float]:
        """Return the decisions made and, where there is one, the best validation accuracy among the last candidates."""
        accuracy = {} if self._accuracy is None else {"val_accuracy": self._accuracy}
        return {"decisions": float(self._made), **accuracy}

    def state_dict(self) -> dict[str, Any]:
        """Return the decisions' order and the one at hand."""
        return {
            "decisions": [list(decision) for decision in self._decisions],
            "made": self._made,
            "tuned": self._tuned,
            "losses": list(self._losses),
            "next": self._next,
            "accuracy": self._accuracy,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._decisions = [(kind, index) for kind, index in state["decisions"]]
        self._made, self._tuned, self._losses = state["made"], state["tuned"], list(state["losses"])
        self._next, self._accuracy = state["next"], state["accuracy"]


class PerturbationSelection(Selection):
    """As published (DARTS-PT, ICLR 2021, section 4; supplement B): what is missed most stays.

    First every row, in random order: each op's weight is set to 0 in turn, without renormalising the others, and the
    op whose removal leaves the worst validation score is the row's op (ties: the first). Then every node that has more
    edges than it may keep, in random order: as long as it has more, the edge whose removal leaves the best score goes.
    Each edge that goes is a decision, followed by tuning; DARTS-PT tunes once a node.
    Scores are over all validation images, which go through the blended cell.

    Args:
        criterion: the share of images classified right, or the mean cross entropy.
        batch_norm: the statistics of each batch, as DARTS-PT has it, or the running ones of training.
    """

    def __init__(
        self, supernet: Supernet, *, criterion: Criterion, batch_norm: BatchNorm, tuning_epochs: int, seed: int
    ) -> None:
        images = len(supernet.task.held_out)
        super().__init__(supernet, images=images, batch_norm=batch_norm, tuning_epochs=tuning_epochs, seed=seed)
        self._criterion = criterion

    def _in_order(self, random: torch.Generator) -> list[tuple[Literal["op", "row"], int]]:
        cell = self._supernet.cell
        rows = torch.randperm(cell.topology.rows, generator=random).tolist()
        kept, nodes = cell.topology.kept, torch.randperm(cell.topology.cell_nodes, generator=random).tolist()
        surplus = [len(cell.incoming(node)) - (kept or len(cell.incoming(node))) for node in nodes]
        removals = [node for node, count in zip(nodes, surplus, strict=True) for _ in range(count)]
        return [*(("op", row) for row in rows), *(("row", node) for node in removals)]

    @torch.no_grad()
    def _slice(self, candidate: Candidate) -> tuple[bool, SearchProgress]:
        # All candidates of a decision see the same random draws, so that they differ by what is masked alone.
        draws = generator(self._seed, "selection scores", self._made, self._next)
        images_BCHW, labels_B, complete = self._validation_slice()
        images_BCHW = self._supernet.task.standard.before_policy(images_BCHW, draws)
        kind, row, op = candidate
        masked: dict[str, Any] = {"without_op": (row, op)} if kind == "op" else {"without_row": row}
        logits_BK = self._logits(self._supernet, self._supernet.cell.blend(images_BCHW, draws, **masked))
        if self._criterion == "accuracy":
            self._losses[-1] += float((logits_BK.argmax(1) != labels_B).sum())
        else:
            self._losses[-1] += float(F.cross_entropy(logits_BK, labels_B, reduction="sum"))
        return complete, SearchProgress(steps=0, account="validate")

    def _chosen(self, losses: Sequence[float], kind: Literal["op", "row"]) -> int:
        if self._criterion == "accuracy":
            self._accuracy = 1 - min(losses) / self._images
        ranked = [loss if loss == loss else float("inf") for loss in losses]  # NaN: the network has diverged
        return ranked.index(max(ranked) if kind == "op" else min(ranked))


class AdditionSelection(Selection):
    """Perturbation that adds: which op, in half of the images, helps most?

    For every row, in random order: for each op the supernet is forked and trained for FORK_STEPS steps with half of
    each batch going through that op on that row, the rest as sampled; the op whose fork has the least clean validation
    loss is the row's op. All forks see the same images and draws.
    """

    def __init__(self, supernet: Supernet, *, batch_norm: BatchNorm, tuning_epochs: int, seed: int) -> None:
        images = min(FORK_IMAGES, len(supernet.task.held_out))
        super().__init__(supernet, images=images, batch_norm=batch_norm, tuning_epochs=tuning_epochs, seed=seed)
        self._fork: Supernet | None = None
        self._fork_steps = 0

    def _in_order(self, random: torch.Generator) -> list[tuple[Literal["op", "row"], int]]:
        return [("op", row) for row in torch.randperm(self._supernet.cell.topology.rows, generator=random).tolist()]

    def _slice(self, candidate: Candidate) -> tuple[bool, SearchProgress]:
        if self._fork is None:
            self._fork = self._new_fork()
        if self._fork_steps < FORK_STEPS:
            _, row, op = candidate
            self._fork.train(FORK_RATE * self._supernet.task.recipe.learning_rate, forced=(row, op))
            self._fork_steps += 1
            return False, SearchProgress(steps=1, account="search")
        images_BCHW, labels_B, complete = self._validation_slice()
        losses = F.cross_entropy(self._logits(self._fork, images_BCHW), labels_B, reduction="sum")
        self._losses[-1] += float(losses)
        if complete:
            self._fork, self._fork_steps = None, 0
        return complete, SearchProgress(steps=0, account="validate")

    def _new_fork(self) -> Supernet:
        return self._supernet.fork(derive(self._seed, "fork", self._made))

    def _chosen(self, losses: Sequence[float], kind: Literal["op", "row"]) -> int:
        ranked = [loss if loss == loss else float("inf") for loss in losses]  # NaN: the fork has diverged
        return ranked.index(min(ranked))

    def state_dict(self) -> dict[str, Any]:
        """Return the fork at hand too."""
        fork = None if self._fork is None else self._fork.state_dict()
        return {**super().state_dict(), "fork": fork, "fork_steps": self._fork_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        super().load_state_dict(state)
        self._fork, self._fork_steps = None, state["fork_steps"]
        if state["fork"] is not None:
            self._fork = self._new_fork()
            self._fork.load_state_dict(state["fork"])
