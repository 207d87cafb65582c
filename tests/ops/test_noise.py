"""Noise ops: they destroy over their whole range, and what they leave is what their docstrings say."""

import pytest
import torch

from dastune.ops import noise
from dastune.ops.table import OPS

NAMES = [op.name for op in OPS.values() if op.noise]
NO_ARGUMENT = torch.zeros(8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the mean over images of the correlation of their pixels' channel means; 0 for a constant image."""
    a, b = (x.mean(1).flatten(1) - x.mean((1, 2, 3))[:, None] for x in (a, b))
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-6)).mean())


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("name", NAMES)
def test_destroys_at_both_ends(name: str, end: str, photos: torch.Tensor) -> None:
    images = photos.repeat(8, 1, 1, 1)
    argument = torch.full((len(images),), getattr(OPS[name], end))
    changed = OPS[name].function(images, argument, generator())
    distance = (changed - images).abs().mean().item()
    standard = (images.mean((2, 3), keepdim=True) - images).abs().mean().item()  # what wiping all structure does
    assert correlation(changed, images) < 0.5 or distance > 0.75 * standard
    assert distance > 0.5 * standard


@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
@pytest.mark.parametrize("name", ["pixel_shuffle", "row_shuffle"])
def test_shuffles_keep_every_pixel(name: str, size: tuple[int, int]) -> None:
    images = torch.rand(8, 3, *size, generator=generator(1))
    changed = OPS[name].function(images, NO_ARGUMENT, generator())
    before, after = (sorted(map(tuple, x[0].flatten(1).T.tolist())) for x in (images, changed))
    assert before == after
    assert not torch.equal(images, changed)


def test_pixel_shuffle_sends_every_pixel_everywhere() -> None:
    images = torch.zeros(8, 1, 8, 8)
    images[:, 0, 2, 3] = 1
    places = sum(noise.pixel_shuffle(images, NO_ARGUMENT, generator(seed)).sum(0)[0] for seed in range(400))
    assert isinstance(places, torch.Tensor)
    assert places.sum() == 3200
    assert 20 < places.min() <= places.max() < 90  # 50 each


def test_row_shuffle_keeps_rows_whole(photos: torch.Tensor) -> None:
    changed = noise.row_shuffle(photos, NO_ARGUMENT, generator())
    before, after = (sorted(x[3].permute(1, 0, 2).flatten(1).tolist()) for x in (photos, changed))
    assert before == after


def test_patch_shuffle_keeps_patches_whole_where_four_divides(photos: torch.Tensor) -> None:
    changed = noise.patch_shuffle(photos, NO_ARGUMENT, generator())
    before, after = (
        sorted(x[3].view(3, 4, 10, 4, 14).permute(1, 3, 0, 2, 4).reshape(16, -1).tolist()) for x in (photos, changed)
    )
    assert before == after
    assert not torch.equal(photos, changed)


def test_phase_scramble_keeps_the_spectrum_and_the_mean() -> None:
    images = 0.45 + 0.1 * torch.rand(8, 3, 16, 21, generator=generator(1))  # nothing to clamp
    changed = noise.phase_scramble(images, NO_ARGUMENT, generator())
    before, after = torch.fft.rfft2(images), torch.fft.rfft2(changed)
    torch.testing.assert_close(after.abs(), before.abs(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(changed.mean((2, 3)), images.mean((2, 3)), atol=1e-5, rtol=0)
    assert (after.angle() - before.angle()).std() > 1


def test_gaussian_replace_has_its_moments_and_nothing_of_the_image() -> None:
    black, white = torch.zeros(8, 3, 40, 40), torch.ones(8, 3, 40, 40)
    changed = noise.gaussian_replace(black, NO_ARGUMENT, generator())
    assert torch.equal(changed, noise.gaussian_replace(white, NO_ARGUMENT, generator()))
    assert changed.mean().item() == pytest.approx(0.5, abs=0.01)
    assert changed.std().item() == pytest.approx(0.24, abs=0.01)  # 0.25 less what is clamped


def test_constant_is_one_colour_an_image(photos: torch.Tensor) -> None:
    changed = noise.constant(photos, NO_ARGUMENT, generator())
    assert torch.equal(changed, changed[..., :1, :1].expand_as(changed))
    assert len(set(changed[:, :, 0, 0].flatten().tolist())) == 24


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_salt_and_pepper_hits_its_share(share: float) -> None:
    changed = noise.salt_and_pepper(torch.full((8, 3, 64, 64), 0.3), torch.full((8,), share), generator())
    for value in (0, 1):
        assert (changed == value).float().mean().item() == pytest.approx(share / 2, abs=0.01)


def test_random_mask_hits_its_share_of_patches() -> None:
    changed = noise.random_mask(torch.full((400, 3, 11, 9), 0.3), torch.full((400,), 0.6), generator())
    assert (changed == 0).float().mean().item() == pytest.approx(0.6, abs=0.02)


def test_heavy_blur_leaves_one_colour_alone() -> None:
    images = torch.full((8, 3, 9, 14), 0.3)
    torch.testing.assert_close(noise.heavy_blur(images, torch.full((8,), 0.2), generator()), images)


def test_tiny_crop_shows_only_values_of_its_window() -> None:
    x = torch.linspace(0, 1, 40).expand(8, 3, 40, 40)
    changed = noise.tiny_crop(x, torch.full((8,), 0.25), generator())
    spans = changed[:, 0, 20].amax(1) - changed[:, 0, 20].amin(1)
    assert ((spans > 0.2) & (spans < 0.27)).all()
