r"""Integers, fractions and decimals, compared exactly and without sympy.

Most golds of every benchmark are of this kind, and so is what a model should answer to them.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_DIGITS = 1_000
MAX_POWER_OF_TEN = 1_000
APPROXIMATION = Fraction(1, 10**6)
FLOAT_NOISE = Fraction(1, 10**12)

_DECIMAL = re.compile(
    r"(?P<sign>[-+]*)(?P<digits>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
    r"(?:(?P<ten>\\cdot ?10)(?:\^\{(?P<power>[-+]?\d+)\})?|[eE](?P<exp>[-+]?\d+))?"
)
_POWER_OF_TEN = re.compile(r"([-+]*)10\^\{([-+]?\d+)\}")
_FRACTION = re.compile(
    r"(?P<sign>[-+]*)(?:(?P<whole>\d+)(?: |(?=\\frac)))?"
    r"(?:\\frac\{(?P<n1>[-+]?[\d.,]+)\}\{(?P<d1>[-+]?[\d.,]+)\}|(?P<n2>\d+)/(?P<d2>\d+))"
)
_RECURRING = re.compile(
    r"(?<![\d.,])(?P<head>\d*\.\d*?)(?:\\overline\{(?P<bar>\d+)\}(?!_)|\((?P<round>\d+)\)(?=$|,)"
    r"|\\dot\{(?P<first>\d)\}(?:(?P<middle>\d*)\\dot\{(?P<last>\d)\})?"
    r"|(?P<seen>\d{1,9}?)(?P=seen){2,}\\ldots ?|(?P<long>\d{2,9})(?P=long)\\ldots ?)"
)


class Number(NamedTuple):
    """An exact value. `places`: digits after the point if it was written with one, else None."""

    value: Fraction
    places: int | None

    def times(self, factor: int) -> Number:
        """The number so many times as large."""
        return Number(self.value * factor, self.places)


@lru_cache(maxsize=16_384)
def parse_number(text: str) -> Number | None:
    r"""The exact value of a canonical literal, or None if it is anything but one number.

    >>> parse_number(r"-\frac{3}{4}").value, parse_number("1,234.50")
    (Fraction(-3, 4), Number(value=Fraction(2469, 2), places=2))
    >>> parse_number("1 1/2").value, parse_number("1/2 3")
    (Fraction(3, 2), None)
    """
    if len(text) > MAX_DIGITS:
        return None
    text = _POWER_OF_TEN.sub(r"\g<1>1e\2", text) if text.endswith("}") else text
    if match := _DECIMAL.fullmatch(text):
        return _decimal(match)
    match = _FRACTION.fullmatch(text)
    return _fraction(match) if match else None


def recurring_as_fractions(text: str) -> str:
    r"""Canonical text with a fraction for every recurring decimal.

    >>> recurring_as_fractions(r"0.1\overline{6}+x")
    '\\frac{1}{6}+x'
    """
    return _RECURRING.sub(_as_fraction, text)


def _as_fraction(match: re.Match[str]) -> str:
    """Exact: the period over as many nines as it has digits."""
    period = match["bar"] or match["round"] or match["seen"] or match["long"]
    period = period or match["first"] + (match["middle"] or "") + (match["last"] or "")
    places = len(match["head"].partition(".")[2])
    value = Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    value += Fraction(match["head"].rstrip(".") or 0)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _signed(value: Fraction, sign: str) -> Fraction:
    return -value if sign.count("-") % 2 else value


def _decimal(match: re.Match[str]) -> Number | None:
    digits = match["digits"].replace(",", "")
    power = int((match["power"] or match["exp"] or ("1" if match["ten"] else "0"))[:6])
    if abs(power) > MAX_POWER_OF_TEN:
        return None
    value = Fraction(digits.rstrip(".")) * Fraction(10) ** power
    places = max(len(digits.partition(".")[2]) - power, 0) if "." in digits else None
    return Number(_signed(value, match["sign"]), places)


def _fraction(match: re.Match[str]) -> Number | None:
    try:
        above, below = (
            Fraction((match[f"{part}1"] or match[f"{part}2"]).replace(",", "")) for part in "nd"
        )
        value = above / below
    except (ValueError, ZeroDivisionError):
        return None
    if match["whole"] and not 0 < value < 1:
        return None
    return Number(_signed(value + int(match["whole"] or 0), match["sign"]), None)


def places_of(text: str) -> int | None:
    """Digits after the point if the text is one decimal, else None."""
    number = parse_number(text)
    return number.places if number else None


def numbers_equal(gold: Number, answer: Number, tolerance: float | None = None) -> bool:
    """Exact equality, or |gold - answer| ≤ tolerance, or a faithful decimal of another value.

    A decimal stands for a fraction or an irrational (in either role) if it agrees to a relative
    1e-6 and to one unit in its last place: 0.333333 for 1/3, but not 0.33. Integers and decimals
    must be equal.
    """
    error = abs(gold.value - answer.value)
    if error == 0 or (tolerance is not None and error <= Fraction(repr(float(tolerance)))):
        return True
    decimal, exact = (gold, answer) if gold.places is not None else (answer, gold)
    if decimal.places is None or exact.places is not None or exact.value.denominator == 1:
        return False
    size = abs(exact.value)
    last_place = max(Fraction(1, 10**decimal.places), FLOAT_NOISE * size)
    return error <= min(APPROXIMATION * size, last_place)
