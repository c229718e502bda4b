"""What a field of the settings may be and what it means, in words, for any section.

`erclip.config.keys` lists the keys of a recipe; this serves errors, options and rules' arguments.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_json

NUMBERS = {1: "one", 2: "two", 3: "three"}
FORMS = {
    r".+\.py:\w+$": ' of the form "file.py:name"',
    "^https?://": " that begins with http:// or https://",
    "^(prompt|answer)$": ", prompt or answer",
}
"""Patterns of the settings in words."""


BOUNDS = {"ge": "of at least", "gt": "above", "le": "up to", "lt": "below"}


def meaning(field: FieldInfo) -> str:
    """What the section says of a key, else what its only section is for."""
    inner = sections_of(field.annotation)
    said = field.description or ""
    if not said and len(inner) == 1 and rule_role(field) is None:
        said = (inner[0].__doc__ or "").strip().splitlines()[0].rstrip(".")
    return re.sub(r"\bNone\b", "unset", said)


def allowed(field: FieldInfo) -> str:
    """What a key may be.

    >>> allowed(FieldInfo(annotation=Annotated[int, FieldInfo(ge=1)] | None))
    'a whole number of at least 1 (or left out)'
    """
    role = rule_role(field)
    if role is not None:
        from erclip.config.rules import ROLES

        words = f"the name of {ROLES[role]}, or a table with its `kind`"
        return f"a list, each {words}" if get_origin(field.annotation) is tuple else words
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        own = [part for extra in parts[1:] for part in getattr(extra, "metadata", [extra])]
        return _words(parts[0], [*own, *metadata])
    if origin in (Union, types.UnionType):
        return _of_union(parts, metadata)
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}" if len(parts) > 1 else repr(parts[0])
    if origin is tuple:
        fixed = parts[-1] is not ...
        least = any(hasattr(m, "min_length") for m in metadata)
        count = NUMBERS.get(len(parts), len(parts)) if fixed else "at least one"
        return f"a list{f' of {count}' if fixed or least else ''}, each {_words(parts[0])}"
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    if annotation in simple:
        return simple[annotation] + _bounds(metadata)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a table"
    if origin is dict:
        return f"a table, its keys {_words(parts[0])}" if parts[0] is not str else "a table"
    return "a value"


def _of_union(parts: Iterable[Any], metadata: Iterable[Any]) -> str:
    kinds = [kind_of(s) for part in parts for s in sections_of(part)]
    if len(kinds) > 1 and all(kinds):
        return "the name of a kind, or a table with its `kind`: " + ", ".join(map(str, kinds))
    words = [_words(part, metadata) for part in parts if part is not type(None)]
    return ", or ".join(dict.fromkeys(words)) + (" (or left out)" if type(None) in parts else "")


def _bounds(metadata: Iterable[Any]) -> str:
    """Bounds after the words of a type, such as ` from 0 to 1`."""
    found = {name: getattr(m, name) for m in metadata for name in BOUNDS if hasattr(m, name)}
    if {"ge", "le"} <= found.keys():
        return f" from {found['ge']} to {found['le']}"
    text = " and".join(f" {words} {found[name]}" for name, words in BOUNDS.items() if name in found)
    patterns = [m.pattern for m in metadata if getattr(m, "pattern", None)]
    return text + "".join(FORMS.get(pattern, f" that matches {pattern}") for pattern in patterns)


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """Every section in a type: itself, or the members of a union or a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections_of(part)]


def kind_of(section: type[BaseModel]) -> str | None:
    """The `kind` of an alternative."""
    field = section.model_fields.get("kind")
    return None if field is None else field.default


def rule_role(field: FieldInfo) -> str | None:
    """Surrogate, Constraint, …, of a key that names rules."""
    from erclip.config.rules import ROLES, Rule

    if Rule not in sections_of(field.annotation):
        return None
    text = repr(field.metadata) + repr(field.annotation)
    return next((role for role in ROLES if f"'{role}'" in text), "Importance")


def default(field: FieldInfo) -> str:
    """The default as TOML; empty for a key that must be given."""
    if field.is_required():
        return ""
    return toml(field.get_default(call_default_factory=True))


def toml(value: Any) -> str:
    """A value as a recipe has it; nothing for None, which TOML does not know.

    >>> toml(True), toml((0.9, 0.999)), toml({"kind": "a", "n": None})
    ('true', '[0.9, 0.999]', '{ kind = "a" }')
    """
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
        set_ = {k: v for k, v in value.items() if v is not None}
        return toml(set_["kind"]) if "kind" in set_ else toml(set_)
    if isinstance(value, dict):
        inner = ", ".join(f"{k} = {toml(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if value is None or value is PydanticUndefined:
        return "unset"
    if isinstance(value, float):
        return repr(value)
    return to_json(value).decode() if not isinstance(value, bool) else str(value).lower()
