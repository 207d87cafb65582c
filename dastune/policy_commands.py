"""What `dastune policy show`, `export` and `import` do, as functions that print nothing."""

import os
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dastune.data.table import DATASETS
from dastune.errors import UserError, nearest, printable, shortened
from dastune.exchange.table import FORMATS, export_text, import_policy
from dastune.folder import write_atomic
from dastune.policy.policy import Clip, Genotype, Policy, load_policy, load_policy_file, noise_mass, policy_text
from dastune.report.policy_text import policy_lines, summary_lines

if TYPE_CHECKING:
    import torch

PHOTOGRAPHS = "photographs"
PATCH_PX = 104  # side of a photograph's patch
MOST_BYTES = 10_000_000  # of a file to import
MOST_SHOWN = 200  # characters of a text that a policy was read from, in its provenance


def shown(path: str | Path) -> list[str]:
    """Return the policy file at `path` in words: what the policy does, and where it comes from.

    Raises:
        UserError: it is no policy file.
    """
    file = load_policy_file(path)
    return [*policy_lines(file.policy), *summary_lines(file.policy, file.provenance)]


def draw(path: str | Path, output: Path, data: str, data_dir: str | None, images: int, draws: int, seed: int) -> None:
    """Write a picture to `output`, a .png: a row for each image, with `draws` of the policy at `path` beside it.

    Beside an image stands its clip instead, where the policy makes clips.

    Args:
        data: "photographs", scikit-learn's two in patches, or the data set of that name, of which training images are.
        data_dir: the folder of the data set, as data.root in a study.
        images: how many.
        seed: of what is drawn, and of the images where there are more.

    Raises:
        UserError: there is no such policy file or data, or `output` cannot be written.
    """
    if output.suffix.lower() != ".png":
        name = shortened(str(output), MOST_SHOWN)
        raise UserError(f"{name}: a picture is a .png; write {name.removesuffix(output.suffix)}.png")
    policy = load_policy(path)
    if len(policy.geometry.fill) not in (1, 3):
        raise UserError(
            f"{path}: its fill has {len(policy.geometry.fill)} channels, and the images of a picture have 3"
        )
    pixels = _photographs(images) if data == PHOTOGRAPHS else _dataset(data, data_dir, images, seed)
    rows = _augmented(pixels, policy, draws, seed)
    from dastune.report.figures import contact_sheet, save_png

    kind, *steps = policy_lines(policy)
    lines = [f"{kind}; noise mass {100 * noise_mass(policy):.1f} %", *steps]
    beside = "its clip" if _makes_clips(policy) else "draws of the policy"
    sheet = contact_sheet(rows.numpy(), printable(Path(path).name), lines, beside)
    _write(output, lambda: save_png(sheet, output))


def export(path: str | Path, to: str) -> tuple[str, str]:
    """Return the text of the policy at `path` in the form `to`, and what a user should know of it, or "".

    Raises:
        UserError: it is no policy file, there is no such form, or the form cannot express the policy.
    """
    policy = load_policy(path)
    note = "the cell averages images; exported are its paths, of which each image goes through one"
    return export_text(policy, to), note if _averages(policy) else ""


def imported(source: str, form: str, options: Mapping[str, Any]) -> str:
    """Return the text of a policy file, read from `source` in the form `form`.

    Args:
        source: a file, or the text itself.
        options: see `dastune.exchange.table.Format.options`.

    Raises:
        UserError: the source cannot be read, there is no such form, or no policy means what the source does.
    """
    text, read_from = _read(source)
    policy = import_policy(text, form, **options)
    library = FORMATS[form].library
    provenance = {"read_from": read_from, "form": form, **options}
    provenance |= {f"{library}_version": version(library)} if library else {}
    return policy_text(policy, provenance | {"dastune_version": version("dastune")})


def write_new(path: Path, text: str, overwrite: bool) -> None:
    """Write a file atomically. Raises UserError if it cannot be written, or exists already unless `overwrite`."""
    if os.path.exists(path) and not overwrite:  # noqa: PTH110  Path.exists raises for names that are too long
        raise UserError(f"{printable(str(path))} exists already; --overwrite replaces it")
    _write(path, lambda: write_atomic(path, text))


def image_size(text: str) -> tuple[int, int]:
    """Return (height, width) of "32" or "224x320". Raises UserError if it is no such text."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if 0 in size:
        raise UserError(
            f"--image-size '{shortened(text)}' must be the side in pixels, such as 32, or height x width: 224x320"
        )
    return size


def _averages(policy: Policy) -> bool:
    if isinstance(policy, Clip):
        return any(len(edges) > 1 for edges in policy.nodes)
    return isinstance(policy, Genotype) and policy.blends


def _makes_clips(policy: Policy) -> bool:
    return isinstance(policy, Clip) and policy.order != "one"


def _write(path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        name = shortened(str(path), most=200)
        raise UserError(f"{name}: cannot be written ({error.strerror}); give another --output") from error


def _read(source: str) -> tuple[str, str]:
    """Return the text that `source` is, or that the file of this name holds, and where it is from."""
    shown = shortened(source, most=MOST_SHOWN)
    try:
        path = Path(source)
        if not path.is_file():
            if path.suffix in (".json", ".py", ".txt", ".yaml") and "\n" not in source:
                raise UserError(f"{shown}: there is no such file")
            return source, source.strip()[:MOST_SHOWN]
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{shown}: is larger than {MOST_BYTES:,} bytes; no policy is")
        return path.read_text(encoding="utf-8"), source
    except UnicodeDecodeError as error:
        raise UserError(f"{shown}: is no text in UTF-8 ({error.reason})") from error
    except OSError as error:  # also of a text that is too long for the name of a file
        if len(source) > MOST_SHOWN:
            return source, source.strip()[:MOST_SHOWN]
        raise UserError(f"{shown}: cannot be read ({error.strerror})") from error


def _photographs(images: int) -> "torch.Tensor":
    """Return patches (images, 3, PATCH_PX, PATCH_PX), uint8, of scikit-learn's photographs at half their resolution."""
    import torch
    from sklearn.datasets import load_sample_images

    photos = torch.stack([torch.tensor(photo[:426]) for photo in load_sample_images().images])
    halved = photos.view(2, 213, 2, 320, 2, 3).float().mean((2, 4)).round().to(torch.uint8).permute(0, 3, 1, 2)
    corners = [(0, 108), (108, 108), (108, 4), (108, 212), (0, 4), (0, 212), (54, 56), (54, 160)]
    patches = [photo[:, y : y + PATCH_PX, x : x + PATCH_PX] for y, x in corners for photo in halved]
    if images > len(patches):
        raise UserError(f"--images {images}: there are {len(patches)} patches of photographs; --data has more images")
    return torch.stack(patches[:images])


def _dataset(name: str, folder: str | None, images: int, seed: int) -> "torch.Tensor":
    """Return training images (images, 3, H, W), uint8, of a data set."""
    if name not in DATASETS:
        raise UserError(f"--data '{shortened(name)}' is no data set; {nearest(name, [PHOTOGRAPHS, *DATASETS])}")
    import numpy as np
    import torch

    entry = DATASETS[name]
    loader = getattr(import_module(f"dastune.data.{entry.module}"), entry.function)
    if folder is not None and "root" not in signature(loader).parameters:
        raise UserError(f"--data-dir {shortened(folder)}: {name} comes with its library, and is read from no folder")
    try:
        dataset = entry.load(**({} if folder is None else {"root": folder}))
    except UserError as error:
        raise UserError(f"{error}. Here that is --data-dir FOLDER") from error
    chosen = np.random.default_rng(seed).choice(len(dataset.train_pixels), images, replace=False)
    return torch.from_numpy(dataset.train_pixels[chosen])


def _augmented(pixels_BCHW: "torch.Tensor", policy: Policy, draws: int, seed: int) -> "torch.Tensor":
    """Return the images and `draws` of the policy, or the frames, for each, (B, 1 + draws, H, W, C), uint8."""
    import torch

    from dastune.augment.video import transform_of

    transform = transform_of(policy, torch.Generator().manual_seed(seed))
    images_BCHW = pixels_BCHW / 255
    drawn = transform(images_BCHW if _makes_clips(policy) else images_BCHW.repeat_interleave(draws, 0))
    drawn = drawn.mul(255).round().to(torch.uint8)
    rows = torch.cat([pixels_BCHW[:, None], drawn.view(len(pixels_BCHW), -1, *pixels_BCHW.shape[1:])], 1)
    return rows.permute(0, 1, 3, 4, 2)
