"""What users bring: a name in a Python file of theirs ("file.py:name"), or an entry point."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from erclip.errors import UserError

T = TypeVar("T")


class PluginError(ValueError):
    """Why something of the user's cannot be had, as the end of a sentence."""


def load_attribute(source: str) -> Any:
    """The callable that "file.py:name" names; a file runs once, as a module of its own.

    The path is relative to the working directory. Raises PluginError.
    """
    file, _, name = source.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise PluginError(f"there is no file {file!r}")
    found = getattr(_module(path.resolve()), name, None)
    if not callable(found):
        raise PluginError(f"{file!r} defines no function {name!r}")
    return found


def installed(group: str) -> dict[str, EntryPoint]:
    """Name → entry point of everything that installed packages declare in a group."""
    return {point.name: point for point in entry_points(group=group)}


def load_point(point: EntryPoint) -> Any:
    """What an entry point names; raises PluginError."""
    return _guarded(f"({point.value}) cannot be imported", point.load)


def beside(folder: Path, value: Any) -> Any:
    """A table whose "file.py:name" strings point to the files of `folder` that they name there.

    A file of the working directory with that name comes second.
    """
    if isinstance(value, dict):
        return {key: beside(folder, item) for key, item in value.items()}
    if isinstance(value, list):
        return [beside(folder, item) for item in value]
    if isinstance(value, str) and ".py:" in value and "\n" not in value:
        file, _, name = value.rpartition(":")
        if not Path(file).is_absolute() and (folder / file).is_file():
            return f"{folder / file}:{name}"
    return value


@cache
def _module(path: Path) -> ModuleType:
    name = f"erclip_user_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path.name!r} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _guarded(path.name, lambda: loader.exec_module(module), "the file")
    return module


def _guarded(where: str, work: Callable[[], T], what: str = "it") -> T:
    """What a user's code gives; whatever it does instead is a PluginError."""
    from erclip.machine.usercode import user_code  # needs torch, which settings do without

    try:
        with user_code(where, what):
            return work()
    except UserError as error:
        raise PluginError(str(error).removesuffix(".")) from error
