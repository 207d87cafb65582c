"""Clips for other libraries: frames drawn for images are exported, clips are refused."""

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dastune.augment.video import ClipTransform
from dastune.errors import UserError
from dastune.exchange.clips import as_images
from dastune.exchange.table import FORMATS, export, export_text
from dastune.ops.spaces import TORCHVISION, Geometry
from dastune.policy.policy import MOST_PATHS, Choice, Clip, Edge, Genotype, Stages, Step, SubPolicies, SubPolicy


def edge(source: int, op: str, step: float = 0.0) -> Edge:
    return Edge(source=source, step=Step(op=op, low=step, high=step, signed=False))


CHAIN = Clip(frames=6, order="one", nodes=((edge(0, "rotate", 8.0),), (edge(1, "zoom", -0.15),)))
MEAN = Clip(frames=3, order="one", nodes=((edge(0, "translate_x", 0.25), edge(0, "zoom", 0.3)),))


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A crop (3, 40, 56), float32 in [0, 1]."""
    return torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[:, 100:260:4, 80:304:4] / 255


def nearest_of(image: torch.Tensor, candidates: torch.Tensor) -> int:
    """Return which of the candidates the image is, to 1e-3."""
    apart = (candidates - image).abs().amax((1, 2, 3))
    assert apart.min() < 1e-3
    return int(apart.argmin())


def affine(image: torch.Tensor, degrees: float, factor: float) -> torch.Tensor:
    """Return the image turned counter-clockwise and enlarged by torchvision, bilinear."""
    moved: torch.Tensor = tv.affine(image, -degrees, [0, 0], factor, [0.0, 0.0], InterpolationMode.BILINEAR)
    return moved


@pytest.mark.parametrize("profile", ["symmetric", "ramp"])
def test_every_frame_is_drawn_as_often_and_is_the_clips(profile: str, photo: torch.Tensor) -> None:
    torch.manual_seed(0)
    policy = CHAIN.model_copy(update={"profile": profile})
    distances = {"symmetric": (3, 2, 1, 0, 1, 2), "ramp": (-3, -2, -1, 0, 1, 2)}[profile]
    frames = torch.stack(
        [affine(affine(photo, 8.0 * d, 1), 0, 0.85**d) if d else photo for d in sorted(set(distances))]
    )
    transform = export(policy, "torchvision")
    drawn = Counter(nearest_of(transform(photo), frames) for _ in range(600))
    expected = [600 * distances.count(d) / 6 for d in sorted(set(distances))]
    assert chisquare([drawn[index] for index in range(len(frames))], expected).pvalue > 1e-3


@pytest.mark.parametrize("profile", ["symmetric", "ramp"])
@pytest.mark.parametrize("geometry", [Geometry(), TORCHVISION, Geometry(fill=(0.2,), sampling="once")], ids=str)
def test_frames_of_a_chain_are_dastunes(profile: str, geometry: Geometry, photo: torch.Tensor) -> None:
    torch.manual_seed(1)
    policy = CHAIN.model_copy(update={"profile": profile, "geometry": geometry})
    [clip] = ClipTransform(policy.model_copy(update={"order": "time"}), torch.Generator())(photo[None])
    transform = export(policy, "torchvision")
    for image in (transform(photo) for _ in range(20)):
        share = ((clip - image).abs().amax(1) > 1e-3).float().mean((1, 2))
        assert share.min() < 0.01  # nearest sampling may take either of two pixels


def test_a_cell_that_averages_is_its_paths(photo: torch.Tensor) -> None:
    torch.manual_seed(2)
    moved = tv.affine(photo, 0.0, [14, 0], 1.0, [0.0, 0.0], InterpolationMode.BILINEAR)
    images = torch.stack([photo, moved, affine(photo, 0, 1.3)])
    transform = export(MEAN, "torchvision")
    drawn = Counter(nearest_of(transform(photo), images) for _ in range(600))
    assert chisquare([drawn[index] for index in range(3)], [200, 200, 200]).pvalue > 1e-3


def test_frames_at_the_same_distance_are_one_sub_policy_of_their_weight() -> None:
    found = as_images(CHAIN, "x")
    assert isinstance(found, SubPolicies)
    assert {sub.steps[0].low if sub.steps else 0: sub.weight for sub in found.sub_policies} == {
        24: 1,
        16: 2,
        8: 2,
        0: 1,
    }
    assert [len(sub.steps) for sub in found.sub_policies if not any(step.low for step in sub.steps)] == [0]


def test_other_policies_are_themselves() -> None:
    stages = Stages(stages=((Choice(weight=1, step=Step(op="invert")),),))
    cell = Genotype(nodes=((edge(0, "rotate", 3.0),),))
    for policy in (stages, cell, SubPolicies(sub_policies=(SubPolicy(steps=()),))):
        assert as_images(policy, "x") is policy


@pytest.mark.parametrize("order", ["time", "shuffled"])
@pytest.mark.parametrize("form", FORMATS)
def test_clips_are_refused_in_words(form: str, order: str) -> None:
    policy = CHAIN.model_copy(update={"order": order})
    for call in (export, export_text):
        with pytest.raises(UserError) as caught:
            call(policy, form)
        assert str(caught.value) == (
            f"the policy cannot be exported to {form}: it makes a clip of each image, of 6 frames, and other libraries "
            'take policies of images only. With "order": "one" in the policy file, one frame is drawn for each image; '
            "dastune.transform makes the clips."
        )


def test_an_unknown_form_is_told_before_the_clip() -> None:
    with pytest.raises(UserError, match="'torchvison' is no form of policies"):
        export(CHAIN.model_copy(update={"order": "time"}), "torchvison")


@pytest.mark.parametrize("form", ["timm", "published"])
def test_a_library_without_zoom_says_so(form: str) -> None:
    pytest.importorskip(FORMATS[form].library or "dastune")
    zoom = Clip(order="one", nodes=((edge(0, "zoom", 0.1),),), geometry=Geometry(interpolation="nearest"))
    with pytest.raises(UserError, match=r"zoom \(.*\): .* no such (transform|op); take it out"):
        export(zoom, form)


def test_arguments_beyond_what_is_legal_mean_the_same_picture(photo: torch.Tensor) -> None:
    """At distance 32 a turn by 95 degrees is one by 160, and a shift by 900 widths leaves nothing."""
    for step, expected in (
        (edge(0, "rotate", 95.0), affine(photo, 160.0, 1)),
        (edge(0, "translate_x", 900.0), torch.zeros_like(photo)),
    ):
        found = as_images(Clip(frames=64, order="one", nodes=((step,),)), "x")
        assert isinstance(found, SubPolicies)
        farthest = found.model_copy(update={"sub_policies": found.sub_policies[:1]})
        torch.testing.assert_close(export(farthest, "torchvision")(photo), expected, atol=2e-3, rtol=0)


def test_too_many_paths_are_refused() -> None:
    nodes = tuple(tuple(edge(node, "rotate", 1.0) for _ in range(2)) for node in range(12))
    with pytest.raises(UserError, match=f"the clip's frames have more than {MOST_PATHS:,} paths"):
        export(Clip(frames=64, order="one", nodes=nodes), "torchvision")
