"""Street View House Numbers, cropped digits, from their .mat files; torchvision downloads them on first use."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dastune.data.archives import check_md5, read_or_fetched
from dastune.data.dataset import Dataset, Indices
from dastune.data.pixel_file import PixelArray

MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
}
_BLOCK = 1000  # images transposed at once


def svhn(root: str = "~/.cache/dastune/svhn", extra: bool = False) -> Dataset:
    """Return SVHN from `root`, downloading it there (250 MB) if it is absent. The digit 0 has label 0.

    Args:
        extra: whether the 531,131 simpler images follow the 73,257 training images; 1.3 GB more to download, 1.6 GB
            more memory, and twice that while they are read.

    Raises:
        UserError: it is not there and cannot be fetched; says how to put it there by hand.
    """
    train_names = ["train_32x32.mat", *(["extra_32x32.mat"] if extra else [])]
    names = [*train_names, "test_32x32.mat"]

    def read(folder: Path) -> tuple[tuple[PixelArray, Indices], tuple[PixelArray, Indices]]:
        for name in names:
            check_md5(folder / name, MD5[name])
        return _joined([folder / name for name in train_names]), _joined([folder / "test_32x32.mat"])

    def fetch(folder: Path) -> None:
        from torchvision.datasets.svhn import SVHN, download_url

        for url, name, md5 in SVHN.split_list.values():
            if name in names:
                download_url(url, folder, name, md5)

    folder = Path(root).expanduser()
    by_hand = f"{', '.join(names)} of http://ufldl.stanford.edu/housenumbers"
    train, test = read_or_fetched("SVHN", folder, read, fetch, by_hand)
    return Dataset("svhn", *train, *test, classes=10, source=str(folder))


def _joined(paths: Sequence[Path]) -> tuple[PixelArray, Indices]:
    """Return pixels and labels of some files, one after the other."""
    from scipy.io import loadmat, whosmat

    sizes = [next(shape[3] for name, shape, _ in whosmat(path) if name == "X") for path in paths]
    pixels = np.empty((sum(sizes), 3, 32, 32), dtype=np.uint8)
    labels = np.empty(len(pixels), dtype=np.int64)
    begin = 0
    for path, size in zip(paths, sizes, strict=True):
        content = loadmat(path)
        labels[begin : begin + size] = content["y"].ravel() % 10  # 10 is the digit 0
        for start in range(0, size, _BLOCK):
            block_BCHW = content["X"][..., start : start + _BLOCK].transpose(3, 2, 0, 1)
            pixels[begin + start : begin + start + len(block_BCHW)] = block_BCHW
        begin += size
    return pixels, labels
