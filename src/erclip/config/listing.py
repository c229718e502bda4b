"""`erclip settings`: every key as people would write it, with what it may be and what it means."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from erclip.config import Config
from erclip.config.keys import keys
from erclip.config.other_names import KEYS
from erclip.config.rules import built_in, section_of
from erclip.config.words import allowed, default
from erclip.errors import UserError

RULES = {
    "loss.surrogate": "Surrogate",
    "loss.constraints": "Constraint",
    "loss.importance": "Importance",
    "loss.terms": "Term",
}
"""Keys that name rules, whose arguments are listed only when they are asked for."""


def listing(prefix: str, width: int) -> Iterator[str]:
    """The lines about every key that begins with `prefix`; raises UserError if there is none."""
    prefix = prefix.strip().rstrip(".=")
    found = [k for k in keys() if not prefix or f"{k.path}.".startswith(f"{prefix}.")]
    if not found:
        raise UserError(f"No setting begins with {prefix!r}{_hint(prefix)}.")
    for key in found:
        when = f"   (with {key.when})" if key.when else ""
        yield f"{key.path} = {key.default}{when}"
        yield from _wrapped("; ".join(filter(None, [key.values, key.meaning])), width)
        if key.path in RULES:
            if key.path == prefix:
                yield from _rules(key.path, width)
            else:
                yield from _wrapped(f"`erclip settings {key.path}` lists them", width)


def _rules(path: str, width: int) -> Iterator[str]:
    """Every built-in rule that may stand at `path`, with its arguments; loads torch."""
    for name, part in built_in(RULES[path]).items():
        yield ""
        yield f'{path}: kind = "{name}"'
        yield from _wrapped((part.__doc__ or "").strip().splitlines()[0], width)
        for argument, field in section_of(name).model_fields.items():
            if argument != "kind":
                value = default(field) or "required"
                yield from _wrapped(f"{argument} = {value}: {allowed(field)}", width)


def _hint(prefix: str) -> str:
    last = prefix.rpartition(".")[2]
    known = [key.path for key in keys() if key.path.rpartition(".")[2] == last]
    if known:
        return f"; there is {', '.join(dict.fromkeys(known))}"
    if last in KEYS:
        return f"; here it is {KEYS[last]}"
    return f"; the sections are {', '.join(Config.model_fields)}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width - 1, 20),
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
