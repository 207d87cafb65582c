"""What every op of the table keeps: shape, range, neutrality, monotony, gradients, no look at other images, no sync."""

from itertools import pairwise

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dastune.ops.table import OPS, Op

ALL = tuple(OPS.values())
RANDOM = {"cutout", *(op.name for op in ALL if op.noise)} - {"heavy_blur"}
SIGNED_ENDS = [(op, sign * op.high) for op in ALL for sign in ((1, -1) if op.signed else (1,))]
WITH_ARGUMENT_GRADIENT = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "color", "contrast", "brightness", "sharpness"),
    *("additive_gaussian", "heavy_blur", "channel_noise", "tiny_crop"),
)


def apply(op: Op, images: torch.Tensor, argument: float | torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Apply `op` with a fresh generator; a float is the argument of every image."""
    if isinstance(argument, float):
        argument = torch.full((len(images),), argument)
    return op.function(images, argument, torch.Generator().manual_seed(seed))


def middle(op: Op) -> float:
    return op.low + 0.6 * (op.high - op.low)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (13, 8)])
@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_shape_type_and_range(op: Op, size: tuple[int, int]) -> None:
    images = torch.rand(5, 3, *size, generator=torch.Generator().manual_seed(1))
    images[0], images[1] = 0, 1
    for argument in (op.low, op.high, -op.high if op.signed else middle(op)):
        changed = apply(op, images, argument)
        assert changed.shape == images.shape
        assert changed.dtype == torch.float32
        assert 0 <= changed.min() <= changed.max() <= 1


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_grey_images_and_empty_batches_are_legal(op: Op, photos: torch.Tensor) -> None:
    assert apply(op, photos[:, :1], middle(op)).shape == (8, 1, 40, 56)
    assert apply(op, photos[:0], middle(op)).shape == (0, 3, 40, 56)


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_input_is_left_alone(op: Op, photos: torch.Tensor) -> None:
    before = photos.clone()
    apply(op, photos, middle(op))
    assert torch.equal(photos, before)


@pytest.mark.parametrize("op", [op for op in ALL if op.neutral_at_low], ids=lambda op: op.name)
def test_neutral_at_low(op: Op, photos: torch.Tensor) -> None:
    images = photos * 0.99  # white is not neutral for solarize, and these are not 8-bit values
    tolerance = 2e-5 if op.geometric else 0
    torch.testing.assert_close(apply(op, images, op.low), images, atol=tolerance, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("op", [op for op in ALL if op.argument and op.name != "tiny_crop"], ids=lambda op: op.name)
def test_distance_from_the_image_grows_with_magnitude(op: Op, sign: int, photos: torch.Tensor) -> None:
    # tiny_crop is left out: a small window and a smaller one are equally far from the image.
    sign = sign if op.signed else 1
    arguments = [sign * (op.low + m * (op.high - op.low)) for m in (0.0, 0.25, 0.5, 0.75, 1.0)]
    distances = [(apply(op, photos, argument) - photos).abs().mean().item() for argument in arguments]
    assert all(a < b for a, b in pairwise(distances)), distances


@pytest.mark.parametrize("op", [op for op in ALL if op.name not in RANDOM], ids=lambda op: op.name)
def test_batch_equals_singles(op: Op, photos: torch.Tensor) -> None:
    arguments = torch.linspace(op.low, op.high, len(photos)) * torch.tensor([1, -1] if op.signed else [1, 1]).repeat(4)
    singles = [apply(op, photos[i : i + 1], arguments[i : i + 1]) for i in range(len(photos))]
    torch.testing.assert_close(apply(op, photos, arguments), torch.cat(singles), atol=1e-6, rtol=0)


@pytest.mark.parametrize("op", [op for op in ALL if op.name in RANDOM], ids=lambda op: op.name)
def test_random_ops_depend_on_the_generator_alone_and_differ_between_images(op: Op, photos: torch.Tensor) -> None:
    same = photos[:1].expand(6, -1, -1, -1)
    first, again, other = (apply(op, same, op.high, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 1


@pytest.mark.parametrize(("op", "argument"), SIGNED_ENDS, ids=lambda x: getattr(x, "name", None))
def test_gradient_reaches_the_image(op: Op, argument: float, photos: torch.Tensor) -> None:
    images = photos.clone().requires_grad_()
    changed = apply(op, images, argument)
    if op.gradient == "none":
        assert not changed.requires_grad
        return
    # A weighted sum: the plain sum of a stretched or blurred image may have a gradient of 0 by symmetry.
    weights = torch.rand(changed.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((changed * weights).sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().mean() > 1e-3


@pytest.mark.parametrize("second", [op for op in ALL if op.gradient != "none"], ids=lambda op: op.name)
@pytest.mark.parametrize("first", ["rotate", "equalize", "posterize", "solarize", "sharpness"])
def test_gradient_passes_a_chain_of_two(first: str, second: Op, photos: torch.Tensor) -> None:
    images = photos[:4].clone().requires_grad_()
    changed = apply(second, apply(OPS[first], images, middle(OPS[first])), second.low)
    (gradient,) = torch.autograd.grad((changed * changed.detach().flip(-1)).sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().mean() > 1e-3


EXACT = [op for op in ALL if op.gradient == "exact"]


@pytest.mark.parametrize("op", EXACT, ids=lambda op: op.name)
def test_exact_gradients_agree_with_differences(op: Op) -> None:
    generator = torch.Generator().manual_seed(3)
    # Away from 0 and 1, so that hardly any pixel is clamped, and none is when its neighbour in the difference is not.
    images = (0.35 + 0.3 * torch.rand(1, 3, 8, 9, generator=generator, dtype=torch.float64)).requires_grad_()
    magnitude = 0.37 if not op.noise else 0.0
    argument = torch.tensor([op.low + magnitude * (op.high - op.low)], dtype=torch.float64)
    argument.requires_grad_(op.name in WITH_ARGUMENT_GRADIENT)
    weights = torch.rand(images.shape, generator=generator, dtype=torch.float64)

    def value(images: torch.Tensor, argument: torch.Tensor) -> torch.Tensor:
        return (apply(op, images, argument) * weights).sum()[None]

    assert torch.autograd.gradcheck(value, (images, argument), eps=1e-6, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("name", WITH_ARGUMENT_GRADIENT)
def test_gradient_reaches_the_argument(name: str, photos: torch.Tensor) -> None:
    argument = torch.full((len(photos),), middle(OPS[name]), requires_grad=True)
    (gradient,) = torch.autograd.grad((apply(OPS[name], photos, argument) * photos).sum(), argument)
    # channel_noise may saturate a whole image, which leaves that image none.
    assert (gradient != 0).sum() >= (5 if name == "channel_noise" else 8)


@pytest.mark.parametrize("op", [op for op in ALL if op.gradient == "straight-through"], ids=lambda op: op.name)
def test_straight_through_is_the_identity(op: Op, photos: torch.Tensor) -> None:
    images = photos.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(apply(op, images, op.high).sum(), images)
    assert torch.equal(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("op", [op for op in ALL if op.geometric], ids=lambda op: op.name)
def test_white_keeps_its_gradient(op: Op) -> None:
    images = torch.ones(4, 3, 15, 15, requires_grad=True)
    (gradient,) = torch.autograd.grad(apply(op, images, middle(op)).sum(), images)
    assert (gradient[..., 6:9, 6:9] > 0.9).all()


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_nothing_waits_for_the_device(op: Op) -> None:
    # Fake CUDA tensors have no values: a read of one raises, and so does a mix of devices.
    with FakeTensorMode():
        images = torch.empty(4, 3, 9, 12, device="cuda", requires_grad=True)
        changed = op.function(images, torch.empty(4, device="cuda"), torch.Generator())
    assert changed.shape == images.shape
    assert changed.device.type == "cuda"


@pytest.mark.parametrize(("images", "arguments"), [((3, 8, 8), (3,)), ((2, 3, 8, 8), (1,)), ((2, 3, 8, 8), (2, 1))])
def test_wrong_shapes_are_refused(images: tuple[int, ...], arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rotate needs images of shape \(B, C, H, W\)"):
        OPS["rotate"].function(torch.zeros(images), torch.zeros(arguments), torch.Generator())
