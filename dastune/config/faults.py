"""Faults of a study in plain words: pydantic's errors with their path, what came, what is legal."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from dastune.errors import nearest

_KINDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "too_short": "must not be empty",
}


def describe(error: ErrorDetails, root: type[BaseModel]) -> str:
    """Return one line for one fault of a study: `path: what is wrong; what is legal`."""
    path, models = _walk(error["loc"], root)
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        fields = [name for model in models for name in model.model_fields]
        return f"{path}: unknown key; {nearest(str(error['loc'][-1]), fields)}"
    if kind == "missing":
        return f"{path}: is required and not given"
    if kind == "union_tag_not_found":
        return f"{path}: is required and not given; legal: {', '.join(_tags(models))}"
    if kind == "union_tag_invalid":
        what = "method" if path.startswith("methods") else path
        key = "method" if what == "method" else "name"
        tag = value.get(key) if isinstance(value, dict) else value
        return f"{path}.{key}: {tag!r} is no {what}; {nearest(str(tag), _tags(models))}"
    if kind == "literal_error":
        legal = [part.strip("' ") for part in context["expected"].replace(" or ", ", ").split(",")]
        return f"{path}: {value!r} is not legal; {nearest(str(value), legal)}"
    if kind == "value_error":
        message = str(context["error"])
        shown = f"{value!r}: " if isinstance(value, str | int | float) and repr(value) not in message else ""
        return f"{path}: {shown}{message}" if path else message
    if kind in _KINDS:
        return f"{path}: {_KINDS[kind]}, got {_short(value)}"
    return f"{path}: {error['msg'].replace('Input should', 'must')}, got {_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _walk(location: tuple[int | str, ...], root: type[BaseModel]) -> tuple[str, list[type[BaseModel]]]:
    """Return the path as a user writes it, and the models that the last part was looked up in.

    pydantic puts the tag of a union's member into its location; a user never wrote it, so it is left out.
    """
    path, models, annotation = "", [root], None
    for part in location:
        members = [model for model in models if part in _model_tags(model)]
        if len(models) > 1 and members:
            models = members
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
        for model in models:
            if part in model.model_fields:
                annotation = model.model_fields[str(part)].annotation
                models = list(_models_in(annotation))
                break
    if location and annotation is not None and not models:
        models = [root]
    return path.removeprefix("."), models


def _model_tags(model: type[BaseModel]) -> set[str]:
    """Return the tags by which `model` is chosen among the members of a union."""
    tags = {
        value
        for key in ("name", "method")
        if key in model.model_fields
        for value in get_args(model.model_fields[key].annotation)
        if isinstance(value, str)
    }
    preset = model.model_fields.get("preset")
    if preset is not None and get_args(preset.annotation) == ("paper",):
        return {"das_paper"}
    return tags


def _tags(models: list[type[BaseModel]]) -> list[str]:
    return sorted({tag for model in models for tag in _model_tags(model)} - {"das_paper"})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation mentions: through unions, Annotated, tuples and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _models_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType, tuple, dict):
        for member in get_args(annotation):
            yield from _models_in(member)
    elif get_origin(annotation) is Literal:
        return
