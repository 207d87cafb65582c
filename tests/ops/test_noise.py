"""Noise ops: they destroy over their whole range, and what they leave is what their docstrings say."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from dastune.ops import noise
from dastune.ops.draws import uniform
from dastune.ops.table import OPS

NAMES = [op.name for op in OPS.values() if op.noise]
NO_ARGUMENT = torch.zeros(8)
SEEDS = torch.arange(8)


def random_images(batch: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the mean over images of the correlation of their pixels' channel means; 0 for a constant image."""
    a, b = (x.mean(1).flatten(1) - x.mean((1, 2, 3))[:, None] for x in (a, b))
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-6)).mean())


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("name", NAMES)
def test_destroys_at_both_ends(name: str, end: str, photos: torch.Tensor) -> None:
    images = photos.repeat(8, 1, 1, 1)
    argument = torch.full((len(images),), getattr(OPS[name], end))
    changed = OPS[name].function(images, argument, torch.arange(len(images)))
    distance = (changed - images).abs().mean().item()
    standard = (images.mean((2, 3), keepdim=True) - images).abs().mean().item()  # what wiping all structure does
    assert correlation(changed, images) < 0.5 or distance > 0.75 * standard
    assert distance > 0.5 * standard


@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
@pytest.mark.parametrize("name", ["pixel_shuffle", "row_shuffle"])
def test_shuffles_keep_every_pixel(name: str, size: tuple[int, int]) -> None:
    images = random_images(8, *size)
    changed = OPS[name].function(images, NO_ARGUMENT, SEEDS)
    for before, after in zip(images, changed, strict=True):
        assert sorted(map(tuple, before.flatten(1).T.tolist())) == sorted(map(tuple, after.flatten(1).T.tolist()))
        assert not torch.equal(before, after)


def test_pixel_shuffle_sends_every_pixel_everywhere() -> None:
    images = torch.zeros(3200, 1, 8, 8)
    images[:, 0, 2, 3] = 1
    places = noise.pixel_shuffle(images, torch.zeros(3200), torch.arange(3200)).sum(0)[0]
    assert places.sum() == 3200
    assert 20 < places.min() <= places.max() < 90  # 50 each


def test_pixel_shuffle_parts_neighbours(photos: torch.Tensor) -> None:
    # Two neighbours lie beside each other again about as often as any two pixels: no shift of the whole image.
    position = torch.arange(40 * 56.0).view(1, 1, 40, 56).expand(8, 3, -1, -1)
    steps = noise.pixel_shuffle(position, NO_ARGUMENT, SEEDS)[:, 0].diff(dim=-1).abs()
    assert (steps == 1).float().mean() < 0.005
    assert abs(correlation(noise.pixel_shuffle(photos, NO_ARGUMENT, SEEDS), photos)) < 0.05


def test_row_shuffle_keeps_rows_whole(photos: torch.Tensor) -> None:
    changed = noise.row_shuffle(photos, NO_ARGUMENT, SEEDS)
    before, after = (sorted(x[3].permute(1, 0, 2).flatten(1).tolist()) for x in (photos, changed))
    assert before == after


def test_patch_shuffle_keeps_patches_whole_where_four_divides(photos: torch.Tensor) -> None:
    changed = noise.patch_shuffle(photos, NO_ARGUMENT, SEEDS)
    before, after = (
        sorted(x[3].view(3, 4, 10, 4, 14).permute(1, 3, 0, 2, 4).reshape(16, -1).tolist()) for x in (photos, changed)
    )
    assert before == after
    assert not torch.equal(photos, changed)


@pytest.mark.parametrize("size", [(9, 14), (11, 8), (8, 15)])
def test_patch_shuffle_where_four_does_not_divide(size: tuple[int, int]) -> None:
    height, width = size
    images = random_images(8, height, width)
    changed = noise.patch_shuffle(images, NO_ARGUMENT, SEEDS)
    rows, columns = height // 4, width // 4
    for image, order, patched in zip(images, uniform(SEEDS, 16).argsort(1).tolist(), changed, strict=True):
        for y in range(height):
            for x in range(width):
                down, right = min(y // rows, 3), min(x // columns, 3)
                source = order[4 * down + right]
                from_y = source // 4 * rows + y - down * rows
                from_x = source % 4 * columns + x - right * columns
                assert torch.equal(patched[:, y, x], image[:, from_y, from_x])


def test_phase_scramble_keeps_the_spectrum_and_the_mean() -> None:
    images = 0.45 + 0.1 * random_images(8, 16, 21)  # nothing to clamp
    changed = noise.phase_scramble(images, NO_ARGUMENT, SEEDS)
    before, after = torch.fft.rfft2(images), torch.fft.rfft2(changed)
    torch.testing.assert_close(after.abs(), before.abs(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(changed.mean((2, 3)), images.mean((2, 3)), atol=1e-5, rtol=0)
    assert (after.angle() - before.angle()).std() > 1


def test_gaussian_replace_has_its_moments_and_nothing_of_the_image() -> None:
    black, white = torch.zeros(8, 3, 40, 40), torch.ones(8, 3, 40, 40)
    changed = noise.gaussian_replace(black, NO_ARGUMENT, SEEDS)
    assert torch.equal(changed, noise.gaussian_replace(white, NO_ARGUMENT, SEEDS))
    assert changed.mean().item() == pytest.approx(0.5, abs=0.01)
    assert changed.std().item() == pytest.approx(0.24, abs=0.01)  # 0.25 less what is clamped


def test_constant_is_one_colour_an_image(photos: torch.Tensor) -> None:
    changed = noise.constant(photos, NO_ARGUMENT, SEEDS)
    assert torch.equal(changed, changed[..., :1, :1].expand_as(changed))
    assert len(set(changed[:, :, 0, 0].flatten().tolist())) == 24


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_salt_and_pepper_hits_its_share(share: float) -> None:
    changed = noise.salt_and_pepper(torch.full((8, 3, 64, 64), 0.3), torch.full((8,), share), SEEDS)
    for value in (0, 1):
        assert (changed == value).float().mean().item() == pytest.approx(share / 2, abs=0.01)
    assert torch.equal(changed[:, 0], changed[:, 2])  # a pixel as a whole


def test_random_mask_hits_its_share_of_patches() -> None:
    changed = noise.random_mask(torch.full((400, 3, 11, 9), 0.3), torch.full((400,), 0.6), torch.arange(400))
    assert (changed == 0).float().mean().item() == pytest.approx(0.6, abs=0.02)


def test_random_mask_is_patches_of_a_quarter_of_each_side() -> None:
    height, width = 11, 9
    changed = noise.random_mask(torch.full((8, 3, height, width), 0.3), torch.full((8,), 0.6), SEEDS)
    for draws, image in zip(uniform(SEEDS, 4, 4).tolist(), changed, strict=True):
        expected = [
            [0.0 if draws[4 * y // height][4 * x // width] < 0.6 else 0.3 for x in range(width)] for y in range(height)
        ]
        torch.testing.assert_close(image, torch.tensor(expected).expand(3, -1, -1))


def test_additive_gaussian_adds_noise_of_its_standard_deviation() -> None:
    images = torch.full((8, 3, 64, 64), 0.5)
    some, more = (noise.additive_gaussian(images, torch.full((8,), sd), SEEDS) - images for sd in (0.04, 0.08))
    assert some.std().item() == pytest.approx(0.04, rel=0.02)
    assert some.mean().item() == pytest.approx(0, abs=0.001)
    torch.testing.assert_close(more, 2 * some, atol=1e-6, rtol=0)


def test_channel_noise_is_one_line_per_channel() -> None:
    # Small enough that nothing is clamped: each channel is gain * x + offset, with its own of both.
    images = 0.4 + 0.2 * random_images(2000, 4, 4)
    seeds = torch.arange(2000)
    changed = noise.channel_noise(images, torch.full((2000,), 0.04), seeds).flatten(2)
    x = images.flatten(2)
    gain = (changed[..., 1] - changed[..., 0]) / (x[..., 1] - x[..., 0])
    gain = torch.where((x[..., 1] - x[..., 0]).abs() > 0.01, gain, torch.nan)
    offset = changed[..., 0] - gain * x[..., 0]
    line = gain[..., None] * x + offset[..., None]
    known = gain.isfinite()
    torch.testing.assert_close(line[known], changed[known], atol=1e-4, rtol=0)
    for values, mean in ((gain[known], 1.0), (offset[known], 0.0)):
        assert values.mean().item() == pytest.approx(mean, abs=0.003)
        assert values.std().item() == pytest.approx(0.04, rel=0.05)


def test_heavy_blur_leaves_one_colour_alone() -> None:
    images = torch.full((8, 3, 9, 14), 0.3)
    torch.testing.assert_close(noise.heavy_blur(images, torch.full((8,), 0.2), SEEDS), images)


def test_heavy_blur_is_a_weighted_mean_of_all_pixels() -> None:
    images, sds = random_images(2, 9, 14), torch.tensor([0.1, 0.7])
    blurred = noise.heavy_blur(images, sds, SEEDS[:2])
    for image, sd, result in zip(images.double().numpy(), sds.tolist(), blurred, strict=True):
        weights = []
        for side in image.shape[1:]:
            distance = np.subtract.outer(np.arange(side), np.arange(side)) / side
            bell = np.exp(-(distance**2) / (2 * sd**2))
            weights.append(bell / bell.sum(1, keepdims=True))
        expected = np.einsum("yv,xu,cvu->cyx", weights[0], weights[1], image)
        torch.testing.assert_close(result, torch.from_numpy(expected).float(), atol=1e-6, rtol=0)


def test_tiny_crop_shows_only_values_of_its_window() -> None:
    x = torch.linspace(0, 1, 40).expand(8, 3, 40, 40)
    changed = noise.tiny_crop(x, torch.full((8,), 0.25), SEEDS)
    spans = changed[:, 0, 20].amax(1) - changed[:, 0, 20].amin(1)
    assert ((spans > 0.2) & (spans < 0.27)).all()


@pytest.mark.parametrize("side", [0.1, 0.3, 1.0])
def test_tiny_crop_is_scipys_interpolation_in_the_window(side: float) -> None:
    height, width = 17, 24
    images = random_images(8, height, width)
    changed = noise.tiny_crop(images, torch.full((8,), side), SEEDS)
    for image, (right, down), result in zip(images.numpy(), uniform(SEEDS, 2).tolist(), changed, strict=True):
        y, x = (
            start * (1 - side) * (pixels - 1) + (1 - side) / 2 + (np.arange(pixels) + 0.5) * side - 0.5
            for start, pixels in ((down, height), (right, width))
        )
        expected = [
            map_coordinates(channel, np.meshgrid(y, x, indexing="ij"), order=1, mode="grid-constant")
            for channel in image
        ]
        torch.testing.assert_close(result, torch.from_numpy(np.stack(expected)).float(), atol=5e-5, rtol=0)


# What random ops make of RAMP at the low end of their argument (cutout at half the side) with seed 123456789012345, in
# the first channel: four values of the first row and three of the last. Policies show the same in later versions.
RAMP = torch.arange(3 * 8 * 8).view(1, 3, 8, 8) / 191
SAME_PIXELS = {
    "cutout": [0.00000, 0.00524, 0.01047, 0.01571, 0.31937, 0.32461, 0.32984],
    "gaussian_replace": [0.56318, 0.39759, 0.63283, 0.93240, 0.53726, 0.74435, 0.75978],
    "pixel_shuffle": [0.12565, 0.10471, 0.21990, 0.08377, 0.13613, 0.04712, 0.26178],
    "constant": [0.96848, 0.96848, 0.96848, 0.96848, 0.96848, 0.96848, 0.96848],
    "phase_scramble": [0.22902, 0.22149, 0.20074, 0.19928, 0.13417, 0.15226, 0.15957],
    "salt_and_pepper": [1.00000, 0.00000, 1.00000, 0.00000, 1.00000, 0.00000, 0.00000],
    "patch_shuffle": [0.28272, 0.28796, 0.01047, 0.01571, 0.04712, 0.21990, 0.22513],
    "additive_gaussian": [0.15162, 0.00000, 0.32926, 1.00000, 0.40878, 0.91104, 0.95332],
    "row_shuffle": [0.04188, 0.04712, 0.05236, 0.05759, 0.02618, 0.03141, 0.03665],
    "random_mask": [0.00000, 0.00524, 0.00000, 0.00000, 0.00000, 0.00000, 0.00000],
    "channel_noise": [0.37108, 0.37722, 0.38336, 0.38950, 0.74573, 0.75187, 0.75801],
    "tiny_crop": [0.04831, 0.04988, 0.05145, 0.05302, 0.14412, 0.14569, 0.14726],
}


def test_every_random_op_has_its_pixels() -> None:
    assert {*SAME_PIXELS, "heavy_blur"} == {"cutout", *NAMES}


@pytest.mark.parametrize("name", SAME_PIXELS)
def test_a_seed_means_the_same_pixels_as_ever(name: str) -> None:
    argument = torch.tensor([0.5 if name == "cutout" else OPS[name].low])
    changed = OPS[name].function(RAMP, argument, torch.tensor([123456789012345]))[0, 0]
    assert torch.cat([changed[0, :4], changed[-1, -3:]]).tolist() == pytest.approx(SAME_PIXELS[name], abs=2e-5)


def test_a_blur_of_no_width_leaves_the_image() -> None:
    images = random_images(2, 9, 12)
    blurred = noise.heavy_blur(images, torch.tensor([0.0, 1e-9]), torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(blurred, images, atol=1e-6, rtol=0)
