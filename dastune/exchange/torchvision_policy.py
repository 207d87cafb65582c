"""A data augmentation policy as a transform of torchvision (transforms.v2). Needs torch and torchvision >= 0.24 only.

A policy is plain JSON data. With "kind": "sub_policies" each call draws one sub-policy by weight and goes through its
steps; with "stages" each call draws one step by weight at every stage. A step is an op with its argument drawn
uniformly from [low, high], with a random sign where "signed", applied with its "probability". "geometry" says how
images are sampled where pixels move: "interpolation"; the point that a shear leaves in place ("shear_about");
translations cut to "whole_pixels"; the "fill" from outside, in [0, 1]; "sampling" at each step that moves pixels, or
once for consecutive ones.
"""

import math
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

_MOVING = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "zoom")
_Action = tuple[str, Any]  # an op with what it needs; "warp" stands for all that move pixels


class PolicyTransform(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Applies a policy to an image, with its masks if there are any; every call draws anew from torch's global RNG.

    An image is a PIL image (mode L or RGB), or a tensor (C, H, W) of 1 or 3 channels, uint8 or float32 in [0, 1]; it
    comes back as what it was. All is computed in float32 and rounded once at the end. Several inputs of one call, and
    the images of a batch (B, C, H, W), get the same draw, as with all of torchvision's transforms. `tv_tensors.Mask`
    moves along with the image by nearest sampling; ops that move nothing leave it.

    Args:
        policy: JSON data as above.
        mask_fill: what masks hold where an image has come from outside: the class that losses ignore.

    Raises:
        TypeError: on a call, an input that is neither an image as above, nor a mask, nor a label.
        ValueError: on a call, inputs of different height or width.
    """

    def __init__(self, policy: dict[str, Any], mask_fill: int = 255) -> None:
        super().__init__()
        self.policy = policy
        self.mask_fill = mask_fill
        self._geometry = policy["geometry"]
        self._interpolation = v2.InterpolationMode(self._geometry["interpolation"])
        if policy["kind"] == "sub_policies":
            draws = [[(sub["weight"], sub["steps"]) for sub in policy["sub_policies"]]]
        else:
            draws = [[(choice["weight"], [choice["step"]]) for choice in stage] for stage in policy["stages"]]
        # Of each draw a call takes one list of steps, by weight.
        self._draws = [
            (torch.tensor([weight for weight, _ in choices], dtype=torch.float64), [steps for _, steps in choices])
            for choices in draws
        ]

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise TypeError where an input would have to move but cannot."""
        for inpt in flat_inputs:
            if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, (tv_tensors.Image, tv_tensors.Mask)):
                raise TypeError(f"PolicyTransform takes images and masks; it cannot move {type(inpt).__name__}")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw what this call does: {"actions": [(op, argument), ...]}."""
        size, once = v2.query_size(flat_inputs), self._geometry["sampling"] == "once"
        actions: list[_Action] = []
        for step in self._drawn_steps():
            action = _action(step["op"], _drawn_argument(step), size, self._geometry)
            if once and actions and action[0] == actions[-1][0] == "warp":
                actions[-1] = ("warp", actions[-1][1] @ action[1])
            elif action[0] != "identity":
                actions.append(action)
        return {"actions": actions}

    def _drawn_steps(self) -> list[dict[str, Any]]:
        drawn = [choices[int(torch.multinomial(weights, 1))] for weights, choices in self._draws]
        return [step for steps in drawn for step in steps if _uniform() < step["probability"]]

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return an image or mask after the drawn actions."""
        if isinstance(inpt, tv_tensors.Mask):
            for op, value in params["actions"]:
                if op == "warp":
                    inpt = _sampled(inpt, value, v2.InterpolationMode.NEAREST, [float(self.mask_fill)])
            return inpt
        image = _floats(inpt)
        for op, value in params["actions"]:
            image = self._warped(image, value) if op == "warp" else _changed(image, op, value)
        return _like(inpt, image)

    def _warped(self, image: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        # torchvision's own fill weighs border pixels twice in bilinear sampling. With images moved so that the fill is
        # 0, which is what comes from outside without one, every pixel has the weight of its share.
        fill = torch.tensor(self._geometry["fill"], device=image.device)[:, None, None].expand(image.shape[-3], 1, 1)
        moved: torch.Tensor = _sampled(image - fill, matrix, self._interpolation).add_(fill).clamp_(0, 1)
        return moved


def _uniform() -> float:
    return float(torch.rand((), dtype=torch.float64))


def _drawn_argument(step: dict[str, Any]) -> float:
    argument: float = step["low"] + _uniform() * (step["high"] - step["low"])
    return -argument if step["signed"] and _uniform() < 0.5 else argument


def _action(op: str, argument: float, size: tuple[int, int], geometry: dict[str, Any]) -> _Action:
    """Return what images of height and width `size` go through."""
    if op in _MOVING:
        return "warp", _matrix(op, argument, size, geometry)
    if op == "cutout":
        return op, _square(argument, size)
    return op, argument


def _matrix(op: str, argument: float, size: tuple[int, int], geometry: dict[str, Any]) -> torch.Tensor:
    """Return the map (3, 3), float64, from the place of an output pixel (x, y, 1) to where it comes from in the input.

    Places are in pixels, (0, 0) being the top left corner of the top left pixel. Signs are those of the functionals
    that `v2.AutoAugment` calls: counter-clockwise, right, down.
    """
    height, width = size
    matrix = torch.eye(3, dtype=torch.float64)
    match op:
        case "shear_x":
            matrix[0, 1] = argument
        case "shear_y":
            matrix[1, 0] = argument
        case "translate_x":
            matrix[0, 2] = -_pixels(argument * width, geometry["whole_pixels"])
        case "translate_y":
            matrix[1, 2] = -_pixels(argument * height, geometry["whole_pixels"])
        case "rotate":
            cosine, sine = math.cos(math.radians(argument)), math.sin(math.radians(argument))
            matrix[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]])
        case "zoom":
            matrix[:2, :2] /= 1 + argument
    if not (op.startswith("shear") and geometry["shear_about"] == "corner"):
        centre = torch.tensor([width / 2, height / 2], dtype=torch.float64)
        matrix[:2, 2] += centre - matrix[:2, :2] @ centre
    return matrix


def _pixels(pixels: float, whole: bool) -> float:
    # What is whole but for rounding is whole.
    return math.trunc(pixels + math.copysign(2e-4, pixels)) if whole else pixels


def _sampled(
    inpt: torch.Tensor, matrix: torch.Tensor, interpolation: v2.InterpolationMode, fill: list[float] | None = None
) -> Any:
    coefficients = [*matrix[:2].flatten().tolist(), 0.0, 0.0]  # a perspective that is affine
    return functional.perspective(inpt, None, None, interpolation=interpolation, fill=fill, coefficients=coefficients)


def _square(side: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Draw a square's place and return top, left, height, width; `side` is a fraction of the shorter side of `size`.

    The centre is uniform over the image, so the border may clip the square. It holds the pixels whose centres it holds.
    """
    half = side * min(size) / 2
    (top, height), (left, width) = (_span(_uniform() * length, half, length) for length in size)
    return top, left, height, width


def _span(centre: float, half: float, length: int) -> tuple[int, int]:
    """Return the first of the pixels 0 .. length - 1 whose centres lie within `half` of `centre`, and their number."""
    start = max(math.floor(centre - half + 0.5), 0)
    return start, max(min(math.ceil(centre + half - 0.5), length) - start, 0)


def _floats(inpt: Any) -> torch.Tensor:
    """Return a PIL image or a tensor as a float32 tensor in [0, 1]."""
    if not isinstance(inpt, torch.Tensor):
        if inpt.mode not in ("L", "RGB"):
            raise TypeError(f"PolicyTransform takes PIL images of the modes L and RGB; this one has {inpt.mode}")
        inpt = functional.pil_to_tensor(inpt)
    image: torch.Tensor = inpt.as_subclass(torch.Tensor)
    if image.dtype not in (torch.uint8, torch.float32):
        raise TypeError(f"PolicyTransform takes uint8 images, or float32 in [0, 1]; this one is {image.dtype}")
    return image / 255 if image.dtype == torch.uint8 else image


def _like(inpt: Any, image: torch.Tensor) -> Any:
    """Return the image as what `inpt` is."""
    if not isinstance(inpt, torch.Tensor):
        return functional.to_pil_image(_levels(image), inpt.mode)
    return tv_tensors.wrap(_levels(image) if inpt.dtype == torch.uint8 else image, like=inpt)


def _changed(image: torch.Tensor, op: str, value: Any) -> Any:
    """Return the float image after an op that moves no pixels; `value` is its argument."""
    match op:
        case "auto_contrast":
            return _auto_contrast(image)
        case "invert":
            return functional.invert(image)
        case "equalize":
            return _by_level(image, functional.equalize(_levels(image)))
        case "posterize":
            return _by_level(image, functional.posterize(_levels(image), min(max(round(value), 0), 8)))
        case "solarize":
            return functional.solarize(image, value) if value <= 1 else image
        case "solarize_add":
            return torch.where(image < 127.5 / 255, (image + value).clamp(0, 1), image)
        case "color":
            return functional.adjust_saturation(image, 1 + value)
        case "contrast":
            return functional.adjust_contrast(image, 1 + value)
        case "brightness":
            return functional.adjust_brightness(image, 1 + value)
        case "sharpness":
            return functional.adjust_sharpness(image, 1 + value)
        case "cutout":
            return functional.erase(image, *value, v=torch.tensor(0.5))
        case _:
            raise ValueError(f"{op!r} is no op of this transform")


def _auto_contrast(image: torch.Tensor) -> torch.Tensor:
    """Stretch each channel to [0, 1]; one that does not span half a grey level stays."""
    span = image.amax((-2, -1), keepdim=True) - image.amin((-2, -1), keepdim=True)
    return torch.where(span < 0.5 / 255, image, functional.autocontrast(image))


def _levels(image: torch.Tensor) -> torch.Tensor:
    """Return the grey levels, 0 to 255, of a float image."""
    return (image * 255).round_().to(torch.uint8)


def _by_level(image: torch.Tensor, changed_levels: torch.Tensor) -> torch.Tensor:
    """Add the change of each pixel's grey level: what lies between two levels stays."""
    change = changed_levels.float() - _levels(image).float()
    return (image + change / 255).clamp(0, 1)
