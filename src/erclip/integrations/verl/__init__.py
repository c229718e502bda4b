"""ERC and its surrogates inside verl's V1 trainer (extra `verl`): no fork, no copied trainer code.

Importing this package needs nothing of verl. `settings` and `checks` are what a user sets, `loss`
and `engine` what runs in the workers, `runner` and `launch` what starts them.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from erclip.errors import UserError

SUPPORTED = ((0, 9, 1), (0, 10))


def require_verl() -> None:
    """Refuse, in one sentence, a verl whose private parts we have not read."""
    try:
        found = version("verl")
    except PackageNotFoundError:
        raise UserError("verl is not installed: pip install 'erclip[verl]'.") from None
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
