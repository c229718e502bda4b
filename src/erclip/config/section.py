"""What every section of the settings is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Frozen, strictly typed, closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants"
    )


def by_kind(value: Any) -> Any:
    """A name is short for a table that has only its `kind`."""
    return {"kind": value} if isinstance(value, str) else value


def to_tuple(value: Any) -> Any:
    """TOML and JSON have lists, frozen settings have tuples."""
    return tuple(value) if isinstance(value, list) else value
