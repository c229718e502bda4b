r"""Equations and inequalities, and chains of them: equal up to a factor."""

from __future__ import annotations

import re
from typing import NamedTuple

from erclip.grading.brackets import split_top

SIGN = re.compile(r"(<|>|\\le |\\ge |\\ne |=)")
_MIRRORED = {">": "<", r"\ge ": r"\le "}
_EITHER_WAY = ("=", r"\ne ")


class Step(NamedTuple):
    r"""One comparison: `=`, `\ne `, `<` or `\le ` between two texts; `>` has been turned round."""

    left: str
    sign: str
    right: str


def comparisons(text: str) -> list[Step]:
    r"""The steps of a relation, from small to large; none if the text is no single relation.

    >>> comparisons(r"5>x\ge y+1")
    [Step(left='y+1', sign='\\le ', right='x'), Step(left='x', sign='<', right='5')]
    """
    parts = [part.strip() if i % 2 == 0 else part for i, part in enumerate(SIGN.split(text))]
    if len(parts) < 3 or not all(parts) or len(split_top(text)) > 1:
        return []
    steps = [
        Step(right, _MIRRORED[sign], left) if sign in _MIRRORED else Step(left, sign, right)
        for left, sign, right in zip(parts[::2], parts[1::2], parts[2::2], strict=False)
    ]
    return steps[::-1] if parts[1] in _MIRRORED else steps


def same_relations(golds: list[Step], answers: list[Step]) -> bool | None:
    """Whether every step of one is a multiple of the other's; None if that is not known."""
    from erclip.grading.values import proportion  # mpmath: only if needed

    if len(golds) != len(answers):
        return False if golds and answers else None
    pairs = list(zip(golds, answers, strict=True))
    if any(gold.sign != answer.sign for gold, answer in pairs):
        return None
    found = [proportion((g.left, g.right), (a.left, a.right)) for g, a in pairs]
    if None in found:
        return None
    return all(
        c > 0 or (c and gold.sign in _EITHER_WAY) for c, gold in zip(found, golds, strict=True)
    )
