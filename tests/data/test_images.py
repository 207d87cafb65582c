"""Batches of parts that do not lie in memory, or do not fit a GPU: the same images, gathered ahead or not."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dastune.augment.shift import shifted
from dastune.augment.standard import Normalise, StandardAugmentation
from dastune.config.methods import Das
from dastune.data import images as module
from dastune.data.dataset import Dataset
from dastune.data.images import Images
from dastune.data.pixel_file import PixelArray, PixelFile
from dastune.errors import UserError
from dastune.ops.table import OPS
from dastune.orchestration.pictures import sample_images
from dastune.policy.policy import Policy, Step, SubPolicies, SubPolicy
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.table import Setting, build_search
from dastune.training.loop import AugmentedBatches, Batches, Evaluation, Task, Training
from dastune.training.optim import Recipe

CPU, META = torch.device("cpu"), torch.device("meta")
LABELS = np.arange(200) % 5
Write = Callable[[PixelArray], PixelFile]


@pytest.fixture
def pixels(random_pixels: Callable[[int, int], PixelArray]) -> PixelArray:
    return random_pixels(200, 8)


class Slow(PixelFile):
    """A pixel file that tells in which thread it is read, and waits until it may."""

    def __init__(self, file: PixelFile) -> None:
        vars(self).update(vars(file))
        vars(self).update(readers=[], may_read=threading.Event())

    def read(self, *args: Any) -> None:
        self.readers.append(threading.current_thread())  # type: ignore[attr-defined]
        if threading.current_thread() is not threading.main_thread():
            self.may_read.wait()  # type: ignore[attr-defined]
        super().read(*args)


def same(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_a_file_is_as_good_as_its_array(pixels: PixelArray, pixel_file: Write) -> None:
    indices = np.random.default_rng(1).permutation(200)[:90]
    here, there = (Images(each, LABELS, indices, CPU) for each in (pixels, pixel_file(pixels)))
    for positions in (torch.tensor([3, 80, 3]), torch.arange(10, 60), torch.empty(0, dtype=torch.int64)):
        assert same(there.batch(positions), here.batch(positions))
    assert len(there) == 90


def test_what_is_expected_is_read_meanwhile_and_once(pixels: PixelArray, pixel_file: Write) -> None:
    file = Slow(pixel_file(pixels))
    images = Images(file, LABELS, np.arange(200), CPU)
    wanted = torch.tensor([9, 150, 4])
    images.expect(wanted)  # returns, though nothing can be read
    file.may_read.set()  # type: ignore[attr-defined]
    batch = images.batch(wanted.clone())
    assert same(batch, Images(pixels, LABELS, np.arange(200), CPU).batch(wanted))
    [reader] = file.readers  # type: ignore[attr-defined]
    assert reader is not threading.main_thread()
    images.batch(wanted)  # expected no more
    assert file.readers[1] is threading.main_thread()  # type: ignore[attr-defined]


def test_another_batch_does_not_wait_for_the_expected_one(pixels: PixelArray, pixel_file: Write) -> None:
    file = Slow(pixel_file(pixels))
    images, expected = Images(file, LABELS, np.arange(200), CPU), Images(pixels, LABELS, np.arange(200), CPU)
    images.expect(torch.tensor([1, 2]))
    for other in (torch.tensor([2, 1]), torch.tensor([1])):
        assert same(images.batch(other), expected.batch(other))
    file.may_read.set()  # type: ignore[attr-defined]


def test_nothing_is_expected_of_images_in_memory(pixels: PixelArray) -> None:
    before = threading.active_count()
    images = Images(pixels, LABELS, np.arange(200), CPU)
    images.expect(torch.arange(50))
    assert threading.active_count() == before


def test_an_unreadable_file_is_told_where_the_batch_is_asked_for(pixels: PixelArray, pixel_file: Write) -> None:
    file = pixel_file(pixels)
    images = Images(file, LABELS, np.arange(200), CPU)
    Path(file.path).write_bytes(b"")
    images.expect(torch.arange(5))
    with pytest.raises(UserError, match="cannot be read on"):
        images.batch(torch.arange(5))


@pytest.mark.parametrize("kind", ["array", "file"])
@pytest.mark.parametrize("limit", [0, 90 * 192 - 1, 90 * 192])
def test_a_part_that_is_larger_than_its_share_of_a_gpu_stays_where_it_is(
    kind: str, limit: int, pixels: PixelArray, pixel_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that computes nothing: what is copied there, and how large it is."""
    monkeypatch.setattr(module, "RESIDENT_BYTES", limit)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)
    copied = []
    real = torch.Tensor.to

    def to(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if args[0] == META and self.dtype == torch.uint8:
            copied.append(self.clone())
        return real(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    indices = np.arange(5, 95)
    images = Images(pixels if kind == "array" else pixel_file(pixels), LABELS, indices, META)
    positions = torch.tensor([7, 3])
    for ahead in (False, True):
        if ahead:
            images.expect(positions)
        images_BCHW, labels_B = images.batch(positions)
        assert (images_BCHW.shape, images_BCHW.dtype, images_BCHW.device) == ((2, 3, 8, 8), torch.float32, META)
        assert (labels_B.shape, labels_B.device) == ((2,), META)
    if limit == 90 * 192:
        assert not copied  # it is there
    else:
        assert len(copied) == 2
        assert all(np.array_equal(each.numpy(), pixels[[12, 8]]) for each in copied)


# Who says what to expect.


def test_ahead_is_what_will_be_drawn() -> None:
    batches = Batches(70, 20, seed=3)
    assert len(batches.ahead()) == 0  # before the first epoch's order is known
    for place in range(9):
        drawn_of_epoch = place % 3
        batches.draw()
        ahead, state = batches.ahead(5), batches.state_dict()["next"]
        assert len(ahead) == 20 * (2 - drawn_of_epoch)
        twin = Batches(70, 20, seed=4)
        twin.load_state_dict(batches.state_dict())
        assert torch.equal(ahead, torch.cat([twin.draw() for _ in range(2 - drawn_of_epoch)] or [ahead]))
        assert batches.state_dict()["next"] == state
        assert torch.equal(batches.ahead(), ahead[:20])


class Seen(Images):
    """Images that say which batches were expected, and which asked for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.expected: list[list[int]] = []
        self.asked: list[list[int]] = []

    def expect(self, positions_B: torch.Tensor) -> None:
        self.expected.append(positions_B.tolist())
        super().expect(positions_B)

    def batch(self, positions_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(positions_B.tolist())
        return super().batch(positions_B)


def task_of(pixels: PixelArray | PixelFile) -> Task:
    indices = np.arange(200)
    return Task(
        train=Seen(pixels, LABELS, indices[:110], CPU),
        held_out=Seen(pixels, LABELS, indices[110:], CPU),
        classes=5,
        network="small_cnn",
        network_options={"channels": 4},
        recipe=Recipe(20, 0.05, 0.9, 1e-4, "cosine"),
        standard=StandardAugmentation(crop_px=1, flip=True, cutout_px=2),
        normalise=Normalise((0.5,) * 3, (0.2,) * 3, CPU),
        device=CPU,
    )


@pytest.fixture
def policy() -> Policy:
    steps = tuple(Step(op=name, low=OPS[name].low, high=OPS[name].high) for name in ("rotate", "brightness"))
    return SubPolicies(sub_policies=(SubPolicy(steps=steps),))


@pytest.mark.parametrize("group_pixels", [1, 2 * 20 * 64, 2**19])
def test_a_training_expects_its_batches_and_is_the_same_for_it(
    group_pixels: int, policy: Policy, pixels: PixelArray, pixel_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 steps of 5 batches an epoch, in groups of 1, 2 and as many as there are, resumed at each step."""
    monkeypatch.setattr("dastune.training.loop.GROUP_PIXELS", group_pixels)
    file = pixel_file(pixels)
    here, there = task_of(pixels), task_of(file)
    plain, read = Training(here, policy, 3, seed=1), Training(there, policy, 3, seed=1)
    for step in range(12):
        assert torch.equal(plain.step(), read.step())
        resumed = Training(task_of(file), policy, 3, seed=9)
        resumed.load_state_dict(read.state_dict())
        if step == 7:
            read = resumed
    assert all(torch.equal(*pair) for pair in zip(plain.network.parameters(), read.network.parameters(), strict=True))


def test_the_batches_of_an_epoch_but_its_first_are_expected(policy: Policy, pixels: PixelArray) -> None:
    task = task_of(pixels)
    batches = AugmentedBatches(task, policy, seed=1)
    batches._most = 1
    images = task.train
    assert isinstance(images, Seen)
    images.asked.clear()
    for _ in range(15):
        batches.draw(99)
    assert images.expected == [asked if place % 5 else [] for place, asked in enumerate([*images.asked[1:], []], 1)]


def test_an_evaluation_expects_what_comes_next(pixels: PixelArray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dastune.training.loop.EVALUATION_BATCH", 40)
    task = task_of(pixels)
    evaluation = Evaluation(task, task.new_network(0))
    while not evaluation.done:
        evaluation.step()
    images = task.held_out
    assert isinstance(images, Seen)
    assert images.asked == [list(range(40)), list(range(40, 80)), list(range(80, 90))]
    assert images.expected == [*images.asked[1:], []]


def test_a_search_expects_its_batches_and_is_the_same_for_it(pixels: PixelArray, pixel_file: Write) -> None:
    """Training, validation and selection: what is asked for was expected, but for the first batches of epochs."""
    tasks = [task_of(pixels), task_of(pixel_file(pixels))]
    space = SearchSpace(tuple(SpaceOp(name, OPS[name].low, OPS[name].high, True) for name in ("rotate", "translate_x")))
    options = Das.model_validate({"method": "das", "preset": "paper", "topology": "chain-1", "tuning_epochs": 1})
    here, there = (build_search(options, Setting(task, space, child_epochs=1, seed=0)) for task in tasks)
    for search in (here, there):
        for step in range(8):
            search.step(step / 20)
        while not search.step(0.95).done:
            pass
    assert here.best() == there.best()
    for part in (tasks[0].train, tasks[0].held_out):
        assert isinstance(part, Seen)
        asked = {tuple(batch) for batch in part.asked}
        expected = {tuple(batch) for batch in part.expected if batch}
        assert expected
        assert len(asked - expected) <= 1 + len(asked) // 4


# What else looks at pixels.


def test_a_planted_shift_of_a_file(pixels: PixelArray, pixel_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [Step(op="rotate", low=0, high=40, signed=True, probability=0.7)]
    indices = np.array([5, 3, 199, 60])
    expected = shifted(pixels, indices, steps, "test")
    assert np.array_equal(shifted(pixel_file(pixels), indices, steps, "test"), expected)
    monkeypatch.setattr("dastune.augment.shift._BLOCK_PIXELS", 1)
    assert np.array_equal(shifted(pixel_file(pixels), indices, steps, "test"), expected)


def test_pictures_of_a_file(pixels: PixelArray, pixel_file: Write) -> None:
    samples = [
        sample_images(Dataset("x", each, LABELS, each, LABELS, 5, "here"), count=7)
        for each in (pixels, pixel_file(pixels))
    ]
    assert torch.equal(*samples)
