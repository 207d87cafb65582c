"""PNG files, by zlib alone: what torchvision writes them with is going away, and PIL is no dependency."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2


def png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """Return the PNG file of 8-bit pixels of 1 channel (grey) or 3 (RGB)."""
    height, width, channels = pixels_HWC.shape
    header = struct.pack(">IIBBBBB", width, height, 8, {1: _GREY, 3: _RGB}[channels], 0, 0, 0)
    rows = zlib.compress(_filtered(pixels_HWC).tobytes(), 6)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _filtered(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return each row (1 + W C bytes): its filter, and what that leaves; the filter whose bytes are nearest to 0."""
    padded = np.pad(pixels_HWC.astype(np.int16), ((1, 0), (1, 0), (0, 0)))
    left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    guesses = (np.zeros_like(left), left, above, (left + above) // 2, _paeth(left, above, corner))
    rest_FHB = np.stack([pixels_HWC - guess for guess in guesses]).astype(np.uint8).reshape(5, len(pixels_HWC), -1)
    best_H = np.abs(rest_FHB.view(np.int8).astype(np.int16)).sum(2).argmin(0)
    rows = np.arange(len(best_H))
    return np.column_stack([best_H.astype(np.uint8), rest_FHB[best_H, rows]])


def _paeth(left: NDArray[np.int16], above: NDArray[np.int16], corner: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return whichever is nearest to left + above - corner; the first of them where several are."""
    gaps = np.stack([np.abs(above - corner), np.abs(left - corner), np.abs(left + above - 2 * corner)])
    nearest: NDArray[np.int16] = np.choose(gaps.argmin(0), [left, above, corner])
    return nearest
