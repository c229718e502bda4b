r"""Things that are neither expressions nor lists: times, ratios, digits in a base, residues, words.

Every rule takes the canonical texts of a gold and an answer and says True, False, or None where the
two are not of its kind.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from erclip.grading.exact import parse_number
from erclip.grading.structure import without_label
from erclip.grading.typography import same_spelling
from erclip.grading.words import NUMBER_WORDS

_CLOCK = re.compile(r'(\d{1,2})(?::(\d{2})(?::(\d{2}))?|(?="))(?:"([aApP])[mM]")?')
_TO = re.compile(r' ?: ?|"to"')
_RATIO = re.compile(rf"\d+(?:\.\d+)?(?:(?:{_TO.pattern})\d+(?:\.\d+)?)+")
_BASED = re.compile(
    r"(?P<digits>[0-9A-Za-z]+?)(?:_\{(?:base)?(?P<index>\d+|[a-z]+)\}|(?:in)?base(?P<said>\d+|[a-z]+))"
)
_NAMED_BASES = {"bin": "2", "oct": "8", "dec": "10", "hex": "16"}
_BASES = NUMBER_WORDS | _NAMED_BASES
_RESIDUE = re.compile(r"(?:(.+?)\\equiv )?(.+?)\(?\\mod ?\{?([^{}()]+)\}?\)?")
_PHRASE = re.compile(r"(?:\"[^\"]+\"|[Aa] ?|[A-Z]|[-', .!]|s)+")
_ARTICLES = ("a", "an", "the")


def _value(text: str) -> Fraction | None:
    number = parse_number(text.strip())
    return number.value if number else None


def same_time(gold: str, answer: str) -> bool | None:
    """Times of day: the half of the day may be left out, but not be another one."""
    clocks = [_CLOCK.fullmatch(text) for text in (gold, answer)]
    stated = any(clock and clock[4] for clock in clocks)
    if None in clocks:
        return False if stated and any(clock and clock[2] for clock in clocks) else None
    left, right = (_minutes(clock, stated) for clock in clocks if clock)
    return bool(left & right)


def _minutes(clock: re.Match[str], halves: bool) -> set[Fraction]:
    """The minutes of the day that a time may mean; a bare 3:30 may be one of two."""
    hour = int(clock[1])
    past = int(clock[2] or 0) + Fraction(int(clock[3] or 0), 60)
    if not halves or hour > 12:
        return {hour * 60 + past}
    stated = {"a": (0,), "p": (12,), "": (0, 12)}[(clock[4] or "").lower()]
    return {(hour % 12 + half) * 60 + past for half in stated}


def same_ratio(gold: str, answer: str) -> bool | None:
    """Ratios by proportion; a ratio of two is the fraction, written as one."""
    ratios = [_TO.split(text) if _RATIO.fullmatch(text) else None for text in (gold, answer)]
    if ratios[0] and ratios[1]:
        left, right = (list(map(Fraction, ratio)) for ratio in ratios if ratio)
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(a * right[0] == b * left[0] for a, b in pairs)
    ratio, other = (ratios[0], answer) if ratios[0] else (ratios[1], gold)
    if ratio is None:
        return None
    is_fraction = len(ratio) == 2 and ("/" in other or "frac" in other)
    return is_fraction and _value(other) is not None and _value("/".join(ratio)) == _value(other)


class _Digits(NamedTuple):
    digits: str
    base: int
    is_literal: bool  # written `0x1F`, or with the name of its base: it says its value


@lru_cache(maxsize=8192)
def _digits(text: str) -> _Digits | None:
    """The digits of a number in a stated base."""
    text = re.sub(r'["() ]|\\overline(?=\{\w+\}_)', "", text)
    match = _BASED.fullmatch(re.sub(r"^\{(\w+)\}", r"\1", text))
    said = (match["index"] or match["said"]) if match else ""
    base = _BASES.get(said, said)
    if match is None or not base.isdigit():
        return None
    fits = all(int(digit, 36) < int(base) for digit in match["digits"])
    return _Digits(match["digits"].upper(), int(base), said in _NAMED_BASES) if fits else None


def same_digits(gold: str, answer: str) -> bool | None:
    """`204_5` is met by `204_5` and by its digits alone, not by its value; `0x1F` is 31."""
    left, right = _digits(gold), _digits(answer)
    if left and right:
        return left[:2] == right[:2]
    based, other = (left, answer) if left else (right, gold)
    if based is None:
        return None
    if based.is_literal and (based.digits.isdigit() or _value(other) is not None):
        return _value(other) == int(based.digits, based.base)
    if re.fullmatch(r"[0-9A-Za-z\"]+", other):
        return other.replace('"', "").upper() == based.digits
    return False if re.search(r"\d", based.digits) else None


def same_residue(gold: str, answer: str) -> bool | None:
    r"""`x \equiv 3 \pmod 7` is met by 3, or by any number that differs by a multiple of 7."""
    left, right = _RESIDUE.fullmatch(gold), _RESIDUE.fullmatch(answer)
    if not left:
        return False if right else None
    name, value, modulus = left.groups()
    if not right:
        found = _value(re.sub(r"^[a-z](?:=|\\equiv )", "", answer))
        return found is not None and found == _value(value)
    a, b, m, n = map(_value, (value, right[2], modulus, right[3]))
    if a is None or b is None or not m or not n:
        return same_spelling(gold, answer)
    return (not name or not right[1] or name == right[1]) and m == n and (a - b) % m == 0


def same_words(gold: str, answer: str) -> bool | None:
    """Words equal the same words in any case, articles aside; letters may be a product."""
    golds, answers = _word_list(gold), _word_list(answer)
    if golds and answers:
        return golds == answers
    words, other = (golds, answer) if golds else (answers, gold)
    if not words:
        return None
    if len(words) == 1 and words[0] in NUMBER_WORDS and _value(other) is not None:
        return _value(other) == _value(NUMBER_WORDS[words[0]])
    bare = re.sub(r"[{} ]", "", other)
    return bool(re.fullmatch(r"[a-zA-Z]+", bare)) and words == (bare.lower(),)


@lru_cache(maxsize=8192)
def _word_list(text: str) -> tuple[str, ...]:
    """The words of a text that is nothing else; () for anything that holds mathematics."""
    text = without_label(text)
    if '"' not in text or not _PHRASE.fullmatch(text):
        return ()
    words = re.findall(r"[^\W_]+(?:'[a-z])?", text.replace('"', " ").replace(" '", "'").lower())
    return tuple(word for word in words if word not in _ARTICLES) or tuple(words)


KINDS = (same_time, same_ratio, same_digits, same_residue, same_words)
