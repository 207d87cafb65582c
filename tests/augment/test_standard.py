"""Standard augmentation against a plain loop over images."""

import pytest
import torch
from torchvision.transforms.v2.functional import normalize

from dastune.augment.standard import Normalise, StandardAugmentation


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(below: int, count: int, generator: torch.Generator) -> list[int]:
    numbers: list[int] = torch.randint(below, (count,), generator=generator).tolist()
    return numbers


def test_crop_equals_a_plain_loop(images: torch.Tensor) -> None:
    cropped = StandardAugmentation(crop_px=3).before_policy(images, seeded())
    again = seeded()
    tops, lefts = drawn(7, 12, again), drawn(7, 12, again)
    for image, top, left, result in zip(images, tops, lefts, cropped, strict=True):
        expected = torch.zeros(3, 16, 20)
        for y in range(16):
            for x in range(20):
                from_y, from_x = y + top - 3, x + left - 3
                if 0 <= from_y < 16 and 0 <= from_x < 20:
                    expected[:, y, x] = image[:, from_y, from_x]
        assert torch.equal(result, expected)
    assert len(set(zip(tops, lefts, strict=True))) > 6


def test_crops_take_every_offset_equally_often() -> None:
    dot = torch.zeros(4000, 1, 5, 5)
    dot[:, :, 2, 2] = 1
    where = StandardAugmentation(crop_px=2).before_policy(dot, seeded()).sum((0, 1))
    assert where.sum() == 4000
    assert (where - 160).abs().max() < 4 * 160**0.5


def test_flip_mirrors_about_half_of_the_images(images: torch.Tensor) -> None:
    many = images.repeat(50, 1, 1, 1)
    flipped = StandardAugmentation(flip=True).before_policy(many, seeded())
    mirrored = drawn(2, 600, seeded())
    for image, is_mirrored, result in zip(many, mirrored, flipped, strict=True):
        assert torch.equal(result, image.flip(-1) if is_mirrored else image)
    assert abs(sum(mirrored) - 300) < 50


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_is_a_square_that_the_border_clips(images: torch.Tensor, side: int) -> None:
    cut = StandardAugmentation(cutout_px=side).after_policy(images, seeded())
    again = seeded()
    rows, columns = drawn(16, 12, again), drawn(20, 12, again)
    for image, row, column, result in zip(images, rows, columns, cut, strict=True):
        expected = image.clone()
        top, left = row - side // 2, column - side // 2
        expected[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0.5
        assert torch.equal(result, expected)


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


def test_the_generator_decides_and_the_input_stays(images: torch.Tensor) -> None:
    standard, before = StandardAugmentation(crop_px=2, flip=True, cutout_px=5), images.clone()

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
    standard = StandardAugmentation(crop_px=2, flip=True, cutout_px=5)
    images, generator = torch.empty(4, 3, 8, 8, device=pretend_cuda), seeded()
    images = standard.after_policy(standard.before_policy(images, generator), generator)
    images = Normalise((0.5,) * 3, (0.2,) * 3, pretend_cuda)(images)
    assert images.shape == (4, 3, 8, 8)
    assert images.device.type == "cuda"
