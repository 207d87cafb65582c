"""FinalTraining: a found policy trained from scratch and tested, step by step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dastune.augment.video import transform_of
from dastune.policy.policy import Policy
from dastune.seeds import derive, generator
from dastune.training.loop import Evaluation, Task, Training, clips_of
from dastune.training.metrics import forward_flops, parameter_count


@dataclass(frozen=True)
class FinalResult:
    """What a final training ended with.

    `test_accuracy` in [0, 1] (0 if the network diverged); `test_loss` in nats; `flops` of one image forward, of all
    its frames.
    """

    test_accuracy: float
    test_loss: float
    images: int
    parameters: int
    flops: int


class FinalTraining:
    """Trains on `task.train` with `policy`, then tests on `task.held_out`, one batch a step.

    Args:
        search_seed, train_seed: together they seed weights, order and augmentation; the same pair gives every method
            the same weights and order, so that methods pair.
        test: what a network that reads clips is tested on: those that the policy makes of the images ("cell"), or
            copies of the images ("copies").
    """

    def __init__(
        self,
        task: Task,
        policy: Policy,
        epochs: int,
        search_seed: int,
        train_seed: int,
        test: Literal["cell", "copies"] = "cell",
    ) -> None:
        self._task = task
        self._policy = policy
        self.evaluation: Literal["image", "cell", "copies"] = test if task.frames > 1 else "image"
        self.training = Training(task, policy, epochs, derive(search_seed, "final", train_seed))
        self._evaluation = Evaluation(task, self.training.network, self.tested)

    def tested(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return what the network is tested on for images, float32 in [0, 1]: themselves, or clip_BTCHW.

        Differentiable in the images. Where frames are shuffled, it is in the same orders at each call.
        """
        if self.evaluation == "image":
            return images_BCHW
        if self.evaluation == "copies":
            return clips_of(images_BCHW, self._task.frames)
        return transform_of(self._policy, generator(0, "test frames"))(images_BCHW)

    @property
    def done(self) -> bool:
        """Whether the test is complete."""
        return self.training.done and self._evaluation.done

    def step(self) -> torch.Tensor | None:
        """Train or test one batch; return the training loss if it was a training batch."""
        if not self.training.done:
            return self.training.step()
        self._evaluation.step()
        return None

    def result(self) -> FinalResult:
        """Return the result; call it when done."""
        image_CHW = self._task.held_out.batch(torch.zeros(1, dtype=torch.int64))[0][0]
        loss = self._evaluation.loss
        return FinalResult(
            test_accuracy=self._evaluation.accuracy if math.isfinite(loss) else 0.0,
            test_loss=loss,
            images=self.training.steps * self.training.images_per_step,
            parameters=parameter_count(self.training.network),
            flops=forward_flops(self.training.network, image_CHW, self._task.frames),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything."""
        return {"training": self.training.state_dict(), "evaluation": self._evaluation.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self.training.load_state_dict(state["training"])
        self._evaluation.load_state_dict(state["evaluation"])
