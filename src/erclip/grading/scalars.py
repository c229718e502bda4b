r"""Decides whether two single things are equal, each by the rule of its kind.

The kinds of `erclip.grading.kinds` come first, then quantities (a number or an expression with a
unit), equations and inequalities. None of this needs sympy and all of it has a bounded cost, so it
runs in the calling process. None means "cannot tell without algebra". Text that no rule reads is
equal only to the same text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from erclip.grading.brackets import split_top
from erclip.grading.exact import Number, numbers_equal, parse_number
from erclip.grading.gold import Gold
from erclip.grading.kinds import KINDS
from erclip.grading.relations import comparisons, same_relations
from erclip.grading.structure import without_label
from erclip.grading.typography import canonical, same_spelling
from erclip.grading.units import Unit, is_angle, ratio, read_unit

Verdict = bool | None
ScalarRule = Callable[[str, str, Gold], Verdict]
"""(gold text, answer text, gold record) → equal, different, or undecided."""

_NAME = re.compile(
    r"(?!\\(?:sqrt|frac|pi|binom|infty)(?![a-zA-Z]))\\?[a-zA-Z][\w\\{}' ]*(?:\([\w, ]*\))?"
    r"|\([a-z](?:, ?[a-z])*\)"
)
_ANTIDERIVATIVE = re.compile(r"(.*[^C])\+([CcKk])(?:_\{\d\})?")
_RELATION = re.compile(r"[<>]|\\(?:ne|le|ge|sim|in|subset|subseteq)(?![a-zA-Z])")
_CALL = re.compile(r"([a-zA-Z])\(([a-zA-Z])\)")
_MONEY = re.compile(
    r'(-?)(?:"?(?:US|A|C|NZ|HK)?"?(\\\$|[€£¥₹₩₽])|"([A-Z]{3}|Rs|rs)")'
    r"[ .]?(-?[\d.(\\].*)"
)
_UNIT_STARTS = re.compile(
    r'(?:\\frac\{|\[)?\(?"|%|"?[kM]?"?\\Omega|\\mu ?"|\^\{\\circ ?\}|\\\$|[€£¥₹₩₽¢]'
)
_CALLED = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|cis|ln|log|exp)(?![a-zA-Z])")
_COMPOUND = re.compile(r"(\d[\d.]*)((?:\"[^\"]+\"|\^\{\\circ\}|'{1,2}))")
_MINUTES = {"'": r"\frac{1}{60}", "''": r"\frac{1}{3600}"}
_UNREAD = re.compile(
    r'"|\\ldots|[^\x00-\x7f]|\\\$|\d \d|\\quad|[#@?]|\\(?:cancel|not)|\d_\{|(?<![a-zA-Z}\'])\''
)


class Quantity(NamedTuple):
    """A value as text, and the unit after it."""

    value: str
    unit: Unit | None


def plain_scalar(gold: str, answer: str, record: Gold) -> Verdict:
    """The rule of the calling process: equal spelling, or what `value_scalar` can tell."""
    return True if same_spelling(gold, answer) else value_scalar(gold, answer, record)


def value_scalar(gold: str, answer: str, record: Gold) -> Verdict:
    """Equality by kind; never by spelling alone."""
    for rule in KINDS:
        if (verdict := rule(gold, answer)) is not None:
            return verdict
    (gold, gold_unit), (answer, answer_unit) = operands(gold, answer)
    if record.unit:
        gold_unit = gold_unit or field_unit(record.unit)
    verdict = _quantities(Quantity(gold, gold_unit), Quantity(answer, answer_unit), record)
    if verdict is not None:
        return verdict
    if is_unread(gold) or is_unread(answer):
        return False
    return _values(gold, answer, record.tolerance)


def is_unread(text: str) -> bool:
    """Whether a text holds something that is no mathematics: it equals only the same text."""
    return bool(_UNREAD.search(text))


def operands(gold: str, answer: str) -> tuple[Quantity, Quantity]:
    """Values and units of both, without the names before `=` where they agree or one is absent.

    A gold without `=` is met by the right-hand side of an answer (`x+y = 3+4 = 7`); `f(x)=x+1` and
    `f(t)=t+1` are the same function.
    """
    gold, answer = _settled(gold), _settled(answer)
    gold_sides, answer_sides = _name_first(gold), _name_first(answer)
    if len(gold_sides) == 1:
        return quantity(gold), quantity(answer_sides[-1])
    if not _NAME.fullmatch(gold_sides[0]):
        return quantity(gold), quantity(answer)
    if len(answer_sides) == 1 or not _NAME.fullmatch(answer_sides[0]):
        related = _RELATION.search(answer) or len(answer_sides) > 1
        return quantity(gold if related else gold_sides[-1]), quantity(answer)
    if renamed := _renamed(gold_sides[0], answer_sides[0], answer_sides[-1]):
        return quantity(gold_sides[-1]), quantity(renamed)
    return Quantity(gold, None), Quantity(answer, None)


def _settled(text: str) -> str:
    r"""`\equiv` without a modulus is `=`, so is `\approx` after a name; else its left counts."""
    text = text.replace(r"\equiv ", "=") if r"\mod" not in text else text
    left, approximate, right = text.partition(r"\approx ")
    return f"{left}={right}" if approximate and _NAME.fullmatch(left.strip()) else left


def sides(text: str) -> list[str]:
    """What stands between the `=` signs outside brackets; one side if it is no single equation."""
    if "=" not in text or _RELATION.search(text) or len(split_top(text)) > 1:
        return [text]
    parts = split_top(text, "=")
    return parts if all(parts) else [text]


def _name_first(text: str) -> list[str]:
    """The sides, with those of `5 = x` exchanged."""
    parts = sides(text)
    is_turned = len(parts) == 2 and _NAME.fullmatch(parts[1]) and parse_number(parts[0])
    return parts[::-1] if is_turned else parts


def _renamed(gold_name: str, answer_name: str, answer_value: str) -> str | None:
    """The answer's value in the gold's variable, or None if the two name different things."""
    if same_spelling(gold_name, answer_name):
        return answer_value
    gold_call, answer_call = _CALL.fullmatch(gold_name), _CALL.fullmatch(answer_name)
    if not (gold_call and answer_call and gold_call[1] == answer_call[1]):
        return None
    letter = r"(?<![a-zA-Z\\]){}(?![a-zA-Z])"
    clashes = re.search(letter.format(gold_call[2]), answer_value)
    renamed = re.sub(letter.format(answer_call[2]), gold_call[2], answer_value)
    return None if clashes else renamed


@lru_cache(maxsize=8192)
def quantity(text: str) -> Quantity:
    r"""The value and the unit that a canonical text says; without a unit where none is read.

    >>> quantity('15"cm"').value, quantity('3"million"').value, quantity('3"or""more"').value
    ('15', '(3)\\cdot 1000000', '3"or""more"')
    """
    text = without_label(text.strip()).removeprefix("#").removeprefix("\\#")
    if money := _MONEY.fullmatch(text):
        unit = read_unit(money[2] or f'"{money[3]}"')
        value, scale = _measured(money[4])
        powers = scale.powers if scale else ()
        if unit and unit.powers and (powers == unit.powers or all(p < 0 for _, p in powers)):
            powers = unit.powers if powers == unit.powers else (*unit.powers, *powers)
            return Quantity(money[1] + value, unit._replace(powers=tuple(sorted(powers))))
    return _measured(text)


def _measured(text: str) -> Quantity:
    """The value, and the unit behind it."""
    for start in _UNIT_STARTS.finditer(text):
        value, said = (
            text[: start.start()].removesuffix(r"\quad ").rstrip(" ,"),
            text[start.start() :],
        )
        if value and re.search(r"[\w)}\]!]$", value) and not is_unread(value):
            unit = None if said.startswith("^") and _CALLED.search(value) else read_unit(said)
            if unit is not None:
                scaled = f"({value})\\cdot {unit.scale}" if unit.scale != 1 else value
                return Quantity(
                    scaled, unit._replace(scale=1) if unit.powers or unit.things else None
                )
        break
    return _compound(text) or Quantity(text, None)


def _compound(text: str) -> Quantity | None:
    """`5 feet 6 inches` and `30°15'` as one quantity in the first unit."""
    parts = _COMPOUND.findall(text)
    if len(parts) < 2 or "".join(number + unit for number, unit in parts) != text:
        return None
    first = read_unit(parts[0][1])
    terms = []
    for number, said in parts:
        unit = read_unit(said)
        share = _MINUTES.get(said) if said in _MINUTES else ratio(first, unit) if unit else None
        if first is None or share is None or (unit and not unit.powers):
            return None
        terms.append(f"{number}\\cdot {share}")
    return Quantity("+".join(terms), first)


@lru_cache(maxsize=1024)
def field_unit(text: str) -> Unit | None:
    """The unit that a benchmark states in a field of its own."""
    return quantity(canonical(rf"1\text{{{text}}}" if text[0].isalpha() else f"1{text}")).unit


def _quantities(gold: Quantity, answer: Quantity, record: Gold) -> Verdict:
    """Numbers with their units; None where one is not a number and the units agree."""
    if (share := ratio(gold.unit, answer.unit)) is None:
        return False
    left, right = parse_number(gold.value), parse_number(answer.value)
    if left and right and share == "1":
        return _equal_up_to_percent(left, right, gold, answer, record.tolerance)
    if is_angle(gold.unit) and answer.unit is None and r"\pi" in answer.value:
        share = r"\frac{180}{\pi }"
    if share == "1":
        return None
    return bool(_values(gold.value, f"({answer.value})\\cdot {share}", record.tolerance))


def _equal_up_to_percent(
    left: Number, right: Number, gold: Quantity, answer: Quantity, tolerance: float | None
) -> bool:
    """With a percent sign on one side, the other may be the number or the fraction."""
    percents = [bool(q.unit and ("percent", 1) in q.unit.powers) for q in (gold, answer)]
    is_share = percents == [False, True] and gold.unit is None and abs(left.value) < 1
    if not is_share and numbers_equal(left, right, tolerance):
        return True
    if percents == [True, False] and answer.unit is None:
        return numbers_equal(left, right.times(100), tolerance)
    if percents == [False, True] and gold.unit is None:
        return numbers_equal(left.times(100), right, tolerance)
    return False


def _values(gold: str, answer: str, tolerance: float | None) -> Verdict:
    """Expressions by value, equations and inequalities by proportion."""
    from erclip.grading.values import equal_values  # mpmath: only if needed

    steps = comparisons(gold), comparisons(answer)
    if any(steps):
        return same_relations(*steps)
    bodies = [_ANTIDERIVATIVE.fullmatch(text) for text in (gold, answer)]
    if bodies[0] and bodies[1] and bodies[0][2] == "C":
        gold, answer = bodies[0][1], bodies[1][1]
    return equal_values(gold, answer, tolerance)
