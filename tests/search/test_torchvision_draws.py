"""RandAugment and TrivialAugmentWide against torchvision's on the same draws, image by image and step by step."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2

from dastune.augment.policies import PolicyTransform
from dastune.ops.spaces import SPACES
from dastune.ops.table import OPS
from dastune.policy.policy import Stages, Step, SubPolicies, SubPolicy
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.controls import trivial_wide_policy
from dastune.search.rand_augment import RandAugmentProposer

SIDE = 32
OURS = {
    **{"Identity": "identity", "ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x"},
    **{"TranslateY": "translate_y", "Rotate": "rotate", "Brightness": "brightness", "Color": "color"},
    **{"Contrast": "contrast", "Sharpness": "sharpness", "Posterize": "posterize", "Solarize": "solarize"},
    **{"AutoContrast": "auto_contrast", "Equalize": "equalize"},
}
# In grey levels: torchvision cuts the results of blends to whole levels, and their grey, mean or smoothed images too.
TOLERANCES = {"auto_contrast": 1.01, "brightness": 1.01, "color": 2.01, "contrast": 2.01, "sharpness": 2.01}
DRAWS = 300


class Recorder:
    """One of torchvision's transforms that keeps op, magnitude, input and result of each step it draws."""

    def __init__(self, transform: Any) -> None:
        self._transform = transform
        self._apply = transform._apply_image_or_video_transform
        self.steps: list[tuple[str, float, torch.Tensor, torch.Tensor]] = []
        transform._apply_image_or_video_transform = self._recorded

    def _recorded(self, image: torch.Tensor, transform_id: str, magnitude: float, **options: Any) -> torch.Tensor:
        changed: torch.Tensor = self._apply(image, transform_id, magnitude, **options)
        self.steps.append((OURS[transform_id], magnitude, image, changed))
        return changed

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.steps.clear()
        changed: torch.Tensor = self._transform(image)
        return changed


@cache
def photos_u8() -> torch.Tensor:
    """Return crops (12, 3, SIDE, SIDE) of scikit-learn's two photographs, at a quarter of their resolution."""
    small = torch.stack([torch.tensor(photo).permute(2, 0, 1) for photo in load_sample_images().images])[..., ::4, ::4]
    return torch.cat([small[..., y : y + SIDE, x : x + SIDE] for y in (0, 37, 70) for x in (20, 100)])


def drawn(stage: Any, op: str, magnitude: float) -> Step:
    """Return our step that torchvision's draw means, at its sign."""
    argument = int(magnitude) / SIDE if op.startswith("translate") else magnitude
    same = [choice.step for choice in stage if choice.step.op == op]
    step = min(same, key=lambda step: abs(_argument(step) - abs(argument)))
    assert _argument(step) == pytest.approx(abs(argument), abs=1e-6)
    assert step.signed or argument >= 0
    assert step.probability == 1
    at = math.copysign(step.low, argument) if step.signed else step.low
    return Step(op=op, low=at, high=at, signed=False)


def _argument(step: Step) -> float:
    """Return the argument in torchvision's terms: it cuts translations to whole pixels."""
    return int(step.low * SIDE) / SIDE if step.op.startswith("translate") else step.low


def applied(steps: list[Step], image: torch.Tensor, policy: Stages) -> torch.Tensor:
    """Return the grey levels, unrounded, of an image of 8 bits after our steps."""
    chain = SubPolicies(sub_policies=(SubPolicy(steps=tuple(steps)),), geometry=policy.geometry)
    return 255 * PolicyTransform(chain, torch.Generator())(image[None] / 255)[0]


def tied(step: Step) -> torch.Tensor:
    """Return where (SIDE, SIDE) the source of a pixel lies on the border of two, so that either may be taken."""
    centres = torch.arange(SIDE, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    match step.op:
        case "shear_x":
            x = x + step.low * y
        case "shear_y":
            y = y + step.low * x
        case "rotate":
            sine, cosine = math.sin(math.radians(step.low)), math.cos(math.radians(step.low))
            x, y = x - SIDE / 2, y - SIDE / 2
            x, y = cosine * x - sine * y + SIDE / 2, sine * x + cosine * y + SIDE / 2
    return torch.minimum(*((place - place.round()).abs() for place in (x, y))) < 2e-3


def check(recorder: Recorder, policy: Stages, seed: int) -> set[str]:
    """Send images through torchvision's transform; each of its steps has to be the policy's. Return the ops drawn."""
    seen, whole = set(), 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for index in range(DRAWS // len(policy.stages)):
            image = photos_u8()[index % len(photos_u8())]
            theirs = recorder(image)
            assert len(recorder.steps) == len(policy.stages)
            steps = []
            for stage, (op, magnitude, before, after) in zip(policy.stages, recorder.steps, strict=True):
                step = drawn(stage, op, magnitude)
                apart = (applied([step], before, policy) - after).abs()
                apart[tied(step).expand(apart.shape)] = 0
                assert apart.max() <= TOLERANCES.get(op, 1e-3), step
                steps.append(step)
                seen.add(op)
            # Ops on whole levels that move nothing: from the first image to the last without a difference.
            if not any(step.op in TOLERANCES or OPS[step.op].geometric for step in steps):
                assert torch.equal(applied(steps, image, policy).round(), theirs.float())
                whole += 1
    assert whole > 0
    return seen


@pytest.mark.parametrize(("n", "m"), [(1, 30), (2, 9), (3, 17)])
def test_rand_augment_is_torchvisions_on_the_same_draws(n: int, m: int) -> None:
    named = SPACES["ra-torchvision"]
    ops = tuple(SpaceOp(op.op, op.low, op.high, op.signed) for op in named.ops)
    space = SearchSpace(ops, geometry=named.geometry)
    policy = RandAugmentProposer(space, 0, n=[n], m=[m], scale="torchvision").policy(n, m)
    assert check(Recorder(v2.RandAugment(num_ops=n, magnitude=m)), policy, seed=m) == set(OURS.values())


def test_trivial_augment_wide_is_torchvisions_on_the_same_draws() -> None:
    assert check(Recorder(v2.TrivialAugmentWide()), trivial_wide_policy(), seed=0) == set(OURS.values())
