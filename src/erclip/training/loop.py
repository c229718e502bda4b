"""The loop: evaluate, then rollout after rollout of sampling, scoring and updating.

It knows nobody who watches: what evaluates, what keeps single tokens and what shows progress are
handed to it by `trainer`.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from erclip.config import Config
from erclip.errors import Diverged
from erclip.machine.collector import old_objects_skipped
from erclip.machine.distributed import World
from erclip.machine.interrupts import Interrupts, Stopped
from erclip.machine.locks import Lock
from erclip.records import Group
from erclip.runs.run_dir import RunDir
from erclip.runs.work import Work
from erclip.seeds import derive_seed, seed_torch
from erclip.training.checkpoints.keeper import Keeper
from erclip.training.checkpoints.rollout_files import group_line
from erclip.training.checkpoints.run_state import RunState
from erclip.training.checkpoints.soundness import is_served
from erclip.training.drift import Drift
from erclip.training.policy import Policy
from erclip.training.producers import Producer
from erclip.training.rollout_queue import RolloutQueue
from erclip.training.scored_rollout import ScoredRollout
from erclip.training.updates import Updater, Watch, uses_erc

DRIFT = tuple(f"staleness/{name}" for name in ("kl", "chi2", "effective_frac"))
"""A rollout's are those of its first update."""
IN_A_ROW = 5  # updates skipped in a row before the run gives up


class Observer(Protocol):
    """Whoever watches a run: the progress display, a test."""

    def on_log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        """Called with every line that goes to metrics.jsonl."""
        ...


class TokenObserver(Protocol):
    """Whoever keeps single tokens, rollout by rollout."""

    def begin(self, rollout: ScoredRollout) -> None:
        """Called with a rollout that has been scored and is about to be trained on."""
        ...

    def update(self, update: int, update_in_rollout: int) -> AbstractContextManager[Watch | None]:
        """Around every update: what shall see its micro-batches, None for nobody."""
        ...

    def end(self) -> None:
        """Called after the rollout's last update."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What is measured before the first rollout and after some: a collective.

    `measure` takes the number of rollouts so far; `score` names the number of its result by which
    the best checkpoint is chosen.
    """

    measure: Callable[[int], dict[str, float]]
    score: str


class Loop:
    """A run that has been set up, from where it stands to its end."""

    config: Config
    world: World
    lock: Lock | None
    policy: Policy
    updater: Updater
    state: RunState
    drift: Drift
    keeper: Keeper
    run: RunDir | None
    interrupts: Interrupts
    producer: Producer
    queue: RolloutQueue
    work: Work
    observer: Observer | None
    recorder: TokenObserver
    evaluation: Evaluation | None

    def train(self) -> None:
        """The whole run, or what is left of it; files are readable however it ends.

        `Stopped` (Ctrl-C, SIGTERM, SIGHUP) leaves after a checkpoint; so does, where it can, an
        error: its sentence then says how to go on.
        """
        try:
            with self.interrupts, old_objects_skipped():
                try:
                    self._loop()
                except Stopped:
                    self.save()
                    raise
                except KeyboardInterrupt:  # the second Ctrl-C: at once
                    raise
                except Diverged as error:
                    error.add_note(self._advice())
                    raise
                except BaseException as error:
                    self.keeper.save_after(error)
                    raise
        finally:
            self.producer.close()
            self._let_go()

    def _loop(self) -> None:
        counters = self.state.counters
        self.producer.update_weights(counters.updates)  # a resumed run's, or for a server's sake
        while True:
            if self.state.current is not None:
                self._finish_rollout(self.state.current)
            improved = self._evaluate_if_due()
            last = counters.rollouts == self.config.trainer.rollouts
            if last or improved or self.keeper.due(rollouts=counters.rollouts):
                self.save()
            if last and not self.keeper.is_saved:
                raise Diverged("After the last update the model gives NaN")
            if last:
                return
            self.queue.fill()
            self._begin_rollout()
            self.interrupts.check()

    @property
    def saved(self) -> Path | None:
        """The newest checkpoint."""
        return self.keeper.saved

    def save(self) -> Path | None:
        """A checkpoint of this moment, with what has been sampled; a collective."""
        self.work.begin("saving")
        self.queue.receive()
        return self.keeper.save()

    def _begin_rollout(self) -> None:
        rollout = self.queue.take()
        self.drift.begin(rollout.number, rollout.scored)
        self.recorder.begin(rollout)
        self.state.current = rollout
        self._save_samples(rollout)

    def _finish_rollout(self, rollout: ScoredRollout) -> None:
        """The updates that are still to be made, K × E of them in all."""
        counters = self.state.counters
        self._begin_updates(rollout)
        while not rollout.finished:
            self._update(rollout)
            if not rollout.finished:
                if self.keeper.due(updates=counters.updates):
                    self.save()
                    self._begin_updates(rollout)
                self.interrupts.check()
        self.recorder.end()
        counters.rollouts = rollout.number
        self.state.current = None
        self._log("rollout", rollout.number, rollout.summary())
        self.producer.update_weights(counters.updates)

    def _begin_updates(self, rollout: ScoredRollout) -> None:
        left = rollout.tokens(rollout.order[rollout.done :])
        self.work.begin("updating", left // self.world.size, "tokens")

    def _update(self, rollout: ScoredRollout) -> None:
        """One update; what ERC clips of a first mini-batch whose true ρ is 1 is noise."""
        started = time.perf_counter()
        counters = self.state.counters
        update, index, mini = counters.updates + 1, rollout.done + 1, rollout.order[rollout.done]
        seed = self.config.trainer.seed
        seed_torch(derive_seed(seed, "update", update, *self.world.own_name))
        lots = None
        if "lots" in self.updater.loss_fn.needs:
            lots = rollout.lots(derive_seed(seed, "lots", update))
        with self.recorder.update(update, index) as watch:
            metrics = self.updater.update(rollout.scored[mini], watch, lots)
        largest = max(metrics["grad/norm"], rollout.metrics.get("grad/norm_max", 0.0))
        rollout.metrics["grad/norm_max"] = largest
        if index == 1:
            rollout.metrics |= {name: metrics[name] for name in DRIFT if name in metrics}
            if rollout.scored_at == counters.updates and uses_erc(self.updater.loss_fn):
                rollout.metrics["erc/noise_frac"] = metrics["clip/erc_frac"]
        counters.updates, rollout.done = update, index
        counters.skipped = counters.skipped + 1 if metrics["grad/skipped"] else 0
        self.keeper.mend()
        places = {"update": update, "update_in_rollout": index}
        self._log("update", rollout.number, {**places, **metrics})
        for name in ("time/update_s", "time/rollout_s"):
            rollout.metrics[name] += time.perf_counter() - started
        if counters.skipped >= IN_A_ROW:
            self._give_up(rollout, mini)

    def _give_up(self, rollout: ScoredRollout, mini: int) -> None:
        """Too many updates in a row were skipped: the weights are those from before them."""
        update = self.state.counters.updates
        samples = rollout.mini_samples(mini)
        lines = [json.dumps(group_line(Group((sample,)))) + "\n" for sample in samples]
        batch = self.world.from_first(lambda: self.run and self.run.log_failed_batch(update, lines))
        if is_served(self.policy, self.world):
            self.keeper.save()
        raise Diverged(
            f"{IN_A_ROW} updates in a row, the last of them update {update}, had a loss or a "
            f"gradient that is not finite (NaN or too large); its batch is in {batch}"
        )

    def _advice(self) -> str:
        """Where to start again after training has diverged."""
        return (
            "start a run from the weights before with a lower learning rate: --set model.path="
            f"{self.saved or self.config.model.path} "
            f"--set trainer.learning_rate={self.config.trainer.learning_rate / 3:.1g}"
        )

    def _evaluate_if_due(self) -> bool:
        """Held-out accuracy, always of the same draws; whether it is the best so far."""
        counters, every = self.state.counters, self.config.eval.every
        rollout = counters.rollouts
        due = rollout in (0, self.config.trainer.rollouts) or _due(rollout, every)
        if self.evaluation is None or not due or counters.evaluated >= rollout:
            return False
        started = time.perf_counter()
        metrics = self.evaluation.measure(rollout)
        metrics["time/eval_s"] = time.perf_counter() - started
        counters.evaluated = rollout
        counters.score = metrics[self.evaluation.score]
        self.state.note_evaluation(rollout, metrics)
        self._log("eval", rollout, metrics)
        if rollout == 0 or (counters.best is not None and counters.score <= counters.best):
            return False
        counters.best = counters.score
        return self.config.checkpoint.keep_best > 0

    def _save_samples(self, rollout: ScoredRollout) -> None:
        samples = rollout.samples
        count = min(self.config.trainer.saved_samples, len(samples))
        chosen = random.Random(rollout.number).sample(range(len(samples)), count)
        if self.run is not None:
            self.run.log_samples(rollout.number, (samples[i] for i in sorted(chosen)))

    def _log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        if self.run is not None:
            self.run.log(kind, rollout, metrics)
        if self.observer is not None:
            self.observer.on_log(kind, rollout, metrics)

    def _let_go(self) -> None:
        if self.lock is not None:
            self.lock.release()


def _due(count: int, every: int) -> bool:
    return every > 0 and count > 0 and count % every == 0
