"""ReceptiveField: which pixels of an image a network's centre unit listens to, and its file. Loads no torch."""

import json
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

HALF, TENTH = 0.5, 0.1  # of the peak, from which on a pixel counts
LARGEST_PX = 64  # a larger map is averaged to this, for the file
DIGITS = 3  # of the map in the file: colours tell no more

_FORMAT = 1


@dataclass(frozen=True)
class ReceptiveField:
    """An effective receptive field (Luo et al., NeurIPS 2016), measured on a trained network.

    Attributes:
        map_HW: float32 in [0, 1], of the whole image, of at most LARGEST_PX on its longer side: the size of the
            gradient, the peak at full size is 1.
        half, tenth: share of the image's pixels at or above half and a tenth of the peak, in [0, 1], at full size.
        image_px: height and width of the images.
        images: how many it is the mean of.
        network: in a word, such as "small_cnn-16".
        frames: of the clip that the network reads; 1: it reads images.
    """

    map_HW: NDArray[np.float32]  # noqa: N815  the shape is part of the name
    half: float
    tenth: float
    image_px: tuple[int, int]
    images: int
    network: str
    frames: int

    @classmethod
    def of(cls, map_HW: NDArray[np.float32], images: int, network: str, frames: int) -> Self:
        """Measure the areas of a map at full size whose peak is 1, and keep it as small as a file holds it."""
        height, width = map_HW.shape
        half, tenth = (float((map_HW >= share).mean()) for share in (HALF, TENTH))
        return cls(averaged(map_HW), half, tenth, (height, width), images, network, frames)

    def text(self) -> str:
        """Return the file's text; the same field gives the same bytes."""
        content = {
            "format": _FORMAT,
            "network": self.network,
            "frames": self.frames,
            "images": self.images,
            "image_px": list(self.image_px),
            "half": self.half,
            "tenth": self.tenth,
            "map_HW": [[round(float(value), DIGITS) for value in row] for row in self.map_HW],
        }
        return json.dumps(content, separators=(",", ":")) + "\n"


def receptive_field_from_text(text: str) -> ReceptiveField:
    """Return what `ReceptiveField.text` wrote, and no more than it can have written: a file may come from anybody.

    Raises:
        ValueError: it is none, or of another version.
    """
    try:
        content = json.loads(text)
        if content["format"] != _FORMAT:
            raise ValueError("of another version of dastune")
        height, width = (_whole(side) for side in content["image_px"])
        rows = [[_share(value) for value in row] for row in content["map_HW"]]
        sides = {*map(len, rows)}
        if len(sides) != 1 or max(len(rows), *sides) > LARGEST_PX or not any(map(any, rows)):
            raise ValueError("its map is none")
        return ReceptiveField(
            map_HW=np.array(rows, np.float32),
            half=_share(content["half"]),
            tenth=_share(content["tenth"]),
            image_px=(height, width),
            images=_whole(content["images"]),
            network=str(content["network"]),
            frames=_whole(content["frames"]),
        )
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("no receptive field") from error


def averaged(map_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a map of at most LARGEST_PX on its longer side, in which each pixel is the mean of what it covers."""
    longest = max(map_HW.shape)
    if longest <= LARGEST_PX:
        return map_HW
    down, across = (_averaging(max(1, round(side * LARGEST_PX / longest)), side) for side in map_HW.shape)
    small_HW: NDArray[np.float32] = (down @ map_HW @ across.T).astype(np.float32)
    return small_HW


def _averaging(cells: int, pixels: int) -> NDArray[np.float64]:
    """Return the matrix, `cells` x `pixels`, that averages a row of pixels to fewer cells of one width."""
    edges, left = np.linspace(0, pixels, cells + 1), np.arange(pixels)
    covered = np.minimum(edges[1:, None], left + 1) - np.maximum(edges[:-1, None], left)
    shares: NDArray[np.float64] = np.clip(covered, 0, None) * cells / pixels
    return shares


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("a share must be in [0, 1]")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1_000_000:
        raise ValueError("a count must be a whole number from 1 up")
    return value
