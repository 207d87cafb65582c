"""Random streams: fixed functions of a seed and a name, independent of each other."""

from itertools import product

import numpy as np
import torch

from dastune.seeds import derive, generator


def test_derived_seeds_are_fixed() -> None:
    assert derive(0, "split") == derive(0, "split")
    assert derive(3, "weights") == 1610526453342879995


def test_derived_seeds_are_63_bit_and_distinct() -> None:
    last: list[int | str] = [0, 1, "0", "1"]
    parts = list(product(range(50), ["split", "weights", ""], last))
    seeds = {derive(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_numbers_of_numpy_are_numbers() -> None:
    assert derive(np.int64(3), "split") == derive(3, "split")
    assert derive(3, "split") != derive("3", "split")


def test_generators_repeat_and_differ() -> None:
    def draw(*parts: int | str) -> torch.Tensor:
        return torch.rand(4, generator=generator(*parts))

    assert torch.equal(draw(1, "a"), draw(1, "a"))
    assert not torch.equal(draw(1, "a"), draw(1, "b"))
    assert not torch.equal(draw(1, "a"), draw(2, "a"))


def test_the_default_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(1, "a"))
    assert torch.equal(torch.get_rng_state(), before)
