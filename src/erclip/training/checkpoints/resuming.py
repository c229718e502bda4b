"""`erclip train --resume RUN`: the run's own settings, and what may be changed on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from erclip.config import Config
from erclip.config.recipes import Recipe, override
from erclip.errors import UserError
from erclip.machine.files import read_json
from erclip.text import HIDDEN, shown

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
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{key} = {shown(first['input'])} in {run / 'config.json'}: "
            f"{first['msg'].removeprefix('Value error, ')}"
        ) from None
    return Recipe(str(described.get("recipe", run.name)), config)


def settings_digest(config: Config) -> str:
    """A digest of the settings that may not change; a checkpoint belongs to one of them."""
    flat = _flat(config.model_dump(mode="json"))
    kept = {key: value for key, value in flat.items() if not _changeable(key)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


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
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{prefix}.{key}" if prefix else key))
    return flat
