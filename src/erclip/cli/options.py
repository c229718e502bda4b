"""Options of a command from a section of settings: names, types, defaults, bounds and meanings."""

from __future__ import annotations

import inspect
import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from erclip.cli.app import listed
from erclip.config.section import Section
from erclip.config.words import meaning


def parameters(section: type[Section], without: Collection[str] = ()) -> list[inspect.Parameter]:
    """A keyword of a command for every key of `section`, as typer reads them."""
    return [
        _parameter(name, field)
        for name, field in section.model_fields.items()
        if name not in without
    ]


def given(section: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the section's defaults, lists taken apart."""
    found = {}
    for name, field in section.model_fields.items():
        if name not in values:
            continue
        value = values[name]
        value = listed(value) if _is_list(field) and isinstance(value, str) else value
        if value is not None and value != field.get_default(call_default_factory=True):
            found[name] = value
    return found


def set_signature(command: Any, added: list[inspect.Parameter]) -> None:
    """Give a command, which takes them as `**values`, options that typer finds."""
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters.values()
    kept = [
        p.replace(annotation=hints[p.name])
        for p in own
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    command.__signature__ = inspect.Signature([*kept, *added])
    command.__annotations__ = {p.name: p.annotation for p in (*kept, *added)}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind = str if _is_list(field) else _plain(field.annotation)
    default = field.get_default(call_default_factory=True)
    default = None if default is PydanticUndefined else default
    shown = default not in (None, "", ())
    default = ",".join(default) if isinstance(default, tuple) else default
    least = next((int(m.ge) for m in field.metadata if hasattr(m, "ge")), None)
    flags: dict[str, Any] = {} if kind is not int or least is None else {"min": least}
    option = typer.Option(
        f"--{name.replace('_', '-')}", help=meaning(field) or None, show_default=shown, **flags
    )
    if kind is bool:
        option = typer.Option(help=meaning(field) or None)
    accepted: Any = kind | None if default is None else kind
    annotation: Any = Annotated[accepted, option]
    default = None if default == "" and _is_list(field) else default
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _plain(annotation: Any) -> Any:
    """The type that a shell's word is read as."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return str
    return annotation if annotation in (int, float, str, bool) else str
