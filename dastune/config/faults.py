"""Faults of a study in plain words: pydantic's errors as one line each, in the order of the user's file."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from dastune.config.fields import FieldError
from dastune.errors import nearest

Keys: TypeAlias = tuple[int | str, ...]

_KINDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping such as {das: {}, none: {}}",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_NOUNS = {"data": "data set", "methods": "method"}  # what a union's members are called; else the key itself


def faults_of(error: ValidationError, root: type[BaseModel], raw: Mapping[str, Any]) -> list[str]:
    """Return a line for each fault, `path: what is wrong, what came; what is legal`, in the order of `raw`.

    Args:
        raw: what the user wrote, before defaults were put in. Text keys only, but for those in `foreign_keys(raw)`.
    """
    foreign = foreign_keys(raw)
    lines = {keys: f"{_colon(keys[:-1])}the key {shown(keys[-1])} is no text; write it in quotes" for keys in foreign}
    for details in error.errors():
        if details["type"] == "too_short" and details["input"]:
            continue  # every item has a fault of its own
        keys, message = _describe(details, root, raw)
        copied = len(keys) > 1 and keys[0] == "final" and _value_at(raw, keys[:2]) is _ABSENT  # from `training`
        if not copied and not _follows(keys, foreign):
            lines.setdefault((*keys, message), f"{_colon(keys)}{message}")
    return [lines[keys] for keys in sorted(lines, key=lambda keys: _position(keys, raw))]


def foreign_keys(raw: Any, above: Keys = ()) -> list[Keys]:
    """Return the paths of all keys in `raw` that are no text, such as `yes:` and `3:`."""
    found = []
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ():
        here = (*above, key)
        if isinstance(raw, dict) and not isinstance(key, str):
            found.append(here)
        else:
            found.extend(foreign_keys(value, here))
    return found


def _follows(keys: Keys, foreign: list[Keys]) -> bool:
    """Return whether a fault at `keys` may come of a key that is no text."""
    texts = _texts(keys)
    return any(texts == key[:-1] or texts[: len(key)] == key for key in map(_texts, foreign))


def _texts(keys: Keys) -> tuple[str, ...]:
    """Return keys as texts; pydantic takes True for 1."""
    return tuple(str(int(key)) if isinstance(key, bool) else str(key) for key in keys)


def _colon(keys: Keys) -> str:
    return f"{path_of(keys)}: " if keys else ""


def path_of(keys: Keys) -> str:
    """Return a path as users write it: `space.ops[1].rotate`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def shown(value: Any) -> str:
    """Return a value as YAML has it, on one line, shortened."""
    text = "nothing" if value is None else _flow(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _flow(value: Any) -> str:
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case dict():
            return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_flow, value)) + "]"
        case date():
            return value.isoformat()
    return repr(value)


def _describe(details: ErrorDetails, root: type[BaseModel], raw: Mapping[str, Any]) -> tuple[Keys, str]:
    """Return where the user finds a fault, and what to say of it."""
    place = _walk(details["loc"], root)
    kind, value = details["type"], details["input"]
    if kind == "value_error":
        return _of_validator(place.keys, details["ctx"]["error"], value)
    if kind in _SPECIAL:
        return _SPECIAL[kind](place, value, raw)
    message = _KINDS.get(kind) or details["msg"].replace("Input should", "must")
    for bound, words in _BOUNDS.items():
        if bound in details.get("ctx", {}):
            message = f"must be {words} {_number(details['ctx'][bound])}"
    quote = "; write it in quotes" if kind == "string_type" and isinstance(value, int | float | date) else ""
    return place.keys, f"{message}, got {shown(value)}{quote}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _of_validator(keys: Keys, error: Exception, value: Any) -> tuple[Keys, str]:
    message = str(error)
    for key in error.below if isinstance(error, FieldError) else ():
        keys = (*keys, key)
        value = _child(value, key)
    if message.startswith(("must", "takes")):
        required, semicolon, more = message.partition(";")
        message = f"{required}, got {shown(value)}{semicolon}{more}"
    return keys, message


@dataclass(frozen=True)
class _Place:
    """A place in a study.

    Attributes:
        keys: the way there as the user wrote it.
        annotation: the type of what belongs there; None if nothing does.
        within: the model that has it as a field, if any.
        union: the members of the innermost union on the way, by tag.
    """

    keys: Keys
    annotation: Any
    within: Any
    union: Mapping[str, type[BaseModel]]


def _walk(location: tuple[int | str, ...], root: type[BaseModel]) -> _Place:
    """Return the place of pydantic's `location`, in which a union's member goes by its tag, which no user wrote."""
    place = _Place((), root, None, {})
    for part in location:
        members = _members(place.annotation)
        if part == "[key]":  # pydantic's word for "the key itself, not what it leads to"
            break
        if len(members) > 1:
            place = _Place(place.keys, members[str(part)], None, members)
        else:
            place = _Place((*place.keys, part), _inner(place.annotation, part), place.annotation, place.union)
    return place


def _bare(annotation: Any) -> Any:
    """Return an annotation without its metadata, and without None where that is one of two."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        some = [member for member in get_args(annotation) if member is not NoneType]
        return _bare(some[0]) if len(some) == 1 else annotation
    return annotation


def _inner(annotation: Any, part: int | str) -> Any:
    """Return the type of what `part` leads to, None if it is not known."""
    bare = _bare(annotation)
    if _is_model(bare):
        field = bare.model_fields.get(part)
        return field.annotation if field else None
    if get_origin(bare) is tuple:
        return get_args(bare)[0]
    return get_args(bare)[1] if get_origin(bare) is dict else None


def _members(annotation: Any) -> dict[str, type[BaseModel]]:
    """Return the models of a union by their tags."""
    bare = _bare(annotation)
    if get_origin(bare) not in (Union, UnionType):
        return {}
    return {tag: _bare(member) for member in get_args(bare) for tag in _tags(member)}


def _tags(member: Any) -> Iterator[str]:
    tags = [extra.tag for extra in get_args(member)[1:] if isinstance(extra, Tag)]
    if tags or not _is_model(_bare(member)):
        return iter(tags)
    return iter([_name(_bare(member))])


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _names(union: Mapping[str, type[BaseModel]]) -> list[str]:
    """Return what users may write to choose a member of a union."""
    return [_name(model) for model in union.values()]


def _name(model: type[BaseModel]) -> str:
    """Return the value by which users choose this member of a union: "digits", "das"."""
    [field] = [model.model_fields[key] for key in ("name", "method") if key in model.model_fields]
    return str(get_args(field.annotation)[0])


def _unknown_key(place: _Place, value: Any, raw: Mapping[str, Any]) -> tuple[Keys, str]:
    key, model = str(place.keys[-1]), _bare(place.within)
    owners = [_name(other) for other in place.union.values() if _is_model(other) and key in other.model_fields]
    if owners and model in place.union.values():
        legal, (*others, last) = ", ".join(model.model_fields), owners
        named = f"{', '.join(others)}{' and ' * bool(others)}{last}"
        return place.keys, f"is a key of {named}, not of {_name(model)}; legal: {legal}"
    return place.keys, f"unknown key; {nearest(key, model.model_fields)}"


def _missing(place: _Place, value: Any, raw: Mapping[str, Any]) -> tuple[Keys, str]:
    return place.keys, "is required and not given"


def _no_mapping(place: _Place, value: Any, raw: Mapping[str, Any]) -> tuple[Keys, str]:
    members = _members(place.annotation)
    if members and place.keys[0] == "methods":
        return place.keys, f"must be a mapping of options, got {shown(value)}"
    if members:
        name = value if value in _names(members) else _names(members)[0]
        return place.keys, f"must be a mapping such as {{name: {name}}}, got {shown(value)}"
    fields = ", ".join(_bare(place.annotation).model_fields)
    return place.keys, f"must be a mapping with keys such as {fields}; got {shown(value)}"


def _unknown_member(place: _Place, value: Any, raw: Mapping[str, Any]) -> tuple[Keys, str]:
    """Say that a data set, a model or a method does not exist, or is not named."""
    names, section = _names(_members(place.annotation)), str(place.keys[0])
    key = "method" if section == "methods" else "name"
    if not isinstance(value, dict):
        return place.keys, f"must be a mapping of options, got {shown(value)}"
    name = value.get(key)
    written = _value_at(raw, (*place.keys, key)) is not _ABSENT
    if name is None:
        return (*place.keys, key), f"is required and not given; legal: {', '.join(sorted(names))}"
    message = f"{shown(name)} is no {_NOUNS.get(section, section)}; {nearest(str(name), names)}"
    if written:
        return (*place.keys, key), message
    return place.keys, f"{message} (a label of your own needs `method: NAME` in its options)"


def _not_legal(place: _Place, value: Any, raw: Mapping[str, Any]) -> tuple[Keys, str]:
    """Say that a value is not one of a few."""
    legal = get_args(_bare(_bare(place.within).model_fields[str(place.keys[-1])].annotation))
    return place.keys, f"{shown(value)} is not legal; {nearest(str(value), map(str, legal))}"


def _empty(place: _Place, value: Any, raw: Mapping[str, Any]) -> tuple[Keys, str]:
    return place.keys, f"must not be empty, got {shown(value)}"


_SPECIAL: dict[str, Callable[[_Place, Any, Mapping[str, Any]], tuple[Keys, str]]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "union_tag_not_found": _unknown_member,
    "union_tag_invalid": _unknown_member,
    "model_type": _no_mapping,
    "model_attributes_type": _no_mapping,
    "literal_error": _not_legal,
    "too_short": _empty,
}


_ABSENT: Any = object()


def _child(node: Any, key: Any) -> Any:
    """Return what `key` leads to in plain data or in a model; _ABSENT if nothing."""
    if isinstance(node, dict):
        return node.get(key, _ABSENT)
    if isinstance(node, list | tuple) and isinstance(key, int) and key < len(node):
        return node[key]
    return _ABSENT


def _value_at(raw: Any, keys: Keys) -> Any:
    for key in keys:
        raw = _child(raw, key)
    return raw


def _position(keys: Keys, raw: Any) -> list[int]:
    """Return where in the file the user finds `keys`; what is not there comes after what is."""
    position = []
    for key in keys:
        siblings = list(raw) if isinstance(raw, dict) else list(range(len(raw))) if isinstance(raw, list) else []
        position.append(siblings.index(key) if key in siblings else len(siblings))
        raw = _child(raw, key)
    return position
