"""`erclip settings`: every key as people would write it, with what it may be and what it means."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from erclip.config import Config
from erclip.config.keys import Key, keys, rule_keys, without_repeats
from erclip.config.other_names import KEYS
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
    prefix = prefix.strip().rstrip(".").strip("[]")
    found = without_repeats(k for k in keys(Config) if _within(k.path, prefix))
    if not found:
        raise UserError(f"No setting begins with {prefix!r}{_hint(prefix)}.")
    for key in found:
        yield from _lines(key, width)
        if key.path == prefix and key.path in RULES:
            for rule in rule_keys(key.path, RULES[key.path]):
                yield from _lines(rule, width)


def _within(path: str, prefix: str) -> bool:
    plain = path.replace("[]", "")
    return not prefix or plain == prefix or plain.startswith(f"{prefix}.")


def _hint(prefix: str) -> str:
    last = prefix.rpartition(".")[2]
    known = [key.path for key in keys(Config) if key.name == last]
    if known:
        return f"; there is {', '.join(dict.fromkeys(known))}"
    if last in KEYS:
        return f"; here it is {KEYS[last]}"
    sections = ", ".join(Config.model_fields)
    return f"; the sections are {sections}"


def _lines(key: Key, width: int) -> Iterator[str]:
    """`path = default`, and below it the rest, indented."""
    if key.default or key.path not in RULES:
        kind = f'   (kind = "{key.kind}")' if key.kind else ""
        yield f"{key.path} = {key.default or '…, must be given'}{kind}"
        about = "; ".join(filter(None, [key.allowed, key.meaning]))
    else:
        yield f'{key.path}: kind = "{key.allowed}"'
        about = key.meaning
    yield from textwrap.wrap(
        about,
        max(width - 1, 20),
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
