"""The loss curve of a final training against plain means."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dastune.training.curve import MOST_POINTS, LossCurve

Through = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(("epochs", "per_epoch"), [(1, 1), (5, 3), (200, 2), (201, 2), (1999, 1)])
def test_points_are_means_over_whole_epochs_and_bounded(epochs: int, per_epoch: int) -> None:
    losses = np.random.default_rng(0).random(epochs * per_epoch, dtype=np.float32)
    curve = LossCurve(epochs, per_epoch)
    told = [curve.add(torch.tensor(loss), step) for step, loss in enumerate(losses, 1)]
    points = [point for point in told if point is not None]
    assert len(points) <= MOST_POINTS
    together = math.ceil(epochs / MOST_POINTS)  # epochs in a point
    ends = [*range(together, epochs, together), epochs]
    assert [epoch for epoch, _ in points] == ends
    means = [losses[(end - together) * per_epoch : end * per_epoch] for end in ends[:-1]]
    means.append(losses[(ends[-2] if len(ends) > 1 else 0) * per_epoch :])
    assert [mean for _, mean in points] == pytest.approx([part.astype(float).mean() for part in means], rel=1e-12)


def test_a_curve_goes_on_where_it_was_left(through_a_file: Through) -> None:
    draw = random.Random(0)
    losses = [torch.tensor(draw.random()) for _ in range(400 * 3)]
    whole, broken = LossCurve(400, 3), LossCurve(400, 3)
    for step, loss in enumerate(losses, 1):
        if draw.random() < 0.3:
            state = through_a_file(broken.state_dict())
            broken.add(loss, step)  # what comes after is lost with its process
            broken = LossCurve(400, 3)
            broken.load_state_dict(state)
        assert broken.add(loss, step) == whole.add(loss, step)


def test_a_loss_that_is_no_number_is_a_point_that_is_none() -> None:
    curve = LossCurve(2, 2)
    assert curve.add(torch.tensor(math.nan), 1) is None
    point = curve.add(torch.tensor(1.0), 2)
    assert point is not None
    assert math.isnan(point[1])
    curve.add(torch.tensor(1.0), 3)
    assert curve.add(torch.tensor(2.0), 4) == (2, 1.5)
