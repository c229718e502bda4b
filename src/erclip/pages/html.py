"""HTML from templates, and its way to the disk: one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from erclip.errors import UserError
from erclip.machine.files import write_text


class Scripts(NamedTuple):
    """A page's scripts, and the policy under which nothing else may run or be loaded."""

    texts: tuple[Markup, ...]
    policy: str


def scripts(*names: str, connect: bool = False) -> Scripts:
    """Return these scripts of the package; with `connect` they may ask the page's own server."""
    folder = resources.files("erclip.pages").joinpath("templates")
    texts = [folder.joinpath(name).read_text("utf-8") for name in names]
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"
    policy += "; connect-src 'self'" if connect else ""
    return Scripts(tuple(map(Markup, texts)), policy)


@cache  # it holds the compiled templates
def environment() -> Environment:
    """Return the templates of this package; what they print is escaped."""
    found = Environment(
        loader=PackageLoader("erclip.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["fold"] = fold
    return found


def fold(text: str, characters: int, lines: int) -> tuple[str, str]:
    """The beginning of a long text and its rest, which is empty where it would not be worth it.

    >>> fold("abcdef", 3, 9), fold("a\\nb\\n" + 90 * "c", 99, 2)[0]
    (('abcdef', ''), 'a\\nb')
    """
    head = "\n".join(text.split("\n", lines)[:lines])[:characters]
    rest = text[len(head) :]
    return (head, rest) if len(rest) > max(80, characters // 4) else (text, "")


def write(out: Path, html: str) -> None:
    """Write a page whole or not at all."""
    try:
        write_text(out, html)
    except OSError as error:
        raise UserError(
            f"cannot write the report to {out} ({error.strerror}); give --out another place"
        ) from error
