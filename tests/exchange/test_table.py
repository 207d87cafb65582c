"""FORMATS: every form has its module, names are checked, a missing library is told, and nothing heavy is imported."""

import re
import subprocess
import sys
from importlib import import_module, util
from inspect import signature
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

import dastune
from dastune.errors import UserError
from dastune.exchange import table
from dastune.exchange.table import FORMATS, export, export_text, import_policy
from dastune.ops.spaces import TORCHVISION, Geometry
from dastune.ops.table import OPS
from dastune.policy.policy import Choice, Stages, Step, SubPolicies, SubPolicy, load_policy

CHECKOUT = Path(__file__).parents[2]
POLICY = Stages(stages=((Choice(weight=1, step=Step(op="invert", probability=0.5)),),))


def installed(form: str) -> bool:
    return not FORMATS[form].library or util.find_spec(FORMATS[form].library) is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("form", FORMATS)
def test_every_form_exports_a_plain_policy(form: str) -> None:
    if not installed(form):
        pytest.skip(f"{FORMATS[form].library} is not installed")
    assert export(POLICY, to=form) is not None
    assert export_text(POLICY, to=form).endswith("\n")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("form", FORMATS)
def test_every_option_is_an_argument_of_the_import(form: str) -> None:
    if not installed(form):
        pytest.skip(f"{FORMATS[form].library} is not installed")
    arguments = set(signature(import_module(f"dastune.exchange.{form}").imported).parameters)
    assert arguments == {"source", *FORMATS[form].options}


def test_export_has_a_name_of_its_own() -> None:
    assert dastune.export(POLICY, to="published") == [[["Invert", 0.5, 0.0]]]


def test_unknown_forms_and_options_are_told() -> None:
    for call in (lambda: export(POLICY, "torchvison"), lambda: import_policy("x", "torchvison")):
        with pytest.raises(UserError, match="'torchvison' is no form of policies; did you mean 'torchvision'"):
            call()
    with pytest.raises(UserError, match="grey_cutout is no option of an import from timm"):
        import_policy("rand-m9", "timm", grey_cutout=True)


@pytest.mark.parametrize("form", [form for form in FORMATS if FORMATS[form].library])
def test_a_missing_library_is_told(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FORMATS[form].library

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{library}'", name=f"{library}.data")

    monkeypatch.setattr(table, "import_module", missing)
    with pytest.raises(UserError, match=rf"{library} is not installed; pip install 'dastune\[{library}\]'"):
        export(POLICY, form)


def test_another_missing_module_is_no_fault_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(table, "import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        export(POLICY, "timm")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("form", FORMATS)
def test_what_is_never_drawn_is_no_matter(form: str, op: str) -> None:
    if not installed(form):
        pytest.skip(f"{FORMATS[form].library} is not installed")
    never, invert = Step(op=op, low=OPS[op].low, high=OPS[op].low), POLICY.stages[0][0].step
    stages = Stages(stages=((Choice(weight=1, step=invert), Choice(weight=0, step=never)),))
    subs = SubPolicies(sub_policies=(SubPolicy(steps=(invert,)), SubPolicy(weight=0, steps=(never, never))))
    for policy in (stages, subs):
        alone = policy.model_copy(
            update={"stages": POLICY.stages} if isinstance(policy, Stages) else {"sub_policies": subs.sub_policies[:1]}
        )
        assert export_text(policy, to=form) == export_text(alone, to=form)


def test_what_a_policy_cannot_hold_is_told() -> None:
    pytest.importorskip("timm")
    from timm.data.auto_augment import AugmentOp, AutoAugment

    source = AutoAugment([[AugmentOp("Rotate", hparams={"interpolation": 0, "img_mean": (300, 0, 0)})]])
    with pytest.raises(UserError, match="no policy can mean this: Input should be less than or equal to 1"):
        import_policy(source, "timm")


def test_names_are_shortened_and_printable() -> None:
    for call in (lambda: export(POLICY, "\x1b" * 9999), lambda: import_policy("x", "timm", **{"\x1b" * 9999: 1})):
        with pytest.raises(UserError) as caught:
            call()
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()


def test_the_table_loads_no_library() -> None:
    libraries = sorted({form.library for form in FORMATS.values() if form.library} | {"torch", "numpy", "PIL"})
    code = f"import sys, dastune.exchange.table; print(sorted(set({libraries}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# The geometries under which some form takes some op.
GEOMETRIES = (Geometry(), TORCHVISION, Geometry(interpolation="nearest", shear_about="corner"))


def takes(form: str, policy: Stages) -> bool:
    try:
        return bool(export_text(policy, form))
    except UserError:
        return False


def documented() -> dict[str, dict[str, str]]:
    """Return what docs/policies.md says in its table of ops: op -> form -> cell."""
    lines = iter((CHECKOUT / "docs" / "policies.md").read_text().splitlines())
    header = next(line for line in lines if line.startswith("| op | torchvision"))
    next(lines)
    forms, rows = cells(header)[1:], list(takewhile(lambda line: line.startswith("|"), lines))
    return {op: dict(zip(forms, cells(row)[1:], strict=True)) for row in rows for op in cells(row)[0].split(", ")}


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("form", FORMATS)
def test_the_documentation_says_which_ops_are_refused(form: str) -> None:
    if not installed(form):
        pytest.skip(f"{FORMATS[form].library} is not installed")
    table = documented()
    assert set(table) == {f"`{name}`" for name in OPS if not OPS[name].noise} | {"noise ops", '`sampling: "once"`'}
    for name, op in OPS.items():
        middle = (op.low + op.high) / 2
        policies = [Stages(stages=((choice(name, middle),),), geometry=geometry) for geometry in GEOMETRIES]
        said = table["noise ops" if op.noise else f"`{name}`"][form]
        assert any(takes(form, policy) for policy in policies) == (said != "no"), name
    once = Geometry(interpolation="nearest", shear_about="corner", sampling="once")
    in_a_row = Stages(stages=((choice("rotate", 9),), (choice("rotate", 9),)), geometry=once)
    assert takes(form, in_a_row) == (table['`sampling: "once"`'][form] != "no")


def choice(op: str, argument: float) -> Choice:
    return Choice(weight=1, step=Step(op=op, low=argument, high=argument))


def test_the_examples_of_the_documentation_are_policies(tmp_path: Path) -> None:
    examples = re.findall(r"```json\n(.*?)```", (CHECKOUT / "docs" / "policies.md").read_text(), re.DOTALL)
    kinds = []
    for example in examples:
        path = tmp_path / "policy.json"
        path.write_text(example)
        kinds.append(load_policy(path).kind)
    assert kinds == ["sub_policies", "stages", "genotype", "clip"]
