"""Training from Python: `train("quickstart", learning_rate=3e-5)` gives a run to look at.

    from erclip.train import train

    run = train("quickstart", rollouts=20, learning_rate=3e-5)
    run.metrics("rollout")["train/reward"]
    run.verdict, run.report
    run.ask("7 9 5=58:")

The same as `erclip train`, with the same folder at the end; it needs one process.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erclip.config import Config
from erclip.config.keys import keys
from erclip.config.recipes import Recipe, check, load_recipe, merge, nested, read_table
from erclip.config.words import toml
from erclip.errors import UserError
from erclip.launch import how_to_go_on
from erclip.launch import train as launch
from erclip.machine.console import Console
from erclip.machine.interrupts import Stopped
from erclip.records import Prompt
from erclip.runs.read import read_run
from erclip.runs.run_folder import new_run_lock
from erclip.seeds import prompt_seeds
from erclip.training.checkpoints.resuming import resumed_recipe
from erclip.training.policy import Policy
from erclip.training.sampling import SamplingSettings, TransformersSampler

PREFERRED = ("trainer", "rollout", "sampler", "loss", "model", "data", "reward", "checkpoint")
"""Whose key a short name means where several sections have it."""

KINDS = ("rollout", "update", "eval")
ROWS = 10  # of a table that is shown


class Metrics(Mapping[str, np.ndarray]):
    """A table: name of a metric → one number per line of metrics.jsonl, NaN where it is missing.

    `pandas.DataFrame(metrics)` is a data frame of it.
    """

    def __init__(self, columns: Mapping[str, np.ndarray]):
        self._columns = dict(columns)

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._columns[name]
        except KeyError:
            raise KeyError(f"{name!r}; there are {', '.join(self._columns)}") from None

    def __iter__(self):
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        rows = len(next(iter(self._columns.values()), ()))
        return f"Metrics({rows} rows: {', '.join(self._columns)})"

    def _repr_html_(self) -> str:
        """The last rows, for a notebook."""
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in self)
        rows = list(zip(*self._columns.values(), strict=True))[-ROWS:]
        cells = ("".join(f"<td>{value:.4g}</td>" for value in row) for row in rows)
        return f"<table><tr>{heads}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended: its folder, its settings, its model as it now is."""

    folder: Path
    config: Config
    policy: Policy

    def metrics(self, kind: str = "rollout") -> Metrics:
        """The lines of one kind: `rollout`, `update` or `eval`."""
        if kind not in KINDS:
            raise UserError(f"metrics({kind!r}): give one of {', '.join(KINDS)}.")
        run = read_run(self.folder)
        rows = {"rollout": run.rollouts, "update": run.updates, "eval": run.evals}[kind]
        names = list(rows.columns)
        first = [name for name in ("rollout", "update") if name in names]
        order = dict.fromkeys([*first, *reversed(names)])
        return Metrics({name: rows.column(name) for name in order})

    @property
    def verdict(self) -> str:
        """What came of it, in one sentence."""
        from erclip.report.headline import headline

        return headline(read_run(self.folder)).sentence

    @property
    def report(self) -> Path:
        """The page that explains it."""
        return self.folder / "report.html"

    @property
    def checkpoint(self) -> Path:
        """The newest model folder."""
        return max((self.folder / "checkpoints").glob("rollout_*"))

    def ask(self, text: str, *, responses: int = 1, seed: int = 0) -> list[str]:
        """Responses of the trained model to a message, sampled as in training."""
        sampler = self.config.sampler
        prompt = Prompt("asked", ({"role": "user", "content": text},), None)
        settings = SamplingSettings(
            responses=responses,
            max_tokens=sampler.max_tokens,
            temperature=sampler.temperature,
            top_p=sampler.top_p,
            max_prompt_tokens=sampler.max_prompt_tokens,
        )
        own = TransformersSampler(self.policy.model, self.policy.tokenizer, sampler.batch_size)
        (group,) = own.sample([prompt], settings, prompt_seeds(1, seed))
        return [response.text for response in group]

    def _repr_html_(self) -> str:
        """The verdict, with a link to the report."""
        link = html.escape(str(self.report))
        return f"<p>{html.escape(self.verdict)}.</p><p><a href='{link}'>{link}</a></p>"


def train(
    recipe: str | Path | Mapping[str, Any] = "quickstart",
    settings: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    quiet: bool = False,
    **named: Any,
) -> FinishedRun:
    """Train by a recipe (a shipped name, a TOML file, or a table) with some settings changed.

    `settings` are by key, {"loss.surrogate": "gppo_clip"}; a keyword is the last part of one,
    `learning_rate=3e-5`, or all of it with `__` for the dots. `resume` goes on with a run's folder.

    Raises UserError for a mistake. An interrupted run says how to go on, and raises
    KeyboardInterrupt.
    """
    changes = {**(settings or {}), **{_key(name): value for name, value in named.items()}}
    if resume is not None:
        if out is not None or recipe != "quickstart":
            raise UserError("resume goes on with a run's own recipe, in its folder; give neither")
        return _run(_resumed(Path(resume), changes), Path(resume), resume=True, quiet=quiet)
    return _run(_loaded(recipe, changes), None if out is None else Path(out), False, quiet)


def _run(recipe: Recipe, folder: Path | None, resume: bool, quiet: bool) -> FinishedRun:
    lock = new_run_lock(recipe.name) if folder is None else None
    place = lock.folder if lock is not None else folder
    assert place is not None
    try:
        trainer = launch(recipe, place, Console(quiet=quiet), lock=lock, resume=resume)
    except Stopped as stopped:
        raise KeyboardInterrupt(f"stopped by {stopped}; {how_to_go_on(place)}") from None
    finally:
        if lock is not None:
            lock.release()
    return FinishedRun(place, recipe.config, trainer.policy)


def _resumed(run: Path, changes: Mapping[str, Any]) -> Recipe:
    return resumed_recipe(run, [f"{key}={toml(value)}" for key, value in changes.items()])


def _loaded(recipe: str | Path | Mapping[str, Any], changes: Mapping[str, Any]) -> Recipe:
    if not isinstance(recipe, Mapping) and not changes:
        return load_recipe(str(recipe))
    name = "table" if isinstance(recipe, Mapping) else Path(recipe).stem
    table: Any = recipe if isinstance(recipe, Mapping) else read_table(str(recipe))
    for key, value in changes.items():
        table = merge(table, nested(key.split("."), value))
    return Recipe(name, check(table, name, [f"{key}=" for key in changes], "the call"))


def _key(name: str) -> str:
    """The key that a keyword means.

    >>> _key("learning_rate"), _key("eval__temperature"), _key("temperature")
    ('trainer.learning_rate', 'eval.temperature', 'sampler.temperature')
    """
    if "__" in name:
        return name.replace("__", ".")
    found = {key.path for key in keys() if key.path.partition(".")[2] == name}
    for section in PREFERRED:
        if f"{section}.{name}" in found:
            return f"{section}.{name}"
    return next(iter(sorted(found)), name)
