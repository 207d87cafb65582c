"""From a YAML file and the command line's overrides to a StudyConfig, all faults of the file at once."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dastune.config import yaml_file
from dastune.config.defaults import with_defaults
from dastune.config.faults import faults_of, shown
from dastune.config.study import StudyConfig
from dastune.errors import UserError, nearest

# Studies that come with the package: inside it when installed, beside it in a checkout.
_PACKAGED = (Path(__file__).parents[1] / "search_spaces", Path(__file__).parents[2] / "search_spaces")


def load_study(source: str | Path, *, overrides: Iterable[str] = (), budget: str | None = None) -> StudyConfig:
    """Read a study.

    Args:
        source: path of a YAML file, or the name of a study that comes with the package, such as `digits_noise`.
        overrides: `key.path=value`, the value in YAML.
        budget: replaces the study's budget: "90 cpu-seconds", "24 gpu-hours", "2000 steps".

    Raises:
        UserError: lists every fault of the file.
    """
    path = find_study(source)
    raw = yaml_file.read(path)
    faults = [fault for override in overrides if (fault := _apply(raw, override))]
    if faults:
        raise UserError("\n".join(faults))
    if budget is not None:
        raw["budget"] = parse_budget(budget)
    try:
        return StudyConfig.model_validate(with_defaults(raw))
    except ValidationError as error:
        faults = faults_of(error, StudyConfig, raw)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError("\n".join([f"{path}: {count}", *(f"  {fault}" for fault in faults)])) from None


def find_study(source: str | Path) -> Path:
    """Return the path of a study given by path or packaged name. Raises UserError if there is none."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    packaged = {study.stem: study for folder in _PACKAGED for study in sorted(folder.glob("*.yaml"))}
    if str(source) in packaged:
        return packaged[str(source)]
    if not str(source):
        raise UserError(f"no study is given; give a YAML file, or one that comes with dastune: {', '.join(packaged)}")
    if path.is_dir():
        remedy = f"; to go on with the study in it: dastune resume {source}" if (path / "study.yaml").is_file() else ""
        raise UserError(f"{source}: is a folder; give a YAML file{remedy}")
    raise UserError(
        f"{source}: no such file, and no study of that name comes with dastune; {nearest(path.stem, packaged)}"
    )


def _apply(raw: dict[str, Any], override: str) -> str | None:
    """Set one field of the raw study; return what is wrong with the override, if anything."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        return f"--set {override}: must be KEY.PATH=VALUE, for example --set final.epochs=10"
    try:
        value = yaml_file.parse(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return f"--set {override}: {text!r} is not valid YAML"
    *parents, last = keys
    section = raw
    for depth, parent in enumerate(parents):
        inner = section.get(parent)
        if inner is None:
            inner = section[parent] = {}
        if not isinstance(inner, dict):
            where = ".".join(parents[: depth + 1])
            return f"--set {override}: {where} is {shown(inner)}, which has no keys; set {where} itself"
        section = inner
    section[last] = value
    return None


_UNIT_HOURS = {"second": 1 / 3600, "minute": 1 / 60, "hour": 1.0}


def parse_budget(text: str) -> dict[str, float]:
    """Return the budget section that a text such as "90 cpu-seconds" means. Raises UserError."""
    match = re.fullmatch(r"\s*([0-9.e+-]+)\s*(?:(cpu|gpu)-(second|minute|hour)s?|(steps?))\s*", text, re.IGNORECASE)
    try:
        amount = float(match[1]) if match else math.nan
    except ValueError:
        amount = math.nan
    if match is None or not 0 < amount < math.inf:
        raise UserError(
            f"--budget {text!r}: must be a positive amount and a unit: "
            "cpu-seconds, cpu-minutes, cpu-hours, gpu-seconds, gpu-minutes, gpu-hours or steps; "
            'for example --budget "90 cpu-seconds"'
        )
    if not match[4]:
        return {f"{match[2].lower()}_hours": amount * _UNIT_HOURS[match[3].lower()]}
    if amount % 1:
        raise UserError(f"--budget {text!r}: must be a whole number of steps")
    return {"steps": int(amount)}
