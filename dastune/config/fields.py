"""What the parts of a study's configuration share: strict models, field types, and FieldError."""

from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dastune.errors import UserError
from dastune.folder import safe_name


class FieldError(ValueError):
    """What a validator finds wrong; `below` leads from where the validator runs to what is at fault.

    The message goes after the path. Where it begins with "must", what came is put behind it.
    """

    def __init__(self, message: str, *below: str | int) -> None:
        super().__init__(message)
        self.below = below


class Strict(BaseModel):
    """Frozen, and unknown keys are refused; texts, numbers and truth values are not turned into each other."""

    # docs/study.md is made of the docstrings under the attributes. pydantic could read them too, but is slow at it.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return `values` if none comes twice. Raises FieldError."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise FieldError(f"{value!r} is given twice; give each once", index)
    return values


def _safe(name: str) -> str:
    try:
        return safe_name(name)
    except UserError as error:
        raise FieldError(str(error)) from None


SafeName: TypeAlias = Annotated[str, AfterValidator(_safe)]
Whole: TypeAlias = Annotated[int, Field(strict=True)]
Count: TypeAlias = Annotated[Whole, Field(ge=1)]
Number: TypeAlias = Annotated[float, Field(strict=True)]
Positive: TypeAlias = Annotated[Number, Field(gt=0)]
NotNegative: TypeAlias = Annotated[Number, Field(ge=0)]
Pixels: TypeAlias = Annotated[Whole, Field(ge=0)]
Switch: TypeAlias = Annotated[bool, Field(strict=True)]
Seed: TypeAlias = Annotated[Whole, Field(ge=0, le=2**31 - 1)]
Seeds: TypeAlias = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(distinct)]
