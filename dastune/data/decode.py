"""From image files to pixels of one size. Also a process of its own, `python -m dastune.data.decode`: see `main`."""

import hashlib
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dastune.data.pixel_file import PixelArray

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # whatever a file is called


def decoded(path: str, side_px: int, upright: bool) -> PixelArray:
    """Return an image as 3 x side x side pixels, RGB.

    Its shorter side is resized to `side_px`, bilinearly and antialiased, and its centre is cut out. Grey, palette and
    CMYK images become RGB, 16 bits a channel become 8, and transparency is dropped, as Pillow does it.

    Args:
        upright: whether the image is turned first as its EXIF orientation says.

    Raises:
        Exception: of many kinds; it is no image, or a damaged one.
    """
    image: Image.Image
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        if upright:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits: Pillow would cut off what is above 255
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
        image = image.convert("RGB")
    width, height = image.size
    shorter, longer = min(width, height), max(width, height)
    if shorter != side_px:
        other = side_px * longer // shorter
        size = (side_px, other) if width <= height else (other, side_px)
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((length - side_px) / 2) for length in image.size)
    return np.asarray(image.crop((left, top, left + side_px, top + side_px))).transpose(2, 0, 1)


def main(side: str, upright: str) -> None:
    """Decode blocks of images into files, as asked for line by line on the standard input.

    A line is JSON: {"target": a file, as large as it will be, "first": the place of the block's first image in it,
    "files": [...]}. Its answer is one too: {"failed": [[file, reason], ...], "digest": SHA-256 of the block's pixels,
    "counts": how often each channel has each value}.

    Args:
        side: of the images, in pixels.
        upright: "1" if they are turned as their EXIF orientation says, else "0".
    """
    warnings.simplefilter("ignore")  # of Pillow, on damaged metadata
    for line in sys.stdin:
        asked = json.loads(line)
        block_BCHW, failed = _block(asked["files"], int(side), upright == "1")
        with Path(asked["target"]).open("r+b") as file:
            file.seek(asked["first"] * block_BCHW[0].nbytes)
            file.write(block_BCHW.data)
        counts = [np.bincount(block_BCHW[:, channel].ravel(), minlength=256).tolist() for channel in range(3)]
        digest = hashlib.sha256(block_BCHW.data).hexdigest()
        print(json.dumps({"failed": failed, "digest": digest, "counts": counts}), flush=True)


def _block(files: Sequence[str], side_px: int, upright: bool) -> tuple[PixelArray, list[tuple[str, str]]]:
    """Return the pixels of the files, and which of them cannot be read, and why."""
    block = np.zeros((len(files), 3, side_px, side_px), dtype=np.uint8)
    failed = []
    for place, path in enumerate(files):
        try:
            block[place] = decoded(path, side_px, upright)
        except Exception as error:  # whatever a damaged file leads to
            failed.append((path, str(error).replace(f" {path!r}", "") or type(error).__name__))
    return block, failed


if __name__ == "__main__":
    main(*sys.argv[1:])
