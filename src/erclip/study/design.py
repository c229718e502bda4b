"""STUDY.toml → the cells of a study, every one of them checked before the first one runs.

recipe = "quickstart"                    # what every run starts from
seeds = [0, 1, 2, 3, 4]

[base]                                   # changes for all runs, as in a recipe
trainer = { rollouts = 100 }

[regimes.noise]                          # perhaps: conditions that every method is put under
reward = { flip = 0.5 }

[grid]                                   # every method gets every combination
"trainer.learning_rate" = [1e-4, 3e-4]

[methods.DAPO]
loss = { surrogate = { kind = "ppo_clip" }, constraints = [] }

[methods.ERC-DAPO]
rule = "ERC"                             # what it adds; effects are pooled over methods by rule
against = "DAPO"                         # differences are paired with its runs; or a list
loss = { constraints = ["entropy_ratio_clip"] }
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from erclip.config import Config
from erclip.config.problems import one_sentence
from erclip.config.recipes import check, merge, read_table
from erclip.config.section import Section
from erclip.errors import UserError, as_user_error
from erclip.study.controls import on_policy
from erclip.study.file import OWN_KEYS, StudyFile, check_losses, check_names, columns, unset

REGIME = "regime"  # the first column of a study that has regimes
NO_RULE = "no rule"  # that of a method which is compared with none
_CHANGES_NO_RESULT = ("description", "checkpoint", "ledger", "trackers")


@dataclass(frozen=True)
class Method:
    """A row of the tables: settings under a name, and what it is compared with.

    `rule` is what it adds to its surrogate; methods that share one count as one in pooled effects.
    """

    name: str
    against: tuple[str, ...]
    mask_like: str | None
    on_policy: bool | str
    settings: Mapping[str, Any]
    rule: str
    unset: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run: a method at one point of the grid (column → value) with one seed."""

    method: str
    point: tuple[tuple[str, Any], ...]
    seed: int

    def __str__(self) -> str:
        point = (value if k == REGIME else f"{k} {in_words(value)}" for k, value in self.point)
        return ", ".join((self.method, *point, f"seed {self.seed}"))


def in_words(value: Any) -> str:
    """A value of the grid: numbers as short as they can be, all else as it is written.

    >>> in_words(3e-4), in_words("bfloat16"), in_words(True)
    ('0.0003', 'bfloat16', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class Study:
    """All that STUDY.toml says; `columns` names each grid key in the CSV files."""

    name: str
    file: StudyFile
    methods: tuple[Method, ...]
    columns: Mapping[str, str]
    table: Mapping[str, Any]

    @property
    def description(self) -> str:
        """What the study asks."""
        return self.file.description

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs that are reported."""
        return self.file.seeds

    @property
    def grid(self) -> Mapping[str, tuple[Any, ...]]:
        """Key → values; regimes come first, under the key "regime"."""
        regimes = {REGIME: tuple(self.file.regimes)} if self.file.regimes else {}
        return {**regimes, **self.file.grid}

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
            for seed in (*self.file.tuning_seeds, *self.seeds)
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
        """The settings of one run: base, regime, point of the grid, method, seed."""
        method = self.method(cell.method)
        table: Any = self.table
        for key, (_, value) in zip(self.grid, cell.point, strict=True):
            if key == REGIME:
                own = dict(self.file.regimes[value])
                table = merge(unset(table, own.pop("unset", ()), f"regimes.{value}"), own)
            else:
                table = merge(table, _nested(key, value))
        table = unset(table, method.unset, f"methods.{method.name}")
        table = merge(merge(table, method.settings), {"trainer": {"seed": cell.seed}})
        if method.mask_like is not None:
            mask = {"kind": "random_mask", "rate": mask_rate}
            constraints = table.get("loss", {}).get("constraints", [])
            table = merge(table, {"loss": {"constraints": [*constraints, mask]}})
        config = check(table, f"{self.name}, method {method.name}")
        return on_policy(config, self.name, method.on_policy) if method.on_policy else config


def read_study(path: Path) -> Study:
    """Read and check STUDY.toml; raises `UserError` with what is wrong in one sentence.

    Checked are the settings of every method at every point, for one seed, and, by building it,
    every loss.
    """
    if not path.is_file():
        raise UserError(f"No study {str(path)!r}: give a TOML file, such as studies/core-8.toml.")
    with as_user_error(f"The study {path} cannot be read"):  # nested without end
        return _read_study(path)


def _read_study(path: Path) -> Study:
    try:
        file = StudyFile.model_validate(read_table(str(path)))
    except ValidationError as error:
        raise UserError(one_sentence(error, path.name, StudyFile)) from None
    check_names(file)
    base = dict(file.base)
    keys = base.pop("unset", ())
    study = Study(
        name=path.stem,
        file=file,
        methods=tuple(_method(name, dict(table)) for name, table in file.methods.items()),
        columns=columns([*([REGIME] if file.regimes else []), *file.grid]),
        table=merge(unset(read_table(file.recipe), keys, "base"), base),
    )
    cells = study.cells()
    of_one_seed = [cell for cell in cells if cell.seed == cells[0].seed]
    check_losses((study.config(cell, mask_rate=0.5).loss, str(cell)) for cell in of_one_seed)
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


def _method(name: str, table: dict[str, Any]) -> Method:
    own = {key: table.pop(key, None) for key in OWN_KEYS}
    against = own["against"] if isinstance(own["against"], list) else [own["against"]]
    against = tuple(base for base in against if base is not None)
    return Method(
        name,
        against,
        own["mask_like"],
        own["on_policy"] or False,
        table,
        own["rule"] or (name if against else NO_RULE),
        tuple(own["unset"] or ()),
    )


def _nested(key: str, value: Any) -> dict[str, Any]:
    *path, last = key.split(".")
    table: dict[str, Any] = {last: value}
    for part in reversed(path):
        table = {part: table}
    return table
