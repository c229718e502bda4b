"""A rule by name → a section of settings: its keys are the arguments of the rule's factory.

A `kind` is the name of a part in `erclip.losses`, or of one that an installed package declares in
the entry point group `erclip.rules`, or "file.py:name". The first rule that is read loads torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import (
    BeforeValidator,
    ConfigDict,
    SerializeAsAny,
    ValidationError,
    create_model,
    model_serializer,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from erclip.config.other_names import rule_here
from erclip.config.section import Section, by_kind, to_tuple
from erclip.machine.plugins import PluginError, installed, load_attribute, load_point
from erclip.text import in_a_line

GROUP = "erclip.rules"
ROLES = {
    "Surrogate": "a surrogate",
    "Constraint": "a constraint",
    "Importance": "an importance weight",
    "Term": "a term",
}
"""Classes of `erclip.losses`, in words."""

UNKNOWN = "unknown_key"  # pydantic's type of the error, whose context has the `known` keys


class Rule(Section):
    """A part of a loss, as settings; every factory has a section of its own, see `section_of`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    kind: str

    def build(self) -> Any:
        """The part itself; raises ValueError for settings that its factory refuses."""
        keys = [key for key in type(self).model_fields if key != "kind"]
        try:
            return find_factory(self.kind)(**{key: getattr(self, key) for key in keys})
        except ValueError as error:
            raise ValueError(str(error).removesuffix(".")) from error
        except Exception as error:  # a user's factory may raise anything
            raise ValueError(f"{self.kind} fails with {in_a_line(error)}") from error

    @model_serializer(mode="wrap")
    def _written(self, write: Callable[[Rule], dict[str, Any]]) -> dict[str, Any]:
        """A keyword-only argument is a switch beside the numbers: written down where it is set."""
        defaults = {
            key: field.default
            for key, field in type(self).model_fields.items()
            if "keyword-only" in field.metadata
        }
        written = write(self)
        return {k: v for k, v in written.items() if k not in defaults or v != defaults[k]}

    def __reduce__(self) -> tuple[Any, ...]:
        return _validated, (self.model_dump(),)


def read_rule(role: str, value: Any) -> Rule:
    """A name, or a table with a `kind`, as the section of the rule; raises ValueError."""
    if isinstance(value, Rule):
        return value
    table = by_kind(value)
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise ValueError("a rule is a name, or a table with a `kind`")
    factory = find_factory(table["kind"], role)
    if isinstance(factory, type):
        _check_role(table["kind"], factory, role)
    section = section_of(table["kind"])
    known = list(section.model_fields)
    wrong = [key for key in table if key not in known]
    if wrong:
        raise ValidationError.from_exception_data(
            role, [_unknown_key(table["kind"], key, table[key], known) for key in wrong]
        )
    rule = section.model_validate(table)
    part = rule.build()
    own = _check_role(rule.kind, type(part), role)
    if not callable(part) or not (role != "Term" or own or hasattr(part, "weight")):
        raise ValueError(f"{rule.kind} makes a {type(part).__name__}, which is not {ROLES[role]}")
    return rule


@cache
def section_of(kind: str) -> type[Rule]:
    """The section whose keys are the arguments of the factory that `kind` names."""
    factory = find_factory(kind)
    arguments: dict[str, Any] = {
        name: (annotation, default) for name, annotation, default in _arguments(factory)
    }
    section = create_model(kind, __base__=Rule, __module__=__name__, kind=(str, kind), **arguments)
    section.__doc__ = inspect.getdoc(factory)
    return section


def _validated(table: dict[str, Any]) -> Rule:
    """The section again, from what it wrote: sections are made, so pickle cannot find them."""
    return section_of(table["kind"]).model_validate(table)


def find_factory(kind: str, role: str = "Part") -> Callable[..., Any]:
    """The factory behind a `kind`; raises ValueError, with the nearest name for a typo."""
    from erclip import losses

    own = getattr(losses, kind, None) if kind in losses.__all__ else None
    if isinstance(own, type) and issubclass(own, losses.Part) and own is not losses.policy_loss:
        return own
    points = installed(GROUP)
    if kind in points:
        try:
            return load_point(points[kind])
        except PluginError as error:
            raise ValueError(f"the rule {kind!r} {error}") from error
    if ":" in kind:
        return load_attribute(kind)
    here = rule_here(kind)
    if here is not None:
        raise ValueError(f"{kind} is called {here} here")
    names = [*built_in(role), *points]
    near = sorted((name for name in names if kind in name), key=len)[:3]
    near = near or difflib.get_close_matches(kind, names, n=1)
    hint = f"did you mean {', '.join(map(repr, near))}? " if near else ""
    words = ", ".join(names)
    raise ValueError(
        f"no {role.lower()} is called {kind!r}; {hint}there are {words}, and 'file.py:name'"
    )


def built_in(role: str = "Part") -> dict[str, type]:
    """Name → class of every part in `erclip.losses` with this role."""
    from erclip import losses

    base = getattr(losses, role)
    found = {name: getattr(losses, name) for name in losses.__all__}
    return {
        name: part
        for name, part in found.items()
        if isinstance(part, type) and issubclass(part, base) and name[0].islower()
        if part is not losses.policy_loss
    }


def _check_role(kind: str, part: type, role: str) -> bool:
    """Whether a part has this role; what has none may be any function, another one is refused."""
    from erclip import losses

    own = [name for name in ROLES if issubclass(part, getattr(losses, name))]
    if own and role not in own:
        raise ValueError(f"{kind} is {ROLES[own[0]]}, not {ROLES[role]}")
    return bool(own)


def _arguments(factory: Callable[..., Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and default (… for none) of every setting of a factory."""
    hints = get_type_hints(factory)
    own: Any = factory  # what repr leaves out of a dataclass is no setting
    fields = dataclasses.fields(own) if dataclasses.is_dataclass(own) else ()
    hidden = {field.name for field in fields if not field.repr}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name in hidden or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation: Any = hints.get(name, Any)
        if get_origin(annotation) is tuple:
            annotation = Annotated[annotation, BeforeValidator(to_tuple)]
        if parameter.kind is parameter.KEYWORD_ONLY:
            annotation = Annotated[annotation, "keyword-only"]
        default = ... if parameter.default is parameter.empty else parameter.default
        yield name, annotation, default


def _unknown_key(kind: str, key: str, value: Any, known: list[str]) -> InitErrorDetails:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
    error = PydanticCustomError(
        UNKNOWN, "{kind} has no such setting; {hint}", {"kind": kind, "hint": hint, "known": known}
    )
    return InitErrorDetails(type=error, loc=(key,), input=value)


def _or_none(value: Any) -> Rule | None:
    return None if value is None else read_rule("Importance", value)


SurrogateConfig = Annotated[SerializeAsAny[Rule], BeforeValidator(partial(read_rule, "Surrogate"))]
ConstraintConfig = Annotated[
    SerializeAsAny[Rule], BeforeValidator(partial(read_rule, "Constraint"))
]
TermConfig = Annotated[SerializeAsAny[Rule], BeforeValidator(partial(read_rule, "Term"))]
ImportanceConfig = Annotated[SerializeAsAny[Rule] | None, BeforeValidator(_or_none)]
