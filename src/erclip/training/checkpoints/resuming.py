"""`erclip train --resume RUN`: the run's own settings, and what may be changed on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from erclip.config import Config
from erclip.config.problems import one_sentence
from erclip.config.recipes import Recipe, override
from erclip.errors import UserError
from erclip.machine.files import read_json
from erclip.runs.checkpoint_folders import Checkpoints, read_state
from erclip.runs.run_folder import run_id
from erclip.text import HIDDEN, redacted_values

CHANGEABLE = (
    "trainer.rollouts",
    "trainer.token_budget",
    "trainer.saved_samples",
    "model.device",
    "model.gradient_checkpointing",
    "sampler.batch_size",
    "sampler.url",
    "rollout.overlap",
    "eval.every",
    "eval.prompts",
    "checkpoint",
    "ledger",
    "trackers",
)
"""Settings that do not say what the run has been: how long, how often, how much memory."""


def resumed_recipe(run: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a run's config.json, with `overrides` of changeable settings.

    Raises UserError for a folder that is no run, and for a setting that the run's past rests on.
    """
    described = _read(run)
    before = described.get("config", {})
    after = override(before, overrides)
    for key in sorted(_different(before, after)):
        if not _changeable(key):
            raise UserError(
                f"{key} cannot change in a run that is resumed: what was trained rests on it; "
                f"start a new run (changeable: {', '.join(CHANGEABLE)})"
            )
    _refuse_hidden(after)
    try:
        config = Config.model_validate_json(json.dumps(after))
    except ValidationError as error:
        said = one_sentence(error, str(run / "config.json"), Config, overrides)
        raise UserError(said) from None
    return Recipe(str(described.get("recipe", run.name)), config)


def finished(run: Path, config: Config) -> str | None:
    """A sentence on how to extend a run that has made all its rollouts, None for any other."""
    checkpoints, wanted = Checkpoints(run / "checkpoints", run_id(run)), config.trainer.rollouts
    last = [read_state(checkpoints.folder / name) for name in checkpoints.names()[-1:]]
    if not last or last[0].get("counters", {}).get("rollouts") != wanted:
        return None  # before its files are read through, which takes long for a large model
    saved, _ = checkpoints.newest()
    state = {} if saved is None else read_state(saved)
    done = state.get("counters", {}).get("rollouts")
    if done != wanted or state.get("training"):
        return None
    return (
        f"{run} has finished its {done} rollouts: its model is {saved}, its report "
        f"{run / 'report.html'}; to extend it: erclip train --resume {run} "
        f"--set trainer.rollouts={2 * done}"
    )


def lasting_settings(config: Config) -> dict[str, Any]:
    """The settings that may not change, by key: a checkpoint belongs to them."""
    flat = _flat(redacted_values(config.model_dump(mode="json")))
    return {key: value for key, value in flat.items() if not _changeable(key)}


def changed_setting(saved: Mapping[str, Any], config: Config) -> str | None:
    """A key whose value in `config` is not the one that `lasting_settings` saved; None if equal.

    A key that one side lacks, as after another version has added it, counts as its default.
    """
    now, defaults = lasting_settings(config), _defaults(config)
    for key in sorted(saved.keys() | now.keys()):
        sections = any(other.startswith(f"{key}.") for other in saved.keys() ^ now.keys())
        before, after = (side.get(key, defaults.get(key)) for side in (saved, now))
        if before != after or (sections and (key in saved) != (key in now)):
            return key
    return None


def _defaults(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Key → default of every value in a section and those within; a `kind` has none."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        key, value = f"{prefix}{name}", getattr(section, name)
        parts = enumerate(value) if isinstance(value, tuple) else ()
        sections = {f"{key}.{place}.": part for place, part in parts} | {f"{key}.": value}
        for below, part in sections.items():
            if isinstance(part, BaseModel):
                found |= _defaults(part, below)
        if name != "kind" and not field.is_required():
            default = field.get_default(call_default_factory=True)
            found[key] = to_jsonable_python(default)
    return found


def _read(run: Path) -> dict[str, Any]:
    if not (run / "config.json").is_file():
        raise UserError(f"{run} is not a run to resume: it has no config.json")
    return read_json(run / "config.json", "without it no run resumes")


def _refuse_hidden(settings: Any) -> None:
    for key, value in _flat(settings).items():
        if f":{HIDDEN}@" in str(value) or f"={HIDDEN}" in str(value):
            raise UserError(
                f"{key} was written to config.json without its password; give it again with --set"
            )


def _changeable(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE)


def _different(before: Any, after: Any) -> set[str]:
    old, new = _flat(before), _flat(after)
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every value by its key; lists of tables have numbers for keys."""
    tables = isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
    items = dict(enumerate(value)) if tables else value
    if not isinstance(items, Mapping) or (prefix and not items):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items.items():
        flat.update(_flat(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat
