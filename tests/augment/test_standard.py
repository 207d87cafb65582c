"""Standard augmentation against a plain loop over images."""

import math

import pytest
import torch
from torchvision.transforms.v2.functional import normalize

from dastune.augment import standard as module
from dastune.augment.standard import Normalise, StandardAugmentation

ALL = StandardAugmentation(crop_px=2, flip=True, cutout_px=5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(below: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
    """Return for each image the whole numbers that its row of uniform numbers means."""
    rows = torch.rand(count, len(below), generator=seeded(), dtype=torch.float64).tolist()
    return [tuple(math.floor(u * n) for u, n in zip(row, below, strict=True)) for row in rows]


def test_crop_equals_a_plain_loop(images: torch.Tensor) -> None:
    cropped = StandardAugmentation(crop_px=3).before_policy(images, seeded())
    offsets = drawn((7, 7, 2), 12)
    for image, (top, left, _), result in zip(images, offsets, cropped, strict=True):
        expected = torch.zeros(3, 16, 20)
        for y in range(16):
            for x in range(20):
                from_y, from_x = y + top - 3, x + left - 3
                if 0 <= from_y < 16 and 0 <= from_x < 20:
                    expected[:, y, x] = image[:, from_y, from_x]
        assert torch.equal(result, expected)
    assert len(set(offsets)) > 6


def test_crops_take_every_offset_equally_often() -> None:
    dot = torch.zeros(4000, 1, 5, 5)
    dot[:, :, 2, 2] = 1
    where = StandardAugmentation(crop_px=2).before_policy(dot, seeded()).sum((0, 1))
    assert where.sum() == 4000
    assert (where - 160).abs().max() < 4 * 160**0.5


def test_flip_mirrors_about_half_of_the_images(images: torch.Tensor) -> None:
    many = images.repeat(50, 1, 1, 1)
    flipped = StandardAugmentation(flip=True).before_policy(many, seeded())
    mirrored = [flip for *_, flip in drawn((1, 1, 2), 600)]
    for image, is_mirrored, result in zip(many, mirrored, flipped, strict=True):
        assert torch.equal(result, image.flip(-1) if is_mirrored else image)
    assert abs(sum(mirrored) - 300) < 50


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_is_a_square_that_the_border_clips(images: torch.Tensor, side: int) -> None:
    cut = StandardAugmentation(cutout_px=side).after_policy(images, seeded())
    for image, (row, column), result in zip(images, drawn((16, 20), 12), cut, strict=True):
        expected = image.clone()
        top, left = row - side // 2, column - side // 2
        expected[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0.5
        assert torch.equal(result, expected)


def test_cutouts_take_every_pixel_as_centre_equally_often() -> None:
    cut = StandardAugmentation(cutout_px=1).after_policy(torch.zeros(3000, 1, 3, 5), seeded())
    where = 2 * cut.sum((0, 1))
    assert where.sum() == 3000
    assert (where - 200).abs().max() < 4 * 200**0.5


def test_the_largest_number_drawn_is_still_within(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 1 - 2.0**-53
    monkeypatch.setattr(
        module, "uniform_draws", lambda count, each, _: torch.full((count, each), largest, dtype=torch.float64)
    )
    for side in (*range(1, 130), 333, 1000, 4095, 4097):
        row = torch.zeros(1, 1, 1, side)
        cut = StandardAugmentation(cutout_px=1).after_policy(row, seeded())
        assert cut[..., -1] == 0.5
        assert cut.sum() == 0.5
    for crop in range(1, 20):
        corner = torch.zeros(1, 1, 2 * crop + 1, 2 * crop + 1)
        corner[..., -1, -1] = 1
        [[_, _, *place]] = StandardAugmentation(crop_px=crop).before_policy(corner, seeded()).nonzero().tolist()
        assert place == [crop, crop]


def test_a_cutout_inside_the_image_has_the_area_it_is_asked_for() -> None:
    cut = StandardAugmentation(cutout_px=6).after_policy(torch.zeros(500, 1, 21, 21), seeded())
    areas = (cut == 0.5).sum((1, 2, 3))
    assert areas.max() == 36
    assert areas.min() >= 9  # a centre in the top left corner


def test_nothing_asked_for_is_nothing_done(images: torch.Tensor) -> None:
    standard, generator = StandardAugmentation(), seeded()
    before = generator.get_state()
    assert standard.before_policy(images, generator) is images
    assert standard.after_policy(images, generator) is images
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("standard", [ALL, StandardAugmentation(crop_px=3), StandardAugmentation(flip=True)])
def test_two_batches_are_one_batch_of_both(standard: StandardAugmentation, images: torch.Tensor) -> None:
    for stage in (standard.before_policy, standard.after_policy):
        together, generator = stage(images, seeded()), seeded()
        apart = torch.cat([stage(part, generator) for part in images.split([1, 0, 4, 7])])
        assert torch.equal(apart, together)


def test_crops_are_the_same_with_flips_and_without(images: torch.Tensor) -> None:
    crop, flip, both = StandardAugmentation(3), StandardAugmentation(flip=True), StandardAugmentation(3, flip=True)
    cropped = crop.before_policy(images, seeded())
    assert torch.equal(both.before_policy(images, seeded()), flip.before_policy(cropped, seeded()))


def test_the_generator_decides_and_the_input_stays(images: torch.Tensor) -> None:
    standard, before = ALL, images.clone()

    def augmented(seed: int) -> torch.Tensor:
        generator = seeded(seed)
        return standard.after_policy(standard.before_policy(images, generator), generator)

    assert torch.equal(augmented(0), augmented(0))
    assert not torch.equal(augmented(0), augmented(1))
    assert torch.equal(images, before)
    assert augmented(0)[:0].shape == standard.before_policy(images[:0], seeded()).shape == (0, 3, 16, 20)


def test_normalise_is_torchvision_s(images: torch.Tensor) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.1)
    normalised = Normalise(mean, std, torch.device("cpu"))(images)
    torch.testing.assert_close(normalised, normalize(images, list(mean), list(std)))


def test_a_channel_without_spread_is_only_centred(images: torch.Tensor) -> None:
    normalised = Normalise((0.5, 0.0, 1.0), (0.2, 0.0, 1e-9), torch.device("cpu"))(images)
    assert torch.equal(normalised[:, 1], images[:, 1])
    assert torch.equal(normalised[:, 2], images[:, 2] - 1)


def test_nothing_waits_for_the_device(pretend_cuda: torch.device) -> None:
    images, generator = torch.empty(4, 3, 8, 8, device=pretend_cuda), seeded()
    images = ALL.after_policy(ALL.before_policy(images, generator), generator)
    images = Normalise((0.5,) * 3, (0.2,) * 3, pretend_cuda)(images)
    assert images.shape == (4, 3, 8, 8)
    assert images.device.type == "cuda"
