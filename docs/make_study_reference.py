"""Write docs/study.md, the reference of every field of a study, from the models in dastune.config.

python docs/make_study_reference.py
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from dastune.config import study as models
from dastune.config.defaults import DATA_DEFAULTS, with_defaults
from dastune.config.methods import LARGEST_M, PRESETS
from dastune.config.study import StudyConfig
from dastune.ops.spaces import SPACES
from dastune.ops.table import NOISE_LISTS, OPS
from dastune.policy.references import REFERENCES

TARGET = Path(__file__).with_name("study.md")

INTRODUCTION = """\
# A study's YAML

A study is one YAML file: a data set, a network, a search space, the methods to compare, and what each of their searches
may spend. `dastune plan FILE` shows it with every default filled in, `dastune run FILE` runs it. Five come with
dastune and go by their names: `dastune run digits_noise`, and `digits_baselines`, `das_ablation`, `cifar10_noise` and
`cifar10_baselines`.

```yaml
name: my_study
data: {name: digits}
methods:
  das: {}
  rand_augment: {n: [1, 2]}
  das_paper: {method: das, preset: paper}   # a label of your own, and the method it means
  none: {}
budget: {cpu_hours: 0.01}
```

These four are required; all else has a default, often one that depends on the data set. An unknown key, or a key given
twice, is an error, and all faults of a file are told at once. From the command line, `--set KEY.PATH=VALUE` replaces
one field (`--set final.epochs=10`, `--set seeds.search=[0,1]`; the value is YAML, and a list is replaced as a whole),
and `--budget` the budget (`--budget "90 cpu-seconds"`, `"24 gpu-hours"`, `"2000 steps"`).

## Units

- Device time is in device-hours: one GPU, or one CPU slot, for one hour. A search on half a GPU uses half a device-hour
  an hour. Devices are the GPUs of `resources` where it has any, else its CPUs; the budget has to name the same kind.
- Sizes are in images, lengths on an image in pixels (`_px`), training in epochs, shares and probabilities in [0, 1].
- Magnitudes are in [0, 1]: 0 is the start of an op's range (`low`), 1 its end (`high`). The range itself is physical;
  the table of ops has its units. `{rotate: {degrees: 20}}` ends it at 20, `{rotate: {degrees: [5, 20]}}` also starts it
  at 5.

## Held and charged

Each search has two meters of device time. **Held** is the bill: from the first line that runs in the process placed
on its devices to the last, over all attempts. **Charged** is what methods are compared on, and what the budget
limits: held time, less what is not the method's doing. That is the start of the worker process, waiting for the
driver to take a report, the work lost when a process or machine dies after its last checkpoint, and the start-up and
restore of the attempt that takes its place. All that a method causes stays in: every child training, discarded ones
too, validation, selection, and the writing of checkpoints. A search ends when `charged` reaches the budget, or when
`held` without starts and waiting is 1.25 x budget, and is then marked as ended by the infrastructure. Final trainings
are on a meter of their own, and no budget limits them.
"""

CHILDREN = """\
### Children: many at once, and ended early

`auto_augment`, `rand_augment` and `random` score a policy by training a network with it from scratch, a child. In the
faithful setting, which is the default, children are trained one after the other, each for `training.child_epochs`.

**`children_in_parallel: n`** trains n children at the same time, a batch of each in a step, each on devices of its own:
a search then holds n times `resources`, and is charged for all of them. It buys wall time, not device time: a budget
of 24 GPU-hours is over in 12 hours with n = 2. All wait for the slowest at each batch, and a batch costs some
milliseconds more: nothing where it takes a tenth of a second, but a small network on digits, at 5 ms a batch, gets
through fewer children this way than one by one. All n are proposed before any of them has a score, so a search that
learns from scores learns from those of the cohorts before. `auto_augment` with `search: ppo` finds the same as one by
one where `controller_batch` is the same, a multiple of n: so many children are proposed between two updates anyway.

**`halving: {children: 8, eta: 2}`** spends a budget on more, and worse known, policies. Of 8 children that begin
together all are trained for an eighth of `child_epochs` and validated, the better 4 go on to a fourth of it, 2 of them
to a half, and one to the end. Together they take 2.5 whole trainings instead of 8. The search hears of each child the
validation accuracy that it had when it ended. Those that ended early have lower ones for their age alone; and a short
training does not reward what a long one does: policies that distort little look good early. Hence it is off unless a
study asks for it. Children that wait for their turn stay in the device's memory and in every checkpoint, so that few
are better than many where networks are large. With both, n of the children that compete are trained at the same time;
all of a round are proposed before any of them has a score, whatever `controller_batch` is.
"""

# Of a field's value; fields that are not here have none, or have it in their type.
UNITS = {
    "train_images": "images",
    "search_images": "images",
    "validation_images": "images",
    "validation_batch": "images",
    "batch_size": "images",
    "crop_px": "pixels",
    "cutout_px": "pixels",
    "side": "pixels",
    "gpu_hours": "GPU-hours",
    "cpu_hours": "CPU-slot-hours",
    "steps": "steps",
    "cpus": "CPU slots",
    "gpus": "GPUs",
    "child_epochs": "epochs",
    "epochs": "epochs",
    "tuning_epochs": "epochs",
    "children": "children",
    "children_in_parallel": "children",
    "controller_batch": "children",
    "channels": "channels",
    "depth": "layers",
    "n": "ops",
    "dropout": "probability",
    "search_share": "share",
}


# Options of methods that the defaults of others depend on, with their values.
VARIANTS = {"preset": PRESETS, "scale": LARGEST_M}


def reference() -> str:
    """Return the whole text of docs/study.md."""
    return "\n".join([INTRODUCTION, *_named_lists(), *_ops(), "## Fields", "", *_fields(), *_methods()])


def _named_lists() -> Iterator[str]:
    yield from ("## Named op spaces and noise lists", "", "For `space.ops`; their ranges are in [ops.md](ops.md):", "")
    yield from ("| name | ops |", "| --- | --- |")
    for name, space in SPACES.items():
        yield f"| `{name}` | {len(space.ops)}: {', '.join(space.names)} |"
    yield from ("", "For `space.noise.ops`; noise level k takes the first k:", "", "| name | ops |", "| --- | --- |")
    for name, ops in NOISE_LISTS.items():
        yield f"| `{name}` | {len(ops)}: {', '.join(ops)} |"
    yield ""


def _ops() -> Iterator[str]:
    yield from ("## Ops", "", "The last column is for noise ops.", "")
    yield "| op | argument | unit | low | high | sign drawn | destroys |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for op in OPS.values():
        low, high = (f"{op.low:.4g}", f"{op.high:.4g}") if op.argument else ("", "")
        sign = "yes" if op.signed else ""
        yield f"| `{op.name}` | {op.argument} | {op.unit} | {low} | {high} | {sign} | {op.destroys} |"
    yield ""


def _fields() -> Iterator[str]:
    studies = {name: _smallest(name) for name in DATA_DEFAULTS}
    required = ("name", "methods", "budget")
    for name, field in StudyConfig.model_fields.items():
        about = docstrings(StudyConfig)[name]
        members = _models(field.annotation)
        if name == "methods":
            yield from (f"### `{name}`", "", f"{about} Required, at least one; the methods are below.", "")
        elif not members:
            yield from (f"### `{name}`", "", f"{about} A {_type(field.annotation, field.metadata)}, required.", "")
        else:
            about = about if len(members) > 1 else str(inspect.getdoc(members[0]))
            yield from (f"### `{name}`", "", about + " Required." * (name in required), "")
            for model in members:
                if len(members) > 1:
                    chosen = [data for data, study in studies.items() if isinstance(getattr(study, name), model)]
                    default = f" The default for {', '.join(chosen)}." if name == "model" and chosen else ""
                    yield from (f"#### `name: {_literal(model, 'name')}`", "", f"{inspect.getdoc(model)}{default}", "")
                sections = {data: getattr(study, name) for data, study in studies.items() if name not in required}
                own = {data: section for data, section in sections.items() if isinstance(section, model)}
                yield from _table(model, own, f"{name}.")


def _methods() -> Iterator[str]:
    yield from ("## Methods", "", "`LABEL: {OPTIONS}` under `methods`. The label names rows and files.", "")
    for model in get_args(models.Method):
        method = _literal(model, "method")
        yield from (f"### `{method}`", "", str(inspect.getdoc(model)), "")
        own = [(key, value) for key, values in VARIANTS.items() if key in model.model_fields for value in values]
        yield from _table(model, {value: model(method=method, **{key: value}) for key, value in own}, "")
    yield from ("### Published policies", "", "For `policy` of the method `published`:", "", "| name | source |")
    yield from ("| --- | --- |", *(f"| `{name}` | {it.source} |" for name, it in REFERENCES.items()), "")
    yield from (CHILDREN, *_table(models.Halving, {}, "halving."))


def _table(model: type[BaseModel], resolved: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the rows of a model's fields, nested models' after them.

    Defaults are those of `resolved`, by what they depend on: the data set, or the preset.
    """
    about, rows, nested = docstrings(model), [], []
    shared = models.BlackBox.model_fields.keys() - {"method"} if issubclass(model, models.BlackBox) else ()
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] in shared):
        inner = [] if name in ("ops", "shift", "halving") else _models(field.annotation)
        if inner:
            sections = {key: getattr(section, name) for key, section in resolved.items()}
            own = {key: section for key, section in sections.items() if isinstance(section, inner[0])}
            nested.append((inner[0], own, f"{path}{name}."))
        if not inner or len(_members(field.annotation)) > 1:
            row = (f"`{path}{name}`", _type(field.annotation, field.metadata), UNITS.get(name, ""))
            rows.append(f"| {' | '.join((*row, _default(name, field, resolved), about[name]))} |")
    yield from ("| field | type | unit | default | |", "| --- | --- | --- | --- | --- |", *rows, "")
    for inner_model, sections, inner_path in nested:
        yield from _table(inner_model, sections, inner_path)


def _default(name: str, field: FieldInfo, resolved: dict[str, Any]) -> str:
    if name in ("name", "method"):
        return "" if name == "method" else "required"
    if name == "root" and field.is_required():
        return "required"
    if name in ("ops", *VARIANTS) and not field.is_required():
        return f"`{field.default}`"
    values = {key: getattr(section, name) for key, section in resolved.items()}
    if not values:
        return "required" if field.is_required() else _shown(field.default)
    if len(set(values.values())) == 1:
        return _shown(next(iter(values.values())))
    keys: dict[str, list[str]] = {}
    for key, value in values.items():
        keys.setdefault(_shown(value), []).append(key)
    return "; ".join(f"{', '.join(alike)}: {shown}" for shown, alike in keys.items())


def _shown(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(annotation: Any, metadata: list[Any]) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], [*metadata, *_flat(arguments[1:])])
    if origin in (Union, UnionType):
        either = " or ".join(_type(member, metadata) for member in _members(annotation))
        return f"{either}, or null" if NoneType in arguments else either
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        if _models(arguments[0]):
            return (
                "name, or list of ops"
                if any(isinstance(extra, BeforeValidator) for extra in metadata)
                else "list of ops"
            )
        return f"list of {_type(arguments[0], []).replace('number', 'numbers', 1)}"
    if _models(annotation):
        return "mapping"
    words = {int: "whole number", float: "number", bool: "true or false", str: "text"}[annotation]
    return f"{words} {' and '.join(_bounds(metadata))}".rstrip()


def _flat(metadata: Any) -> Iterator[Any]:
    for extra in metadata:
        yield from extra.metadata if isinstance(extra, FieldInfo) else (extra,)


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for extra in _flat(metadata):
        match extra:
            case Ge():
                yield f"≥ {extra.ge}"
            case Gt():
                yield f"> {extra.gt}"
            case Le():
                yield f"≤ {extra.le}"
            case Lt():
                yield f"< {extra.lt}"


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union but None; of any other type, that type."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    union = get_origin(annotation) in (Union, UnionType)
    return [member for member in get_args(annotation) if member is not NoneType] if union else [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    return [model for member in get_args(annotation) for model in _models(member)]


def _literal(model: type[BaseModel], name: str) -> str:
    field = model.model_fields.get(name)
    return str(get_args(field.annotation)[0]) if field else ""


def _smallest(data: str) -> StudyConfig:
    """Return the study of a data set that says nothing else, but for where a user's own is."""
    named = {"name": data, "root": "images"} if data == "folder" else {"name": data}
    budget = {"cpu_hours": 1.0}
    return StudyConfig.model_validate(
        with_defaults({"name": "x", "data": named, "methods": {"none": None}, "budget": budget})
    )


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring under each field of a model, those of its bases included."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        [body] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
