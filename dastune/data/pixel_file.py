"""PixelFile: images on disk that are read when they are asked for, and hold no memory. Without torch."""

import os
import platform
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dastune.errors import UserError

PixelArray = npt.NDArray[np.uint8]

READERS = 8  # threads: storage on a network answers several questions as fast as one
_PIECE = 2**20  # bytes read at once; images that lie side by side are read together up to this


@dataclass(frozen=True)
class PixelFile:
    """N x 3 x S x S pixels, uint8, RGB, in a file that holds nothing else, image after image.

    It stands for an array where images are asked for by position: `len`, `shape`, `dtype`, and `[...]` with whole
    numbers or a slice, which reads these images and no others. It pickles as its path, so that it goes to other
    processes without its pixels; each opens the file when it first reads.

    Attributes:
        path: absolute; the same on all nodes.
        images, side_px: N and S.
        counts: 3 x 256; how often each channel has each value.
        digest: SHA-256 of what is in the file, as `content_digest` has it.
    """

    path: str
    images: int
    side_px: int
    counts: tuple[tuple[int, ...], ...] = field(repr=False)
    digest: str

    dtype: ClassVar[np.dtype[np.uint8]] = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, 3, S, S."""
        return self.images, 3, self.side_px, self.side_px

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return 3 * self.side_px**2

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, which: npt.NDArray[np.integer[Any]] | slice) -> PixelArray:
        """Return a new array of the images at M whole numbers in 0 .. N - 1, or of a slice.

        Raises:
            IndexError: there are no such images.
            UserError: the file is not there, or not whole.
        """
        indices = np.arange(self.images)[which] if isinstance(which, slice) else np.asarray(which)
        pixels = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        self.read(indices, pixels)
        return pixels

    def read(self, indices: npt.NDArray[np.integer[Any]], into: PixelArray) -> None:
        """Read the images at `indices` into a C-contiguous array of as many.

        Raises:
            IndexError: there are no such images.
            UserError: the file is not there, or not whole.
        """
        if len(indices) == 0:
            return
        if indices.ndim != 1 or not 0 <= indices.min() <= indices.max() < self.images:
            raise IndexError(f"images are asked for by a row of positions in 0 .. {self.images - 1}")
        target = into.data.cast("B")
        pieces = [(offset, target[begin : begin + size]) for offset, begin, size in self._pieces(indices)]
        if len(target) <= _PIECE // 4:  # less than threads cost
            self._fill(pieces)
        else:
            list(self._threads.map(self._fill, (pieces[reader::READERS] for reader in range(READERS))))

    def _pieces(self, indices: npt.NDArray[np.integer[Any]]) -> Iterator[tuple[int, int, int]]:
        """Yield (offset in the file, offset in the array, bytes) of what is read at once."""
        begins = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
        most = max(1, _PIECE // self.image_bytes)
        for begin, end in pairwise(begins):
            for start in range(begin, end, most):
                size = min(most, end - start) * self.image_bytes
                yield int(indices[start]) * self.image_bytes, start * self.image_bytes, size

    def _fill(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        for offset, target in pieces:
            while target:
                read = os.preadv(self._descriptor, [target], offset)
                if read == 0:
                    raise self._unreadable("it has become shorter")
                offset, target = offset + read, target[read:]

    @cached_property
    def _descriptor(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unreadable(str(error.strerror)) from error
        weakref.finalize(self, os.close, descriptor)
        if (size := os.fstat(descriptor).st_size) != self.images * self.image_bytes:
            raise self._unreadable(f"it has {size:,} bytes where {self.images * self.image_bytes:,} belong")
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # images beside those asked for are of no use
        return descriptor

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(READERS, "pixels")

    def _unreadable(self, reason: str) -> UserError:
        return UserError(
            f"data.cache: {self.path} cannot be read on {platform.node()} ({reason}); the cache must be on storage "
            "that all nodes see under one path (--set data.cache=FOLDER), and is made again by another run or resume"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
