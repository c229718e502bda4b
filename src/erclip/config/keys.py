"""Every key of a recipe with its values, default and meaning, read from the settings themselves.

pydantic writes them as a JSON schema; here that becomes a row per key, in the words of a recipe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from erclip.config import Config

Schema = dict[str, Any]

WORDS = {"boolean": "true or false", "string": "text", "object": "table", "array": "list"}
NUMBERS = {"integer": "whole number", "number": "number"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
MEANING = {"sampler": "who samples the responses"}  # of sections that are a choice themselves
RULE = "Rule"  # the section of `loss.surrogate` and its like; what it holds depends on its `kind`


class Key(NamedTuple):
    """One key of a recipe.

    `when` is the condition under which there is such a key ('sampler.kind = "vllm"'), or empty.
    `default` is as TOML writes it, "unset" where nothing is meant, "required" where there is none.
    """

    path: str
    when: str
    values: str
    default: str
    meaning: str


def keys() -> list[Key]:
    """All keys, section by section, in the order in which they are declared.

    >>> [(key.values, key.default) for key in keys() if key.path == "trainer.learning_rate"]
    [('number > 0', '1e-06')]
    """
    schema = Config.model_json_schema()
    return list(_of_section(schema, schema["$defs"], "", ""))


def _of_section(section: Schema, known: Schema, prefix: str, when: str) -> Iterator[Key]:
    required = section.get("required", ())
    for name, field in section["properties"].items():
        path = f"{prefix}{name}"
        inner = _sections(field, known)
        if not prefix and "discriminator" in field:
            yield Key(f"{path}.kind", when, _values(field, known), _default(field), MEANING[path])
        elif (prefix or "" not in inner) and (name != "kind" or not prefix):
            default = "required" if name in required else _default(field)
            meaning = re.sub(r"\bNone\b", "unset", field.get("description", ""))
            yield Key(path, when, _values(field, known), default, meaning)
        yield from _below(path, inner, known, when)


def _below(path: str, tables: dict[str, Schema], known: Schema, when: str) -> Iterator[Key]:
    """The keys of the tables at `path`; what every kind has alike is there once, without `when`."""
    rows: dict[Key, list[str]] = {}
    for kind, table in tables.items():
        for key in _of_section(table, known, f"{path}.", when):
            rows.setdefault(key, []).append(f'{path}.kind = "{kind}"' if kind else when)
    for key, conditions in rows.items():
        everywhere = len(conditions) == len(tables) > 1
        told = key.when or everywhere  # its own condition, or none
        yield key if told else key._replace(when=" or ".join(conditions))


def _sections(field: Schema, known: Schema) -> dict[str, Schema]:
    """The tables that a field may hold, by `kind`; "" is a table without one."""
    tables = {}
    field = field.get("items", field) if field.get("type") == "array" else field
    for option in field.get("oneOf", field.get("anyOf", [field])):
        table = _resolved(option, known)
        if "properties" in table and table["title"] != RULE:
            tables[table["properties"].get("kind", {}).get("const", "")] = table
    return tables


def _resolved(field: Schema, known: Schema) -> Schema:
    return known[field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def _values(field: Schema, known: Schema) -> str:
    """What may stand behind the key, in words."""
    field = _resolved(field, known)
    if "discriminator" in field:
        return " or ".join(f'"{kind}"' for kind in _sections(field, known))
    if "anyOf" in field:
        options = [option for option in field["anyOf"] if option.get("type") != "null"]
        return " or ".join(_values(option, known) for option in options)
    if "enum" in field or "const" in field:
        return " or ".join(json.dumps(value) for value in field.get("enum", [field.get("const")]))
    if field.get("title") == RULE:
        return "a rule"
    if "prefixItems" in field:
        return f"{len(field['prefixItems'])} × {_values(field['prefixItems'][0], known)}"
    if field.get("type") == "array":
        return f"list of {_values(field['items'], known)}"
    if field.get("type") in NUMBERS:
        bounds = [f"{sign} {field[name]:g}" for name, sign in BOUNDS.items() if name in field]
        return " ".join([NUMBERS[field["type"]], " and ".join(bounds)]).strip()
    return WORDS[field["type"]]


def _default(field: Schema) -> str:
    if "default" not in field:  # made by a factory
        return '"ppo_clip"' if field.get("$ref", "").endswith(RULE) else "{}"
    value = field["default"]
    if isinstance(value, dict) and "kind" in value:
        value = value["kind"]
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)
