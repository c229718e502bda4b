"""Unicode to ASCII and LaTeX, sign by sign; what has no reading stays as it is."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from erclip.grading.names import SYMBOLS

_SCRIPTS = {"<super>": "^", "<sub>": "_"}


def to_ascii(text: str) -> str:
    """Digits, letters, scripts and signs of Unicode as ASCII and LaTeX; other letters stay."""
    if text.isascii():
        return text
    pieces: list[str] = []
    script = ""
    for sign in text:
        mark, mapped = _mapped(sign)
        if script and mark != script:
            pieces.append("}")
        if mark and mark != script:
            pieces.append(mark + "{")
        script = mark
        pieces.append(mapped)
    return re.sub(r"\\sqrt(\[\d\])? ?(\d[\d.]*)", r"\\sqrt\1{\2}", "".join(pieces)) + "}" * bool(
        script
    )


@lru_cache(maxsize=4096)
def _mapped(sign: str) -> tuple[str, str]:
    """(`^`, `_` or nothing, the sign in LaTeX)."""
    if sign in SYMBOLS:
        return "", SYMBOLS[sign]
    if sign.isascii() or "\ud800" <= sign <= "\udfff":
        return "", sign
    tag, *parts = unicodedata.decomposition(sign).split() or [""]
    if tag in _SCRIPTS:
        return _SCRIPTS[tag], _mapped(chr(int(parts[0], 16)))[1]
    if tag == "<fraction>":
        whole, _, below = unicodedata.normalize("NFKC", sign).partition("⁄")
        return "", rf"\frac{{{whole}}}{{{below}}}"
    category = unicodedata.category(sign)
    if category == "Nd":
        return "", str(unicodedata.digit(sign))
    if category in ("Cf", "Zs"):
        return "", " " if category == "Zs" else ""
    plain = unicodedata.normalize("NFKC", sign)
    if plain != sign:
        return "", "".join(_mapped(part)[1] for part in plain)
    name = unicodedata.name(sign, "")
    if match := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (FINAL )?(\w+)", name):
        letter = match[3].lower().replace("lamda", "lambda")
        return "", f"\\{letter if match[1] == 'SMALL' else letter.capitalize()} "
    return "", sign
