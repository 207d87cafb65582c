"""Final trainings: they resume, they pair between methods, and a diverged one scores nothing."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dastune.policy.policy import NO_AUGMENTATION, Choice, Policy, Stages, Step
from dastune.training import loop
from dastune.training.final import FinalResult, FinalTraining
from dastune.training.loop import Task

MakeTask = Callable[..., Task]
Through = Callable[[dict[str, Any]], dict[str, Any]]
ROTATED = Stages(stages=((Choice(weight=1, step=Step(op="rotate", high=30)),),))


def finished(final: FinalTraining) -> FinalResult:
    while not final.done:
        final.step()
    return final.result()


def started(task: Task, policy: Policy, search_seed: int, train_seed: int) -> FinalTraining:
    return FinalTraining(task, policy, 4, search_seed, train_seed)


def test_methods_pair_by_their_seeds(make_task: MakeTask) -> None:
    task = make_task()

    def weights_and_order(policy: Policy, search_seed: int, train_seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        final = started(task, policy, search_seed, train_seed)
        weights = torch.cat([parameter.detach().flatten() for parameter in final.training.network.parameters()])
        while not final.training.done:
            final.step()
        return weights, final.state_dict()["training"]["batches"]["order"]["order"]

    weights, order = weights_and_order(NO_AUGMENTATION, 1, 2)
    for policy, search_seed, train_seed, paired in (
        (ROTATED, 1, 2, True),
        (ROTATED, 1, 3, False),
        (ROTATED, 2, 2, False),
    ):
        other_weights, other_order = weights_and_order(policy, search_seed, train_seed)
        assert torch.equal(weights, other_weights) is paired
        assert torch.equal(order, other_order) is paired


def test_the_result_is_the_test_of_the_trained_network(make_task: MakeTask) -> None:
    task = make_task()
    final = started(task, ROTATED, 0, 0)
    losses = []
    while not final.done:
        losses.append(final.step())
    assert [loss is not None for loss in losses] == [True] * 12 + [False]
    result = final.result()
    images, labels = task.held_out.batch(torch.arange(130))
    network = final.training.network.eval()
    with torch.no_grad():
        hits = int((network(task.normalise(images)).argmax(1) == labels).sum())
    assert result.test_accuracy == hits / 130
    assert result.images == 12 * 20
    assert result.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert result.flops == 2 * (8 * 8 * 9 * 3 * 4 + 4 * 4 * 9 * 4 * 8 + 2 * 2 * 9 * 8 * 16 + 16 * 10)


@pytest.mark.parametrize("steps", [0, 5, 12, 13])
def test_resuming_is_not_noticed(
    steps: int, make_task: MakeTask, through_a_file: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 50)
    task = make_task()
    unbroken, first, second = (started(task, ROTATED, 0, seed) for seed in (0, 0, 1))
    expected = finished(unbroken)
    for _ in range(steps):
        first.step()
    second.load_state_dict(through_a_file(first.state_dict()))
    assert finished(second) == expected


def test_a_diverged_training_scores_nothing(make_task: MakeTask) -> None:
    result = finished(FinalTraining(make_task(learning_rate=1e6), ROTATED, 20, 0, 0))
    assert result.test_accuracy == 0
    assert not math.isfinite(result.test_loss)
