"""What every op of the table keeps, whatever the images: shape, range, neutrality, monotony, and no look at others."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dastune.ops.table import OPS, Op

ALL = tuple(OPS.values())
SEEDED = {"cutout", *(op.name for op in ALL if op.noise)} - {"heavy_blur"}
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
each_op = pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)

# heavy_blur multiplies matrices and phase_scramble transforms, whose sums a library may order by the batch's size; all
# others are equal to the bit, but a faster sum or blend of theirs may be as free.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Batch:
    """What an op is given, but for the range of its argument."""

    images: torch.Tensor
    magnitudes: torch.Tensor
    seeds: torch.Tensor

    def arguments(self, op: Op) -> torch.Tensor:
        """Return the op's arguments: magnitudes in [-1, 1], whose sign counts where the op is signed."""
        signs = self.magnitudes.sign() if op.signed else 1
        return (op.low + self.magnitudes.abs() * (op.high - op.low)) * signs

    def changed_by(self, op: Op) -> torch.Tensor:
        return op.function(self.images, self.arguments(op), self.seeds)


def of_any_kind(kind: str, shape: tuple[int, ...], draws: torch.Generator) -> torch.Tensor:
    """Return images (B, C, H, W) of one kind: what histograms, thresholds and divisions may stumble on."""
    noise = torch.rand(shape, generator=draws)
    match kind:
        case "8 bits":
            return (noise * 255).round() / 255
        case "flat":
            return noise[..., :1, :1].expand(shape).clone()
        case "black or white":
            return noise.round()
        case "ramp":
            return torch.linspace(0, 1, shape[-1]).expand(shape).clone()
    return noise


@st.composite
def batches(draw: st.DrawFn, smallest: int = 0) -> Batch:
    """Return a batch of `smallest` to 5 images of 8 x 8 to 40 x 40 pixels, of one or three channels."""
    batch, channels = draw(st.integers(smallest, 5)), draw(st.sampled_from((1, 3)))
    height, width = draw(st.integers(8, 40)), draw(st.integers(8, 40))
    draws = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(("8 bits", "noise", "flat", "black or white", "ramp")))
    magnitude = st.one_of(st.sampled_from((0.0, 1.0, -1.0)), st.floats(-1, 1, width=32))
    magnitudes = draw(st.lists(magnitude, min_size=batch, max_size=batch))
    seeds = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=batch, max_size=batch))
    return Batch(
        of_any_kind(kind, (batch, channels, height, width), draws),
        torch.tensor(magnitudes, dtype=torch.float32),
        torch.tensor(seeds, dtype=torch.int64),
    )


@each_op
@EXAMPLES
@given(batch=batches())
def test_shape_type_and_range(op: Op, batch: Batch) -> None:
    changed = batch.changed_by(op)
    assert changed.shape == batch.images.shape
    assert changed.dtype == torch.float32
    assert ((changed >= 0) & (changed <= 1)).all()  # which NaN is not


@each_op
@EXAMPLES
@given(batch=batches())
def test_inputs_are_left_alone(op: Op, batch: Batch) -> None:
    images, arguments, seeds = batch.images.clone(), batch.arguments(op), batch.seeds.clone()
    before = arguments.clone()
    op.function(batch.images, arguments, batch.seeds)
    assert torch.equal(batch.images, images)
    assert torch.equal(arguments, before)
    assert torch.equal(batch.seeds, seeds)


@each_op
@EXAMPLES
@given(batch=batches(smallest=1))
def test_batch_equals_singles(op: Op, batch: Batch) -> None:
    arguments = batch.arguments(op)
    singles = [
        op.function(batch.images[i : i + 1], arguments[i : i + 1], batch.seeds[i : i + 1])
        for i in range(len(batch.images))
    ]
    torch.testing.assert_close(batch.changed_by(op), torch.cat(singles), atol=ROUNDING, rtol=0)


@each_op
@EXAMPLES
@given(batch=batches(smallest=2), data=st.data())
def test_order_of_the_batch_does_not_matter(op: Op, batch: Batch, data: st.DataObject) -> None:
    order = torch.tensor(data.draw(st.permutations(range(len(batch.images)))))
    shuffled = Batch(batch.images[order], batch.magnitudes[order], batch.seeds[order])
    torch.testing.assert_close(shuffled.changed_by(op), batch.changed_by(op)[order], atol=ROUNDING, rtol=0)


@each_op
@EXAMPLES
@given(batch=batches(smallest=1))
def test_strides_of_the_inputs_do_not_matter(op: Op, batch: Batch) -> None:
    expected = batch.changed_by(op)
    double = batch.images.repeat_interleave(2, 0).repeat_interleave(2, 3)
    layouts = {
        "channels last": batch.images.to(memory_format=torch.channels_last),
        "transposed": batch.images.mT.contiguous().mT,
        "every other": double[::2, ..., ::2],
    }
    arguments, seeds = (x.repeat_interleave(3)[1::3] for x in (batch.arguments(op), batch.seeds))
    for name, images in layouts.items():
        before = images.clone()
        changed = op.function(images, arguments, seeds)
        torch.testing.assert_close(changed, expected, atol=ROUNDING, rtol=0, msg=name)
        assert torch.equal(images, before)


@each_op
def test_one_image_and_one_seed_for_a_whole_batch(op: Op, photos: torch.Tensor) -> None:
    # Expanded tensors, which have one place in memory for all: writing to them would change or refuse.
    argument = torch.full((1,), op.low + 0.6 * (op.high - op.low))
    images, arguments, seeds = photos[:1].expand(4, -1, -1, -1), argument.expand(4), torch.tensor([7]).expand(4)
    single = op.function(photos[:1], argument, torch.tensor([7]))
    torch.testing.assert_close(
        op.function(images, arguments, seeds), single.expand(4, -1, -1, -1), atol=ROUNDING, rtol=0
    )


@pytest.mark.parametrize("op", [op for op in ALL if op.neutral_at_low], ids=lambda op: op.name)
@EXAMPLES
@given(batch=batches())
def test_neutral_at_low(op: Op, batch: Batch) -> None:
    images = batch.images * 0.99  # a white pixel is inverted at threshold 1, and these are not 8-bit values
    changed = op.function(images, torch.full((len(images),), op.low), batch.seeds)
    # Places are rounded to about 1e-5 pixel, and neighbouring pixels differ by up to 1.
    torch.testing.assert_close(changed, images, atol=5e-5 if op.geometric else 0, rtol=0)


# Ops whose distance from the image only grows in steps, because bits, pixels or patches are whole.
IN_STEPS = {"posterize", "cutout", "random_mask"}


@pytest.mark.parametrize("sign", [1, -1])
# tiny_crop is left out: a small window and a smaller one are equally far from the image.
@pytest.mark.parametrize("op", [op for op in ALL if op.argument and op.name != "tiny_crop"], ids=lambda op: op.name)
def test_distance_from_photographs_grows_with_magnitude(op: Op, sign: int, photos: torch.Tensor) -> None:
    # Averaged over 64 draws: of one image the distance may fall, where what was moved meets its like again.
    images, seeds = photos.repeat(8, 1, 1, 1), torch.arange(64)
    sign = sign if op.signed else 1

    def distances(steps: int) -> list[float]:
        arguments = [sign * (op.low + step / steps * (op.high - op.low)) for step in range(steps + 1)]
        changed = [op.function(images, torch.full((64,), argument), seeds) for argument in arguments]
        return [(one - images).abs().mean().item() for one in changed]

    assert all(a < b for a, b in pairwise(distances(4)))
    assert all(a <= b if op.name in IN_STEPS else a < b for a, b in pairwise(distances(16)))


@pytest.mark.parametrize("op", [op for op in ALL if not op.argument], ids=lambda op: op.name)
def test_ops_without_an_argument_ignore_it(op: Op, photos: torch.Tensor) -> None:
    seeds = torch.arange(8)
    nothing = torch.full((8,), torch.nan)
    assert torch.equal(op.function(photos, nothing, seeds), op.function(photos, torch.zeros(8), seeds))


@each_op
def test_only_random_ops_depend_on_the_seed_and_on_it_alone(op: Op, photos: torch.Tensor) -> None:
    images = photos[:1].expand(6, -1, -1, -1)
    arguments = torch.full((6,), op.low if op.noise else op.high)  # random_mask at its end leaves few patches
    first, again, others = (op.function(images, arguments, seeds + torch.arange(6)) for seeds in (0, 0, 6))
    assert torch.equal(first, again)
    distinct = {tuple(image.flatten().tolist()) for image in torch.cat([first, others])}
    assert len(distinct) == (12 if op.name in SEEDED else 1)


@pytest.mark.parametrize("seeds", [(2,), (3, 1)])
@pytest.mark.parametrize(("images", "arguments"), [((3, 8, 8), (3,)), ((2, 3, 8, 8), (1,)), ((2, 3, 8, 8), (2, 1))])
def test_wrong_shapes_are_refused(images: tuple[int, ...], arguments: tuple[int, ...], seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rotate needs images of shape \(B, C, H, W\)"):
        OPS["rotate"].function(torch.zeros(images), torch.zeros(arguments), torch.zeros(seeds, dtype=torch.int64))


@pytest.mark.parametrize("seeds", [(1,), (3,), (2, 1)])
def test_wrong_seeds_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"invert needs images of shape \(B, C, H, W\)"):
        OPS["invert"].function(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.zeros(seeds, dtype=torch.int64))
