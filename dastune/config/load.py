"""From a YAML file and the command line's overrides to a StudyConfig, all faults of the file at once."""

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dastune.config.defaults import with_defaults
from dastune.config.faults import describe
from dastune.config.study import StudyConfig
from dastune.errors import UserError, nearest

# Studies that come with the package: inside it when installed, beside it in a checkout.
_PACKAGED = (Path(__file__).parents[1] / "search_spaces", Path(__file__).parents[2] / "search_spaces")


def load_study(
    source: str | Path, *, overrides: Iterable[str] = (), budget: str | None = None, name: str | None = None
) -> StudyConfig:
    """Read a study.

    Args:
        source: path of a YAML file, or the name of a study that comes with the package, such as `digits_noise`.
        overrides: `key.path=value`, the value in YAML.
        budget: replaces the study's budget: "90 cpu-seconds", "24 gpu-hours", "2000 steps".
        name: replaces the study's name.

    Raises:
        UserError: lists every fault of the file.
    """
    path = find_study(source)
    raw = _read(path)
    for override in overrides:
        _apply(raw, override)
    if budget is not None:
        raw["budget"] = parse_budget(budget)
    if name is not None:
        raw["name"] = name
    try:
        return StudyConfig.model_validate(with_defaults(raw))
    except ValidationError as error:
        faults = list(dict.fromkeys(describe(fault, StudyConfig) for fault in error.errors()))
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError("\n".join([f"{path}: {count}", *(f"  {fault}" for fault in faults)])) from None


def find_study(source: str | Path) -> Path:
    """Return the path of a study given by path or packaged name. Raises UserError if there is none."""
    path = Path(source)
    if path.is_file():
        return path
    packaged = {study.stem: study for folder in _PACKAGED for study in sorted(folder.glob("*.yaml"))}
    if str(source) in packaged:
        return packaged[str(source)]
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a YAML file (to go on with a study: dastune resume {path})")
    raise UserError(f"{source}: no such file, and no study of that name comes with dastune; "
                    f"{nearest(path.stem, packaged)}")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, refusing a key given twice (YAML itself would keep the last one silently)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()  # type: ignore[no-untyped-call]
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text, so no YAML; give a study file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{where}: is not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must be a mapping of keys such as name, data, methods; got {type(raw).__name__}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one field of the raw study."""
    keys, equals, text = override.partition("=")
    if not equals or not all(keys.split(".")):
        raise UserError(f"--set {override}: must be KEY.PATH=VALUE, for example --set final.epochs=10")
    try:
        value = _parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not valid YAML") from error
    *parents, last = keys.split(".")
    section = raw
    for depth, parent in enumerate(parents):
        inner = section.setdefault(parent, {})
        if inner is None:
            inner = section[parent] = {}
        if not isinstance(inner, dict):
            where = ".".join(parents[: depth + 1])
            raise UserError(f"--set {override}: {where} is {inner!r}, which has no fields; set {where} itself")
        section = inner
    section[last] = value


_UNIT_HOURS = {"second": 1 / 3600, "minute": 1 / 60, "hour": 1.0}


def parse_budget(text: str) -> dict[str, float]:
    """Return the budget section that a text such as "90 cpu-seconds" means. Raises UserError."""
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(?:(cpu|gpu)-(second|minute|hour)s?|(steps?))\s*", text)
    try:
        amount = float(match[1]) if match else None
    except ValueError:
        amount = None
    if match is None or amount is None or amount <= 0:
        raise UserError(
            f"--budget {text!r}: must be a positive amount and a unit: "
            "cpu-seconds, cpu-minutes, cpu-hours, gpu-seconds, gpu-minutes, gpu-hours or steps; "
            'for example --budget "90 cpu-seconds"'
        )
    if match[4]:
        return {"steps": amount if amount % 1 else int(amount)}
    return {f"{match[2]}_hours": amount * _UNIT_HOURS[match[3]]}
