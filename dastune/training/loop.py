"""Training and Evaluation of a classifier, one batch a step; Task: what all trainings of a search share."""

from collections import deque
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.augment.video import ClipTransform, transform_of
from dastune.data.images import Images
from dastune.models.gate_shift_fuse import insert_gate_shift_fuse
from dastune.models.network import Classifier, Network
from dastune.models.table import MODELS
from dastune.policy.policy import Clip, Policy
from dastune.seeds import derive, generator
from dastune.training.optim import Recipe, set_learning_rate
from dastune.training.precision import Precision, fastest_layout

EVALUATION_BATCH = 250  # images; without a graph, several times a training batch fits
# Training batches are augmented together up to so many pixels. Small batches take a policy as long as large ones, for
# the calls alone; from here on its time per image hardly falls, and a group takes some 10 ms and 6 MB.
GROUP_PIXELS = 2**19


@dataclass(frozen=True)
class Task:
    """What all trainings of one search share: images, network, recipe, device.

    Attributes:
        train, held_out: what is trained on, and what scores it (validation in a search, test in a final training).
        network, network_options: row of MODELS and its options.
        precision: what networks compute features in; their weights, statistics, logits and losses are float32.
        frames: of the clips that networks read; 1: they read images.
        fusion: share of the channels that Gate-Shift-Fuse modules work on, in (0, 1]; of no meaning for one frame.
    """

    train: Images
    held_out: Images
    classes: int
    network: str
    network_options: Mapping[str, Any]
    recipe: Recipe
    standard: StandardAugmentation
    normalise: Normalise
    device: torch.device
    precision: Precision = "float32"
    frames: int = 1
    fusion: float = 0.0

    def new_network(self, seed: int) -> Network:
        """Return a network whose weights are a function of `seed`, on the device, in training mode."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(seed, "weights"))
            network = MODELS[self.network].build(self.classes, **self.network_options)
            if self.frames > 1:
                insert_gate_shift_fuse(network, self.frames, self.fusion)
        return network.to(self.device).to(memory_format=self.memory_format).train()

    @property
    def memory_format(self) -> torch.memory_format:
        """How images and convolutions' weights lie in memory: pixel by pixel where that is faster."""
        return fastest_layout(self.precision, self.device)

    def features(self, network: Classifier, images: torch.Tensor) -> torch.Tensor:
        """Return features_BF, float32, of images in [0, 1]: normalised in float32, then in the task's precision.

        Differentiable in images and weights, as often as wanted, also inside torch.func.functional_call. Features of a
        clip are the mean over its frames, so that its logits are: the consensus of TSN (arXiv 1608.00859).

        Args:
            images: images_BCHW, which a network that reads clips sees as so many copies; or clip_BTCHW.
        """
        frames = clips_of(images, self.frames)
        features_NF = self._features(network, frames.flatten(0, 1))
        return features_NF if frames.shape[1] == 1 else features_NF.view(*frames.shape[:2], -1).mean(1)

    def _features(self, network: Classifier, images_BCHW: torch.Tensor) -> torch.Tensor:
        normalised_BCHW = self.normalise(images_BCHW).contiguous(memory_format=self.memory_format)
        if self.precision == "float32":
            return network.features(normalised_BCHW)
        # Weights are used once in a pass: kept casts of them would only take memory.
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            return network.features(normalised_BCHW).float()

    def logits(self, network: Classifier, images: torch.Tensor) -> torch.Tensor:
        """Return logits_BK: `network.head` of `features`, in float32."""
        return network.head(self.features(network, images))


def clips_of(images: torch.Tensor, frames: int) -> torch.Tensor:
    """Return clip_BTCHW: `images` themselves if they are clips, else so many copies of each, in no memory of theirs."""
    if images.ndim == 5:
        return images
    return images[:, None].expand(-1, frames, -1, -1, -1)


class Batches:
    """Positions of training batches, epoch after epoch, each epoch in a new seeded order.

    A last batch that would be smaller is left out, unless there are fewer images than one batch holds.
    """

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.images = images
        self.batch_size = min(batch_size, images)
        self.per_epoch = images // self.batch_size
        self._generator = generator(seed, "order")
        self._order = torch.empty(0, dtype=torch.int64)
        self._next = 0

    def draw(self) -> torch.Tensor:
        """Return the positions of the next batch, int64 on the CPU."""
        if self._next + self.batch_size > len(self._order):
            self._order = torch.randperm(self.images, generator=self._generator)
            self._next = 0
        positions = self._order[self._next : self._next + self.batch_size]
        self._next += self.batch_size
        return positions

    def ahead(self, count: int = 1) -> torch.Tensor:
        """Return the positions of the next `count` batches, or of those left of the epoch; they stay to be drawn."""
        left = (len(self._order) - self._next) // self.batch_size
        return self._order[self._next : self._next + min(count, left) * self.batch_size]

    def state_dict(self) -> dict[str, Any]:
        """Return order, position in it, and generator."""
        return {"order": self._order, "next": self._next, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._order, self._next = state["order"], state["next"]
        self._generator.set_state(state["generator"])


class AugmentedBatches:
    """The batches of one training, augmented: several at a time, handed out one by one.

    Crop and flip, the policy and cutout each have a generator, and each image in turn takes its own numbers from it. So
    what is drawn for a training is the same, bit for bit, however its batches are grouped, and on a CPU so are its
    images, but for the last bits of phase_scramble and heavy_blur, which leave their sums to libraries.

    Args:
        task: images, batch size, standard augmentation.
        policy: applied between crop-and-flip and cutout; a Clip after both (supplement of the DAS paper, C).
        seed: of order and augmentation.
    """

    def __init__(self, task: Task, policy: Policy, seed: int) -> None:
        self._task = task
        self._order = Batches(len(task.train), task.recipe.batch_size, seed)
        self._generators = {stage: generator(seed, "augmentation", stage) for stage in ("before", "policy", "after")}
        self._policy = transform_of(policy, self._generators["policy"])
        self.batch_size, self.per_epoch = self._order.batch_size, self._order.per_epoch
        image_1CHW, _ = task.train.batch(torch.zeros(1, dtype=torch.int64))
        frames = policy.frames if isinstance(policy, Clip) else 1
        self._most = max(1, GROUP_PIXELS // (self.batch_size * image_1CHW[0, 0].numel() * frames))
        self._group: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self._start: dict[str, Any] = {}
        self._size = 0  # of the group when it was made

    def draw(self, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next batch: augmented images_BCHW or clip_BTCHW, float32 in [0, 1], and labels_B.

        Args:
            wanted: how many batches, at least 1, will be drawn from here on: no more are augmented. It saves work, and
                changes no image.
        """
        if not self._group:
            self._augment(min(wanted, self._most))
        return self._group.popleft()

    def _augment(self, count: int) -> None:
        """Make the next `count` batches."""
        self._start, self._size = self._position(), count
        task = self._task
        images_NCHW, labels_N = task.train.batch(torch.cat([self._order.draw() for _ in range(count)]))
        task.train.expect(self._order.ahead(self._most))
        images_NCHW = task.standard.before_policy(images_NCHW, self._generators["before"])
        if isinstance(self._policy, ClipTransform):
            images = self._policy(task.standard.after_policy(images_NCHW, self._generators["after"]))
        else:
            images = task.standard.after_policy(self._policy(images_NCHW), self._generators["after"])
        self._group.extend(zip(images.chunk(count), labels_N.chunk(count), strict=True))

    def _position(self) -> dict[str, Any]:
        generators = {stage: random.get_state() for stage, random in self._generators.items()}
        return {"order": self._order.state_dict(), "generators": generators}

    def state_dict(self) -> dict[str, Any]:
        """Return where the group begins, its size and how many of it are left; no images: they can be made again."""
        if not self._group:
            return {**self._position(), "size": 0, "left": 0}
        return {**self._start, "size": self._size, "left": len(self._group)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._order.load_state_dict(state["order"])
        for stage, random in self._generators.items():
            random.set_state(state["generators"][stage])
        self._group.clear()
        if state["left"]:
            self._augment(state["size"])
        while len(self._group) > state["left"]:
            self._group.popleft()


class Training:
    """One network trained with one policy for a fixed number of epochs.

    Args:
        task: images, network, recipe.
        policy: applied between crop-and-flip and cutout.
        epochs: passes over the training images.
        seed: of weights, order and augmentation.
    """

    def __init__(self, task: Task, policy: Policy, epochs: int, seed: int) -> None:
        self._task = task
        self.network = task.new_network(seed)
        self._optimiser = task.recipe.optimiser(self.network)
        self._batches = AugmentedBatches(task, policy, seed)
        self.steps = 0
        self.total_steps = epochs * self._batches.per_epoch
        self.images_per_step = self._batches.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return self._batches.per_epoch

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return self.steps >= self.total_steps

    def step(self, until: int | None = None) -> torch.Tensor:
        """Do one optimiser step; return the loss, detached, still on the device.

        Args:
            until: where the training may be left or end, in steps from its beginning, if before `total_steps`: no
                batches are made ready beyond. It saves work, and changes no image.
        """
        task = self._task
        set_learning_rate(self._optimiser, task.recipe.learning_rate_at(self.steps / self.total_steps))
        end = self.total_steps if until is None else until
        images_BCHW, labels_B = self._batches.draw(max(1, end - self.steps))
        loss = F.cross_entropy(task.logits(self.network, images_BCHW), labels_B)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        task.recipe.step(self._optimiser, self.network)
        self.steps += 1
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser, order and generators; a copy, which later steps leave alone."""
        return {
            "network": deepcopy(self.network.state_dict()),
            "optimiser": deepcopy(self._optimiser.state_dict()),
            "batches": self._batches.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(deepcopy(state["optimiser"]))  # SGD would keep and change the caller's tensors
        self._batches.load_state_dict(state["batches"])
        self.steps = state["steps"]


class Evaluation:
    """Accuracy and loss of a network on the task's held-out images, clean, one batch a step.

    Args:
        view: makes of images_BCHW what the network is to see in their place, such as clips.
    """

    def __init__(
        self, task: Task, network: Network, view: Callable[[torch.Tensor], torch.Tensor] = lambda images: images
    ) -> None:
        self._task = task
        self._network = network
        self._view = view
        self._batch = max(1, EVALUATION_BATCH // task.frames)
        self._next = 0
        self._correct = torch.zeros((), dtype=torch.int64, device=task.device)
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=task.device)

    @property
    def done(self) -> bool:
        """Whether all held-out images have been seen."""
        return self._next >= len(self._task.held_out)

    @torch.no_grad()
    def step(self) -> None:
        """Evaluate the next batch, with running batch-norm statistics."""
        stop = min(self._next + self._batch, len(self._task.held_out))
        held_out = self._task.held_out
        images_BCHW, labels_B = held_out.batch(torch.arange(self._next, stop))
        held_out.expect(torch.arange(stop, min(stop + self._batch, len(held_out))))
        self._network.eval()
        logits_BK = self._task.logits(self._network, self._view(images_BCHW))
        self._network.train()
        # Not in place: a state_dict may hold the old counts.
        self._correct = self._correct + (logits_BK.argmax(1) == labels_B).sum()
        self._loss_sum = self._loss_sum + F.cross_entropy(logits_BK, labels_B, reduction="sum")
        self._next = stop

    @property
    def accuracy(self) -> float:
        """Share of the images seen so far that are classified right."""
        return int(self._correct) / max(self._next, 1)

    @property
    def loss(self) -> float:
        """Mean cross entropy over the images seen so far, in nats; NaN or infinite if the network diverged."""
        return float(self._loss_sum) / max(self._next, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return counts and position."""
        return {"next": self._next, "correct": self._correct, "loss_sum": self._loss_sum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._next = state["next"]
        self._correct, self._loss_sum = (state[key].to(self._task.device) for key in ("correct", "loss_sum"))
