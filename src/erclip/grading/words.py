"""What plain words say about a value. Tables, and how to ask them."""

from __future__ import annotations

import re

NUMBER_WORDS: dict[str, str] = {
    word: str(value)
    for value, word in enumerate(
        """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
        fifteen sixteen seventeen eighteen nineteen twenty""".split()  # noqa: SIM905
    )
}
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
# They say something about the value, wherever they stand: no name of a counted thing holds them.
_CHANGING = frozenset(
    """half halves third thirds quarter quarters fourth fourths fifth fifths ones tens plus minus
    plusminus and or nor but not no to in mod modulo than least most up at about around
    approximately roughly nearly almost between from through until over under above below squared
    cubed factorial choose divided multiplied by if when where unless except excluding outside
    without infinity undefined wrong incorrect false should is are was be maybe perhaps possibly
    doubled halved tripled twice thrice base power root log per with for rather instead else either
    neither any every all some fold into after before percent exponent inverse reciprocal point
    larger bigger greater smaller higher lower longer shorter as otherwise depending given followed
    e i π""".split()  # noqa: SIM905
)
# They do so behind the value, but not in a label before it (`Sum: 44`).
_NOUNS = frozenset(
    """sum difference product ratio mean average remainder degree interval powers cube condition
    conditions complement""".split()  # noqa: SIM905
)
# They do so alone, but not before a noun (`7 positive integers`).
_ADJECTIVES = frozenset(
    """more less fewer positive negative even odd prime square cubic double triple true infinite
    first other another others next previous""".split()  # noqa: SIM905
)
# Numerals, `or`, `and`, `more`, `half` and powers of other languages, many from CLDR.
_FOREIGN = re.compile(
    r"""\w*illi(?:on|ard)\w*|\w*(?:squared|fold|illion|ths)|mil(?!e|k|it)\w*|[bt]r?[ií]l+[ij]\w*
    |tausend\w*|dui[sz]end|tus(?:en|ind)|tuhat\w*|tys[ią]\w*|tis[íou]\w*|tūkst\w*|þúsund|ezer|ribu
    |ngh?[àì]n|bin|mijë|mii|mie|elfu|χιλι\w*|(?:тыс|тис)яч\w*|хил\w+|илјад\w*|мың|հազար|אלף|אלפים
    |ألف|آلاف|هزار|ہزار|हज़ार|हजार|হাজার|હજાર|ஆயிரம்|వేయి|వేలు|พัน|หมื่น|แสน|ล้าน|ათასი
    |hundert\w*|cien\w*|cento|honderd|hundra|hundre|сто|сот\w*|száz|sut[ăe]|yüz|ratus|trăm|सौ
    |[мМ][иі]л\w*|εκατομμ\w*|δισεκ\w*|միլի\w*|מיל\w*|ملي\w*|ملا\w*|میل\w*|juta|triệu|tỷ|लाख|करोड़
    |googol\w*|\w*dutzend|docenas?|dúzias?|dozzin[ae]|douzaines?|дюжин\w*|oder|und|ou|o|u|y|et|eller|och|og|lub
    |albo|nebo|alebo|vagy|és|sau|și|или|либо|и|або|чи|та|ή|και|veya|ve|hoặc|và|atau|dan|या|और|أو|או
    |nicht|pas|не|keine?|mehr|weniger|más|menos|moins|mais|più|meno|meer|minder|mer|mindre|більше
    |бол(?:ьше|ее)|мен(?:ьше|ее)|mal|fois|veces|vezes|volte|раза?|[qk][uvw]adrat\w*|cuadrado|carrée?
    |квадрат\w*|cubo|hoch|elevad[oa]|elevato|potenz\w*|puissance|potencia|степен\w*|halb\w*|demi
    |medi[oa]|mezz[oa]|половин\w*|.*[万亿千百十倍半천만억].*|.*[余多成打折方根]
    |.*(?:以上|以下|左右|分之|或|不).*""",
    re.VERBOSE | re.IGNORECASE,
)


def scale_of(word: str) -> int | None:
    """What a word multiplies a number by; None if it is no scale."""
    return _SCALES.get(word.lower())


def is_adjective(word: str) -> bool:
    """Whether a word changes a value unless a noun follows it."""
    return word.lower() in _ADJECTIVES


def changes_value(word: str, *, is_label: bool = False) -> bool:
    """Whether a word says something about the value beside it.

    >>> [changes_value(word) for word in ("approximately", "milliers", "marbles", "sum")]
    [True, True, False, True]
    >>> changes_value("sum", is_label=True)
    False
    """
    word = word.lower()
    if is_label and word in _NOUNS:
        return False
    return (
        word in _CHANGING
        or word in _NOUNS
        or word in _ADJECTIVES
        or word in _SCALES
        or word in NUMBER_WORDS
        or _FOREIGN.fullmatch(word) is not None
    )
