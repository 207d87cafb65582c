"""YAML as studies are written in it: safe, no key twice, 1e-4 is a number; what is wrong is told in one line."""

import re
from pathlib import Path
from typing import Any

import yaml

from dastune.errors import UserError


class _GivenTwice(yaml.MarkedYAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, refusing a key given twice (YAML itself would keep the last one silently)."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _GivenTwice(problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node


# YAML 1.1 takes 1e-4 for a text, since it lacks a point.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789")
)


def parse(text: str) -> Any:
    """Return what a YAML text means. Raises yaml.YAMLError, or ValueError for an impossible date."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises UserError if it cannot be read or holds none."""
    try:
        raw = parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise UserError(f"{path}: is no text, so no YAML; give a study file") from error
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply for a study") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_explain(error)}") from error
    except ValueError as error:
        raise UserError(f"{path}: is not valid YAML: {error}") from error
    if raw is None:
        raise UserError(f"{path}: is empty; a study needs name, data, methods and budget")
    if not isinstance(raw, dict):
        kind = "a list" if isinstance(raw, list) else "a text" if isinstance(raw, str) else f"the value {raw!r}"
        raise UserError(f"{path}: holds {kind}; must be a mapping with keys such as name, data, methods and budget")
    if _contains_itself(raw):
        raise UserError(f"{path}: an alias (*name) stands inside of what it refers to; write the value out")
    return raw


def _contains_itself(value: Any, above: tuple[int, ...] = ()) -> bool:
    if id(value) in above or not isinstance(value, dict | list):
        return id(value) in above
    items = value.values() if isinstance(value, dict) else value
    return any(_contains_itself(item, (*above, id(value))) for item in items)


def _explain(error: yaml.YAMLError) -> str:
    """Return where a file is no YAML, and why."""
    mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if isinstance(error, _GivenTwice):
        return f"{where}: {problem}"
    if "another document" in problem:
        return f"{where}: a second document begins here; a study is one"
    if "determine a constructor" in problem:
        return f"{where}: tags such as !!python are not allowed; write plain values"
    if "'\\t'" in problem:
        return f"{where}: is not valid YAML: a tab; indent with spaces"
    return f"{where}: is not valid YAML: {problem}"
