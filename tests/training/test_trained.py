"""A trained network as bytes gives what the network gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dastune.policy.policy import NO_AUGMENTATION
from dastune.training.final import FinalTraining
from dastune.training.loop import Task
from dastune.training.trained import trained_from_bytes, trained_to_bytes


@pytest.mark.parametrize(
    ("network", "options"),
    [("small_cnn", {"channels": 4}), ("wide_resnet", {"depth": 10, "width": 1, "dropout": 0.3})],
)
def test_bytes_hold_the_network(network: str, options: dict[str, Any], make_task: Callable[..., Task]) -> None:
    task = make_task(network=network, options=options)
    final = FinalTraining(task, NO_AUGMENTATION, 2, 0, 0)
    while not final.done:
        final.step()
    trained = trained_from_bytes(trained_to_bytes(task, final.training.network))
    images_BCHW, labels_B = task.held_out.batch(torch.arange(len(task.held_out)))
    with torch.no_grad():
        logits_BK = trained(images_BCHW)
        # Images may lie in memory in another way, in which convolutions round in another order.
        torch.testing.assert_close(logits_BK, task.logits(final.training.network.eval(), images_BCHW))
    assert float((logits_BK.argmax(1) == labels_B).float().mean()) == pytest.approx(final.result().test_accuracy)
    assert trained.image_CHW == images_BCHW.shape[1:]


def test_bytes_of_another_version_are_refused(make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    content = trained_to_bytes(task, task.new_network(0))
    monkeypatch.setattr("dastune.training.trained._FORMAT", 3)
    with pytest.raises(ValueError, match="another version"):
        trained_from_bytes(content)
