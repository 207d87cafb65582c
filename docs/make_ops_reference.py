"""Write docs/ops.md, the reference of all ops, from their table and docstrings, and docs/ops.png, what they look like.

python docs/make_ops_reference.py
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dastune.ops import spaces, table
from dastune.ops.spaces import DASTUNE, SPACES, TORCHVISION, Geometry
from dastune.ops.table import NOISE_LISTS, OPS, Op

TARGET = Path(__file__).with_name("ops.md")
SHEET = Path(__file__).with_name("ops.png")

INTRODUCTION = """\
# Ops

An op takes images (float32 in [0, 1]), one number per image, its argument, and one seed per image, which decides what
is random inside the op. Nothing else matters: the same three give the same image in any batch, at any place in it, on
any device (but for rounding). Methods set *magnitudes* in [0, 1]; magnitude m stands for the argument
`low + m * (high - low)`, whose ends, at magnitude 0 and 1, are in the tables below. Where the sign is drawn, it is plus
or minus for each image, with probability 1/2 each.

![All ops at magnitudes 0, 0.25, 0.5, 0.75 and 1 on one photograph](ops.png)

(Ops with a sign have a second row for the other sign. Every picture of a noise op is another draw.)
"""

GRADIENTS = """\
## Gradients

*Exact* gradients are those of the function itself: 0 where nothing of the image is left, or where it is cut to [0, 1].
*Straight-through* ones take the place of a derivative that is 0 or does not exist. To the image it is that of the
identity, past the rounding. To an argument, the ops say what it is of:
"""

GEOMETRIES = """\
## Sampling

A space says how its geometric ops sample. Its fields, dastune's own geometry, and torchvision's:
"""

CLIPS = """\
## Clips

Where an image becomes a clip of frames, geometric ops and identity move them: an argument is a *step*, from one frame
to the next. Frame t is d = |t - T // 2| steps away from the image in the middle (in the profile `ramp` d = t - T // 2,
below 0 before it). At d steps the argument is d times the step, but for `zoom`, whose factor, 1 + change, is to the
power of d. So a frame is moved as far as d steps one after the other would move it, at one sampling of the image. See
[policies.md](policies.md#clip-an-image-becomes-a-clip).
"""

TORCHVISION_TEXT = """\
## What is equal to torchvision and PIL

Tests compare every op with torchvision 0.29, on 8-bit tensors and on PIL images, at every level of AutoAugment's,
RandAugment's and TrivialAugmentWide's tables.

- Equal to the grey level: identity, invert, equalize, posterize; solarize, but where a threshold and a pixel are equal
  up to rounding; and under torchvision's geometry all geometric ops, but where a place in the image lies on the line
  between two pixels, as far as float32 (tensors) or steps of 2^-16 pixel (PIL) can tell.
- Within one grey level: auto_contrast and brightness, because 8-bit results are cut to whole levels and ours are not.
  Within 1.5 levels (PIL) or 2 (tensors): color, contrast and sharpness, because what they blend with is rounded, too.
- Under dastune's geometry, geometric ops are torchvision's bilinear ones on float images, to 5e-5; zoom is its affine
  with a scale.

They differ where torchvision does not do what its own table says: level 15 of TrivialAugmentWide's translations, 16
pixels, is 15.999999 in float32, which torchvision cuts to 15; and its bilinear sampling with a fill also mixes black
into the pixels of the border.
"""


def reference() -> str:
    """Return the whole text of docs/ops.md."""
    parts = [
        INTRODUCTION,
        *_ops(),
        *_noise(),
        *_gradients(),
        *_spaces(),
        *_geometries(),
        CLIPS,
        TORCHVISION_TEXT,
        *_left_out(),
    ]
    return "\n".join(parts)


def _ops() -> Iterator[str]:
    yield from ("## Image ops", "", "`geometric` ops move masks along; all others leave them.", "")
    yield "| op | | argument | unit | magnitude 0 | magnitude 1 | sign drawn | neutral at 0 | image | argument |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for op in OPS.values():
        if not op.noise:
            name = f"`{op.name}`" + (" (geometric)" if op.geometric else "")
            flags = ("yes" if flag else "" for flag in (op.signed, op.neutral_at_low))
            yield _row(name, _summary(op), *_argument(op), *flags, op.gradient, _argument_gradient(op))
    yield from ("", "The last two columns are how gradients reach the image and the argument.", "")


def _noise() -> Iterator[str]:
    yield from ("## Noise ops", "")
    yield "Each destroys information at every magnitude, so that a search has something to avoid; none is neutral."
    yield from ("", "| op | | destroys | argument | unit | magnitude 0 | magnitude 1 | image | argument |")
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for op in OPS.values():
        if op.noise:
            gradients = (op.gradient, _argument_gradient(op))
            yield _row(f"`{op.name}`", _summary(op), op.destroys, *_argument(op), *gradients)
    yield from ("", "Named lists, for `space.noise.ops`; noise level k takes the first k:", "")
    yield from (f"- `{name}`: {', '.join(ops)}" for name, ops in NOISE_LISTS.items())
    yield ""


def _gradients() -> Iterator[str]:
    yield GRADIENTS
    for op in OPS.values():
        if "straight-through" in (op.gradient, op.argument_gradient):
            ways = {"image": op.gradient, op.argument: op.argument_gradient}
            through = " and ".join(way for way, gradient in ways.items() if gradient == "straight-through")
            yield f"- `{op.name}` ({through}): {_one_line(str(inspect.getdoc(op.function)))}"
    yield ""


def _spaces() -> Iterator[str]:
    yield from ("## Named spaces", "", "For `space.ops`. A list never changes under its name.", "")
    # What the module says of suffixes.
    yield from (" ".join(inspect.getdoc(spaces).split("\n\n")[2].split()), "")
    names = [op for op in OPS if any(op in _ranges(space) for space in SPACES)]
    yield f"| op | {' | '.join(f'`{space}`' for space in SPACES)} |"
    yield f"| --- |{' --- |' * len(SPACES)}"
    yield _row("ops", *(str(len(space.ops)) for space in SPACES.values()))
    yield _row("sampling", *(_geometry_name(space.geometry) for space in SPACES.values()))
    for name in names:
        yield _row(f"`{name}`", *(_ranges(space).get(name, "-") for space in SPACES))
    yield from (
        "",
        "A cell is the argument at magnitude 0 and 1; ± is a drawn sign, `-` an op that is not in the list.",
        "",
    )


def _geometries() -> Iterator[str]:
    yield from (GEOMETRIES, "| field | | dastune | torchvision |", "| --- | --- | --- | --- |")
    for field, about in _fields(Geometry).items():
        yield _row(
            f"`{field}`", about, *(f"`{_plain(getattr(geometry, field))}`" for geometry in (DASTUNE, TORCHVISION))
        )
    yield ""


def _left_out() -> Iterator[str]:
    [why] = [part for part in inspect.getdoc(table).split("\n\n") if "SamplePairing" in part]
    yield from ("## SamplePairing", "", " ".join(why.split()), "")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _argument(op: Op) -> tuple[str, str, str, str]:
    return (op.argument, op.unit, _number(op.low), _number(op.high)) if op.argument else ("", "", "", "")


def _argument_gradient(op: Op) -> str:
    return op.argument_gradient if op.argument else ""


def _number(value: float) -> str:
    return f"{value:.4g}"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _summary(op: Op) -> str:
    """Return the first line of an op's docstring."""
    return _one_line(str(inspect.getdoc(op.function)).split("\n")[0])


def _one_line(text: str) -> str:
    """Return a docstring in one line; arguments go by the names that the tables give them."""
    return re.sub(r"`(\w+)_B`", r"`\1`", " ".join(text.split()))


def _ranges(space: str) -> dict[str, str]:
    found = {}
    for op in SPACES[space].ops:
        ends = f"{_number(op.low)} … {_number(op.high)}" + (" ±" if op.signed else "")
        found[op.op] = ends if OPS[op.op].argument else "yes"
    return found


def _geometry_name(geometry: Geometry) -> str:
    return {DASTUNE: "dastune", TORCHVISION: "torchvision"}[geometry]


def _fields(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a class."""
    [body] = ast.parse(inspect.getsource(cls)).body
    assert isinstance(body, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


# The picture sheet, in pixels.
TILE, GAP, CAPTION, LABEL, HEAD = 60, 10, 14, 130, 108
MAGNITUDES = (0.0, 0.25, 0.5, 0.75, 1.0)
BLOCKS = 2  # side by side


def draw_sheet() -> None:
    """Write docs/ops.png: every op at five magnitudes on one photograph."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    rows = [(op, sign) for op in OPS.values() for sign in ((1, -1) if op.signed else (1,))]
    per_block = -(-len(rows) // BLOCKS)
    block_width = LABEL + len(MAGNITUDES) * (TILE + GAP) + 2 * GAP
    width, height = BLOCKS * block_width, HEAD + per_block * (TILE + CAPTION + GAP)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    image = _photograph()
    texts = [(LABEL + 2 * GAP + TILE, GAP + TILE / 2, "the original; m is the magnitude", {"size": 9, "va": "center"})]
    tiles = [(LABEL, GAP, image[0])]
    for block in range(BLOCKS):
        for column, magnitude in enumerate(MAGNITUDES):
            x = block * block_width + LABEL + column * (TILE + GAP)
            texts.append((x + TILE / 2, HEAD - 10, f"m = {magnitude:g}", {"size": 8, "ha": "center"}))
    for number, (op, sign) in enumerate(rows):
        left, top = number // per_block * block_width, HEAD + number % per_block * (TILE + CAPTION + GAP)
        name = f"{op.name}\n{op.argument}".strip() + (", other sign" if sign < 0 else "")
        texts.append((left + LABEL - GAP, top + TILE / 2, name, {"size": 8.5, "ha": "right", "va": "center"}))
        for column, (tile, caption) in enumerate(_tiles(op, sign, image)):
            x = left + LABEL + column * (TILE + GAP)
            tiles.append((x, top, tile))
            texts.append((x + TILE / 2, top + TILE + 10, caption, {"size": 6.5, "ha": "center", "color": "0.3"}))
    for x, y, text, style in texts:
        figure.text(x / width, 1 - y / height, text, **style)
    canvas.draw()
    sheet = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    for x, y, tile in tiles:
        pixels = (tile * 63).round().mul(4.04).to(torch.uint8).permute(1, 2, 0).numpy()  # 6 bits: a smaller file
        sheet.paste(Image.fromarray(pixels), (round(x), round(y)))
    sheet.save(SHEET, optimize=True)


def _photograph() -> torch.Tensor:
    """Return a crop (1, 3, TILE, TILE) of scikit-learn's photograph of a pagoda."""
    from sklearn.datasets import load_sample_image

    photograph = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None] / 255
    return torch.nn.functional.avg_pool2d(photograph[..., 22:382, 48:408], 360 // TILE)


def _tiles(op: Op, sign: int, image: torch.Tensor) -> Iterator[tuple[torch.Tensor, str]]:
    """Yield what is in an op's row, with what to write below it."""
    for draw, magnitude in enumerate(MAGNITUDES):
        argument = sign * (op.low + magnitude * (op.high - op.low))
        if op.argument:
            caption = f"{argument + 0:.3g}"  # + 0, for there is a -0
        elif op.noise:
            caption = f"draw {draw + 1}"
        else:
            caption = "no argument"
        # Each noise image is a draw of its own; a cutout stays in its place and grows.
        seed = draw if op.noise else 41
        yield op.function(image, torch.tensor([argument]), torch.tensor([seed]))[0], caption
        if caption == "no argument":
            return


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    draw_sheet()
