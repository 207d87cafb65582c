"""Policies as transforms, against a reference that takes one image at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from dastune.augment import steps
from dastune.augment.policies import PolicyTransform
from dastune.augment.steps import SKIP, StepTable
from dastune.ops import geometric
from dastune.ops.spaces import DASTUNE, TORCHVISION, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import (
    NO_AUGMENTATION,
    Choice,
    Edge,
    Genotype,
    Policy,
    Stages,
    Step,
    SubPolicies,
    SubPolicy,
)

RANDOM = {"cutout", *(op.name for op in OPS.values() if op.noise)} - {"heavy_blur"}
DETERMINISTIC = [name for name in OPS if name not in RANDOM]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def over_range(name: str, probability: float = 1.0) -> Step:
    low, high = sorted((OPS[name].low, OPS[name].high))
    return Step(op=name, low=low, high=high, probability=probability)


def weighted(names: list[str], probability: float = 1.0) -> tuple[Choice, ...]:
    return tuple(Choice(weight=1 + i % 3, step=over_range(name, probability)) for i, name in enumerate(names))


STAGES = Stages(stages=(weighted(DETERMINISTIC), weighted(DETERMINISTIC[:6], 0.7)))
RAND_AUGMENT = Stages(
    stages=(tuple(Choice(weight=1, step=Step(op=n, low=OPS[n].high, high=OPS[n].high)) for n in DETERMINISTIC),) * 3
)
SUB_POLICIES = SubPolicies(
    sub_policies=(
        SubPolicy(steps=(over_range("rotate", 0.8), over_range("color", 0.5)), weight=2),
        SubPolicy(steps=(over_range("solarize"),)),
        SubPolicy(steps=()),
        SubPolicy(steps=tuple(over_range(name, 0.9) for name in ("shear_x", "posterize", "translate_y"))),
    )
)
GENOTYPE = Genotype(
    inputs=2,
    nodes=(
        (Edge(source=0, step=over_range("rotate")), Edge(source=1, step=over_range("invert"))),
        (Edge(source=0, step=over_range("color", 0.5)), Edge(source=2, step=over_range("shear_y"))),
        (Edge(source=3, step=over_range("sharpness")),),
    ),
)
KINDS: dict[str, Policy] = {
    "stages": STAGES,
    "rand_augment": RAND_AUGMENT,
    "sub_policies": SUB_POLICIES,
    "genotype": GENOTYPE,
    "adding_genotype": GENOTYPE.model_copy(update={"node": "sum"}),
    "none": NO_AUGMENTATION,
    "empty_sub_policy": SubPolicies(sub_policies=(SubPolicy(steps=()),)),
}
every_kind = pytest.mark.parametrize("policy", KINDS.values(), ids=KINDS)


def one_by_one(images: torch.Tensor, steps: list[Step | None], draws: torch.Tensor) -> torch.Tensor:
    """Send each image through its own step, by itself; its four numbers mean magnitude, sign, coin and seed."""
    results = []
    for image, step, (magnitude, sign, coin, seed) in zip(images, steps, draws, strict=True):
        if step is None or coin >= step.probability:
            results.append(image)
            continue
        argument = step.low + magnitude * (step.high - step.low)
        if OPS[step.op].signed and sign < 0.5:
            argument = -argument
        results.append(OPS[step.op].function(image[None], argument.float()[None], (seed * 2**53).long()[None])[0])
    return torch.stack(results)


def reference(policy: Policy, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply a policy image by image, each with a row of numbers of its own."""

    def numbers(per_image: int) -> torch.Tensor:
        return torch.stack([torch.rand(per_image, generator=generator, dtype=torch.float64) for _ in images])

    def drawn(weights: list[float], draws: torch.Tensor) -> list[int]:
        # Choice k is drawn where the number falls between the shares of those before it and its own.
        ends = [sum(weights[: k + 1]) / sum(weights) for k in range(len(weights))]
        return [next(k for k, end in enumerate(ends) if draw < end) for draw in draws.tolist()]

    match policy:
        case Stages():
            draws = numbers(5 * len(policy.stages))
            for index, stage in enumerate(policy.stages):
                chosen = drawn([choice.weight for choice in stage], draws[:, 5 * index])
                part = draws[:, 5 * index + 1 : 5 * index + 5]
                images = one_by_one(images, [stage[i].step for i in chosen], part)
            return images
        case SubPolicies():
            longest = max(len(sub.steps) for sub in policy.sub_policies)
            draws = numbers(1 + 4 * longest)
            subs = [policy.sub_policies[i].steps for i in drawn([s.weight for s in policy.sub_policies], draws[:, 0])]
            for position in range(longest):
                steps = [sub[position] if position < len(sub) else None for sub in subs]
                images = one_by_one(images, steps, draws[:, 1 + 4 * position : 5 + 4 * position])
            return images
        case Genotype():
            draws = numbers(4 * sum(len(edges) for edges in policy.nodes))
            parts = iter(draws.split(4, 1))
            states = [images] * policy.inputs
            for edges in policy.nodes:
                edge_images = [one_by_one(states[e.source], [e.step] * len(images), next(parts)) for e in edges]
                total = sum(edge_images, torch.zeros_like(images))
                states.append(total.clamp(0, 1) if policy.node == "sum" else total / len(edges))
            return states[-1]


@every_kind
def test_a_batch_is_as_its_images_one_by_one(policy: Policy, images: torch.Tensor) -> None:
    many = images.repeat(10, 1, 1, 1)
    augmented = PolicyTransform(policy, seeded())(many)
    torch.testing.assert_close(augmented, reference(policy, many, seeded()), atol=2e-6, rtol=0)


@every_kind
def test_the_generator_decides_and_the_input_stays(policy: Policy, images: torch.Tensor) -> None:
    before = images.clone()
    first, again = (PolicyTransform(policy, seeded(3))(images) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(images, before)
    assert not first.requires_grad
    if first is not images:
        first.zero_()
        assert torch.equal(images, before)


@every_kind
def test_empty_batches_and_single_images_are_legal(policy: Policy, images: torch.Tensor) -> None:
    assert PolicyTransform(policy, seeded())(images[:0]).shape == (0, 3, 16, 20)
    assert PolicyTransform(policy, seeded())(images[:1]).shape == (1, 3, 16, 20)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_random_ops_differ_between_images_and_repeat(name: str, images: torch.Tensor) -> None:
    same = images[:1].expand(6, -1, -1, -1)
    policy = Stages(stages=((Choice(weight=1, step=over_range(name)),),))
    first, again = (PolicyTransform(policy, seeded(3))(same) for _ in range(2))
    assert torch.equal(first, again)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 1


# What is drawn how often. A grey image tells which op it went through.

GREYS = {"identity": 0.25, "invert": 0.75, "half": 0.125}
HALF = Step(op="brightness", low=0.5, high=0.5)


def greys(policy: Policy, count: int = 6000) -> torch.Tensor:
    augmented: torch.Tensor = PolicyTransform(policy, seeded())(torch.full((count, 3, 2, 2), 0.25))[:, 0, 0, 0]
    return augmented


def counts(values: torch.Tensor, *expected: float) -> list[int]:
    found = [int(((values - value).abs() < 1e-6).sum()) for value in expected]
    assert sum(found) == len(values)
    return found


def test_ops_of_a_stage_are_drawn_in_proportion_to_their_weights_and_signs_evenly() -> None:
    choices = (("identity", 1.0), ("invert", 3.0), ("brightness", 4.0))
    steps = {"brightness": HALF}
    stage = tuple(Choice(weight=w, step=steps[name] if name in steps else Step(op=name)) for name, w in choices)
    found = counts(greys(Stages(stages=(stage,))), 0.25, 0.75, 0.125, 0.375)
    assert chisquare(found, [750, 2250, 1500, 1500]).pvalue > 0.001


def test_sub_policies_are_drawn_in_proportion_to_their_weights() -> None:
    steps = ((Step(op="invert"),), (Step(op="identity"),), (Step(op="invert"), Step(op="solarize", low=0.9, high=0.9)))
    subs = tuple(SubPolicy(steps=s, weight=w) for s, w in zip(steps, (3, 1, 0), strict=True))
    found = counts(greys(SubPolicies(sub_policies=subs)), 0.75, 0.25)
    assert chisquare(found, [4500, 1500]).pvalue > 0.001


def test_steps_of_a_sub_policy_come_in_order_each_with_its_own_coin() -> None:
    # 0.25 becomes 0.75 or not; the second turns 0.75 back and leaves 0.25: in the other order 0.12 would become 0.30.
    there = Step(op="invert", probability=0.3)
    back = Step(op="solarize", low=0.5, high=0.5, probability=0.6)
    found = counts(greys(SubPolicies(sub_policies=(SubPolicy(steps=(there, back)),))), 0.75, 0.25)
    assert chisquare(found, [6000 * 0.3 * 0.4, 6000 * (1 - 0.3 * 0.4)]).pvalue > 0.001


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_a_step_is_applied_with_its_probability(probability: float) -> None:
    step = Step(op="invert", probability=probability)
    found = counts(greys(Stages(stages=((Choice(weight=1, step=step),),))), 0.75, 0.25)
    assert abs(found[0] - 6000 * probability) <= 4 * (6000 * probability * (1 - probability)) ** 0.5


def test_magnitudes_are_uniform_over_the_range_and_fixed_where_it_is_a_point() -> None:
    ranged = greys(Stages(stages=((Choice(weight=1, step=Step(op="brightness", low=0.2, high=0.6)),),)))
    changes = (ranged / 0.25 - 1).abs()
    assert changes.min() >= 0.2 - 1e-6
    assert changes.max() <= 0.6 + 1e-6
    assert chisquare(torch.histc(changes, 8, 0.2, 0.6)).pvalue > 0.001
    fixed = greys(Stages(stages=((Choice(weight=1, step=HALF),),)))
    assert chisquare(counts(fixed, 0.125, 0.375)).pvalue > 0.001


def test_skip_leaves_an_image_as_it_is(images: torch.Tensor) -> None:
    table = StepTable([over_range("invert"), over_range("rotate")], DASTUNE)
    which = torch.tensor([SKIP, 0, 1] * 4)
    augmented = table.apply(images, which[None], seeded())
    assert torch.equal(augmented[::3], images[::3])
    assert torch.equal(augmented[1::3], 1 - images[1::3])
    assert not torch.equal(augmented[2::3], images[2::3])
    assert torch.equal(table.apply(images, torch.full((1, 12), SKIP), seeded()), images)


def test_one_op_with_two_ranges_is_two_steps(images: torch.Tensor) -> None:
    table = StepTable([Step(op="solarize", low=0.2, high=0.2), Step(op="solarize", low=0.7, high=0.7)], DASTUNE)
    augmented = table.apply(images, torch.tensor([[0, 1] * 6]), seeded())
    for threshold, part in ((0.2, slice(0, None, 2)), (0.7, slice(1, None, 2))):
        expected = torch.where(images[part] >= threshold, 1 - images[part], images[part])
        assert torch.equal(augmented[part], expected)


@every_kind
def test_nothing_waits_for_the_device(policy: Policy, pretend_cuda: torch.device) -> None:
    augmented = PolicyTransform(policy, seeded())(torch.empty(40, 3, 8, 9, device=pretend_cuda))
    assert augmented.shape == (40, 3, 8, 9)
    assert augmented.device.type == "cuda"


def test_noise_ops_do_not_wait_for_the_device_either(pretend_cuda: torch.device) -> None:
    policy = Stages(stages=(weighted(sorted(RANDOM)),))
    assert PolicyTransform(policy, seeded())(torch.empty(60, 3, 8, 8, device=pretend_cuda)).device.type == "cuda"


# How geometric ops sample.

MOVES = tuple(over_range(name) for name in ("rotate", "translate_x", "shear_y"))
CHAINS = SubPolicies(
    sub_policies=(
        SubPolicy(steps=MOVES),
        SubPolicy(steps=(MOVES[0], Step(op="identity"), MOVES[1], over_range("color"), MOVES[2])),
        SubPolicy(steps=(over_range("invert"), MOVES[2], Step(op="rotate", high=30, probability=0.5))),
        SubPolicy(steps=(over_range("solarize"),)),
    )
)
TORCHVISION_ONCE = TORCHVISION.model_copy(update={"sampling": "once", "fill": (0.25, 0.5, 0.75)})
GEOMETRIES = {
    "once": Geometry(sampling="once"),
    "torchvision": TORCHVISION,
    "torchvision, once": TORCHVISION_ONCE,
    "filled": Geometry(fill=(0.5,)),
}


def sampled_by_hand(images: torch.Tensor, steps: list[Step | None], draws: torch.Tensor, geometry: Geometry) -> Any:
    """Send one image through its steps as PolicyTransform does, written out for one image with one pending map."""
    pending = torch.eye(3)[None]

    def sampled() -> torch.Tensor:
        if torch.equal(pending, torch.eye(3)[None]):
            return images
        return geometric.warp(images, pending, geometry.interpolation, geometry.fill)

    for step, (magnitude, sign, coin, _) in zip(steps, draws.view(-1, 4), strict=True):
        if step is None or step.op == "identity" or coin >= step.probability:
            continue
        argument = step.low + magnitude * (step.high - step.low)
        argument = (-argument if step.signed and sign < 0.5 else argument).float()[None]
        if OPS[step.op].geometric:
            pending = pending @ geometric.matrix(step.op, argument, images.shape[-2:], geometry)
            if geometry.sampling == "once":
                continue
        images, pending = sampled(), torch.eye(3)[None]
        if not OPS[step.op].geometric:
            images = OPS[step.op].function(images, argument, torch.zeros(1, dtype=torch.int64))
    return sampled()


@pytest.mark.parametrize("large", [0, steps.LARGE_VALUES], ids=["one by one", "by op"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_each_geometry_samples_as_written_out(
    geometry: Geometry, large: int, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LARGE_VALUES", large)
    monkeypatch.setattr(steps, "CHUNK_VALUES", 3000)  # three images at once
    many = images.repeat(4, 1, 1, 1)
    augmented = PolicyTransform(CHAINS.model_copy(update={"geometry": geometry}), seeded())(many)
    draws = torch.rand(len(many), 21, generator=seeded(), dtype=torch.float64)
    for image, result, row in zip(many, augmented, draws, strict=True):
        chosen = CHAINS.sub_policies[int(row[0] * 4)].steps
        expected = sampled_by_hand(image[None], [*chosen, *[None] * (5 - len(chosen))], row[1:], geometry)
        torch.testing.assert_close(result, expected[0], atol=2e-6, rtol=0)


def test_once_is_sharper_and_keeps_what_comes_back(images: torch.Tensor) -> None:
    there, back = (Step(op="translate_x", low=a, high=a, signed=False) for a in (0.3, -0.3))
    chain = SubPolicies(sub_policies=(SubPolicy(steps=(there, back)),))
    once = PolicyTransform(chain.model_copy(update={"geometry": Geometry(sampling="once")}), seeded())(images)
    torch.testing.assert_close(once, images, atol=1e-5, rtol=0)
    each = PolicyTransform(chain, seeded())(images)
    assert (each[..., -5:] == 0).all()


@every_kind
@pytest.mark.parametrize("large", [0, steps.LARGE_VALUES], ids=["one by one", "by op"])
def test_two_batches_are_one_batch_of_both(
    policy: Policy, large: int, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LARGE_VALUES", large)
    monkeypatch.setattr(steps, "CHUNK_VALUES", 3000)  # three images at once
    together = PolicyTransform(policy, seeded())(images)
    transform = PolicyTransform(policy, seeded())
    apart = torch.cat([transform(part) for part in images.split([1, 0, 4, 7])])
    torch.testing.assert_close(apart, together, atol=1e-6, rtol=0)


def test_noise_does_not_depend_on_the_rest_of_the_batch(images: torch.Tensor) -> None:
    policy = Stages(stages=(weighted(sorted(RANDOM)),) * 2)
    together = PolicyTransform(policy, seeded())(images)
    transform = PolicyTransform(policy, seeded())
    apart = torch.cat([transform(image[None]) for image in images])
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=0)


def test_the_fast_path_of_large_images_means_the_same_pixels(images: torch.Tensor) -> None:
    policy = Stages(stages=(weighted(list(OPS)),) * 2)
    large = images.repeat(1, 1, 10, 10)
    assert large[0].numel() > steps.LARGE_VALUES
    alone = PolicyTransform(policy, seeded())(large)
    table = PolicyTransform(policy, seeded())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "LARGE_VALUES", large.numel())
        torch.testing.assert_close(table(large), alone, atol=1e-5, rtol=0)


# Masks.


@pytest.mark.parametrize("large", [0, steps.LARGE_VALUES], ids=["one by one", "by op"])
@pytest.mark.parametrize("geometry", [Geometry(), Geometry(sampling="once"), TORCHVISION], ids=["own", "once", "tv"])
def test_masks_move_with_their_images(geometry: Geometry, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # An image that shows its own mask: where it is sampled at the nearest pixel, both stay one picture.
    monkeypatch.setattr(steps, "LARGE_VALUES", large)
    monkeypatch.setattr(steps, "CHUNK_VALUES", 3000)  # three images at once
    masks = torch.randint(1, 5, (30, 16, 20), generator=seeded(2))
    pictures = (masks / 8)[:, None].expand(-1, 3, -1, -1).contiguous()
    policy = CHAINS.model_copy(update={"geometry": geometry.model_copy(update={"interpolation": "nearest"})})
    policy = policy.model_copy(update={"sub_policies": (SubPolicy(steps=MOVES), SubPolicy(steps=MOVES[:1]))})
    moved, moved_masks = PolicyTransform(policy, seeded())(pictures, masks, ignore_index=0)
    assert moved_masks.dtype == masks.dtype
    torch.testing.assert_close(moved[:, 0] * 8, moved_masks.float())
    assert (moved_masks == 0).any()
    assert not torch.equal(moved_masks, masks)


def test_colour_and_noise_leave_masks_and_images_come_out_as_without(images: torch.Tensor) -> None:
    masks = torch.arange(12 * 16 * 20).view(12, 16, 20) % 7
    policy = Stages(stages=(weighted([name for name in OPS if not OPS[name].geometric]),) * 2)
    augmented, kept = PolicyTransform(policy, seeded())(images, masks)
    assert torch.equal(kept, masks)
    assert torch.equal(augmented, PolicyTransform(policy, seeded())(images))


@pytest.mark.parametrize("side", [40, 200])
def test_where_a_large_image_is_shifted_does_not_depend_on_its_batch(side: int) -> None:
    # On 8-bit images a step at a grey level makes a visible difference of any difference in rounding.
    photos = (torch.rand(4, 3, side, side, generator=seeded()) * 255).round() / 255
    steps = (over_range("translate_x"), Step(op="solarize", low=200 / 255, high=200 / 255))
    for geometry in (Geometry(), Geometry(whole_pixels=True), TORCHVISION):
        policy = SubPolicies(sub_policies=(SubPolicy(steps=steps),), geometry=geometry)
        transform = PolicyTransform(policy, seeded(1))
        apart = torch.cat([transform(photo[None]) for photo in photos])
        assert torch.equal(apart, PolicyTransform(policy, seeded(1))(photos))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_masks_of_every_integer_type_keep_their_classes(dtype: torch.dtype, images: torch.Tensor) -> None:
    masks = (torch.arange(12 * 16 * 20).view(12, 16, 20) % 100).to(dtype)
    moved = PolicyTransform(SubPolicies(sub_policies=(SubPolicy(steps=MOVES),)), seeded())(images, masks, 101)[1]
    assert moved.dtype == dtype
    assert set(moved.unique().tolist()) <= {*range(100), 101}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: (images * 255).byte(), "float32 in .0, 1. .8-bit images divided by 255.; got"),
        (lambda images: images[0], "images must be"),
        (lambda images: images.repeat(1, 2, 1, 1), "1 or 3 channels"),
        (lambda images: images[:, :1], "fill has 3 values, and the images have 1 channels"),
    ],
)
def test_images_that_a_policy_cannot_mean_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], message: str, images: torch.Tensor
) -> None:
    policy = CHAINS.model_copy(update={"geometry": Geometry(fill=(0.1, 0.2, 0.3))})
    with pytest.raises(ValueError, match=message):
        PolicyTransform(policy, seeded())(change(images))


def test_masks_that_do_not_fit_are_refused(images: torch.Tensor) -> None:
    for masks, index, message in (
        (torch.zeros(12, 16, 20).to(torch.int8), 255, "ignore_index 255 does not fit"),
        (torch.zeros(12, 16, 20).byte(), -100, "ignore_index -100 does not fit"),
        (torch.zeros(12, 16, 20), 255, "integer type"),
        (torch.zeros(12, 16, 20).bool(), 0, "integer type"),
    ):
        with pytest.raises(ValueError, match=message):
            PolicyTransform(STAGES, seeded())(images, masks, index)
    with pytest.raises(ValueError, match=r"masks must be \(B, H, W\)"):
        PolicyTransform(STAGES, seeded())(images, torch.zeros(12, 1, 16, 20))
    with pytest.raises(ValueError, match=r'node="sample"'):
        PolicyTransform(GENOTYPE, seeded())(images, torch.zeros(12, 16, 20).long())


def test_a_cell_that_samples_is_its_paths(images: torch.Tensor) -> None:
    sampled = GENOTYPE.model_copy(update={"node": "sample"})
    assert torch.equal(PolicyTransform(sampled, seeded())(images), PolicyTransform(GENOTYPE.paths(), seeded())(images))
    masks = torch.zeros(12, 16, 20).long()
    assert PolicyTransform(sampled, seeded())(images, masks)[1].shape == masks.shape


def test_a_deep_cell_that_blends_needs_no_list_of_its_paths(images: torch.Tensor) -> None:
    edges = [tuple(Edge(source=i, step=Step(op=op)) for op in ("invert", "identity")) for i in range(40)]
    blended = PolicyTransform(Genotype(nodes=tuple(edges)), seeded())(images)
    torch.testing.assert_close(blended, torch.full_like(images, 0.5))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_masks_and_geometries_do_not_wait_for_the_device(geometry: Geometry, pretend_cuda: torch.device) -> None:
    policy = CHAINS.model_copy(update={"geometry": geometry})
    images, masks = torch.empty(40, 3, 8, 9, device=pretend_cuda), torch.empty(40, 8, 9, device=pretend_cuda).long()
    moved, moved_masks = PolicyTransform(policy, seeded())(images, masks)
    assert moved.device.type == moved_masks.device.type == "cuda"
    assert moved_masks.dtype == torch.int64


def test_steps_that_a_search_draws_are_composed_as_a_policy_composes_them(images: torch.Tensor) -> None:
    there, back = (Step(op="translate_x", low=a, high=a, signed=False) for a in (0.3, -0.3))
    which = torch.tensor([[0] * 12, [1] * 12])
    once = StepTable([there, back], Geometry(sampling="once")).apply(images, which, seeded())
    torch.testing.assert_close(once, images, atol=1e-5, rtol=0)
    each = StepTable([there, back], DASTUNE).apply(images, which, seeded())
    assert (each[..., -5:] == 0).all()
