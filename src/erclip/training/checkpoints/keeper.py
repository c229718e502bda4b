"""When a run is saved, what of it is kept, and what it goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from erclip.config.training import CheckpointConfig
from erclip.errors import UserError
from erclip.machine.distributed import AllFailed
from erclip.runs.checkpoint_folders import Checkpoints
from erclip.runs.run_dir import RunDir
from erclip.runs.run_folder import run_id, set_aside
from erclip.training.checkpoints.run_state import RunState
from erclip.training.checkpoints.soundness import model_is_sound

Log = Callable[[str], None]


def newest_checkpoint(
    out: Path, checkpoints: Checkpoints, settings: CheckpointConfig, log: Log
) -> Path | None:
    """What the run in `out` goes on from, after what a kill has left is put in order.

    `log` gets a sentence about every folder that does not count.
    """
    checkpoints.run = run_id(out)
    checkpoints.sweep()
    saved, complaints = checkpoints.newest()
    for complaint in complaints:
        log(complaint)
    if saved is None:
        log("There is no checkpoint to go on from: the run starts again.")
        return None
    if complaints:
        set_aside(out, log, copy=True)
    checkpoints.prune(settings.keep_last, settings.keep_best)
    return saved


class Keeper:
    """Saves the moments of a run; `saved` is the newest checkpoint, None before the first."""

    def __init__(
        self,
        state: RunState,
        checkpoints: Checkpoints,
        lines: Callable[[], list[dict[str, Any]]],
        saved: Path | None,
        log: Log,
    ):
        self.state, self.checkpoints, self.saved = state, checkpoints, saved
        self.settings, self.world = state.config.checkpoint, state.world
        self.run: RunDir | None = None
        self._lines, self._say = lines, log
        self._saved_moment, self._saved_at = self._moment, time.monotonic()
        self._saving = False
        self._torn = False  # inside an optimiser's step: no moment of the run
        state.updater.optimizer.register_step_pre_hook(self._tear)

    def save(self) -> Path | None:
        """A checkpoint of this moment, unless there is one or its model gives NaN; a collective.

        Returns the newest that there is.
        """
        if self.is_saved:
            return self.saved
        if not model_is_sound(self.state.policy, self.world):
            self._say(
                "The model gives NaN or logits beyond all bounds: no checkpoint is made of it."
            )
            return self.saved
        moment = self._moment
        self.state.lines = self._lines()
        self._saving = True
        self.saved = self.state.save(self.checkpoints, self.run)
        self._saving, self._saved_moment, self._saved_at = False, moment, time.monotonic()
        return self.saved

    @property
    def is_saved(self) -> bool:
        """Whether the newest checkpoint is of this very moment."""
        return self.saved is not None and self._saved_moment == self._moment

    def due(self, *, rollouts: int = 0, updates: int = 0) -> bool:
        """By the count that is given, or by the clock of the first process; a collective.

        Never right after a skipped update: the checkpoint before is worth more.
        """
        if self.state.counters.skipped:
            return False
        for count, every in (
            (rollouts, self.settings.every),
            (updates, self.settings.every_updates),
        ):
            if every and count and count % every == 0:
                return True
        limit = 60 * self.settings.every_minutes
        late = self.world.from_first(lambda: time.monotonic() - self._saved_at > limit > 0)
        return late and rollouts + updates > 0

    def mend(self) -> None:
        """An update is over and counted: the state is a moment of the run again."""
        self._torn = False

    def save_after(self, error: BaseException) -> None:
        """A checkpoint before a run ends that nobody wanted to end; its sentence says so.

        None of a run in which nothing has been sampled yet, and none of half a step.
        """
        together = self.world.size == 1 or isinstance(error, AllFailed)
        counters = self.state.counters
        nothing = not self.state.rollouts and not counters.updates
        if nothing or self._torn or self._saving or not together:
            return
        try:
            saved = self.save()
        except UserError as another:
            error.add_note(str(another))
        else:
            if saved is not None:
                error.add_note(f"go on with: erclip train --resume {saved.parent.parent}")

    @property
    def _moment(self) -> tuple[str, int, int]:
        return self.state.name, self.state.counters.evaluated, self.state.sampled

    def _tear(self, *_: object) -> None:
        self._torn = True
