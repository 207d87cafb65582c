"""The table: every row has its function, ranges make sense, all that papers list is there, and no torch is needed."""

import inspect
import subprocess
import sys

import pytest

from dastune.ops import table
from dastune.ops.table import NOISE_LISTS, OPS

# DAS, supplement F.1: what its comparison with AutoAugment and RandAugment offers.
SUPPLEMENT = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "auto_contrast", "invert", "equalize"),
    *("solarize", "posterize", "color", "brightness", "sharpness", "cutout", "identity"),
)


def test_no_name_twice() -> None:
    assert len(OPS) == len(table._ROWS)


def test_no_function_twice() -> None:
    assert len({op.function for op in OPS.values()}) == len(OPS)


def test_all_ops_of_the_supplement_are_there() -> None:
    assert len(SUPPLEMENT) == 15
    assert set(SUPPLEMENT) <= {op.name for op in OPS.values() if not op.noise}


@pytest.mark.parametrize("name", OPS)
def test_row_has_its_function(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert op.function.__name__ == name
    assert op.function.__module__ == f"dastune.ops.{op.module}"
    assert op.function.__doc__
    arguments = list(inspect.signature(op.function).parameters)
    assert arguments[1].strip("_") == f"{op.argument or 'argument'}_B"


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_row_is_consistent(op: table.Op) -> None:
    assert bool(op.argument) == bool(op.unit) == (op.low != op.high)
    assert bool(op.argument) == (op.argument_gradient != "none")
    assert not op.signed or (op.low == 0 < op.high)
    assert op.noise == bool(op.destroys)
    assert not (op.noise and op.neutral_at_low)


@pytest.mark.parametrize(
    "op", [op for op in OPS.values() if op.argument_gradient == "straight-through"], ids=lambda op: op.name
)
def test_docstrings_say_of_what_a_straight_through_gradient_is(op: table.Op) -> None:
    assert any(word in inspect.getdoc(op.function) for word in ("derivative", "straight-through"))


def test_every_op_of_the_modules_has_a_row() -> None:
    modules = {name: __import__(f"dastune.ops.{name}", fromlist=["_"]) for name in ("geometric", "color", "noise")}
    functions = {
        (module, name)
        for module, body in modules.items()
        for name, value in inspect.getmembers(body, inspect.isfunction)
        if value.__module__ == body.__name__ and hasattr(value, "__wrapped__")  # by image_op, which helpers are not
    }
    assert functions == {(op.module, op.name) for op in OPS.values()}


def test_at_least_ten_noise_ops_say_in_a_sentence_what_they_destroy() -> None:
    noise = [op for op in OPS.values() if op.noise]
    assert len(noise) >= 10
    for op in noise:
        assert op.destroys[0].isupper()
        assert op.destroys.endswith(".")
        assert op.destroys.count(" ") >= 2
    assert len({op.destroys for op in noise}) == len(noise)


@pytest.mark.parametrize("names", NOISE_LISTS.values(), ids=[*NOISE_LISTS])
def test_noise_lists_hold_noise_ops_once(names: tuple[str, ...]) -> None:
    assert all(OPS[name].noise for name in names)
    assert len(set(names)) == len(names)


def test_noise_list_begins_with_replacement_by_gaussian_noise() -> None:
    assert NOISE_LISTS["default"][0] == "gaussian_replace"
    assert set(NOISE_LISTS["default"]) == {op.name for op in OPS.values() if op.noise}
    assert len(NOISE_LISTS["default"]) >= 11


@pytest.mark.parametrize("name", [op.name for op in OPS.values() if op.geometric])
def test_steps_add_up_by_their_maps(name: str) -> None:
    """At distance d an image is where d steps one after the other bring it; translations are of the whole."""
    import torch

    from dastune.ops import geometric

    argument = OPS[name].high / 3
    step = geometric.matrix(name, torch.tensor([argument], dtype=torch.float64), (20, 31))[0]
    for distance in range(-5, 6):
        at = torch.tensor([table.at_distance(name, argument, distance)], dtype=torch.float64)
        expected = torch.linalg.matrix_power(step, distance)
        torch.testing.assert_close(geometric.matrix(name, at, (20, 31))[0], expected, atol=1e-9, rtol=0)


def test_distances() -> None:
    assert table.at_distance("rotate", 7.5, -3) == -22.5
    assert table.at_distance("identity", 0.0, 4) == 0
    assert table.at_distance("zoom", 0.1, 3) == pytest.approx(0.331)
    assert table.at_distance("zoom", 0.25, -1) == pytest.approx(-0.2)
    assert table.at_distance("zoom", -0.3, 0) == table.at_distance("zoom", 0.3, 0) == 0
    assert table.at_distance("zoom", 0.3, 32) == OPS["zoom"].legal[1]
    assert table.at_distance("zoom", -0.9, 32) == OPS["zoom"].legal[0] > -1


def test_a_signed_zoom_leaves_a_factor_above_0() -> None:
    assert OPS["zoom"].legal_range(signed=True) == (0.0, 0.99)
    assert OPS["zoom"].legal_range(signed=False) == (-0.99, 99.0)
    assert OPS["rotate"].legal_range(signed=True) == (0.0, 1000.0)


@pytest.mark.parametrize("module", ["table", "spaces"])
def test_names_and_ranges_need_no_torch(module: str) -> None:
    code = f"import sys, dastune.ops.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
