"""ERC and its surrogates inside verl's V1 trainer (extra `verl`): no fork, no copied trainer code.

Importing this package needs nothing of verl. `settings` and `checks` are what a user sets, `loss`
and `engine` what runs in the workers, `runner` and `launch` what starts them.
"""

from __future__ import annotations

from importlib.metadata import version

from erclip.errors import UserError
from erclip.extras import stand_on

SUPPORTED = ((0, 9, 1), (0, 10))


def require_verl() -> None:
    """Refuse, in one sentence, what cannot work: no verl, or one that was not read."""
    for extra in ("verl", "train"):
        stand_on(extra, "the adapter for verl")
    check_version(version("verl"))


def check_version(found: str) -> None:
    """Refuse a verl whose private parts we have not read."""
    low, high = SUPPORTED
    if not low <= _release(found) < high:
        raise UserError(
            f"verl {found} is not supported: the adapter is written against "
            f"{_text(low)} up to, not including, {_text(high)}; pip install 'erclip[verl]'."
        )


def _release(text: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> _release("0.9.1.post2"), _release("0.10.0rc1")
    ((0, 9, 1), (0, 10, 0))
    """
    numbers = []
    for part in text.split("."):
        digits = ""
        for character in part:
            if not character.isdigit():
                break
            digits += character
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
