"""What is wrong with some settings, in one sentence: the key, its value, and what it may be."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from erclip.config.other_names import KEYS
from erclip.config.rules import UNKNOWN
from erclip.config.words import allowed, kind_of, sections_of
from erclip.text import shown

if TYPE_CHECKING:
    from erclip.config.keys import Key  # needs all settings, which this serves

Problem = Mapping[str, Any]


class Source(NamedTuple):
    """Where settings are from."""

    name: str
    overrides: Sequence[str]
    given: str

    def of(self, names: Sequence[str]) -> str:
        """` in --set` if that has set the key or what is in it, else the name of the rest."""
        key = ".".join(names)
        for text in reversed(self.overrides):
            own = text.partition("=")[0].strip()
            if key == own or key.startswith(f"{own}.") or own.startswith(f"{key}."):
                return f" in {self.given}"
        return f" in {self.name}"


def one_sentence(
    error: ValidationError,
    name: str,
    section: type[BaseModel],
    overrides: Sequence[str] = (),
    given: str = "--set",
) -> str:
    """Every unknown key, or the first wrong value and the names of the others.

    `name` says where the settings are from; a key that one of the `overrides` (key.path=value)
    has set is theirs, which were `given` with an option or in a call.
    """
    problems = error.errors(include_url=False)
    source = Source(name, overrides, given)
    unknown = [p for p in problems if p["type"] in ("extra_forbidden", UNKNOWN)]
    if unknown:
        return _unknown_keys(unknown, section, source)
    found = dict(reversed([_in_words(p, section, source) for p in problems]))
    *others, first = found
    others = [key for key in reversed(others) if not first.startswith(key)]
    more = f"; also {', '.join(others)}" if others else ""
    return f"{found[first].removesuffix('.')}{more}."


def _unknown_keys(problems: Sequence[Problem], section: type[BaseModel], source: Source) -> str:
    """All of them in one sentence, each with the key that may be meant."""
    parts = []
    for problem in problems:
        names, sections = locate(problem["loc"], section)
        known = problem.get("ctx", {}).get("known") or _own_keys(sections)
        hint = _hint(names, known, section)
        parts.append(f"{'.'.join(names)}{source.of(names)}{hint}")
    return f"Unknown key{'s' if len(parts) > 1 else ''} {', '.join(parts)}."


def _hint(names: Sequence[str], known: Sequence[str], section: type[BaseModel]) -> str:
    """Where the key belongs, what it is called here, the nearest one, or all there are."""
    last, path = names[-1], ".".join(names)
    of_recipe = _recipe_keys(section)
    elsewhere = [k for k in of_recipe if k.path.rpartition(".")[2] == last]
    when = [k.when for k in elsewhere if k.path == path and k.when]
    if when:
        return f" (only with {when[0]})"
    if elsewhere and last not in known:
        places = dict.fromkeys(k.path.rpartition(".")[0] for k in elsewhere)
        return f" ({last} belongs in {' or '.join(f'[{place}]' for place in places)})"
    if last in KEYS and of_recipe:
        return f" (here it is {KEYS[last]})"
    near = difflib.get_close_matches(last, known, n=1, cutoff=0.7)
    if near:
        return f" (did you mean {near[0]}?)"
    anywhere = {key.path.rpartition(".")[2]: key.path for key in of_recipe}
    near = difflib.get_close_matches(last, anywhere, n=1, cutoff=0.8)
    if near:
        return f" (did you mean {anywhere[near[0]]}?)"
    return f" (known keys are {', '.join(known)})" if known else ""


def _in_words(problem: Problem, section: type[BaseModel], source: Source) -> tuple[str, str]:
    """(key, sentence) of a value that is wrong or missing."""
    loc, kind = problem["loc"], problem["type"]
    names, sections = locate(loc, section)
    if names and names[-1].isdigit() and kind == "missing":
        names = names[:-1]  # a list that is too short
    elif kind == "missing":
        where = source.of(names[:-1] or names)
        return ".".join(names), f"{'.'.join(names)} is missing{where}"
    key, where, value = ".".join(names), source.of(names), problem["input"]
    if kind in ("value_error", "assertion_error"):
        said = problem["msg"].partition(", ")[2] or problem["msg"]
        said = said if said[1:2].isupper() else said[0].lower() + said[1:]
        return key, f"{key} = {_shown(value)}{where}: {said}" if loc else said
    field = _field(names, sections)
    kinds = [] if field is None else [str(kind_of(s)) for s in sections_of(field.annotation)]
    if kind == "union_tag_not_found":
        return key, f"{key}{where} needs a `kind`: {', '.join(kinds)}"
    if kind == "union_tag_invalid":
        given = value.get("kind") if isinstance(value, dict) else value
        return key, f"{key} = {_shown(given)}{where} must be one of {', '.join(kinds)}"
    may = _by_type(problem) if field is None else allowed(field)
    return key, f"{key or 'a recipe'} = {_shown(value)}{where} must be {may}"


def _by_type(problem: Problem) -> str:
    """What a rule's argument may be, whose section is made when it is read."""
    words = {
        "int": "a whole number",
        "float": "a number",
        "string": "a text",
        "bool": "true or false",
        "tuple": "a list",
        "list": "a list",
        "dict": "a table",
    }
    if "expected" in problem.get("ctx", {}):
        return f"one of {problem['ctx']['expected'].replace(' or ', ', ')}"
    return words.get(problem["type"].partition("_")[0], "another value")


def _shown(value: Any) -> str:
    return shown(list(value) if isinstance(value, tuple) else value)


def _recipe_keys(section: type[BaseModel]) -> list[Key]:
    """Every key of a recipe, if it is one; without those of single trackers."""
    from erclip.config.keys import keys

    if section.__name__ != "Config":
        return []
    return [key for key in keys() if not key.path.startswith("trackers.")]


def _field(names: Sequence[str], sections: Sequence[type[BaseModel]]) -> FieldInfo | None:
    """The field of a key, or of the list that a number is in."""
    own = [name for name in names if not name.isdigit()]
    if not own:
        return None
    found = [s.model_fields[own[-1]] for s in sections if own[-1] in s.model_fields]
    return found[0] if found else None


def _own_keys(sections: Sequence[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(key for section in sections for key in section.model_fields))


def locate(
    loc: tuple[str | int, ...], section: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]]]:
    """A problem's key as people write it, and the sections that could have held it.

    pydantic puts the `kind` of an alternative, and the types of a union, into the path; a recipe
    has no such level.
    """
    names: list[str] = []
    sections: list[type[BaseModel]] = [section]
    for place, part in enumerate(loc):
        of_kind = [s for s in sections if "kind" in s.model_fields and kind_of(s) == part]
        if of_kind:
            sections = of_kind
            continue
        fields = [s.model_fields[str(part)] for s in sections if part in s.model_fields]
        known = fields or isinstance(part, int) or part == loc[-1]
        if not known or (isinstance(part, str) and "[" in part):
            continue  # a type among several
        names.append(str(part))
        inner = [found for field in fields for found in sections_of(field.annotation)]
        if inner and any(isinstance(p, str) for p in loc[place + 1 :]):
            sections = inner
    return names, sections
