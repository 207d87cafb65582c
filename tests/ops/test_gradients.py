"""How gradients pass each op: exact ones against differences, straight-through ones against what docstrings state."""

import math
from collections.abc import Callable

import pytest
import torch

from dastune.ops import geometric
from dastune.ops.image_op import clamped
from dastune.ops.spaces import SPACES, Geometry
from dastune.ops.table import NOISE_LISTS, OPS, Op

ALL = tuple(OPS.values())
SIGNED_ENDS = [(op, sign * op.high) for op in ALL for sign in ((1, -1) if op.signed else (1,))]
BLACK_BOXES = ("gaussian_replace", "constant")  # nothing of the image is left: its gradient is 0
SEEDS = torch.arange(8)


def filled(op: Op, images: torch.Tensor, argument: float) -> torch.Tensor:
    """Apply `op` with one argument for all images."""
    batch = len(images)
    return op.function(images, torch.full((batch,), argument, dtype=images.dtype), torch.arange(batch))


def middle(op: Op) -> float:
    return op.low + 0.6 * (op.high - op.low)


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, Op) else None


@pytest.mark.parametrize("op", ALL, ids=name_of)
def test_images_give_the_result_a_gradient_function(op: Op, photos: torch.Tensor) -> None:
    images = photos.clone().requires_grad_() * 1  # identity returns its input, which here has come from somewhere
    assert filled(op, images, middle(op)).grad_fn is not None


@pytest.mark.parametrize(("op", "argument"), SIGNED_ENDS, ids=name_of)
def test_gradient_reaches_the_image(op: Op, argument: float, photos: torch.Tensor) -> None:
    images = photos.clone().requires_grad_()
    changed = filled(op, images, argument)
    # A weighted sum: the plain sum of a stretched or blurred image may have a gradient of 0 by symmetry.
    weights = torch.rand(changed.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((changed * weights).sum(), images)
    assert gradient.isfinite().all()
    if op.name in BLACK_BOXES:
        assert not gradient.any()
    else:
        assert gradient.abs().mean() > 1e-3


@pytest.mark.parametrize("second", [op for op in ALL if op.name not in BLACK_BOXES], ids=name_of)
@pytest.mark.parametrize("first", ["rotate", "equalize", "posterize", "solarize", "solarize_add", "sharpness"])
def test_gradient_passes_a_chain_of_two(first: str, second: Op, photos: torch.Tensor) -> None:
    images = photos[:4].clone().requires_grad_()
    changed = filled(second, filled(OPS[first], images, middle(OPS[first])), second.low)
    (gradient,) = torch.autograd.grad((changed * changed.detach().flip(-1)).sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().mean() > 1e-3


@pytest.mark.parametrize("magnitude", [0.13, -0.81])
@pytest.mark.parametrize("op", [op for op in ALL if "exact" in (op.gradient, op.argument_gradient)], ids=name_of)
def test_exact_gradients_are_those_of_differences(op: Op, magnitude: float) -> None:
    draws = torch.Generator().manual_seed(3)
    # Away from 0 and 1, so that hardly any pixel is clamped, and from solarize_add's threshold.
    images = 0.35 + 0.3 * torch.rand(1, 3, 8, 9, generator=draws, dtype=torch.float64)
    images += 0.01 * (images - 0.5).sign()
    weights = torch.rand(images.shape, generator=draws, dtype=torch.float64)
    argument = op.low + (magnitude if op.signed else abs(magnitude)) * (op.high - op.low)
    arguments = torch.full((1,), argument, dtype=torch.float64)
    images.requires_grad_(op.gradient == "exact")
    arguments.requires_grad_(op.argument_gradient == "exact")

    def value(images: torch.Tensor, arguments: torch.Tensor) -> torch.Tensor:
        return (op.function(images, arguments, SEEDS[3:4]) * weights).sum()

    assert torch.autograd.gradcheck(value, (images, arguments), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_an_exact_cut_has_the_gradient_of_pixels_inside_the_ends_included() -> None:
    values = [-3.0, -1e-8, 0.0, 1e-8, 0.3, 1 - 1e-7, 1.0, 1 + 1e-6, 7.0]
    images = torch.tensor(values).view(1, 1, 1, 9).requires_grad_()
    cut = clamped(images, "exact")
    assert torch.equal(cut, images.detach().clamp(0, 1))
    (gradient,) = torch.autograd.grad(cut, images, torch.full_like(cut, 3.0))
    assert gradient.flatten().tolist() == [3.0 if 0 <= value <= 1 else 0.0 for value in values]


def test_all_but_whole_numbers_and_places_are_differentiable() -> None:
    assert {op.name for op in ALL if op.gradient == "straight-through"} == {"equalize", "posterize"}
    through = {op.name for op in ALL if op.argument_gradient == "straight-through"}
    assert through == {"solarize", "posterize", "cutout", "salt_and_pepper", "random_mask"}
    assert {op.name for op in ALL if op.argument_gradient == "none"} == {op.name for op in ALL if not op.argument}


@pytest.mark.parametrize("op", [op for op in ALL if op.argument], ids=name_of)
def test_gradient_reaches_the_argument(op: Op, photos: torch.Tensor) -> None:
    argument = torch.full((len(photos),), middle(op), requires_grad=True)
    changed = op.function(photos, argument, SEEDS)
    (gradient,) = torch.autograd.grad((changed * photos).sum(), argument)
    assert gradient.isfinite().all()
    # channel_noise may saturate a whole image, which leaves that image none.
    assert (gradient != 0).sum() >= (5 if op.name == "channel_noise" else 8)


@pytest.mark.parametrize("op", [op for op in ALL if op.argument], ids=name_of)
def test_asking_for_an_arguments_gradient_changes_no_value(op: Op, photos: torch.Tensor) -> None:
    argument = torch.full((len(photos),), middle(op))
    changed = op.function(photos, argument.clone().requires_grad_(), SEEDS)
    assert torch.equal(changed.detach(), op.function(photos, argument, SEEDS))


@pytest.mark.parametrize("op", [op for op in ALL if op.argument], ids=name_of)
def test_asking_for_an_arguments_gradient_changes_no_images(op: Op, photos: torch.Tensor) -> None:
    gradients = []
    for wanted in (False, True):
        images = photos.clone().requires_grad_()
        argument = torch.full((8,), middle(op), requires_grad=wanted)
        gradients += torch.autograd.grad((op.function(images, argument, SEEDS) * photos.flip(-1)).sum(), images)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("op", [op for op in ALL if op.gradient == "straight-through"], ids=name_of)
def test_straight_through_is_the_identity(op: Op, photos: torch.Tensor) -> None:
    images = photos.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(filled(op, images, op.high).sum(), images)
    assert torch.equal(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("op", [op for op in ALL if op.geometric], ids=name_of)
def test_white_keeps_its_gradient(op: Op) -> None:
    images = torch.ones(4, 3, 15, 15, requires_grad=True)
    (gradient,) = torch.autograd.grad(filled(op, images, middle(op)).sum(), images)
    assert (gradient[..., 6:9, 6:9] > 0.9).all()


def derivative(op: Op, images: torch.Tensor, argument: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Return d result / d argument (B, C, H, W) as autograd has it, pixel by pixel."""
    pixels = images[0].numel()
    argument = argument.clone().requires_grad_()
    changed = op.function(images, argument, seeds).flatten(1)
    rows = [torch.autograd.grad(changed[:, i].sum(), argument, retain_graph=True)[0] for i in range(pixels)]
    return torch.stack(rows, 1).view_as(images)


def test_posterize_argument_what_is_cut_off_halves_with_each_bit(photos: torch.Tensor) -> None:
    images = photos[..., :8, :9]
    for bits in (4.0, 5.4, 7.0, 8.0):
        cut_off = images - filled(OPS["posterize"], images, bits)
        gradient = derivative(OPS["posterize"], images, torch.full((8,), bits), SEEDS)
        torch.testing.assert_close(gradient, math.log(2) * cut_off, atol=1e-6, rtol=0)
        assert (gradient != 0).any() == (bits < 8)


def test_solarize_argument_is_a_threshold_with_logistic_noise(photos: torch.Tensor) -> None:
    images = photos[..., :8, :9].double()
    for threshold in (0.0, 0.3, 0.77, 1.0):
        at = torch.full((8,), threshold, dtype=torch.float64, requires_grad=True)
        # P(threshold + noise / 20 <= x) of a pixel x being inverted, noise being logistic.
        inverted = torch.sigmoid((images - at[:, None, None, None]) * 20)
        mean = images + inverted * (1 - 2 * images)
        expected = torch.autograd.grad(mean.sum((1, 2, 3)).sum(), at)[0]
        gradient = derivative(OPS["solarize"], images, at.detach(), SEEDS)
        torch.testing.assert_close(gradient.sum((1, 2, 3)), expected)
        density = 20 * torch.sigmoid((images - threshold) * 20) * torch.sigmoid((threshold - images) * 20)
        torch.testing.assert_close(gradient, density * (2 * images - 1))


# The mean over draws, in closed form, as a function of the argument. Cutout's leaves the border aside.
MEANS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "cutout": lambda image, side: image + side**2 * (8 / 12) * (0.5 - image),
    "salt_and_pepper": lambda image, share: (1 - share) * image + share / 2,
    "random_mask": lambda image, share: (1 - share) * image,
}


@pytest.mark.parametrize("name", MEANS)
def test_mean_over_draws_has_its_closed_form(name: str) -> None:
    # 40,000 draws: a share's standard deviation is at most 0.0025.
    image = torch.rand(1, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    draws = torch.arange(40_000)
    for argument in (0.25, 0.4, 0.6):
        changed = OPS[name].function(image.expand(40_000, -1, -1, -1), torch.full((40_000,), argument), draws)
        mean, expected = changed.mean(0), MEANS[name](image, argument)[0]
        # Pixels that a square of 0.6 x 8 never loses to the border; the other two know no border.
        inside = (..., slice(3, -3), slice(3, -3))
        torch.testing.assert_close(mean[inside], expected[inside], atol=0.01, rtol=0)


@pytest.mark.parametrize("name", MEANS)
def test_argument_has_the_gradient_of_the_mean_over_draws(name: str) -> None:
    images = torch.rand(4, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    for argument in (0.2, 0.6, 0.95):
        # No argument enters in more than its square, so that this difference is exact.
        below, above = (MEANS[name](images.double(), argument + step) for step in (-0.01, 0.01))
        gradient = derivative(OPS[name], images, torch.full((4,), argument), SEEDS[:4])
        torch.testing.assert_close(gradient, ((above - below) / 0.02).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("op", [op for op in ALL if op.geometric], ids=name_of)
def test_nearest_sampling_has_the_arguments_gradient_of_bilinear(op: Op, photos: torch.Tensor) -> None:
    gradients = []
    for interpolation in ("bilinear", "nearest"):
        argument = torch.full((8,), middle(op), requires_grad=True)
        moved = geometric.move(op.name, photos, argument, Geometry(interpolation=interpolation))
        gradients += torch.autograd.grad((moved * photos.flip(-1)).sum(), argument)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_whole_pixels_keep_the_gradient_of_the_fraction(name: str) -> None:
    fraction = torch.tensor([0.11, -0.29], requires_grad=True)
    matrices = geometric.matrix(name, fraction, (20, 31), Geometry(whole_pixels=True))
    (gradient,) = torch.autograd.grad(matrices.sum(), fraction)
    assert gradient.tolist() == [-2, -2]  # the image is 2 wide in a matrix's coordinates


# Mixed ops: softmax-weighted sums of all ops, one after the other, as in the blended cell.


def mixed(images: torch.Tensor, tau: torch.Tensor, names: tuple[str, ...], magnitude: float) -> torch.Tensor:
    """Return sum_k softmax(tau)_k op_k(images)."""
    weights = torch.softmax(tau, 0)
    changed = [
        filled(OPS[name], images, OPS[name].low + magnitude * (OPS[name].high - OPS[name].low)) for name in names
    ]
    return sum((weight * one for weight, one in zip(weights, changed, strict=True)), torch.zeros_like(images))


CELL = (*(op.op for op in SPACES["das-image-contrast"].ops), *NOISE_LISTS["default"])


@pytest.mark.parametrize("magnitude", [0.0, 0.4, 1.0])
def test_every_tau_of_two_mixed_edges_has_a_gradient(magnitude: float, photos: torch.Tensor) -> None:
    taus = [torch.zeros(len(CELL), requires_grad=True) for _ in range(2)]
    weights = torch.rand(photos.shape, generator=torch.Generator().manual_seed(0))
    images = photos
    for tau in taus:
        images = mixed(images, tau, CELL, magnitude)
    for gradient in torch.autograd.grad((images * weights).sum(), taus):
        assert gradient.isfinite().all()
        assert gradient.all()


@pytest.mark.parametrize("second", CELL)
def test_any_op_after_a_mixed_edge_leaves_its_tau_a_gradient(second: str, photos: torch.Tensor) -> None:
    tau = torch.zeros(len(CELL), requires_grad=True)
    weights = torch.rand(photos.shape, generator=torch.Generator().manual_seed(0))
    changed = filled(OPS[second], mixed(photos, tau, CELL, 0.4), middle(OPS[second]))
    (gradient,) = torch.autograd.grad((changed * weights).sum(), tau)
    assert gradient.isfinite().all()
    assert gradient.all() == (second not in BLACK_BOXES)


@pytest.mark.parametrize("first", CELL)
def test_any_two_ops_in_a_row_pass_gradients(first: str, photos: torch.Tensor) -> None:
    weights = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    for second in CELL:
        # Each edge holds one op beside the identity, so that nothing else can carry its gradient; uneven, because an
        # image and its negative in equal parts are grey whatever the image.
        taus = [torch.tensor([0.5, -0.5], requires_grad=True) for _ in range(2)]
        images = photos[:2]
        for tau, name in zip(taus, (first, second), strict=True):
            images = mixed(images, tau, ("identity", name), 0.6)
        for gradient, name in zip(torch.autograd.grad((images * weights).sum(), taus), (first, second), strict=True):
            assert gradient.isfinite().all()
            if name != "identity":  # there is nothing to choose between the identity and itself
                assert gradient.all(), (first, second)
