"""Networks that read clips: their features, their batches, their final trainings and what is kept of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dastune.augment.video import ClipTransform
from dastune.policy.policy import NO_AUGMENTATION, Clip, Edge, Step
from dastune.training import loop
from dastune.training.final import FinalTraining
from dastune.training.loop import AugmentedBatches, Task, clips_of
from dastune.training.metrics import forward_flops
from dastune.training.trained import trained_from_bytes, trained_to_bytes

FRAMES = 4
OPTIONS = {"depth": 10, "width": 1}


def cell(**options: Any) -> Clip:
    steps = [
        Step(op="rotate", low=8.0, high=8.0, signed=False),
        Step(op="translate_x", low=-0.1, high=-0.1, signed=False),
    ]
    first, second = (Edge(source=0, step=step) for step in steps)
    return Clip(frames=FRAMES, nodes=((first, second),), **options)


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    """Digits, crop, flip and cutout; a Wide ResNet with Gate-Shift-Fuse that reads four frames."""
    task = make_task(network="wide_resnet", options=OPTIONS)
    return replace(task, frames=FRAMES, fusion=0.25)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_logits_of_a_clip_are_the_mean_over_its_frames(task: Task) -> None:
    network = task.new_network(0).eval()
    images_BCHW, _ = task.held_out.batch(torch.arange(6))
    clip_BTCHW = ClipTransform(cell(profile="ramp"), seeded())(images_BCHW)
    with torch.no_grad():
        logits_BK = task.logits(network, clip_BTCHW)
        frames_NCHW = torch.cat(list(clip_BTCHW))  # clip by clip
        every_NK = network(task.normalise(frames_NCHW))
        expected_BK = torch.stack([every_NK[FRAMES * i : FRAMES * (i + 1)].mean(0) for i in range(6)])
        torch.testing.assert_close(logits_BK, expected_BK, atol=1e-5, rtol=1e-4)
        alone_BK = torch.cat([task.logits(network, clip_BTCHW[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(logits_BK, alone_BK, atol=1e-5, rtol=1e-4)  # no frame meets another clip's


def test_an_image_is_a_clip_of_copies(task: Task) -> None:
    network = task.new_network(0).eval()
    images_BCHW, _ = task.held_out.batch(torch.arange(6))
    copies_BTCHW = torch.stack([images_BCHW] * FRAMES, 1)
    assert torch.equal(clips_of(images_BCHW, FRAMES), copies_BTCHW)
    with torch.no_grad():
        torch.testing.assert_close(task.logits(network, images_BCHW), task.logits(network, copies_BTCHW))


def test_weights_are_those_of_the_plain_network_and_more(task: Task) -> None:
    plain = dict(replace(task, frames=1).new_network(3).named_parameters())
    video = list(task.new_network(3).named_parameters())
    for name, weight in plain.items():
        assert any(torch.equal(weight, other) for _, other in video if other.shape == weight.shape), name
    assert sum(weight.numel() for _, weight in video) > sum(weight.numel() for weight in plain.values())


def test_batches_are_clips_of_what_is_augmented(task: Task) -> None:
    batches = AugmentedBatches(task, cell(), 5)
    plain = AugmentedBatches(task, NO_AUGMENTATION, 5)
    for wanted in (3, 2, 1):
        clip_BTCHW, labels_B = batches.draw(wanted)
        images_BCHW, plain_labels_B = plain.draw(wanted)  # crop, flip and cutout of the same numbers
        assert torch.equal(labels_B, plain_labels_B)
        torch.testing.assert_close(clip_BTCHW, ClipTransform(cell(), seeded())(images_BCHW), atol=1e-6, rtol=0)
        assert torch.equal(clip_BTCHW[:, FRAMES // 2], images_BCHW)


@pytest.mark.parametrize("order", ["shuffled", "one"])
def test_clips_do_not_depend_on_how_batches_are_grouped(
    order: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images(group_pixels: int) -> torch.Tensor:
        monkeypatch.setattr(loop, "GROUP_PIXELS", group_pixels)
        batches = AugmentedBatches(task, cell(order=order), 5)
        return torch.cat([batches.draw(6 - i)[0] for i in range(6)])

    torch.testing.assert_close(images(1), images(10**9), atol=1e-6, rtol=0)


def finished(final: FinalTraining) -> FinalTraining:
    while not final.done:
        final.step()
    return final


@pytest.mark.parametrize("policy", [cell(), cell(order="shuffled")])
@pytest.mark.parametrize("test", ["cell", "copies"])
def test_a_final_training_tests_what_it_says(policy: Clip, test: Any, task: Task) -> None:
    final = finished(FinalTraining(task, policy, 2, 0, 0, test))
    assert final.evaluation == test
    images_BCHW, labels_B = task.held_out.batch(torch.arange(130))
    network = final.training.network.eval()
    hits = []
    with torch.no_grad():
        for start in range(0, 130, loop.EVALUATION_BATCH // FRAMES):
            batch_BCHW = images_BCHW[start : start + loop.EVALUATION_BATCH // FRAMES]
            tested = final.tested(batch_BCHW)
            if test == "copies":
                assert torch.equal(tested, torch.stack([batch_BCHW] * FRAMES, 1))
            elif policy.order == "time":
                torch.testing.assert_close(tested, ClipTransform(policy, seeded())(batch_BCHW))
            hits.append(task.logits(network, tested).argmax(1))
    result = final.result()
    assert result.test_accuracy == pytest.approx(float((torch.cat(hits) == labels_B).float().mean()), abs=0.008)
    assert result.flops == FRAMES * forward_flops(network, images_BCHW[0], FRAMES) // FRAMES
    assert result.flops > 0.99 * FRAMES * FinalTraining(replace(task, frames=1), policy, 1, 0, 0).result().flops


def test_one_frame_at_a_time_trains_and_tests_the_plain_network(task: Task) -> None:
    final = finished(FinalTraining(replace(task, frames=1), cell(order="one"), 1, 0, 0))
    assert final.evaluation == "image"
    images_BCHW = torch.rand(2, 3, 8, 8)
    assert final.tested(images_BCHW) is images_BCHW


@pytest.mark.parametrize("steps", [0, 4, 6, 8])
def test_resuming_is_not_noticed(
    steps: int, task: Task, through_a_file: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    task = replace(task, network_options={**OPTIONS, "dropout": 0.3})
    policy = cell(order="shuffled")
    expected = finished(FinalTraining(task, policy, 2, 0, 0)).result()
    first, second = (FinalTraining(task, policy, 2, 0, seed) for seed in (0, 1))
    for _ in range(steps):
        first.step()
    second.load_state_dict(through_a_file(first.state_dict()))
    assert finished(second).result() == expected


@pytest.mark.parametrize("clip", [cell(), None])
def test_bytes_hold_a_network_that_reads_clips(clip: Clip | None, task: Task) -> None:
    final = finished(FinalTraining(task, cell(), 1, 0, 0, "copies" if clip is None else "cell"))
    trained = trained_from_bytes(trained_to_bytes(task, final.training.network, clip))
    images_BCHW, _ = task.held_out.batch(torch.arange(20))
    with torch.no_grad():
        expected_BK = task.logits(final.training.network.eval(), final.tested(images_BCHW))
        torch.testing.assert_close(trained(images_BCHW), expected_BK, atol=1e-5, rtol=1e-4)


def test_a_clip_network_can_be_exported(task: Task) -> None:
    trained = trained_from_bytes(trained_to_bytes(task, task.new_network(0), cell()))
    images_BCHW = torch.rand(3, *trained.image_CHW)
    batch = {"images_BCHW": {0: torch.export.Dim("batch", min=1)}}
    exported = torch.export.export(trained, (torch.rand(2, *trained.image_CHW),), dynamic_shapes=batch)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(images_BCHW), trained(images_BCHW), atol=1e-5, rtol=1e-4)
