"""Text of others, made safe to show: names, responses, settings and errors may hold anything."""

from __future__ import annotations

import re
from typing import Any

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls, marks that turn the direction of a line or show nothing, and halves of characters."""

_PASSWORD = re.compile(r"(?P<before>[A-Za-z][\w+.-]*://[^\s/?#:@]*):(?P<secret>[^\s/?#]+)@")
_KEY = re.compile(r"(?i)(?P<before>[?&](?:[\w-]*(?:key|token|secret|password)|auth)=)[^\s&#]+")
HIDDEN = "***"


def printable(text: Any) -> str:
    """The text as every terminal, browser and UTF-8 can hold it; what acts unseen becomes visible.

    >>> printable("a" + chr(27) + chr(0xD800)), printable("x\u202etxt.exe")
    ('a␛\ufffd', 'x⟨U+202E⟩txt.exe')
    """
    if text is None:
        return ""
    return _HIDDEN.sub(_visible, str(text).replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 32:
        return chr(0x2400 + code)
    return "\ufffd" if code == 127 or 0xD800 <= code <= 0xDFFF else f"⟨U+{code:04X}⟩"


def redacted(text: str) -> str:
    """The text without the passwords and keys of the URLs in it.

    >>> redacted("http://me:secret@box:8000/v1?token=abc&x=1")
    'http://me:***@box:8000/v1?token=***&x=1'
    """
    text = _PASSWORD.sub(rf"\g<before>:{HIDDEN}@", text)
    return _KEY.sub(rf"\g<before>{HIDDEN}", text)


def redacted_values(value: Any) -> Any:
    """A table of settings with every text in it redacted."""
    if isinstance(value, dict):
        return {key: redacted_values(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(part) for part in value]
    return redacted(value) if isinstance(value, str) else value


def short(text: str, length: int = 80) -> str:
    """A text on one line, cut at its end.

    >>> short("a\\n" * 9, 5)
    'a a …'
    """
    text = " ".join(printable(text).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def shown(value: Any, length: int = 80) -> str:
    """A value as it is written in code, on one line and cut; never an error.

    >>> shown("a" * 200, 10)
    "'aaaaaaaa…"
    """
    try:
        text = repr(value)
    except Exception:  # the value is a user's
        text = f"a {type(value).__name__}"
    return short(text, length)


def in_a_line(error: BaseException, length: int = 300) -> str:
    """What went wrong in one line: an error's type and message.

    >>> in_a_line(ValueError("no\\n  number"))
    'ValueError (no number)'
    """
    try:
        text = str(error)
    except Exception:  # the error is a user's
        text = ""
    text = short(text, length)
    return f"{type(error).__name__} ({text})" if text else type(error).__name__
