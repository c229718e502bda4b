"""What a run is between two updates, and its way into a checkpoint and back.

A few counters, the weights, the optimiser and the rollouts that are not done with: every random
draw derives from the seed and the counters, so there is no generator to save.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from erclip.config import Config
from erclip.errors import UserError, as_user_error
from erclip.machine.distributed import World
from erclip.machine.files import write_json, write_text
from erclip.runs.checkpoint_folders import STATE, Checkpoints, checkpoint_name, fill_folder
from erclip.runs.model_card import model_card
from erclip.runs.run_dir import RunDir
from erclip.training.checkpoints.resuming import changed_setting, lasting_settings
from erclip.training.checkpoints.rollout_files import load_rollouts, save_rollouts
from erclip.training.checkpoints.training_state import (
    load_optimizer,
    save_optimizer,
    whole_optimizer,
    whole_weights,
)
from erclip.training.policy import Policy
from erclip.training.rollouts import PromptStream
from erclip.training.scored_rollout import ScoredRollout
from erclip.training.updates import Updater


@dataclass
class Counters:
    """Where a run is. `evaluated` is the last rollout that was, `score` its avg@k."""

    rollouts: int = 0
    updates: int = 0
    evaluated: int = -1
    score: float | None = None
    best: float | None = None
    skipped: int = 0  # updates in a row


@dataclass
class RunState:
    """Everything that goes on where it was when a run is resumed.

    `current` is the rollout that is trained on, `waiting` are those sampled ahead, oldest first.
    """

    config: Config
    world: World
    policy: Policy
    updater: Updater
    stream: PromptStream
    counters: Counters = field(default_factory=Counters)
    current: ScoredRollout | None = None
    waiting: list[ScoredRollout] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    """What the recorder has chosen of the current rollout."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """The first and the newest, for the model card."""

    @property
    def name(self) -> str:
        """Finished rollouts, and updates if one is being trained on; sorts as time goes."""
        updates = None if self.current is None else self.counters.updates
        return checkpoint_name(self.counters.rollouts, updates)

    @property
    def rollouts(self) -> list[ScoredRollout]:
        """Every rollout that has been sampled and is not done with, oldest first."""
        return [*([] if self.current is None else [self.current]), *self.waiting]

    @property
    def sampled(self) -> int:
        """Number of the newest rollout that has been sampled."""
        return self.counters.rollouts + len(self.rollouts)

    def save(self, checkpoints: Checkpoints, run: RunDir | None) -> Path:
        """A checkpoint of this moment; a collective, written by the first process.

        The folder is an ordinary model folder with some files more.
        """
        weights = whole_weights(self.policy.model, self.world)
        optimizer = whole_optimizer(self.updater)
        rollouts = self.rollouts
        scores = self.world.to_first(lambda: [rollout.scores() for rollout in rollouts])

        def save_model(folder: Path) -> None:
            self.policy.save_model(folder, weights)
            self.policy.tokenizer.save_pretrained(folder)

        def fill(folder: Path) -> None:
            assert run is not None
            save_model(folder)
            write_text(folder / "README.md", self._card())
            save_optimizer(optimizer, self.updater, folder)
            numbers = save_rollouts(rollouts, scores, folder) if rollouts else []
            write_json(folder / STATE, {**self._numbers(run), "rollouts": numbers})

        def write() -> Path:
            assert run is not None
            try:
                path = checkpoints.write(self.name, fill)
            except UserError as error:
                saved = self._rescue(run, {"whole": fill, "model": save_model}, checkpoints.folder)
                raise UserError(f"{error}{saved}") from error
            checkpoints.prune(self.config.checkpoint.keep_last, self.config.checkpoint.keep_best)
            return path

        return self.world.from_first(write)

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Everything but the weights, which the policy was loaded with; a collective."""
        with as_user_error(
            f"Checkpoint {folder} cannot be restored", "remove it to use an older one"
        ):
            self._restore(state, folder)

    def _restore(self, state: Mapping[str, Any], folder: Path) -> None:
        self.counters = Counters(**state["counters"])
        if self.counters.rollouts > self.config.trainer.rollouts:
            raise UserError(
                f"trainer.rollouts = {self.config.trainer.rollouts}, but {folder} is of a run that "
                f"has finished {self.counters.rollouts}; ask for more"
            )
        self.lines = state["lines"]
        self.evaluations = state.get("evaluations", [])
        self.updater.statistics = state.get("statistics")
        load_optimizer(self.updater, folder, self.world)
        if state["rollouts"]:
            self.stream.position = state["rollouts"][0]["first_prompt"]
            prompts = self.stream.take(state["prompts"] - self.stream.position)
            self.waiting = load_rollouts(state["rollouts"], folder, prompts)
        if state["training"]:
            self.current = self.waiting.pop(0)
            self.current.take_up(self.policy, self.config, self.world)
        self.stream.position = state["prompts"]

    def note_evaluation(self, rollout: int, metrics: Mapping[str, Any]) -> None:
        """Keep it for the model card."""
        numbers = {name: value for name, value in metrics.items() if name.startswith("eval/")}
        self.evaluations = [*self.evaluations[:1], {"rollout": rollout, **numbers}]

    def _card(self) -> str:
        counters = self.counters
        return model_card(self.config, counters.rollouts, counters.updates, self.evaluations)

    def _numbers(self, run: RunDir) -> dict[str, Any]:
        fresh = self.current is None and self.counters.evaluated == self.counters.rollouts
        return {
            "run": run.id,
            "name": self.name,
            "counters": asdict(self.counters),
            "score": self.counters.score if fresh else None,
            "prompts": self.stream.position,
            "settings": lasting_settings(self.config),
            "files": run.sizes(),
            "unwritten": run.unwritten,
            "updates": self.counters.updates,
            "time_s": run.time_s,
            "lines": self.lines,
            "evaluations": self.evaluations,
            "statistics": self.updater.statistics,
            "training": self.current is not None,
        }

    def _rescue(
        self, run: RunDir, fills: Mapping[str, Callable[[Path], None]], checkpoints: Path
    ) -> str:
        """What cannot be written here is written elsewhere: all of it, or a trained model alone."""
        found = _save_elsewhere(fills["whole"], f"{run.path.name}-{self.name}")
        if found is not None:
            return (
                f"; this one is in {found}: make room, move it to {checkpoints / self.name} and go "
                f"on with: erclip train --resume {run.path}"
            )
        if self.counters.rollouts < self.config.trainer.rollouts:
            return ""
        found = _save_elsewhere(fills["model"], f"{run.path.name}-{self.name}")
        return (
            "; the trained model is lost" if found is None else f"; the trained model is in {found}"
        )


def _save_elsewhere(fill: Callable[[Path], None], name: str) -> Path | None:
    """A folder of its own among the temporary ones, with `name` in its name; None if that fails."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"erclip-{name[-80:]}-"))
    except OSError:
        return None
    try:
        fill_folder(folder, fill)
    except (OSError, SafetensorError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return folder


def check_settings(state: Mapping[str, Any], config: Config, folder: Path) -> None:
    """Refuse a checkpoint of other settings: somebody edited config.json.

    One from before 2026-11-27 holds a digest that nobody can compare any more: config.json counts.
    """
    saved = state.get("settings")
    changed = changed_setting(saved, config) if isinstance(saved, dict) else None
    if changed is not None:
        raise UserError(
            f"{folder} was written with another {changed} than config.json has now; put it back"
        )
