"""Pixel files are the array they were made of, read as it is asked for."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dastune.data import pixel_file as module
from dastune.data.dataset import Dataset
from dastune.data.pixel_file import PixelArray, PixelFile
from dastune.errors import UserError

Write = Callable[[PixelArray], PixelFile]
Make = Callable[[int, int], PixelArray]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(indices=st.lists(st.integers(0, 29)) | st.integers(0, 29).map(lambda begin: list(range(begin, 30))))
@pytest.mark.parametrize("piece", [1, 600, 2**20])
def test_any_images_in_any_order(
    indices: list[int], piece: int, pixel_file: Write, random_pixels: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether threads read, and whether images side by side are read together."""
    monkeypatch.setattr(module, "_PIECE", piece)
    pixels = random_pixels(30, 8)
    wanted = np.array(indices, dtype=np.int64)
    assert np.array_equal(pixel_file(pixels)[wanted], pixels[wanted])


@pytest.mark.parametrize(
    "which", [slice(None), slice(3), slice(2, 9), slice(-4, None), slice(9, 2, -1), slice(1, 9, 3), slice(5, 5)]
)
def test_slices(which: slice, pixel_file: Write, random_pixels: Make) -> None:
    pixels = random_pixels(11, 5)
    assert np.array_equal(pixel_file(pixels)[which], pixels[which])


def test_it_looks_like_the_array(pixel_file: Write, random_pixels: Make) -> None:
    pixels = random_pixels(7, 6)
    file = pixel_file(pixels)
    assert (len(file), file.shape, file.dtype) == (len(pixels), pixels.shape, pixels.dtype)


@pytest.mark.parametrize("indices", [[7], [-1], [0, 8], [[0]]])
def test_images_that_are_not_there(indices: list[int], pixel_file: Write, random_pixels: Make) -> None:
    with pytest.raises(IndexError, match=re.escape("in 0 .. 6")):
        pixel_file(random_pixels(7, 6))[np.array(indices)]


def test_it_goes_to_another_process_without_its_pixels(pixel_file: Write, random_pixels: Make) -> None:
    file = pixel_file(random_pixels(200, 16))
    first = file[:2]  # it is open
    content = pickle.dumps(file)
    assert len(content) < 5000
    script = (
        "import pickle, sys; file = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(file[:2].tobytes()); "
        "assert 'torch' not in sys.modules"
    )
    there = subprocess.run([sys.executable, "-c", script], input=content, stdout=subprocess.PIPE, check=True).stdout
    assert there == first.tobytes()
    assert pickle.loads(content) == file


def test_a_file_is_open_as_long_as_it_is_wanted(pixel_file: Write, random_pixels: Make) -> None:
    file = pixel_file(random_pixels(3, 4))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    file[:1]
    file[1:2]
    assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
    del file
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_node_that_does_not_see_it(pixel_file: Write, random_pixels: Make) -> None:
    file = replace(pixel_file(random_pixels(3, 4)), path="/nowhere/some.pixels")
    with pytest.raises(UserError, match=r"^data\.cache: /nowhere/some\.pixels cannot be read on .* \(No such file or "):
        file[:1]


def test_a_file_that_was_cut_short(pixel_file: Write, random_pixels: Make) -> None:
    file, other = pixel_file(random_pixels(3, 4)), pixel_file(random_pixels(3, 4))
    file[:1]
    Path(file.path).write_bytes(b"x" * 50)
    with pytest.raises(UserError, match="it has become shorter"):
        file[1:]
    with pytest.raises(UserError, match=r"it has 50 bytes where 144 belong\); the cache must be on storage that all"):
        other[:1]


def test_statistics_of_a_data_set_come_without_its_pixels(pixel_file: Write, random_pixels: Make) -> None:
    pixels, labels = random_pixels(40, 8), np.arange(40) % 3
    here = Dataset("x", pixels, labels, pixels[:1], labels[:1], 3, "here")
    file = replace(pixel_file(pixels), path="/nowhere")
    there = Dataset("x", file, labels, file, labels, 3, "here")
    assert there.mean == here.mean
    assert there.std == here.std
    assert replace(there, train_pixels=replace(file, digest="other")).fingerprint != there.fingerprint
    assert replace(there, train_labels=labels[::-1].copy()).fingerprint != there.fingerprint
