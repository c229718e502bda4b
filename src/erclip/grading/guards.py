r"""What is refused before any of it reaches a parser.

The limits are far above anything in a benchmark (the longest gold has a few hundred characters) and
far below what makes a LaTeX parser or big-integer arithmetic slow. What they let through is bounded
by the worker's clock and memory limit.
"""

from __future__ import annotations

import re

MAX_CHARS = 2_000
MAX_DEPTH = 24
MAX_DIGIT_RUN = 400
MAX_POWERS_CHAINED = 3
MAX_OPERATORS = 400

_BRACKETS = re.compile(r"\^\s*[{(\[]|[{(\[]|[})\]]|\^")
_CHAIN = re.compile(rf"(?:\^\s*-?\\?\w+\s*){{{MAX_POWERS_CHAINED + 1}}}")
_OPERATOR = re.compile(r"[-+*/^_=<>!]|\\[a-zA-Z]+")
_FORBIDDEN = re.compile(rf"\d{{{MAX_DIGIT_RUN + 1}}}|__|[\x00-\x08\x0b-\x1f\x7f]")


def is_fair(text: str) -> bool:
    """Whether the text is neither too long, nor too deep, nor a tower of powers.

    >>> is_fair("5^{5^{5}}"), is_fair("5^{5^{5^{5^{5}}}}")
    (True, False)
    """
    if len(text) > MAX_CHARS or len(_OPERATOR.findall(text)) > MAX_OPERATORS:
        return False
    if _FORBIDDEN.search(text) or _CHAIN.search(text):
        return False
    depth, powers = _nesting(text)
    return depth <= MAX_DEPTH and powers <= MAX_POWERS_CHAINED


def _nesting(text: str) -> tuple[int, int]:
    """Deepest bracket, and how many powers stand inside one another's exponents."""
    deepest = most_powers = powers = 0
    exponents: list[bool] = []
    for match in _BRACKETS.finditer(text):
        mark = match.group()
        if mark in "})]":
            if exponents and exponents.pop():
                powers -= 1
        elif mark == "^":
            most_powers = max(most_powers, powers + 1)
        else:
            exponents.append(mark.startswith("^"))
            powers += exponents[-1]
            deepest = max(deepest, len(exponents))
            most_powers = max(most_powers, powers)
    return deepest, most_powers
