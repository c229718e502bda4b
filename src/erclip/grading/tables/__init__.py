"""The tables of commands, units and words, which are data: TOML files beside this module."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


LATEX, UNITS, WORDS = map(_read, ("latex.toml", "units.toml", "words.toml"))


def words(text: str) -> frozenset[str]:
    """The words of a text between blanks."""
    return frozenset(text.split())


def by_other_name(section: Mapping[str, str]) -> dict[str, str]:
    """`name = "other others"` of every line, as other name → name."""
    return {other: name for name, others in section.items() for other in others.split()}
