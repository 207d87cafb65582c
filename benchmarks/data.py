"""What it takes to read images that do not fit memory: python benchmarks/data.py [--folder FOLDER]

Memory: a pixel file of 20,000 images of 224 x 224 pixels and one of as many as ImageNet has are opened as a driver does
it (statistics, fingerprint, parts) and read as a training does it (300 batches of 32 in random order, read ahead), each
in a process of its own; what it takes above the process at rest has a bar, the same for both. The files have holes in
place of pixels: they take no room, and their reader does not know.

Speed: 8,000 images of random pixels (1.2 GB, in FOLDER), read in batches of 32 as float32, from memory that the system
keeps of files and, that being forgotten, from the disk; and beside a convolution that takes its time, with and without
reading ahead. Then JPEG files of 500 x 375 pixels are decoded once, as ImageNet's are.

Prints each figure, and exits 1 where one misses its bar.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIDE_PX, BATCH, BATCHES = 224, 32, 300
FEW, MANY = 20_000, 1_281_167
IMAGES = 8_000  # of random pixels
JPEGS = 1_000
BAR_MEGABYTES = 300.0  # above the process at rest
BAR_IMAGES = 1_000.0  # a second, from memory


def peak_megabytes() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def with_holes(folder: str, images: int) -> str:
    """Return the path of a pixel file of nothing."""
    path = Path(folder) / f"{images}.pixels"
    path.touch()
    os.truncate(path, images * 3 * SIDE_PX**2)
    return str(path)


def driver(folder: str, images: int) -> float:
    """Return the megabytes that opening the data set takes a driver."""
    import pickle

    from dastune.data.dataset import Dataset, cut_parts
    from dastune.data.pixel_file import PixelFile

    rest = peak_megabytes()
    pixels = PixelFile(with_holes(folder, images), images, SIDE_PX, ((images * SIDE_PX**2, *[0] * 255),) * 3, "digest")
    labels = np.arange(images) * 1000 // images
    dataset = Dataset("holes", pixels, labels, pixels, labels, 1000, folder)
    _ = dataset.mean, dataset.std, dataset.fingerprint
    cut_parts(labels, seed=0, search_images=1000, validation_images=1000, train_images=None)
    pickle.dumps(dataset)
    return peak_megabytes() - rest


def training(folder: str, images: int) -> float:
    """Return the megabytes that reading the data set takes a training."""
    import torch

    from dastune.data.images import Images
    from dastune.data.pixel_file import PixelFile
    from dastune.training.loop import Batches

    torch.zeros(1).add_(1)
    rest = peak_megabytes()
    pixels = PixelFile(with_holes(folder, images), images, SIDE_PX, (), "digest")
    part = Images(pixels, np.arange(images) * 1000 // images, np.arange(images), torch.device("cpu"))
    order = Batches(images, BATCH, seed=0)
    for _ in range(BATCHES):
        part.batch(order.draw())
        part.expect(order.ahead())
    return peak_megabytes() - rest


def elsewhere(task: Callable[[str, int], float], folder: Path, images: int) -> float:
    """Return what a function says in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--task", task.__name__, "--images", str(images)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def speeds(folder: Path) -> dict[str, float]:
    """Return images a second, by how they are read."""
    import torch

    from dastune.data.images import Images
    from dastune.data.pixel_file import PixelFile
    from dastune.training.loop import Batches

    path = folder / "random.pixels"
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(0, IMAGES, 500):
            file.write(random.integers(256, size=(500, 3, SIDE_PX, SIDE_PX), dtype=np.uint8))
        os.fsync(file.fileno())
    pixels = PixelFile(str(path), IMAGES, SIDE_PX, (), "digest")
    part = Images(pixels, np.zeros(IMAGES, np.int64), np.arange(IMAGES), torch.device("cpu"))
    convolution, images_BCHW = torch.nn.Conv2d(3, 8, 3, stride=2), torch.zeros(BATCH, 3, SIDE_PX, SIDE_PX)

    def timed(ahead: bool, work: bool, forget: bool = False) -> float:
        order = Batches(IMAGES, BATCH, seed=0)
        order.draw()
        if forget:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begun = time.perf_counter()
        for _ in range(60):
            part.batch(order.draw())
            if ahead:
                part.expect(order.ahead())
            if work:
                convolution(images_BCHW)
        return 60 * BATCH / (time.perf_counter() - begun)

    with torch.no_grad():
        return {
            "from the disk": timed(False, False, forget=True),
            "from memory": timed(False, False),
            "from the disk, beside a convolution": timed(False, True, forget=True),
            "the same, read ahead": timed(True, True, forget=True),
            "from memory, beside a convolution": timed(False, True),
            "the same, read ahead ": timed(True, True),
        }


def decoding(folder: Path) -> float:
    """Return JPEG files decoded a second."""
    from PIL import Image

    from dastune.data.folders import folder as load

    random = np.random.default_rng(0)
    for place in range(JPEGS):
        small = Image.fromarray(random.integers(256, size=(48, 64, 3), dtype=np.uint8))
        path = folder / "jpegs" / ("test" if place < 2 else "train") / "ab"[place % 2] / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((500, 375)).save(path, quality=90)
    begun = time.perf_counter()
    load(str(folder / "jpegs"), SIDE_PX, str(folder / "cache"))
    return JPEGS / (time.perf_counter() - begun)


def main(folder: Path) -> bool:
    """Print all figures; return whether one misses its bar."""
    missed = False
    for task, who in ((driver, "driver"), (training, "training")):
        for images in (FEW, MANY):
            megabytes = elsewhere(task, folder, images)
            missed |= megabytes > BAR_MEGABYTES
            word = " MISSED" if megabytes > BAR_MEGABYTES else ""
            print(f"{who}, {images:>9,} images: {megabytes:.0f} MB above rest (bar {BAR_MEGABYTES:.0f} MB){word}")
    for how, images_per_second in speeds(folder).items():
        low = how == "from memory" and images_per_second < BAR_IMAGES
        missed |= low
        bar = f" (bar {BAR_IMAGES:,.0f}){' MISSED' * low}" if how == "from memory" else ""
        print(f"{how}: {images_per_second:,.0f} images/s{bar}")
    processes = len(os.sched_getaffinity(0))
    print(f"JPEG of 500 x 375 to {SIDE_PX} x {SIDE_PX}: {decoding(folder):,.0f} images/s, {processes} processes")
    return missed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where files are made; default: a temporary folder")
    parser.add_argument("--task", choices=["driver", "training"], help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print({"driver": driver, "training": training}[options.task](str(options.folder), options.images))
        sys.exit()
    made = Path(tempfile.mkdtemp(prefix="data-", dir=options.folder))
    try:
        sys.exit(main(made))
    finally:
        shutil.rmtree(made)
