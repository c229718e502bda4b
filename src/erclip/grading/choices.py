"""Lettered choices: `(B)`, `B. 12`, `Option B`, with or without their content."""

from __future__ import annotations

import re
from typing import NamedTuple

_CHOICE = re.compile(
    r'(?:"(?:option|choice|answer|statement|the|is|correct'
    r'|(?:故|应|答案)?选[项择]?|答案?[是为]?)":? ?)*'
    r"(?P<open>[(\[])?(?P<letter>[A-Ja-j])(?(open)[)\]])"
    r"(?P<content>[.:)] ?.*|\(.*\)|(?<=[)\]]).*|)",
    re.IGNORECASE,
)
# What makes the text after a choice's letter more than its content.
_SEVERAL = re.compile(
    r'"(?:and|or|not|nor|both|neither|either|wrong|incorrect|except|but|no)"|(?<![a-zA-Z])[A-J]\)'
    r"|[,;] ?\(?[A-J]\)?$|(?<![a-zA-Z\\])[A-J][.:]|^ ?[,;+=<>/^_!]"
    r"|^ ?\\(?:ne|le|ge|cdot|ldots|cup|cap|setminus|to|in|pm|mod)(?![a-z])"
    r'|^ ?"(?:[a-z]*illion|thousand|hundred|dozen)s?"',
    re.IGNORECASE,
)


class Choice(NamedTuple):
    """A letter in upper case and what stands behind it.

    `is_sure`: in brackets or upper case, so that a gold is surely a choice and no variable;
    `says_more`: behind the letter stands more than its content, another choice for example.
    """

    letter: str
    content: str
    in_brackets: bool
    is_sure: bool
    says_more: bool


def read_choice(text: str) -> Choice | None:
    """The choice that a canonical text is, or None.

    >>> read_choice("(B)12")
    Choice(letter='B', content='12', in_brackets=True, is_sure=True, says_more=False)
    >>> read_choice('(B)"or"(C)').says_more, read_choice("BC")
    (True, None)
    """
    match = _CHOICE.fullmatch(text)
    if match is None:
        return None
    content = match["content"].lstrip(".:) ")
    if content.startswith("(") and content.endswith(")"):
        content = content[1:-1]
    in_brackets = match["open"] is not None
    is_sure = in_brackets or match["letter"].isupper()
    more = _SEVERAL.search(match["content"]) is not None
    return Choice(match["letter"].upper(), content, in_brackets, is_sure, more)
