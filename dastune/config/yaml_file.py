"""YAML as studies are written in it: safe, no key twice, 1e-4 is a number; what is wrong is told in one line."""

import re
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from dastune.errors import UserError

MOST_BYTES = 1_000_000  # of a study file
MOST_VALUES = 100_000  # in it, each alias (*name) written out


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and a study does not need."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, refusing a key given twice (YAML itself would keep the last one silently)."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _Refused(problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark)
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
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node holds, each alias written out. Raises _Refused if that has no end, or is too many.

    A few lines of aliases of aliases stand for more values than fit any memory, and merging mappings (<<) makes them.

    Args:
        known: the counts of nodes, by id; 0 while a node is being counted.
    """
    if known.get(id(node)) == 0:
        raise _Refused(problem="an alias (*name) stands inside of what it refers to; write the value out")
    if id(node) not in known:
        known[id(node)] = 0
        inner = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        is_leaf = isinstance(node, yaml.ScalarNode)
        known[id(node)] = 1 + (0 if is_leaf else sum(_count(item, known) for item in inner))
    if known[id(node)] > MOST_VALUES:
        raise _Refused(problem=f"stands for more than {MOST_VALUES:,} values; no study has so many")
    return known[id(node)]


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises UserError if it cannot be read or holds none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: is larger than {MOST_BYTES:,} bytes; no study is")
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
    return raw


def _explain(error: yaml.YAMLError) -> str:
    """Return where a file is no YAML, and why."""
    mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if isinstance(error, _Refused):
        return f"{where}: {problem}"
    if "another document" in problem:
        return f"{where}: a second document begins here; a study is one"
    if "determine a constructor" in problem:
        return f"{where}: tags such as !!python are not allowed; write plain values"
    if "'\\t'" in problem:
        return f"{where}: is not valid YAML: a tab; indent with spaces"
    return f"{where}: is not valid YAML: {problem}"
