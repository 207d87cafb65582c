"""The table: every row has its function, ranges make sense, named lists refer to known ops, and no torch is needed."""

import inspect
import subprocess
import sys

import pytest

from dastune.ops import table
from dastune.ops.table import NOISE_LISTS, OPS, SPACES


def test_no_name_twice() -> None:
    assert len(OPS) == len(table._ROWS)


@pytest.mark.parametrize("name", OPS)
def test_row_has_its_function(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert op.function.__name__ == name
    assert op.function.__module__ == f"dastune.ops.{op.module}"
    assert op.function.__doc__


@pytest.mark.parametrize("op", OPS.values(), ids=str)
def test_row_is_consistent(op: table.Op) -> None:
    assert bool(op.argument) == bool(op.unit) == (op.low != op.high)
    assert not op.signed or (op.low == 0 < op.high)
    assert op.noise == bool(op.destroys)
    assert not (op.noise and op.neutral_at_low)
    assert op.gradient != "none" or op.noise


def test_every_public_function_of_the_modules_has_a_row() -> None:
    modules = {name: __import__(f"dastune.ops.{name}", fromlist=["_"]) for name in ("geometric", "color", "noise")}
    functions = {
        (module, name)
        for module, body in modules.items()
        for name, value in inspect.getmembers(body, inspect.isfunction)
        if value.__module__ == body.__name__ and not name.startswith("_")
    }
    assert functions - {("geometric", "matrix"), ("geometric", "warp")} == {(op.module, op.name) for op in OPS.values()}


@pytest.mark.parametrize("names", [*SPACES.values(), *NOISE_LISTS.values()], ids=[*SPACES, *NOISE_LISTS])
def test_named_lists_hold_known_ops_once(names: tuple[str, ...]) -> None:
    assert set(names) <= set(OPS)
    assert len(set(names)) == len(names)


def test_spaces_have_their_papers_sizes_and_no_noise() -> None:
    assert {name: len(ops) for name, ops in SPACES.items()} == {"das-image": 15, "das-image-contrast": 16, "ra": 14}
    assert not any(OPS[op].noise for ops in SPACES.values() for op in ops)


def test_noise_list_begins_with_replacement_by_gaussian_noise() -> None:
    assert NOISE_LISTS["default"][0] == "gaussian_replace"
    assert set(NOISE_LISTS["default"]) == {op.name for op in OPS.values() if op.noise}
    assert len(NOISE_LISTS["default"]) >= 11


def test_table_needs_no_torch() -> None:
    code = "import sys, dastune.ops.table; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
