"""One spelling for every sign and command: Unicode becomes LaTeX, `\\dfrac` becomes `\\frac`."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from erclip.grading.tables import LATEX, by_other_name

SPELLINGS = by_other_name(LATEX["spellings"])
_SIGN = re.compile(r"\\(?:[a-zA-Z]+|[\x00-\x7f])|[^\x00-\x7f]")
_ROOT_OF_DIGITS = re.compile(r"([√∛∜])\s*(\d[\d.]*)")
# Scripts come sign by sign, each between marks of its own, so that a run can be joined.
_SCRIPTS = {"<super>": "^\x02{}\x03", "<sub>": "_\x04{}\x05"}
_BRACES = str.maketrans("\x02\x03\x04\x05", "{}{}")


def to_latex(text: str) -> str:
    r"""Digits, letters, scripts and signs of Unicode as LaTeX, and one name for each command.

    What has no reading stays as it is.

    >>> to_latex("x²³ ≤ √12"), to_latex(r"\tfrac{１}{2}")
    ('x^{23} \\le  \\sqrt {12}', '\\frac {1}{2}')
    """
    text = _SIGN.sub(lambda match: _written(match[0]), _ROOT_OF_DIGITS.sub(r"\1{\2}", text))
    return text.replace("\x03^\x02", "").replace("\x05_\x04", "").translate(_BRACES)


@lru_cache(maxsize=4096)
def _written(sign: str) -> str:
    if sign in SPELLINGS:
        return SPELLINGS[sign] + " " * SPELLINGS[sign][-1:].isalpha()
    if sign.isascii() or "\ud800" <= sign <= "\udfff":
        return sign
    tag, *parts = unicodedata.decomposition(sign).split() or [""]
    if tag in _SCRIPTS:
        return _SCRIPTS[tag].format(_written(chr(int(parts[0], 16))))
    if tag == "<fraction>":
        whole, _, below = unicodedata.normalize("NFKC", sign).partition("⁄")
        return rf"\frac{{{whole}}}{{{below}}}"
    category = unicodedata.category(sign)
    if category == "Nd":
        return str(unicodedata.digit(sign))
    if category in ("Cf", "Zs"):
        return " " if category == "Zs" else ""
    plain = unicodedata.normalize("NFKC", sign)
    if plain != sign:
        return "".join(map(_written, plain))
    if match := re.fullmatch(
        r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?(\w+)", unicodedata.name(sign, "")
    ):
        letter = match[2].lower().replace("lamda", "lambda")
        return f"\\{letter if match[1] == 'SMALL' else letter.capitalize()} "
    return sign
