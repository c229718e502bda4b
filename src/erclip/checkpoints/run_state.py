"""What a run is between two updates, and its way into a checkpoint and back.

A few counters, the weights, the optimiser and the rollouts that are not done with: every random
draw derives from the seed and the counters, so there is no generator to save.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from erclip.checkpoints.folders import STATE, Checkpoints, save_elsewhere, write_json
from erclip.checkpoints.resuming import settings_digest
from erclip.checkpoints.rollout_files import load_rollouts, save_rollouts
from erclip.checkpoints.training_state import (
    load_optimizer,
    save_optimizer,
    whole_optimizer,
    whole_weights,
)
from erclip.config import Config
from erclip.distributed import World
from erclip.errors import UserError
from erclip.policy import Policy
from erclip.rollouts import PromptStream
from erclip.run_dir import RunDir
from erclip.scored_rollout import ScoredRollout
from erclip.updates import Updater


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

    @property
    def name(self) -> str:
        """Finished rollouts, and updates if one is being trained on; sorts as time goes."""
        name = f"rollout_{self.counters.rollouts:05d}"
        return name if self.current is None else f"{name}_update_{self.counters.updates:06d}"

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
            save_optimizer(optimizer, self.updater, folder)
            numbers = save_rollouts(rollouts, scores, folder) if rollouts else []
            write_json(folder / STATE, {**self._numbers(run), "rollouts": numbers})

        def write() -> Path:
            try:
                path = checkpoints.write(self.name, fill)
            except UserError as error:
                raise UserError(f"{error}{self._rescue(save_model)}") from error
            checkpoints.prune(self.config.checkpoint.keep_last, self.config.checkpoint.keep_best)
            return path

        return self.world.from_first(write)

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Everything but the weights, which the policy was loaded with; a collective."""
        self.counters = Counters(**state["counters"])
        if self.counters.rollouts > self.config.trainer.rollouts:
            raise UserError(
                f"trainer.rollouts = {self.config.trainer.rollouts}, but {folder} is of a run that "
                f"has finished {self.counters.rollouts}; ask for more"
            )
        self.lines = state["lines"]
        load_optimizer(self.updater, folder, self.world)
        if state["rollouts"]:
            self.stream.position = state["rollouts"][0]["first_prompt"]
            prompts = self.stream.take(state["prompts"] - self.stream.position)
            self.waiting = load_rollouts(state["rollouts"], folder, prompts)
        if state["training"]:
            self.current = self.waiting.pop(0)
            self.current.take_up(self.policy, self.config, self.world)
        self.stream.position = state["prompts"]

    def _numbers(self, run: RunDir) -> dict[str, Any]:
        fresh = self.current is None and self.counters.evaluated == self.counters.rollouts
        return {
            "counters": asdict(self.counters),
            "score": self.counters.score if fresh else None,
            "prompts": self.stream.position,
            "settings": settings_digest(self.config),
            "files": run.sizes(),
            "updates": self.counters.updates,
            "time_s": run.time_s,
            "lines": self.lines,
            "training": self.current is not None,
        }

    def _rescue(self, save_model: Callable[[Path], None]) -> str:
        """After the last rollout, a model that cannot be written here is written elsewhere."""
        if self.counters.rollouts < self.config.trainer.rollouts:
            return ""
        folder = Path(tempfile.gettempdir()) / f"erclip-{self.name}"
        found = save_elsewhere(save_model, folder)
        return (
            "; the trained model is lost" if found is None else f"; the trained model is in {found}"
        )


def check_settings(state: Mapping[str, Any], config: Config, folder: Path) -> None:
    """Refuse a checkpoint of other settings: somebody edited config.json."""
    if state["settings"] != settings_digest(config):
        raise UserError(
            f"{folder} was written with other settings than config.json has now; put them back"
        )
