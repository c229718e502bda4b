r"""Units: what stands after a value, or before it for money, read by a table.

A unit is what the table says, a power or product of such units, or the name of a counted thing.
What changes a value (`million`, `or more`, `squared`, `in 6`) is never a unit: scale words
multiply, and all other words make the answer text that is compared as written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from erclip.grading.tables import UNITS, words
from erclip.grading.words import changes_value, is_adjective, scale_of

_BARE = words(UNITS["letters"]["bare"])
_UPRIGHT = _BARE | words(UNITS["letters"]["upright"])
_NEVER_BARE = words(UNITS["letters"]["never_bare"])
_BEFORE, _BEHIND = UNITS["powers"]["before"], UNITS["powers"]["behind"]
_FILLERS = ("of", "the", "a", "an", "different")
_SIGNS = {r"\$": "$", r"^{\circ}": "°", r"^{\circ }": "°"}
_REWRITTEN = (
    (re.compile(r"\\frac\{(.*)\}\{(.*)\}"), r"\1/\2"),
    (re.compile(r'\^\{\\circ ?\} ?"?([CF])"?(?![a-z])'), r'"°\1"'),
    (re.compile(r'\\mu ?"'), '"μ'),
    (re.compile(r'"?([kM]?)"?(?:\\Omega ?|"Ω")'), r'"\1Ω"'),
)
_WORD = re.compile(r'"([^"]+)"')
_FACTOR = re.compile(
    r'(?:"(?P<word>[^"]+)"|(?P<sign>%|\^\{\\circ ?\}|\\\$|[€£¥₹₩₽¢]))(?:\^\{(?P<power>-?\d)\})?'
    r'|(?P<operator>/|\\cdot ?|[(\[]|[)\]]|,? ?)(?=["(\[/)\]]|$)'
)


class Unit(NamedTuple):
    """Powers of dimensions, how many base units it is (None: not comparable), or things counted.

    `scale` multiplies the value: a million in `5 million dollars`.
    """

    powers: tuple[tuple[str, int], ...] = ()
    factor: Fraction | None = Fraction(1)
    things: tuple[str, ...] = ()
    scale: int = 1


class _Entry(NamedTuple):
    dimension: str
    size: Fraction | None
    name: str


def _entries(line: str) -> Iterator[tuple[str, Fraction | None, list[str]]]:
    """Name, size and all names of every `name=size:other,names`."""
    for entry in line.split():
        head, _, others = entry.partition(":")
        name, _, size = head.partition("=")
        yield name, Fraction(size) if size else None, [name, *filter(None, others.split(","))]


def _read_table() -> dict[str, _Entry]:
    """Every name of every unit, plurals and prefixed ones among them."""
    found: dict[str, _Entry] = {}
    names: dict[str, list[str]] = {}
    for dimension, entries in UNITS["units"].items():
        for name, size, aliases in _entries(entries):
            names[name] = aliases
            found |= dict.fromkeys(aliases, _Entry(dimension, size, name))
    prefixed = UNITS["prefixed"]
    prefixes = {symbol: (size, spelled) for symbol, size, spelled in _entries(prefixed["prefixes"])}
    for symbol in prefixed["symbols"].split():
        (size, spelled), base = prefixes[symbol[0]], found[symbol[1:]]
        entry = base._replace(size=(size or Fraction(1)) * (base.size or 1))
        full = [name for name in names[base.name] if len(name) > 2 or not name.isascii()]
        found |= dict.fromkeys([symbol, *(s + name for s in spelled[1:] for name in full)], entry)
    for symbol, _, others in _entries(prefixed["also"]):
        found |= dict.fromkeys(others, found[symbol])
    return {word + "s": entry for word, entry in found.items() if len(word) > 2} | found


_UNITS = _read_table()


def _lookup(word: str) -> _Entry | None:
    word = word.strip(" .")
    return _UNITS.get(word) or (_UNITS.get(word.lower()) if len(word) > 1 else None)


def is_unit(word: str, *, bare: bool = False) -> bool:
    """Whether a run of letters after a number is a unit; bare `mi`, `ms` and `pt` are products."""
    if len(word) == 1:
        return word in (_BARE if bare else _UPRIGHT)
    return word in ("sq", "cu") or (
        _lookup(word) is not None and not (bare and word in _NEVER_BARE)
    )


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    r"""The unit that a piece of canonical text says, or None if it says anything else.

    >>> read_unit('"cm"^{2}').powers, read_unit('"pieces""of""candy"').things
    ((('length', 2),), ('piece', 'candy'))
    >>> read_unit('"million""dollars"').scale, read_unit('"or""more"')
    (1000000, None)
    """
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    scale = 1
    while (match := _WORD.match(text)) and (factor := scale_of(match[1])):
        scale, text = scale * factor, text[match.end() :]
    builder = _Builder()
    position, depth = 0, 0
    while position < len(text):
        match = _FACTOR.match(text, position)
        if match is None or match.end() == position:
            return None
        position, operator = match.end(), match["operator"]
        if operator is not None:
            depth += (operator in "([") - (operator in ")]") if operator else 0
            builder.sign = -1 if operator == "/" else builder.sign
        elif not builder.add(
            match["word"] or _SIGNS.get(match["sign"], match["sign"]), match["power"]
        ):
            return None
    return builder.unit(scale) if depth == 0 else None


class _Builder:
    """A unit word by word: `square`, `per` and powers belong to a neighbour."""

    def __init__(self) -> None:
        self.sign, self._modifier = 1, 1
        self._powers: dict[str, int] = {}
        self._factor: Fraction | None = Fraction(1)
        self._things: list[str] = []
        self._is_open = False  # a noun must follow

    def add(self, word: str, raised: str | None) -> bool:
        """Take one word in; False if it is no part of a unit."""
        for prefix, power in _BEFORE.items():
            if word == prefix or (not prefix.isascii() and word.startswith(prefix)):
                self._modifier, word = power, word.removeprefix(prefix)
        word = word.lower() if word.lower() in ("per", *_BEHIND, *_FILLERS) else word
        if not word or word == "per":
            self.sign = -1 if word else self.sign
        elif word in _BEHIND and self._powers:
            self._powers[next(reversed(self._powers))] *= _BEHIND[word]
        elif (entry := _lookup(word)) is None or (entry.dimension == "any" and self._things):
            return raised is None and self._count(word)
        else:
            self._multiply(entry, self.sign * self._modifier * int(raised or 1))
        return True

    def _count(self, word: str) -> bool:
        """Take in what is no unit, if it can be the name of a thing or belong to one."""
        self._is_open = word in _FILLERS or is_adjective(word)
        if not self._is_open:
            self._modifier = 1
            self._things.append(_singular(word))
        return self._is_open or not changes_value(word)

    def _multiply(self, entry: _Entry, power: int) -> None:
        self._modifier, self._is_open = 1, False
        is_one = entry.size is not None or entry.dimension == "any"
        key = entry.dimension if is_one else f"{entry.dimension} {entry.name}"
        self._powers[key] = self._powers.get(key, 0) + power
        known = entry.size is not None and self._factor is not None
        self._factor = self._factor * entry.size**power if known else None

    def unit(self, scale: int) -> Unit | None:
        """What was read; nothing may be left open."""
        if self._modifier != 1 or self._is_open:
            return None
        return Unit(tuple(sorted(self._powers.items())), self._factor, tuple(self._things), scale)


def _singular(word: str) -> str:
    word = word.lower()
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def ratio(gold: Unit | None, answer: Unit | None) -> str | None:
    r"""What the answer's number is to be multiplied by to stand in the gold's unit, as LaTeX.

    `1` if either has no unit; None if they measure or count different things.
    """
    if gold is None or answer is None or _is_any(gold) or _is_any(answer):
        return "1"
    if is_angle(gold) and answer.powers == (("angle rad", 1),):
        return r"\frac{180}{\pi }"
    if gold.powers != answer.powers:
        return None
    if gold.things and answer.things and not set(gold.things) & set(answer.things):
        return None
    if gold.factor is None or answer.factor is None:
        return "1" if gold.factor is answer.factor else None
    share = answer.factor / gold.factor
    return "1" if share == 1 else f"\\frac{{{share.numerator}}}{{{share.denominator}}}"


def is_angle(unit: Unit | None) -> bool:
    """Whether a unit is the degree of angle."""
    return unit is not None and unit.powers == (("angle", 1),)


def _is_any(unit: Unit) -> bool:
    named = [name for name, _ in unit.powers if name != "any"]
    return not named and not unit.things
