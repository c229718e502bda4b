"""STUDY.toml → the cells of a study, every one of them checked before the first one runs.

    recipe = "quickstart"                    # what every run starts from
    seeds = [0, 1, 2, 3, 4]

    [base]                                   # changes for all runs, as in a recipe
    trainer = { rollouts = 100 }

    [grid]                                   # every method gets every combination
    "trainer.learning_rate" = [1e-4, 3e-4]

    [methods.DAPO]
    loss = { surrogate = { kind = "ppo_clip" }, constraints = [] }

    [methods.ERC-DAPO]
    against = "DAPO"                         # differences are paired with its runs; or a list
    loss = { constraints = ["entropy_ratio_clip"] }

Two controls are more than settings: `mask_like = "ERC-DAPO"` drops tokens at random, as many as
ERC-DAPO clipped with the same seed and settings, and `on_policy = true` makes the same number of
updates of the same size, each on responses sampled just before it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from erclip.config import Config
from erclip.config.section import Section
from erclip.errors import UserError, as_user_error
from erclip.recipes import check, merge, one_sentence, read_table
from erclip.text import printable, shown

OWN_KEYS = ("against", "mask_like", "on_policy")  # of a method; every other key is a setting
_CHANGES_NO_RESULT = ("description", "checkpoint", "ledger", "trackers")
_FROM_LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Values = Annotated[tuple[Any, ...], _FROM_LIST, Field(min_length=1)]


class StudyFile(Section):
    """The keys of STUDY.toml."""

    description: str = Field("", description="what the study asks, in a sentence")
    recipe: str = Field("quickstart", description="what every run starts from")
    seeds: Annotated[tuple[int, ...], _FROM_LIST, Field(min_length=1)]
    base: dict[str, Any] = Field(default_factory=dict, description="changes for all runs")
    grid: dict[str, Values] = Field(
        default_factory=dict, description='"section.key" = values; every method gets all of them'
    )
    methods: dict[str, dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class Method:
    """A row of the tables: settings under a name, and what it is compared with."""

    name: str
    against: tuple[str, ...]
    mask_like: str | None
    on_policy: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run: a method at one point of the grid (column → value) with one seed."""

    method: str
    point: tuple[tuple[str, Any], ...]
    seed: int

    def __str__(self) -> str:
        return ", ".join((self.method, *(f"{k} {v:g}" for k, v in self.point), f"seed {self.seed}"))


@dataclass(frozen=True)
class Study:
    """All that STUDY.toml says; `columns` names each grid key in the CSV files."""

    name: str
    description: str
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    columns: Mapping[str, str]
    grid: Mapping[str, tuple[Any, ...]]
    table: Mapping[str, Any]

    def cells(self) -> list[Cell]:
        """Every cell, seed by seed, so that a study that is stopped has whole comparisons."""
        names = [self.columns[key] for key in self.grid]
        points = [
            tuple(zip(names, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]
        ordered = sorted(self.methods, key=lambda method: method.mask_like is not None)
        return [
            Cell(method.name, point, seed)
            for seed in self.seeds
            for method in ordered
            for point in points
        ]

    def method(self, name: str) -> Method:
        """The method with this name."""
        return next(method for method in self.methods if method.name == name)

    def source(self, cell: Cell) -> Cell | None:
        """The run whose share of clipped tokens a random mask copies."""
        like = self.method(cell.method).mask_like
        return None if like is None else Cell(like, cell.point, cell.seed)

    def config(self, cell: Cell, mask_rate: float | None = None) -> Config:
        """The settings of one run."""
        method = self.method(cell.method)
        table: Any = self.table
        for key, value in zip(self.grid, (value for _, value in cell.point), strict=True):
            table = merge(table, _nested(key, value))
        table = merge(merge(table, method.settings), {"trainer": {"seed": cell.seed}})
        if method.mask_like is not None:
            mask = {"kind": "random_mask", "rate": mask_rate}
            constraints = table.get("loss", {}).get("constraints", [])
            table = merge(table, {"loss": {"constraints": [*constraints, mask]}})
        config = check(table, f"{self.name}, method {method.name}")
        return on_policy(config, self.name) if method.on_policy else config


def read_study(path: Path) -> Study:
    """Read and check STUDY.toml; raises `UserError` with what is wrong in one sentence."""
    if not path.is_file():
        raise UserError(f"No study {str(path)!r}: give a TOML file, such as studies/core.toml.")
    with as_user_error(f"The study {path} cannot be read"):  # nested without end
        return _read_study(path)


def _read_study(path: Path) -> Study:
    try:
        file = StudyFile.model_validate(read_table(str(path)))
    except ValidationError as error:
        raise UserError(one_sentence(error, path.name, StudyFile)) from None
    study = Study(
        name=path.stem,
        description=file.description,
        seeds=file.seeds,
        methods=tuple(_method(name, dict(table), file) for name, table in file.methods.items()),
        columns=_columns(file.grid),
        grid=file.grid,
        table=merge(read_table(file.recipe), file.base),
    )
    for cell in study.cells():
        study.config(cell, mask_rate=0.5)
    return study


def settings_hash(config: Config) -> str:
    """A short name for everything in the settings that can change a result.

    Taken from what differs from the defaults, so that a new setting leaves old rows valid.

    >>> settings_hash(Config()) == settings_hash(Config(description="another"))
    True
    """
    settings = _essence(config)
    settings.get("trainer", {}).pop("saved_samples", None)
    settings = {k: v for k, v in settings.items() if v and k not in _CHANGES_NO_RESULT}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def _essence(value: Any) -> Any:
    """What differs from a section's defaults, and of alternatives which one it is."""
    if isinstance(value, tuple):
        return [_essence(part) for part in value]
    if not isinstance(value, Section):
        return value
    fields = type(value).model_fields
    return {
        name: _essence(part)
        for name in fields
        for part in [getattr(value, name)]
        if name == "kind" or part != fields[name].get_default(call_default_factory=True)
    }


def on_policy(config: Config, name: str = "the study") -> Config:
    """The control without reuse: K rollouts of 1/K of the prompts in the place of one rollout.

    As many updates, of as many responses each, but each is sampled by the policy that it changes.
    """
    updates, prompts = config.trainer.updates_per_rollout, config.rollout.prompts
    if prompts % updates:
        raise UserError(
            f"{name}: on_policy needs rollout.prompts ({prompts}) to be a multiple of "
            f"trainer.updates_per_rollout ({updates})."
        )
    table = config.model_dump()
    table["rollout"]["prompts"] = prompts // updates
    table["trainer"]["updates_per_rollout"] = 1
    table["trainer"]["rollouts"] *= updates
    table["eval"]["every"] *= updates
    table["checkpoint"]["every"] *= updates
    return check(table, name)


def _method(name: str, table: dict[str, Any], file: StudyFile) -> Method:
    if printable(name) != name or "\n" in name or not name.strip():
        raise UserError(f"methods.{shown(name)}: a name is one line of visible characters.")
    own = {key: table.pop(key, None) for key in OWN_KEYS}
    against = own["against"] if isinstance(own["against"], list) else [own["against"]]
    against = [base for base in against if base is not None]
    named = [("against", base) for base in against] + [("mask_like", own["mask_like"])]
    for key, other in named:
        if other is not None and (other not in file.methods or other == name):
            raise UserError(
                f"methods.{name}.{key} = {other!r} is no other method of the study; "
                f"there are {', '.join(file.methods)}."
            )
    if own["mask_like"] and "mask_like" in file.methods[own["mask_like"]]:
        raise UserError(f"methods.{name}.mask_like names a method that is a random mask itself.")
    if not isinstance(own["on_policy"], bool | None):
        raise UserError(f"methods.{name}.on_policy = {own['on_policy']!r}: true or false.")
    for key in file.grid:
        section, _, rest = key.partition(".")
        if rest in table.get(section, {}):
            raise UserError(
                f"methods.{name}.{key} is set, but the grid has it too; remove one of them."
            )
    return Method(name, tuple(against), own["mask_like"], bool(own["on_policy"]), table)


def _columns(grid: Mapping[str, Any]) -> dict[str, str]:
    """The last part of each key, or all of it where two would be called alike."""
    lasts = [key.rpartition(".")[2] for key in grid]
    return {
        key: last if lasts.count(last) == 1 else key for key, last in zip(grid, lasts, strict=True)
    }


def _nested(key: str, value: Any) -> dict[str, Any]:
    *path, last = key.split(".")
    table: dict[str, Any] = {last: value}
    for part in reversed(path):
        table = {part: table}
    return table
