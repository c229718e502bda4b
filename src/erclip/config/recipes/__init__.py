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
from typing import Any, NamedTuple

from pydantic import ValidationError

from erclip.config import Config
from erclip.config.other_names import rule_here
from erclip.config.problems import one_sentence
from erclip.errors import UserError, as_user_error
from erclip.machine.files import real
from erclip.machine.plugins import beside


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
        table = override(read_table(source), overrides)
        return Recipe(path.stem, check(table, path.name, overrides))


def with_trackers(recipe: Recipe, kinds: Sequence[str]) -> Recipe:
    """The recipe with these trackers besides its own; one that it has keeps its settings.

    >>> with_trackers(load_recipe("quickstart"), ["wandb"]).config.trackers[0].kind
    'wandb'
    """
    own = recipe.config.trackers
    new = [kind for kind in dict.fromkeys(kinds) if kind not in {t.kind for t in own}]
    added = check({"trackers": new}, "--tracker").trackers
    return recipe._replace(config=recipe.config.model_copy(update={"trackers": (*own, *added)}))


def read_table(source: str) -> dict[str, Any]:
    """The unchecked table of a shipped recipe or a TOML file, with all that it `extends`."""
    return _read(_find(source), seen=())


def check(
    table: Mapping[str, Any], name: str, overrides: Sequence[str] = (), given: str = "--set"
) -> Config:
    """The settings in a table from `name`; `UserError` says what is wrong in it, or in --set."""
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        raise UserError(one_sentence(error, name, Config, overrides, given)) from None


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
    if (path / "config.json").is_file():
        raise UserError(f"{source} is a run, not a recipe: erclip train --resume {source}")
    if path.is_dir():
        raise UserError(f"{source} is a folder; give a recipe file, or the name of a recipe.")
    rule = rule_here(source)
    if rule is not None:
        raise UserError(
            f"No recipe {source!r}: it is the name of a method, which any recipe may have as "
            f"loss.surrogate or in loss.constraints; here it is {rule} (`erclip recipes` lists "
            "recipes)."
        )
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
    if path.suffix == ".json" or text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        raise UserError(f"Recipe {path} is JSON, but a recipe is TOML: write `key = value` lines.")
    with as_user_error(f"Recipe {path} is not valid TOML", "a recipe is TOML: `key = value` lines"):
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
    return nested(keys, parsed["value"])


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """A value as a table in a table.

    >>> nested(["a", "b"], 1)
    {'a': {'b': 1}}
    """
    for part in reversed(path):
        value = {part: value}
    return value


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
