"""Recipes: TOML files that say how one run differs from the defaults of `erclip.config`.

A recipe may start from another one (`extends = "NAME"`); tables are merged key by key, except that
a table with another `kind` replaces the one before it.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from erclip.config import Config
from erclip.config.rules import UNKNOWN
from erclip.errors import UserError, as_user_error
from erclip.machine.files import real
from erclip.machine.plugins import beside
from erclip.text import shown


class Recipe(NamedTuple):
    """A resolved recipe and the name it goes by."""

    name: str
    config: Config


def shipped_recipes() -> dict[str, Path]:
    """Name → file of every recipe in the package, in alphabetical order."""
    folder = Path(str(resources.files(__name__)))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(source: str = "quickstart", overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe or a TOML file, apply `key.path=value` overrides, check every value.

    >>> load_recipe("quickstart", ["trainer.rollouts=3"]).config.trainer.rollouts
    3
    """
    path = _find(source)
    with as_user_error(f"The settings in {path.name} cannot be read"):  # nested without end
        return Recipe(path.stem, check(override(read_table(source), overrides), path.name))


def read_table(source: str) -> dict[str, Any]:
    """The unchecked table of a shipped recipe or a TOML file, with all that it `extends`."""
    return _read(_find(source), seen=())


def check(table: Mapping[str, Any], name: str) -> Config:
    """The settings in a table; `UserError` names the first key or value that is wrong in `name`."""
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        raise UserError(one_sentence(error, name)) from None


def override(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A table with `key.path=value` changes.

    >>> override({"trainer": {"rollouts": 3, "seed": 0}}, ["trainer.rollouts=5"])
    {'trainer': {'rollouts': 5, 'seed': 0}}
    """
    changed = dict(table)
    for text in overrides:
        changed = merge(changed, _parse_override(text))
    return changed


def _find(source: str, beside: Path | None = None) -> Path:
    shipped = shipped_recipes()
    if source in shipped:
        return shipped[source]
    path = Path(source)
    if beside is not None and not path.is_absolute():
        path = beside / path
    if path.is_file():
        return path
    near = difflib.get_close_matches(source, shipped, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UserError(
        f"No recipe {source!r}: it is neither a file nor a shipped recipe "
        f"({', '.join(shipped)}).{hint}"
    )


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if real(path) in seen:
        raise UserError(f"Recipe {path} extends itself; remove one `extends`.")
    with as_user_error(f"Recipe {path} cannot be read"):
        text = path.read_bytes()
    with as_user_error(f"Recipe {path} is not valid TOML"):
        table = beside(path.parent, tomllib.loads(text.decode("utf-8-sig")))
    base = table.pop("extends", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise UserError(f"`extends` in {path} must name one recipe, not {base!r}.")
    return merge(_read(_find(base, beside=path.parent), (*seen, real(path))), table)


def _parse_override(text: str) -> dict[str, Any]:
    """`a.b=1` → {"a": {"b": 1}}; a value that is not TOML is taken as a string."""
    key, separator, value = text.partition("=")
    keys = [part.strip() for part in key.split(".")]
    if not separator or not all(keys):
        raise UserError(f"--set {text!r} is not of the form key.path=value.")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        parsed = {"value": value.strip()}
    if len(parsed) > 1:
        raise UserError(f"--set {text!r} sets several keys; give each a --set of its own.")
    *path, last = keys
    table: dict[str, Any] = {last: parsed["value"]}
    for part in reversed(path):
        table = {part: table}
    return table


def merge(base: Any, change: Any) -> Any:
    """Two tables key by key; another `kind`, a list or a value replaces what was there."""
    if not (isinstance(base, Mapping) and isinstance(change, Mapping)):
        if isinstance(base, Mapping) and base.get("kind") == change:
            return dict(base)
        return change
    if "kind" in change and change["kind"] != base.get("kind", change["kind"]):
        return dict(change)
    merged = dict(base)
    for key, value in change.items():
        merged[key] = merge(base[key], value) if key in base else value
    return merged


def one_sentence(error: ValidationError, name: str, section: type[BaseModel] = Config) -> str:
    """The first problem, with its key and what to do; how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    names, sections = _locate(first["loc"], section)
    key = ".".join(names) or "the file"
    if first["type"] in ("extra_forbidden", UNKNOWN):
        known = first.get("ctx", {}).get("known") or _keys(sections)
        message = f"Unknown key {key} in {name}" + _suggest(names[-1], known)
    elif first["type"] == "missing":
        message = f"{key} is missing in {name}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        if first["loc"]:
            message = f"{key} = {shown(first['input'])} in {name}: {message}"
    more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
    return f"{message}{more}."


def _suggest(name: str, known: Sequence[str]) -> str:
    """The nearest key of the same section, or the list of its keys."""
    if not known:
        return ""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known keys are {', '.join(known)}"


def _keys(sections: Sequence[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(key for section in sections for key in section.model_fields))


def _locate(
    loc: tuple[str | int, ...], section: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]]]:
    """A problem's key as people write it, and the sections that could have held it.

    pydantic puts the `kind` of an alternative into the path; a recipe has no such level.
    """
    names: list[str] = []
    sections: list[type[BaseModel]] = [section]
    for part in loc:
        of_kind = [s for s in sections if "kind" in s.model_fields and _kind(s) == part]
        if of_kind:
            sections = of_kind
            continue
        names.append(str(part))
        if isinstance(part, str) and part is not loc[-1]:
            fields = [s.model_fields[part] for s in sections if part in s.model_fields]
            sections = [found for field in fields for found in _sections(field.annotation)]
    return names, sections


def _kind(section: type[BaseModel]) -> str:
    return section.model_fields["kind"].default


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Every section in a type: itself, or the members of a union or a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections(part)]
