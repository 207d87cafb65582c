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


@pytest.mark.parametrize("module", ["table", "spaces"])
def test_names_and_ranges_need_no_torch(module: str) -> None:
    code = f"import sys, dastune.ops.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
