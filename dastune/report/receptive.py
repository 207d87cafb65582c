"""The receptive fields of a study's networks, as far as its folder has them. A folder may come from anybody."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dastune.errors import UserError
from dastune.folder import FinalRow, StudyFolder
from dastune.report.found import Spread
from dastune.report.stats import mean, sd
from dastune.training.receptive_map import ReceptiveField, receptive_field_from_text

MOST_BYTES = 100_000


@dataclass(frozen=True)
class Fields:
    """The receptive fields of one method's networks.

    Attributes:
        fields: of each final training, all of one size.
        map_HW: their mean, scaled to a peak of 1.
        half, tenth: of the areas of each, shares in [0, 1].
    """

    method: str
    fields: tuple[ReceptiveField, ...]
    map_HW: NDArray[np.float64]  # noqa: N815  the shape is part of the name
    half: Spread
    tenth: Spread

    @property
    def frames(self) -> int:
        """How many frames the networks read; 1: images."""
        return max(field.frames for field in self.fields)


def read_fields(folder: StudyFolder, finals: Iterable[FinalRow]) -> tuple[list[Fields], int]:
    """Return the fields of each method, in order, and how many files are damaged, or of another size than the first."""
    found: dict[str, list[ReceptiveField]] = {}
    damaged, shape = 0, None
    for row in finals:
        try:
            field = _read(folder, row)
        except (OSError, ValueError):
            damaged += 1
            continue
        if field is None:
            continue
        shape = shape or field.map_HW.shape
        if field.map_HW.shape == shape and field.map_HW.any():
            found.setdefault(row.method, []).append(field)
        else:
            damaged += 1
    return [_of(method, fields) for method, fields in found.items()], damaged


def _read(folder: StudyFolder, row: FinalRow) -> ReceptiveField | None:
    """Return the field of a final training; None where there is none. Raises ValueError or OSError for any other."""
    try:
        path = folder.receptive_field(row.search_id, row.train_seed)
    except UserError:
        return None  # no name that such a file has
    if path.is_symlink() or folder.receptive_fields.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError("too large")
    return receptive_field_from_text(content.decode())


def _of(method: str, fields: list[ReceptiveField]) -> Fields:
    map_HW = np.mean([field.map_HW for field in fields], axis=0, dtype=np.float64)
    half, tenth = ([getattr(field, name) for field in fields] for name in ("half", "tenth"))
    return Fields(
        method, tuple(fields), map_HW / map_HW.max(), Spread(mean(half), sd(half)), Spread(mean(tenth), sd(tenth))
    )
