"""DAS from image to video: what tau hears, what is found, and that a search goes on where it was left."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from dastune.augment.standard import StandardAugmentation
from dastune.augment.video import ClipTransform
from dastune.config.methods import DasVideo
from dastune.ops.spaces import SPACES
from dastune.policy.policy import Clip
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.das import DASSearch
from dastune.search.table import Setting, build_search
from dastune.training.loop import Task

MakeTask = Callable[..., Task]
SPACE = SearchSpace(tuple(SpaceOp(op.op, op.low, op.high, op.signed) for op in SPACES["das-video"].ops))
FRAMES = 4


@pytest.fixture
def task(make_task: MakeTask) -> Task:
    """Digits, and a Wide ResNet with Gate-Shift-Fuse that reads clips of four frames."""
    task = make_task(train=40, validation=40, batch_size=10, network="wide_resnet")
    return replace(task, frames=FRAMES, fusion=0.25)


def searching(task: Task, seed: int = 0, **options: Any) -> DASSearch:
    options = {"topology": "darts-2", "frames": FRAMES, "tuning_epochs": 1, **options}
    chosen = DasVideo.model_validate({"method": "das_video", **options})
    search = build_search(chosen, Setting(task, SPACE, child_epochs=1, seed=seed))
    assert isinstance(search, DASSearch)
    return search


def run(search: DASSearch, steps: int, first: int = 0, last: int | None = None) -> DASSearch:
    for step in range(first, steps if last is None else last):
        search.step(step / steps)
    return search


SAMPLED: Mapping[str, Any] = {"preset": "default", "topology": "chain-2"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"topology": "chain-2"},
        {"topology": {"inputs": 1, "nodes": 2, "cells": 2}},
        {"estimator": "exact"},
        {"estimator": "alignment"},
        {"estimator": "alignment_forward", "validation": "clean"},
        SAMPLED,
        {"preset": "default", "topology": "darts-2", "estimator": "first_order", "validation": "augmented"},
    ],
)
def test_tau_hears_of_every_edge(options: dict[str, Any], task: Task) -> None:
    search = searching(task, **options)
    gradients: list[torch.Tensor] = []
    descend = search._descend
    search._descend = lambda outer, spent: (gradients.append(outer[0].clone()), descend(outer, spent))[1]  # type: ignore[method-assign]
    for _ in range(2):  # the first look-ahead has no direction yet
        search.step(0.0)
    assert (gradients[-1].abs().amax(1) > 0).all()


def test_one_frame_is_an_image_that_tau_cannot_change(make_task: MakeTask) -> None:
    search = searching(make_task(network="wide_resnet", train=20, validation=20), frames=1)
    start_EK = search.cell.tau_EK.detach().clone()
    search.step(0.0)
    assert torch.equal(torch.softmax(search.cell.tau_EK.detach(), 1).argmax(1), start_EK.argmax(1))
    found = search.best()
    assert isinstance(found, Clip)
    images_BCHW = torch.rand(2, 3, 16, 16)
    assert torch.equal(ClipTransform(found, torch.Generator())(images_BCHW)[:, 0], images_BCHW)


@pytest.mark.parametrize("selection", ["perturbation", "perturbation_add", "argmax"])
def test_a_whole_search_ends_in_a_valid_cell(selection: str, task: Task) -> None:
    options: dict[str, Any] = {"selection": selection}
    if selection != "perturbation":
        options = {**SAMPLED, **options}
    search = run(searching(task, profile="ramp", use="shuffled", **options), 80)
    found = search.best()
    assert isinstance(found, Clip)
    assert (found.frames, found.profile, found.order) == (FRAMES, "ramp", "shuffled")
    if selection == "argmax":
        return
    for _ in range(400):  # a budget that never ends
        if search.step(0.999).done:
            break
    assert len(search.cell.decided) == search.cell.topology.rows
    found = search.best()
    assert isinstance(found, Clip)
    assert all(len(edges) == (2 if selection == "perturbation" else 1) for edges in found.nodes)
    for edges, links in zip(found.nodes, search.cell.topology.nodes, strict=True):
        if selection == "perturbation":
            there = {(link.source, SPACE.names[search.cell.decided[link.row]]) for link in links}
            assert {(edge.source, edge.step.op) for edge in edges} <= there


def test_what_becomes_of_the_cell_does_not_change_the_search(task: Task) -> None:
    found = {use: run(searching(task, use=use), 60).best() for use in ("clip", "shuffled", "frame")}
    orders = {use: policy.order for use, policy in found.items() if isinstance(policy, Clip)}
    assert orders == {"clip": "time", "shuffled": "shuffled", "frame": "one"}
    alike = {policy.model_copy(update={"order": "time"}) for policy in found.values()}
    assert len(alike) == 1


@pytest.mark.parametrize("options", [{}, {**SAMPLED, "selection": "perturbation_add"}])
@pytest.mark.parametrize("cut", [37, *(pytest.param(cut, marks=pytest.mark.slow) for cut in (3, 61))])
def test_a_resumed_search_equals_an_unbroken_one(
    cut: int,
    options: dict[str, Any],
    task: Task,
    through_a_file: Callable[[dict[str, Any]], dict[str, Any]],
    differences: Callable[[Any, Any], list[str]],
) -> None:
    task = replace(task, standard=StandardAugmentation(crop_px=1, flip=True, cutout_px=4))
    whole = run(searching(task, **options), 70)
    resumed = searching(task, **options)
    resumed.load_state_dict(through_a_file(run(searching(task, **options), 70, last=cut).state_dict()))
    run(resumed, 70, first=cut)
    assert differences(resumed.state_dict(), whole.state_dict()) == []
    assert resumed.best() == whole.best()


def test_cutout_moves_with_the_frames(task: Task) -> None:
    search = searching(replace(task, standard=StandardAugmentation(cutout_px=6)), topology="chain-1")
    search.cell.decided[0] = SPACE.names.index("translate_x")
    relaxed, _ = search._supernet.training_batch()
    clip_BTCHW, found = relaxed.images_BCHW, search.best()
    assert isinstance(found, Clip)
    image_BCHW = clip_BTCHW[:, FRAMES // 2]
    assert (image_BCHW == 0.5).flatten(1).any(1).all()
    expected_BTCHW = ClipTransform(found, torch.Generator())(image_BCHW)
    torch.testing.assert_close(clip_BTCHW, expected_BTCHW, atol=2e-5, rtol=0)
