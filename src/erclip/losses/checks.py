"""What a part says of a setting that cannot be: one sentence for all of them."""

from __future__ import annotations

from typing import Any, get_args


def at_least(part: Any, minimum: float, *names: str) -> None:
    """Raise ValueError for the first of these settings that is below `minimum`, or NaN."""
    for name in names:
        value = getattr(part, name)
        if not value >= minimum:
            raise ValueError(
                f"{name} of {type(part).__name__} must be at least {minimum:g}, not {value}."
            )


def above(part: Any, minimum: float, *names: str) -> None:
    """Raise ValueError for the first of these settings that is not above `minimum`."""
    for name in names:
        value = getattr(part, name)
        if not value > minimum:
            raise ValueError(
                f"{name} of {type(part).__name__} must be above {minimum:g}, not {value}."
            )


def share(part: Any, *names: str) -> None:
    """Raise ValueError for the first of these settings that is no share in (0, 1]."""
    for name in names:
        value = getattr(part, name)
        if not 0 < value <= 1:
            raise ValueError(f"{name} of {type(part).__name__} must lie in (0, 1], not {value}.")


def one_of(part: Any, name: str, literal: Any) -> None:
    """Raise ValueError for a setting that is none of a Literal's words."""
    value = getattr(part, name)
    if value not in get_args(literal):
        known = ", ".join(get_args(literal))
        raise ValueError(f"{name} of {type(part).__name__} must be one of {known}, not {value!r}.")
