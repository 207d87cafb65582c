"""The named spaces: known ops, each once, within legal bounds, with their papers' ranges."""

import pytest

from dastune.ops.spaces import DASTUNE, SPACES, TORCHVISION, Geometry, OpSpace, RangedOp
from dastune.ops.table import OPS

# What an argument can be at all, whatever the sign.
LEGAL = {
    "slope": (0, 1),
    "fraction": (0, 1),
    "degrees": (0, 180),
    "threshold": (0, 256 / 255),
    "bits": (1, 8),
    "side": (0, 1),
}
SIZES = {
    "das-image": 15,
    "das-image-contrast": 16,
    "das-video": 5,
    "das-video-shear": 7,
    **dict.fromkeys(("aa", "aa-paper"), 15),  # without SamplePairing
    "aa-torchvision": 14,  # torchvision has no cutout there
    **dict.fromkeys(("ra", "ra-torchvision", "ra-paper", "trivial-wide"), 14),
}


def ranged(space: str) -> dict[str, RangedOp]:
    return {op.op: op for op in SPACES[space].ops}


@pytest.mark.parametrize("space", SPACES.values(), ids=[*SPACES])
def test_spaces_hold_known_ops_once_within_legal_bounds(space: OpSpace) -> None:
    names = [op.op for op in space.ops]
    assert len(set(names)) == len(names)
    for op in space.ops:
        row = OPS[op.op]
        assert not row.noise
        assert (op.low != op.high) == bool(row.argument)
        assert not op.signed or (row.signed and op.low == 0 < op.high)
        if row.argument == "change":
            assert op.low > -1
            assert op.high < 1
        elif row.argument:
            least, most = LEGAL[row.argument]
            assert least <= min(op.low, op.high) < max(op.low, op.high) <= most


def test_spaces_have_their_papers_sizes() -> None:
    assert {name: len(space.ops) for name, space in SPACES.items()} == SIZES


def test_lists_without_a_suffix_are_the_tables_ranges_and_dastunes_sampling() -> None:
    assert all(SPACES[name].geometry == DASTUNE for name in ("das-video", "das-video-shear"))
    for name in ("das-image", "das-image-contrast", "aa", "ra"):
        assert SPACES[name].geometry == DASTUNE
        for op in SPACES[name].ops:
            row = OPS[op.op]
            assert (op.low, op.high, op.signed) == (row.low, row.high, row.signed)


def test_lists_with_a_suffix_sample_as_torchvision() -> None:
    for name in SPACES.keys() - {"das-image", "das-image-contrast", "das-video", "das-video-shear", "aa", "ra"}:
        assert SPACES[name].geometry == TORCHVISION


def test_ops_are_those_of_the_papers() -> None:
    assert set(ranged("das-image-contrast")) - set(ranged("das-image")) == {"contrast"}
    assert set(ranged("das-image")) - set(ranged("aa")) == {"identity"}
    assert set(ranged("aa")) - set(ranged("das-image")) == {"contrast"}
    assert set(ranged("aa")) - set(ranged("ra")) == {"invert", "cutout"}
    assert set(ranged("ra")) - set(ranged("aa")) == {"identity"}
    for name in ("aa", "ra"):
        assert set(ranged(f"{name}-paper")) == set(ranged(name))


def test_steps_from_frame_to_frame_are_those_of_das() -> None:
    # Shifts up to 0.12 of the side, turns up to 20 degrees, factors 0.7 to 1.3; shears are our own.
    das = {"identity": (0, 0), "translate_x": (0, 0.12), "translate_y": (0, 0.12), "zoom": (0, 0.3), "rotate": (0, 20)}
    assert {name: (op.low, op.high) for name, op in ranged("das-video").items()} == das
    shears = {name: op for name, op in ranged("das-video-shear").items() if name not in das}
    assert {name: (op.low, op.high) for name, op in shears.items()} == {"shear_x": (0, 0.1), "shear_y": (0, 0.1)}
    assert set(SPACES["das-video"].ops) < set(SPACES["das-video-shear"].ops)
    assert all(op.signed == (op.op != "identity") for op in SPACES["das-video-shear"].ops)


@pytest.mark.parametrize("space", ["das-image", "das-image-contrast", "aa", "ra", "trivial-wide"])
def test_lists_that_were_there_before_zoom_are_without_it(space: str) -> None:
    assert "zoom" not in ranged(space)
    moving = [name for name in ranged(space) if OPS[name].geometric]
    assert sorted(moving) == ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"]


@pytest.mark.parametrize("space", ["aa-paper", "ra-paper"])
def test_ranges_of_the_papers_are_as_printed(space: str) -> None:
    # AutoAugment's Table 6, which RandAugment takes over; enhancements as factors, solarize and posterize from most
    # to nothing, cutout and translations in pixels of a 331 x 331 image.
    ops = ranged(space)
    for name in ("color", "contrast", "brightness", "sharpness"):
        assert (1 + ops[name].low, 1 + ops[name].high, ops[name].signed) == (pytest.approx(0.1), 1.9, False)
    assert (ops["solarize"].low, ops["solarize"].high) == (0, 256 / 255)
    assert (ops["posterize"].low, ops["posterize"].high) == (4, 8)
    assert ops["rotate"].high == 30
    assert ops["shear_x"].high == ops["shear_y"].high == 0.3
    assert ops["translate_x"].high == ops["translate_y"].high == 150 / 331
    if space == "aa-paper":
        assert ops["cutout"].high == 60 / 331


def test_a_geometry_is_a_value() -> None:
    assert Geometry() == DASTUNE
    assert Geometry(interpolation="nearest", shear_about="corner", whole_pixels=True) == TORCHVISION != DASTUNE
    assert len({DASTUNE, TORCHVISION, Geometry(), Geometry(fill=(0.5,))}) == 3


@pytest.mark.parametrize(
    "wrong",
    [{"zoom": 1}, {"interpolation": "bicubic"}, {"shear_about": "edge"}, {"fill": ()}, {"fill": (1.5,)}],
    ids=str,
)
def test_a_geometry_refuses_what_it_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Geometry(**wrong)
