"""The nearest legal name."""

import pytest

from dastune.errors import nearest


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("randaug", "did you mean 'rand_augment'?"),
        ("NONE", "did you mean 'none'?"),
        ("zzz", "legal: none, rand_augment"),
        ("", "legal: none, rand_augment"),
    ],
)
def test_nearest(word: str, said: str) -> None:
    assert nearest(word, ["rand_augment", "none"]) == said
