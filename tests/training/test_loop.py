"""Batches, Training and Evaluation: what they visit, that they resume unnoticed, and accuracy computed directly."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F  # noqa: N812

from dastune.augment.policies import PolicyTransform
from dastune.augment.standard import StandardAugmentation
from dastune.data.images import Images
from dastune.ops.table import OPS
from dastune.policy.policy import NO_AUGMENTATION, Choice, Edge, Genotype, Policy, Stages, Step, SubPolicies, SubPolicy
from dastune.seeds import generator
from dastune.training import loop
from dastune.training.loop import AugmentedBatches, Batches, Evaluation, Task, Training
from dastune.training.precision import Precision

MakeTask = Callable[..., Task]
Through = Callable[[dict[str, Any]], dict[str, Any]]


def any_of(names: Iterable[str], stages: int = 2) -> Policy:
    steps = [
        Step(op=op.name, low=min(op.low, op.high), high=max(op.low, op.high)) for op in (OPS[name] for name in names)
    ]
    return Stages(stages=(tuple(Choice(weight=1, step=step) for step in steps),) * stages)


def every_op() -> Policy:
    return any_of(OPS)


POLICIES = {
    "every op": every_op(),
    "sub-policies": SubPolicies(sub_policies=(SubPolicy(steps=(Step(op="rotate", high=30, probability=0.5),)),)),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "small_cnn": {"channels": 4},
    "wide_resnet": {"depth": 10, "width": 1, "dropout": 0.3},
}


def same(first: Any, second: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


# Batches.


@pytest.mark.parametrize(("images", "batch_size", "per_epoch"), [(12, 4, 3), (13, 4, 3), (3, 8, 1), (1, 1, 1)])
def test_an_epoch_visits_every_image_once_but_for_a_smaller_rest(images: int, batch_size: int, per_epoch: int) -> None:
    batches = Batches(images, batch_size, seed=0)
    assert batches.per_epoch == per_epoch
    epochs = []
    for _ in range(5):
        drawn = torch.cat([batches.draw() for _ in range(per_epoch)]).tolist()
        assert len(drawn) == len(set(drawn)) == min(images, per_epoch * batches.batch_size)
        assert set(drawn) <= set(range(images))
        epochs.append(tuple(drawn))
    assert len(set(epochs)) > 1 or images == 1


def test_the_seed_decides_the_order() -> None:
    first, again, other = (torch.cat([Batches(50, 50, seed).draw()]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("drawn", range(8))
def test_batches_resume_anywhere(drawn: int, through_a_file: Through) -> None:
    first, second = Batches(10, 3, seed=0), Batches(10, 3, seed=1)
    for _ in range(drawn):
        first.draw()
    state = through_a_file(first.state_dict())
    second.load_state_dict(state)
    for _ in range(7):
        assert torch.equal(first.draw(), second.draw())


# Augmented batches.

BATCH_PIXELS = 20 * 8 * 8


class CountedImages(Images):
    """Images that say how many of them were asked for each time."""

    def __init__(self, images: Images) -> None:
        vars(self).update(vars(images))
        self.asked: list[int] = []

    def batch(self, positions_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(len(positions_B))
        return super().batch(positions_B)


def counted(task: Task) -> tuple[Task, list[int]]:
    images = CountedImages(task.train)
    return replace(task, train=images), images.asked


LIBRARIES = {"phase_scramble", "heavy_blur"}  # whose sums are a library's, another one for another number of images
EXACT = {
    "most ops": any_of(sorted(OPS.keys() - LIBRARIES)),
    "sub-policies": POLICIES["sub-policies"],
    "blended": Genotype(nodes=((Edge(source=0, step=Step(op="rotate", high=30)),) * 2,), inputs=1),
    "standard only": NO_AUGMENTATION,
}
STANDARD = {
    "all": StandardAugmentation(crop_px=1, flip=True, cutout_px=2),
    "cutout": StandardAugmentation(cutout_px=3),
    "none": StandardAugmentation(),
}


@pytest.mark.parametrize("policy", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("standard", STANDARD.values(), ids=STANDARD)
def test_batches_are_augmented_as_one_by_one_however_they_are_grouped(
    standard: StandardAugmentation, policy: Policy, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "GROUP_PIXELS", 4 * BATCH_PIXELS)
    task = make_task(standard=standard)
    batches, order = AugmentedBatches(task, policy, seed=4), Batches(60, 20, seed=4)
    before, within, after = (generator(4, "augmentation", stage) for stage in ("before", "policy", "after"))
    transform = PolicyTransform(policy, within)
    for wanted in (9, 8, 7, 6, 3, 2, 1, 1, 9):  # groups of 4, 3, 1, 1, 4
        images, labels = task.train.batch(order.draw())
        images = standard.after_policy(transform(standard.before_policy(images, before)), after)
        drawn, drawn_labels = batches.draw(wanted)
        assert torch.equal(drawn, images)
        assert torch.equal(drawn_labels, labels)


def test_only_the_last_bits_of_libraries_sums_depend_on_groups(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for pixels in (1, 4 * BATCH_PIXELS):
        monkeypatch.setattr(loop, "GROUP_PIXELS", pixels)
        batches = AugmentedBatches(make_task(), any_of(sorted(LIBRARIES), stages=1), seed=4)
        drawn.append(torch.cat([batches.draw(9 - i)[0] for i in range(9)]))
    torch.testing.assert_close(drawn[0], drawn[1], atol=2e-6, rtol=0)


@pytest.mark.parametrize("policy", EXACT.values(), ids=EXACT)
def test_a_training_does_not_depend_on_how_its_batches_are_grouped(
    policy: Policy, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, through_a_file: Through
) -> None:
    monkeypatch.setattr(loop, "GROUP_PIXELS", 1)
    one_by_one = Training(make_task(), policy, 3, seed=0)
    losses = after(one_by_one, 9)
    for pixels in (2 * BATCH_PIXELS, 4 * BATCH_PIXELS, 100 * BATCH_PIXELS):
        monkeypatch.setattr(loop, "GROUP_PIXELS", pixels)
        whole, halved, resumed = (Training(make_task(), policy, 3, seed) for seed in (0, 0, 1))
        assert after(whole, 9) == losses
        found = [float(halved.step(until)) for until in (3, 3, 3, 5, 5, 8)]
        resumed.load_state_dict(through_a_file(halved.state_dict()))  # elsewhere, where no end is near
        assert found + after(resumed, 3) == losses
        for training in (whole, resumed):
            assert same(training.state_dict(), one_by_one.state_dict())


@pytest.mark.parametrize(
    ("pixels", "groups"), [(1, [1] * 9), (3 * BATCH_PIXELS, [3] * 3), (4.9 * BATCH_PIXELS, [4, 4, 1])]
)
def test_batches_are_made_so_many_at_once_and_none_beyond_the_end(
    pixels: float, groups: list[int], make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "GROUP_PIXELS", int(pixels))
    task, asked = counted(make_task())
    training = Training(task, NO_AUGMENTATION, 3, seed=0)
    asked.clear()
    after(training, 9)
    assert training.done
    assert asked == [20 * count for count in groups]


def test_no_batches_are_made_beyond_where_a_training_may_be_left(make_task: MakeTask) -> None:
    task, asked = counted(make_task())
    training = Training(task, every_op(), 3, seed=0)
    asked.clear()
    for until in (2, 7, None):
        while training.steps < (until or 9):
            training.step(until)
    assert asked == [20 * 2, 20 * 5, 20 * 2]


@pytest.mark.parametrize("taken", range(10))
def test_trainings_resume_amid_a_group(
    taken: int, make_task: MakeTask, through_a_file: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "GROUP_PIXELS", 4 * BATCH_PIXELS)
    unbroken, first, second = (Training(make_task(), every_op(), 3, seed) for seed in (0, 0, 1))
    losses = after(unbroken, 9)
    assert after(first, taken) == losses[:taken]
    after(second, 2)  # whoever takes a state may be amid a group of its own
    second.load_state_dict(through_a_file(first.state_dict()))
    assert same(second.state_dict(), first.state_dict())
    assert after(second, 9 - taken) == losses[taken:]
    assert same(second.state_dict(), unbroken.state_dict())


def test_a_group_that_ended_early_resumes_as_it_was(make_task: MakeTask, through_a_file: Through) -> None:
    first, second = (Training(make_task(), every_op(), 3, seed) for seed in (0, 1))
    losses = [float(first.step(until=4)) for _ in range(3)]
    state = through_a_file(first.state_dict())
    losses += after(first, 6)
    second.load_state_dict(state)
    assert after(second, 6) == losses[3:]


# Training.


def after(training: Training, steps: int) -> list[float]:
    return [float(training.step()) for _ in range(steps)]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("precision", get_args(Precision))
def test_resuming_is_not_noticed(
    precision: Precision, network: str, policy: Policy, make_task: MakeTask, through_a_file: Through
) -> None:
    task = make_task(network=network, options=NETWORKS[network], precision=precision)
    unbroken, first, second = (Training(task, policy, 3, seed) for seed in (0, 0, 1))
    losses = after(unbroken, 6)
    start = after(first, 3)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert start + after(second, 3) == losses
    assert same(second.state_dict(), unbroken.state_dict())


def test_a_state_does_not_change_afterwards(make_task: MakeTask) -> None:
    first, second, third = (Training(make_task(), every_op(), 3, seed) for seed in (0, 1, 2))
    after(first, 3)
    state = first.state_dict()
    expected = after(first, 3)
    for other in (second, third):  # neither what gave the state nor what took it may change it
        other.load_state_dict(state)
        assert after(other, 3) == expected


def test_a_step_is_the_recipe_s_update_of_the_mean_cross_entropy(make_task: MakeTask) -> None:
    task = make_task(standard=StandardAugmentation(), gradient_clip=0.5)
    training = Training(task, NO_AUGMENTATION, 2, seed=0)
    network = task.new_network(0)
    optimiser = task.recipe.optimiser(network)
    batches = Batches(60, 20, seed=0)
    for step in range(6):
        for group in optimiser.param_groups:
            group["lr"] = task.recipe.learning_rate_at(step / 6)
        images, labels = task.train.batch(batches.draw())
        loss = F.cross_entropy(task.logits(network, images), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        assert float(training.step()) == float(loss.detach())
    assert training.done
    assert same(training.network.state_dict(), network.state_dict())


def test_training_ends_after_its_epochs_and_learns(make_task: MakeTask) -> None:
    training = Training(make_task(standard=StandardAugmentation()), NO_AUGMENTATION, 30, seed=0)
    losses = []
    while not training.done:
        losses.append(float(training.step()))
    assert len(losses) == training.steps == training.total_steps == 90
    assert training.steps_per_epoch == 3
    assert sum(losses[-3:]) < 0.2 * sum(losses[:3])


def test_networks_leave_torch_s_own_generator_alone(make_task: MakeTask) -> None:
    before = torch.get_rng_state()
    task = make_task(network="wide_resnet", options=NETWORKS["wide_resnet"])
    after(Training(task, every_op(), 1, seed=0), 2)
    assert torch.equal(torch.get_rng_state(), before)


# Evaluation.


def test_accuracy_and_loss_are_those_computed_directly(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, through_a_file: Through
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 50)  # 130 images: two batches and a smaller one
    task = make_task()
    training = Training(task, NO_AUGMENTATION, 20, seed=0)
    after(training, 60)
    network = training.network
    before = {key: value.clone() for key, value in network.state_dict().items()}
    evaluation, resumed = Evaluation(task, network), Evaluation(task, network)
    for steps in range(3):
        assert not evaluation.done
        evaluation.step()
        if steps == 0:
            resumed.load_state_dict(through_a_file(evaluation.state_dict()))
    assert evaluation.done
    assert network.training
    assert same(before, network.state_dict())

    images, labels = task.held_out.batch(torch.arange(130))
    network.eval()
    with torch.no_grad():
        logits = network(task.normalise(images))
    hits = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    assert evaluation.accuracy == hits / 130
    assert 0.2 < evaluation.accuracy < 1
    assert evaluation.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)

    network.train()
    resumed.step()
    resumed.step()
    assert (resumed.accuracy, resumed.loss) == (evaluation.accuracy, evaluation.loss)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_an_evaluation_has_no_graph(precision: Precision, make_task: MakeTask) -> None:
    task = make_task(precision=precision)
    network = task.new_network(0)
    outputs: list[torch.Tensor] = []
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    evaluation = Evaluation(task, network)
    for module in network.modules():
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        evaluation.step()
        assert outputs
        assert not any(output.requires_grad for output in outputs)
        assert not kept
        network(task.normalise(task.held_out.batch(torch.arange(2))[0]))  # the hooks would have noticed
    assert outputs[-1].requires_grad
    assert kept


def test_a_state_of_an_evaluation_does_not_change_afterwards(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 50)
    task = make_task()
    first, second = (Evaluation(task, task.new_network(0)) for _ in range(2))
    first.step()
    state = first.state_dict()
    copy = {key: torch.as_tensor(value).clone() for key, value in state.items()}
    second.load_state_dict(state)
    for evaluation in (first, second):
        evaluation.step()
        assert all(torch.equal(torch.as_tensor(state[key]), copy[key]) for key in copy)
