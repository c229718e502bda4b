r"""Where canonical text can be cut: outside every bracket, quoted word and environment."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MARK = re.compile(
    r'"[^"]*"|\\begin\{|\\end\{|\\(?:cup|cap|setminus)(?![a-zA-Z])|\\[{}]|\\.|[()\[\]{},=]',
    re.DOTALL,
)
_STEPS = {
    **dict.fromkeys(("(", "[", "{", r"\{"), 1),
    **dict.fromkeys((")", "]", "}", r"\}"), -1),
    r"\begin{": 2,  # its name's brace closes at once, it itself with that of `\end{…}`
}


def _marks(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Every bracket and separator with the number of brackets that are open behind it."""
    depth = 0
    for match in _MARK.finditer(text):
        depth += _STEPS.get(match[0], 0)
        yield match, depth


def split_top(text: str, separator: str = ",") -> list[str]:
    r"""The parts between the separators (`,`, `=`, `\cup` …) that stand in no bracket.

    >>> split_top("(1,2),x"), split_top("x=3", "=")
    (['(1,2)', 'x'], ['x', '3'])
    """
    start, parts = 0, []
    for match, depth in _marks(text):
        if match[0] == separator and depth <= 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def is_balanced(inner: str) -> bool:
    """Whether what stands between two brackets closes no bracket that was opened outside.

    >>> is_balanced("(1)(2)"), is_balanced("1)(2")
    (True, False)
    """
    depths = [0, *(depth for _, depth in _marks(inner))]
    return min(depths) == depths[-1] == 0
