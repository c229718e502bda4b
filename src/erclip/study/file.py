"""The keys of STUDY.toml, and what can be said against them before any setting is looked at."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from erclip.config.loss import LossConfig
from erclip.config.section import Section, to_tuple
from erclip.errors import UserError
from erclip.study.controls import EQUAL_UPDATES
from erclip.study.outcomes import OUTCOMES, PRIMARY
from erclip.text import printable, shown

OWN_KEYS = ("against", "rule", "mask_like", "on_policy", "unset")  # of a method; others: settings


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in OUTCOMES:
            raise ValueError(f"there is no outcome {name!r}; there are {', '.join(OUTCOMES)}")
    return names


Outcomes = Annotated[tuple[str, ...], BeforeValidator(to_tuple), AfterValidator(_known)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(to_tuple)]
Values = Annotated[tuple[Any, ...], BeforeValidator(to_tuple), Field(min_length=1)]


class FrontierFile(Section):
    """Which regimes the frontier compares: accuracy gained in one, kept in each of the others."""

    gained: str = Field(description="the regime whose outcome goes across")
    kept: Annotated[tuple[str, ...], BeforeValidator(to_tuple)] = Field(
        min_length=1, description="regimes whose outcome goes up, a figure each"
    )
    outcomes: Outcomes = Field(
        (), description="which outcomes, a figure each; without any, the study's first"
    )


class StudyFile(Section):
    """The keys of STUDY.toml."""

    description: str = Field("", description="what the study asks, in a sentence")
    recipe: str = Field("quickstart", description="what every run starts from")
    seeds: Annotated[Seeds, Field(min_length=1)] = Field(description="of the runs reported")
    tuning_seeds: Seeds = Field(
        (), description="of the runs that choose each method's best setting, and nothing else"
    )
    outcomes: Outcomes = Field(
        PRIMARY, min_length=1, description="what is compared; the first one leads"
    )
    base: dict[str, Any] = Field(default_factory=dict, description="changes for all runs")
    regimes: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="conditions that every method is put under"
    )
    grid: dict[str, Values] = Field(
        default_factory=dict, description='"section.key" = values; every method gets all of them'
    )
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    frontier: FrontierFile | None = None

    @field_validator("outcomes")
    @classmethod
    def _the_first_has_a_best(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if OUTCOMES[names[0]].better is None or OUTCOMES[names[0]].over_grid:
            raise ValueError(f"{names[0]} cannot lead: no setting is the best one of it")
        return names

    @field_validator("grid")
    @classmethod
    def _values_are_plain(cls, grid: dict[str, Any]) -> dict[str, Any]:
        for key, values in grid.items():
            for value in values:
                if not isinstance(value, int | float | str):
                    raise ValueError(
                        f"{key} has {value!r}, but a point of the grid is a number, a text or a "
                        "boolean; make it a method or a regime"
                    )
            if len(set(values)) < len(values):
                raise ValueError(f"{key} has a value twice")
        return grid

    @model_validator(mode="after")
    def _every_run_once(self) -> StudyFile:
        seeds = (*self.tuning_seeds, *self.seeds)
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                "a seed stands twice in seeds and tuning_seeds: a setting must not be chosen on "
                "the runs that are reported"
            )
        return self


def check_names(file: StudyFile) -> None:
    """Names of methods and regimes that other keys give must be there."""
    if file.frontier is not None:
        for key, regime in [("gained", file.frontier.gained)] + [
            ("kept", regime) for regime in file.frontier.kept
        ]:
            if regime not in file.regimes:
                there = ", ".join(file.regimes) or "none"
                raise UserError(f"frontier.{key} = {regime!r} is no regime; there are {there}.")
    for name, table in file.methods.items():
        _check_method(name, table, file)
    for kind, tables in (("methods", file.methods), ("regimes", file.regimes)):
        for name, table in tables.items():
            for key in file.grid:
                section, _, rest = key.partition(".")
                if rest in table.get(section, {}):
                    raise UserError(
                        f"{kind}.{name}.{key} is set, but the grid has it too; remove one of them."
                    )


def _check_method(name: str, table: Mapping[str, Any], file: StudyFile) -> None:
    if printable(name) != name or "\n" in name or not name.strip():
        raise UserError(f"methods.{shown(name)}: a name is one line of visible characters.")
    against, like = table.get("against", []), table.get("mask_like")
    named = [("against", base) for base in (against if isinstance(against, list) else [against])]
    named += [] if like is None else [("mask_like", like)]
    for key, other in named:
        if other not in file.methods or other == name:
            raise UserError(
                f"methods.{name}.{key} = {other!r} is no other method of the study; "
                f"there are {', '.join(file.methods)}."
            )
    if like is not None and "mask_like" in file.methods[like]:
        raise UserError(f"methods.{name}.mask_like names a method that is a random mask itself.")
    how = table.get("on_policy", False)
    if not (isinstance(how, bool) or how == EQUAL_UPDATES):
        raise UserError(f'methods.{name}.on_policy = {how!r}: true, false or "{EQUAL_UPDATES}".')
    if not isinstance(table.get("rule", ""), str):
        raise UserError(f"methods.{name}.rule = {table['rule']!r}: a name for what it adds.")


def check_losses(losses: Iterable[tuple[LossConfig, str]]) -> None:
    """Build and try every loss, given with the name of its cell, once."""
    from erclip.training.updates import (  # torch: only once the file itself is right
        build_loss,
        check_loss,
    )

    seen: set[str] = set()
    for loss, cell in losses:
        if repr(loss) in seen:
            continue
        seen.add(repr(loss))
        try:
            check_loss(build_loss(loss))
        except ValueError as error:
            raise UserError(f"{cell}: {str(error).removesuffix('.')}.") from None


def unset(table: Mapping[str, Any], keys: Sequence[str], where: str) -> dict[str, Any]:
    """The table without these "section.key"s, which then have their defaults again.

    >>> unset({"loss": {"kl": {"weight": 0.1}, "dual": 10}}, ["loss.kl"], "base")
    {'loss': {'dual': 10}}
    """
    if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
        raise UserError(f'{where}.unset = {keys!r} must be a list of keys, such as ["loss.kl"].')
    changed = copy.deepcopy(dict(table))
    for key in keys:
        *path, last = key.split(".")
        place: Any = changed
        for part in path:
            place = place.get(part) if isinstance(place, Mapping) else None
        if not isinstance(place, dict) or last not in place:
            raise UserError(f"{where}.unset names {key!r}, which nothing before it sets.")
        del place[last]
    return changed


def columns(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or all of it where two would be called alike.

    >>> columns(["trainer.seed", "eval.prompts", "rollout.prompts"])
    {'trainer.seed': 'seed', 'eval.prompts': 'eval.prompts', 'rollout.prompts': 'rollout.prompts'}
    """
    lasts = [key.rpartition(".")[2] for key in keys]
    return {
        key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)
    }
