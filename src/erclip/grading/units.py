r"""Units: what stands after a value, or before it for money, read by a table.

A unit is what the table says, a power or product of such units, or the name of a counted thing.
What changes a value (`million`, `or more`, `squared`, `in 6`) is never a unit: scale words
multiply, and all other words make the answer text that is compared as written.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

# dimension: unit[=size][:other names]; a dimension may go on in the next line
_TABLE = """
length: m=1:metre,meter km=1000:kilometre,kilometer cm=.01:centimetre,centimeter dm=.1
length: mm=.001:millimetre,millimeter nm=1e-9 μm=1e-6 mile=1609.344:mi yd=.9144:yard
length: ft=.3048:foot,feet,' in=.0254:inch,inches
time: s=1:sec,second min=60:minute h=3600:hr,hour day=86400 week=604800 fortnight=1209600
time: month year:yr decade century:centuries ms=.001:millisecond
mass: g=1:gram,gramme kg=1000:kilogram,kilo mg=.001 ton=1e6:tonne lb=453.59237:lbs,pound
mass: oz=28.349523125:ounce
volume: L=1:l,liter,litre ml=.001:mL,milliliter,millilitre cc=.001 gal:gallon quart pint cup
volume: tbsp tsp
angle: °=1:degree,deg rad:radian
temperature: °C:celsius °F:fahrenheit
percent: %=1:percent,pct,percentage
speed: mph kph kmh knot kn
force: N:newton lbf
energy: J:joule kJ kWh cal:calorie kcal
power: W:watt kW MW
electric: V:volt Ω:ohm ampere amp coulomb farad henry tesla
frequency: Hz:hertz kHz MHz GHz
pressure: Pa:pascal kPa atm bar mmHg
amount: mol:mole
data: B:byte KB MB GB TB bit kB
dollar: $=1:dollar,usd,buck cent=.01:¢,penny,pennies,c quarter=.25 dime=.1 nickel=.05
euro: €=1:euro,eur
sterling: £=1:gbp
yuan: ¥=1:元,yuan,cny,rmb,人民币
yen: jpy=1:yen,円
rupee: ₹=1:rs,inr,rupee
other: ₩:won ₽:rouble,ruble,rub franc chf peso krona krone zloty
any: unit pt:point th st nd rd only total
"""
_CJK = {"厘米": "cm", "米": "m", "毫米": "mm", "千米": "km", "公里": "km", "分米": "dm",
        "千克": "kg", "公斤": "kg", "克": "g", "小时": "h", "分钟": "min", "秒": "s", "天": "day",
        "度": "°", "吨": "ton", "升": "L", "毫升": "ml",
        "км": "km", "см": "cm", "кг": "kg"}  # fmt: skip
_SCALES = {
    **dict.fromkeys(("hundred", "hundreds", "百"), 10**2),
    **dict.fromkeys(("thousand", "thousands", "千", "k"), 10**3),
    **dict.fromkeys(("million", "millions", "mn", "mio"), 10**6),
    **dict.fromkeys(("billion", "billions", "bn"), 10**9),
    **dict.fromkeys(("trillion", "trillions", "tn"), 10**12),
    **dict.fromkeys(("dozen", "dozens"), 12),
    "万": 10**4,
    "亿": 10**8,
    "lakh": 10**5,
    "crore": 10**7,
    "score": 20,
    "gross": 144,
}
# Words that no name of a counted thing holds: they say something about the value.
_CHANGES_VALUE = re.compile(
    r"""(?:half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?
    |hundredths?|thousandths?|ones|tens|times|plus|minus|and|or|nor|but|not|no|to|in|mod|modulo|more|less
    |fewer|over|under|above|below|than|least|most|up|at|about|around|approximately|roughly|nearly
    |almost|between|from|through|until|squared|cubed|factorial|choose|divided|multiplied|by|if|when
    |where|unless|except|without|negative|positive|infinity|infinite|undefined|wrong|incorrect|false
    |true|should|is|are|was|be|maybe|perhaps|possibly|doubled|halved|tripled|double|triple|twice
    |remainder|base|power|powers|root|roots?\sof|square|cube|log|each|per|with|for|rather|instead|plusminus|else
    |either|any|every|all|some|fold|into|of\sthese|another|other|others|next|previous|after|before
    |or\sso|million\w*|billion\w*|trillion\w*|\w*illion\w*|thousand\w*|hundred\w*|dozen\w*|mille
    |mil|mila|\w*illiard\w*|\w*illones?|tausend|hundert|mal|oder|und|nicht|mehr|weniger|ou|et|pas|plus|moins|o|y
    |veces|fois|раз|тысяч\w*|милли\w*|dutzend|docenas?|dozzine|или|не|и|no|más|menos|percent|score|gross|lakh|crore|exponent|inverse|reciprocal|e|i|π
    |interval|degree\w*|mean|sum|difference|product|ratio|odd|even|prime|one|two|three|four|five|six
    |seven|eight|nine|ten|eleven|twelve|first|second|third|fourth|otherwise|depending|conditions?
    |[a-z]+(?:squared|fold|illion|ths))|.*[万亿千百十倍半].*|.*[余多成打折方根]|.*(?:以上|以下|左右|分之|或|不).*""",
    re.VERBOSE | re.IGNORECASE,
)
_MODIFIERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
_BARE_SINGLE = frozenset("mgshlLNJWV")
_WORD = re.compile(r'"([^"]+)"')
_FACTOR = re.compile(
    r'"(?P<word>[^"]+)"|(?P<sign>%|\^\{\\circ ?\}|\\\$|[€£¥₹₩₽¢Ω]|\\Omega ?)'
    r'|(?P<operator>/|\\cdot ?|\(|\)|\[|\]|,? ?)(?=["(\[/)\]\\]|$)'
)
_POWER = re.compile(r"\^\{(-?\d)\}")
_SIGNS = {r"\$": "$", r"^{\circ}": "°", r"^{\circ }": "°", r"\Omega": "Ω"}
_RAISING = {"squared": 2, "cubed": 3}
_FILLERS = ("of", "the", "a", "an", "different")


class Unit(NamedTuple):
    """Powers of dimensions, how many base units it is (None: not comparable), or things counted.

    `scale` multiplies the value: a million in `5 million dollars`.
    """

    powers: tuple[tuple[str, int], ...] = ()
    factor: Fraction | None = Fraction(1)
    things: tuple[str, ...] = ()
    scale: int = 1


def _read_table() -> dict[str, tuple[str, Fraction | None, str]]:
    found: dict[str, tuple[str, Fraction | None, str]] = {}
    for line in _TABLE.strip().splitlines():
        dimension, _, entries = line.partition(": ")
        for entry in entries.split(" "):
            head, _, others = entry.partition(":")
            name, _, factor = head.partition("=")
            for alias in (name, *filter(None, others.split(","))):
                found[alias] = (dimension, Fraction(factor) if factor else None, name)
                if len(alias) > 2 or alias in ("km", "cm", "kg"):
                    found[alias + "s"] = found[alias]
    return found | {word: found[name] for word, name in _CJK.items()}


_UNITS = _read_table()


def changes_value(word: str) -> bool:
    """Whether a word says something about the value before or after it."""
    return _CHANGES_VALUE.fullmatch(word) is not None or word.lower() in _SCALES


def _lookup(word: str) -> tuple[str, Fraction | None, str] | None:
    word = word.strip(" .")
    return _UNITS.get(word) or (_UNITS.get(word.lower()) if len(word) > 1 else None)


def is_unit(word: str, *, bare: bool = False) -> bool:
    """Whether a run of letters after a number is a unit; `mi`, `ms` and `pt` alone are products."""
    if len(word) == 1:
        return word in _BARE_SINGLE
    if word in ("sq", "cu"):
        return True
    if bare and word in ("mi", "ms", "pt", "kn", "th", "cal", "in", "st", "nd", "rd"):
        return word in ("th", "st", "nd", "rd", "in")
    return _lookup(word) is not None


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    r"""The unit that a piece of canonical text says, or None if it says anything else.

    >>> read_unit('"cm"^{2}').powers, read_unit('"pieces""of""candy"').things
    ((('length', 2),), ('piece', 'candy'))
    >>> read_unit('"million""dollars"').scale, read_unit('"or""more"')
    (1000000, None)
    """
    scale = 1
    while (match := _WORD.match(text)) and match[1].lower() in _SCALES:
        scale *= _SCALES[match[1].lower()]
        text = text[match.end() :]
    text = re.sub(r"\\frac\{(.*)\}\{(.*)\}", r"\1/\2", text)
    text = re.sub(r'\^\{\\circ ?\} ?"?([CF])"?(?![a-z])', r'"°\1"', text)
    builder = _Builder()
    position, depth = 0, 0
    while position < len(text):
        match = _FACTOR.match(text, position)
        if match is None or match.end() == position:
            return None
        position = match.end()
        if (operator := match["operator"]) is not None:
            depth += (operator in "([") - (operator in ")]")
            builder.sign = -1 if operator == "/" else builder.sign
            continue
        raised = _POWER.match(text, position)
        position = raised.end() if raised else position
        word = match["word"] or _SIGNS.get(match["sign"].strip(), match["sign"])
        if not builder.add(word, int(raised[1]) if raised else None):
            return None
    return builder.unit(scale) if depth == 0 else None


class _Builder:
    """A unit word by word: `square`, `per` and powers belong to a neighbour."""

    def __init__(self) -> None:
        self.sign, self._modifier = 1, 1
        self._powers: dict[str, int] = {}
        self._factor: Fraction | None = Fraction(1)
        self._things: list[str] = []

    def add(self, word: str, raised: int | None) -> bool:
        """Take one word in; False if it is no part of a unit."""
        for prefix, power in _MODIFIERS.items():
            if word == prefix or (not prefix.isascii() and word.startswith(prefix)):
                self._modifier, word = power, word.removeprefix(prefix)
        if word.lower() == "per":
            self.sign = -1
        elif word.lower() in _RAISING and self._powers:
            self._powers[next(reversed(self._powers))] *= _RAISING[word.lower()]
        elif word:
            return self._add(word, self.sign * self._modifier * (raised or 1), raised is not None)
        return True

    def _add(self, word: str, power: int, is_raised: bool) -> bool:
        self._modifier = 1
        entry = _lookup(word)
        if entry is None or (entry[0] == "any" and self._things):
            self._things.append(_singular(word))
            return not is_raised and not _CHANGES_VALUE.fullmatch(word)
        dimension, size, name = entry
        key = dimension if size is not None or dimension == "any" else f"{dimension} {name}"
        self._powers[key] = self._powers.get(key, 0) + power
        self._factor = None if size is None or self._factor is None else self._factor * size**power
        return True

    def unit(self, scale: int) -> Unit | None:
        """What was read; nothing may be left open."""
        things = tuple(word for word in self._things if word not in _FILLERS)
        if self._modifier != 1 or (self._things and self._things[-1] in _FILLERS):
            return None
        return Unit(tuple(sorted(self._powers.items())), self._factor, things, scale)


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
