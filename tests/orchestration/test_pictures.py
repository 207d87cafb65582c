"""Pictures of policies, read by PIL: originals on top, and below them what ops with a closed form make of them."""

from io import BytesIO
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from dastune.data.dataset import Dataset
from dastune.data.embedded import digits
from dastune.orchestration.pictures import (
    DRAWS,
    GAP_PX,
    MOST_STRIPS,
    MOST_TILES,
    RULE_PX,
    SMALLEST_PX,
    STEP,
    policy_picture,
    sample_images,
)
from dastune.policy.policy import NO_AUGMENTATION, Choice, Clip, Edge, Stages, Step, SubPolicies, SubPolicy

HALF_STEP = STEP / 2 + 1  # black is 3


def always(*steps: Step) -> SubPolicies:
    return SubPolicies(sub_policies=(SubPolicy(steps=steps),))


def decoded(png: bytes) -> NDArray[np.float64]:
    """Return the picture (H, W, C) as PIL reads it, in 0 .. 255."""
    with Image.open(BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.atleast_3d(np.asarray(image)).astype(float)


def tiles(png: bytes, side: int, columns: int) -> NDArray[np.float64]:
    """Return the images (rows, columns, side, side, C) of a picture, cut out pixel by pixel."""
    picture = decoded(png)
    assert picture.shape[0] == GAP_PX + (1 + DRAWS) * (side + GAP_PX) + RULE_PX
    assert picture.shape[1] == GAP_PX + columns * (side + GAP_PX)
    tops = [GAP_PX + row * (side + GAP_PX) + (RULE_PX if row else 0) for row in range(1 + DRAWS)]
    lefts = [GAP_PX + column * (side + GAP_PX) for column in range(columns)]
    for top in tops:
        picture[top : top + side, : lefts[-1] + side] += 1000.0  # what is left over must be white
    cut = np.array([[picture[top : top + side, left : left + side] for left in lefts] for top in tops]) - 1000.0
    gaps = np.ones(picture.shape[:2], dtype=bool)
    for top in tops:
        for left in lefts:
            gaps[top : top + side, left : left + side] = False
    assert set(np.unique(picture[gaps] % 1000)) == {255.0}
    return cut


def random_images(count: int, side: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(5))


def as_pixels(images_BCHW: torch.Tensor) -> NDArray[np.float64]:
    return images_BCHW.mul(255).permute(0, 2, 3, 1).numpy().astype(float)


def test_images_are_on_top_and_inverted_ones_under_them() -> None:
    images = random_images(10, 32)
    found = tiles(policy_picture(always(Step(op="invert")), images, seed=0), 32, 10)
    assert np.abs(found[0] - as_pixels(images)).max() <= HALF_STEP
    for draw in found[1:]:
        assert np.abs(draw - (255 - as_pixels(images))).max() <= HALF_STEP


def test_no_augmentation_shows_the_images_in_each_row() -> None:
    found = tiles(policy_picture(NO_AUGMENTATION, random_images(4, 40), seed=0), 40, 4)
    assert all(np.array_equal(row, found[0]) for row in found)


def test_each_image_of_each_row_draws_for_itself() -> None:
    images = random_images(1, 32).repeat(10, 1, 1, 1)
    rotated = always(Step(op="rotate", low=5.0, high=30.0))
    found = tiles(policy_picture(rotated, images, seed=0), 32, 10)[1:].reshape(DRAWS * 10, -1)
    assert len(np.unique(found, axis=0)) == DRAWS * 10


def test_another_seed_draws_otherwise_and_the_same_one_the_same_bytes() -> None:
    coin = Stages(stages=((Choice(weight=1.0, step=Step(op="invert", probability=0.5)),),))
    images = random_images(10, 32)
    assert policy_picture(coin, images, seed=1) == policy_picture(coin, images, seed=1)
    assert policy_picture(coin, images, seed=1) != policy_picture(coin, images, seed=2)


def test_global_generators_stay_as_they_are() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    policy_picture(always(Step(op="gaussian_replace")), random_images(3, 32), seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]  # noqa: NPY002


def test_small_images_are_enlarged_to_squares() -> None:
    images = random_images(2, 8)
    found = tiles(policy_picture(NO_AUGMENTATION, images, seed=0), 32, 2)
    enlarged = np.kron(as_pixels(images), np.ones((1, 4, 4, 1)))
    assert np.abs(found[0] - enlarged).max() <= HALF_STEP


def test_large_images_go_through_the_policy_before_they_are_scaled_down() -> None:
    """Stripes one pixel wide, 0.2 and 1: solarized at 0.5 they are 0.2 and 0, mean 0.1; their mean 0.6 would be 0.4."""
    images = torch.full((1, 3, 128, 128), 0.2)
    images[..., ::2] = 1.0
    found = tiles(policy_picture(always(Step(op="solarize", low=0.5, high=0.5)), images, seed=0), 64, 1)
    inner = found[:, 0, 8:-8, 8:-8].mean(axis=(1, 2, 3)) / 255
    assert inner == pytest.approx([0.6, *[0.1] * DRAWS], abs=0.01)


@pytest.mark.parametrize("size", [(64, 128), (128, 64)])
def test_long_images_keep_their_proportions(size: tuple[int, int]) -> None:
    found = decoded(policy_picture(NO_AUGMENTATION, torch.zeros(1, 3, *size), seed=0))
    height, width = (side // 2 for side in size)
    assert found.shape[:2] == (GAP_PX + (1 + DRAWS) * (height + GAP_PX) + RULE_PX, width + 2 * GAP_PX)


# Clips.


def shifting(frames: int, order: Literal["time", "shuffled", "one"] = "time") -> Clip:
    """Return a clip whose frames are shifted right by an eighth of the width a step."""
    step = Step(op="translate_x", low=0.125, high=0.125, signed=False)
    return Clip(frames=frames, order=order, nodes=((Edge(source=0, step=step),),))


def strips(png: bytes, side: int, frames: int) -> NDArray[np.float64]:
    """Return the tiles (rows, frames, side, side, C) of film strips."""
    picture = decoded(png)
    rows, rest = divmod(picture.shape[0] - GAP_PX, side + GAP_PX)
    assert rest == 0
    assert picture.shape[1] == GAP_PX + frames * (side + GAP_PX)
    tiles = picture[GAP_PX:, GAP_PX:].reshape(rows, side + GAP_PX, frames, side + GAP_PX, -1)
    return tiles.transpose(0, 2, 1, 3, 4)[:, :, :side, :side]


def shifted(pixels: NDArray[np.float64], by: int) -> NDArray[np.float64]:
    moved = np.zeros_like(pixels)
    moved[:, by:] = pixels[:, : pixels.shape[1] - by]
    return moved


def test_a_clip_is_a_film_strip_of_frames_in_time() -> None:
    images = random_images(10, 32)
    found = strips(policy_picture(shifting(5), images, seed=0), 32, 5)
    assert len(found) == MOST_STRIPS
    for row, pixels in zip(found, as_pixels(images), strict=False):
        for frame, distance in enumerate((2, 1, 0, 1, 2)):
            assert np.abs(row[frame] - shifted(pixels, 4 * distance)).max() <= HALF_STEP


def test_the_middle_frame_stands_on_black_where_frames_are_in_time() -> None:
    for order, ground in (("time", 0.0), ("shuffled", 255.0)):
        picture = decoded(policy_picture(shifting(4, order), random_images(2, 32), seed=0))  # type: ignore[arg-type]
        left = 2 * (32 + GAP_PX)
        assert np.unique(picture[:GAP_PX, left : left + 32 + 2 * GAP_PX]) == ground
        assert (picture[:GAP_PX, :left] == 255).all()
        assert (picture[:GAP_PX, left + 32 + 2 * GAP_PX :] == 255).all()


def test_shuffled_frames_are_the_same_ones() -> None:
    images = random_images(4, 32)
    in_time, shuffled = (
        strips(policy_picture(shifting(8, order), images, seed=0), 32, 8)  # type: ignore[arg-type]
        for order in ("time", "shuffled")
    )
    orders = set()
    for strip, mixed in zip(in_time, shuffled, strict=True):
        assert sorted(frame.tobytes() for frame in strip) == sorted(frame.tobytes() for frame in mixed)
        orders.add(tuple(min(k for k in range(8) if np.array_equal(strip[k], frame)) for frame in mixed))
    assert len(orders) == 4


def test_one_frame_for_each_image_is_an_augmentation_like_others() -> None:
    images = random_images(10, 32)
    found = tiles(policy_picture(shifting(3, "one"), images, seed=0), 32, 10)
    kinds = {0: 0, 4: 0}
    for row in found[1:]:
        for tile, pixels in zip(row, as_pixels(images), strict=True):
            [by] = [by for by in kinds if np.abs(tile - shifted(pixels, by)).max() <= HALF_STEP]
            kinds[by] += 1
    assert all(kinds.values())


@pytest.mark.parametrize(("frames", "rows", "side"), [(1, 4, 64), (16, 2, 64), (32, 1, 64), (33, 1, 32), (64, 1, 32)])
def test_long_clips_have_fewer_rows_and_smaller_tiles(frames: int, rows: int, side: int) -> None:
    assert rows == max(1, min(MOST_STRIPS, MOST_TILES // frames))
    assert side == (64 if frames <= MOST_TILES else SMALLEST_PX)
    assert strips(policy_picture(shifting(frames), random_images(5, 64), seed=0), side, frames).shape[:2] == (
        rows,
        frames,
    )


def test_grey_images_make_a_grey_picture_and_colours_a_coloured_one() -> None:
    grey = random_images(2, 32, channels=1)
    assert decoded(policy_picture(NO_AUGMENTATION, grey, seed=0)).shape[2] == 1
    as_data = grey.repeat(1, 3, 1, 1)
    assert policy_picture(NO_AUGMENTATION, as_data, seed=0) == policy_picture(NO_AUGMENTATION, grey, seed=0)
    assert decoded(policy_picture(always(Step(op="constant")), as_data, seed=0)).shape[2] == 3


def test_a_photograph_makes_a_small_file() -> None:
    photo = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1).float() / 255
    patches = torch.stack([photo[:, 200:264, left : left + 64] for left in range(0, 640, 64)])
    images = torch.nn.functional.interpolate(patches, size=(32, 32), mode="area")
    flat = always(Step(op="color", low=0.5, high=0.9), Step(op="rotate", low=5.0, high=30.0))
    assert len(policy_picture(flat, images, seed=0)) < 60_000


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        policy_picture(NO_AUGMENTATION, torch.zeros(0, 3, 32, 32), seed=0)


def small_set(labels: list[int]) -> Dataset:
    """Return a data set whose image i is all i."""
    pixels = np.tile(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], (1, 3, 8, 8))
    y = np.array(labels, dtype=np.int64)
    return Dataset("small", pixels, y, pixels[:1], y[:1], classes=max(labels) + 1, source="made here")


def chosen(dataset: Dataset, count: int = 10) -> list[int]:
    return [round(value) for value in (sample_images(dataset, count)[:, 0, 0, 0] * 255).tolist()]


def test_samples_are_of_different_classes() -> None:
    dataset = digits()
    images = sample_images(dataset)
    assert images.shape == (10, 3, 16, 16)
    assert images.dtype == torch.float32
    originals = dataset.train_pixels.astype(np.float32) / 255
    same_BN = (images.numpy()[:, None] == originals).all((2, 3, 4))
    labels = [int(dataset.train_labels[same_N].min()) for same_N in same_BN]
    assert labels == list(range(10))
    assert torch.equal(images, sample_images(digits()))


def test_samples_go_round_the_classes_where_there_are_few() -> None:
    assert chosen(small_set([1, 1, 1, 0, 2, 0]), 5) == [3, 0, 4, 5, 1]


def test_samples_are_all_images_where_there_are_few() -> None:
    assert sorted(chosen(small_set([0, 0, 1]))) == [0, 1, 2]
