"""Parts of which a percentage is removed: nested, balanced, disjoint, and as large as they are said to be."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dastune.data.dataset import Parts, cut_parts
from dastune.data.table import images_left

LABELS = np.arange(1000) % 10
PERCENTS = (0, 10, 30, 50, 70, 90)


def parts(percent: int, train_images: int | None = 500, labels: np.ndarray = LABELS, **changes: int) -> Parts:
    sizes = {"seed": 3, "search_images": 300, "validation_images": 200, **changes}
    return cut_parts(labels, train_images=train_images, removed_percent=percent, **sizes)


def sets_of(cut: Parts) -> list[set[int]]:
    return [set(part.tolist()) for part in (cut.search_train, cut.search_validation, cut.final_train)]


@pytest.mark.parametrize("train_images", [None, 300, 500, 800, 900, 1000])
@pytest.mark.parametrize("percent", PERCENTS)
def test_sizes_and_balance(percent: int, train_images: int | None) -> None:
    cut = parts(percent, train_images)
    wanted = [floor(images * (1 - Fraction(percent, 100))) for images in (300, 200, train_images or 1000)]
    assert [len(part) for part in (cut.search_train, cut.search_validation, cut.final_train)] == wanted
    for part in (cut.search_train, cut.search_validation, cut.final_train):
        counts = np.bincount(LABELS[part], minlength=10)
        assert np.ptp(counts) <= 2
        assert len(set(part.tolist())) == len(part)
    search, validation, final = sets_of(cut)
    assert not search & validation
    assert search <= final


def test_nothing_removed_is_what_it_was() -> None:
    for train_images in (None, 500, 900):
        plain = cut_parts(LABELS, seed=3, search_images=300, validation_images=200, train_images=train_images)
        whole = parts(0, None).final_train  # the order that all parts are cut from
        assert np.array_equal(plain.search_train, whole[:300])
        assert np.array_equal(plain.search_validation, whole[800:])
        assert np.array_equal(plain.final_train, whole[: train_images or 1000])


@given(
    *(st.integers(1, 60) for _ in range(2)),
    st.none() | st.integers(1, 150),
    st.integers(0, 3),
    st.lists(st.integers(0, 99), min_size=2, max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_what_is_left_of_more_is_part_of_what_is_left_of_less(
    search: int, validation: int, train: int | None, seed: int, percents: list[int]
) -> None:
    """Of every part, whatever the sizes; nobody sees more than the percentage that is left, but for rounding."""
    labels = np.arange(150) % 7
    before = None
    for percent in sorted(percents):
        cut = parts(percent, train, labels, seed=seed, search_images=search, validation_images=validation)
        found = sets_of(cut)
        assert not found[0] & found[1]
        assert [len(part) for part in found[:2]] == [images * (100 - percent) // 100 for images in (search, validation)]
        assert 0 <= (train or 150) * (100 - percent) // 100 - len(found[2]) <= 1
        assert len(set.union(*found)) <= 150 * (100 - percent) / 100
        if before is not None:
            assert all(part <= larger for part, larger in zip(found, before, strict=True))
        before = found


def test_seeds_remove_other_images() -> None:
    one, other = (sets_of(parts(50, None, seed=seed))[2] for seed in (0, 1))
    assert 150 < len(one & other) < 350  # 250 of 500 by chance


def test_rounding_is_down_and_exact() -> None:
    """Not by floats: 100 * (1 - 0.9) is less than 10."""
    for images in range(1, 300):
        for percent in range(100):
            assert images_left(images, percent) == floor(images * (1 - Fraction(percent, 100)))
