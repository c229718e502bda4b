"""The loop: evaluate, then rollout after rollout of sampling, scoring and updating."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from erclip.checkpoints.folders import Checkpoints, read_state
from erclip.checkpoints.rollout_files import group_line
from erclip.checkpoints.run_state import RunState, check_settings
from erclip.checkpoints.training_state import weights_are_finite
from erclip.config import DataConfig
from erclip.diagnostics.recorder import Recorder
from erclip.distributed import World
from erclip.errors import Diverged
from erclip.interrupts import Interrupts, Stopped
from erclip.policy import load_policy
from erclip.producers import InTurns, Producer, held_out
from erclip.recipes import Recipe
from erclip.records import Group
from erclip.rollout_queue import RolloutQueue
from erclip.rollouts import PromptStream
from erclip.run_dir import RunDir
from erclip.sampler_process import SamplerLost, SamplerProcess
from erclip.sampling.load import load_sampler
from erclip.scored_rollout import ScoredRollout
from erclip.seeds import derive_seed, seed_torch
from erclip.tasks import Task, load_task
from erclip.updates import Updater, uses_erc

DRIFT = ("staleness/kl", "staleness/effective_frac")  # a rollout's are those of its first update
ACCIDENTS = 5  # updates skipped in a row before the run gives up


Say = Callable[[str], None]
NOT_EXACT = (
    "with rollout.overlap it depends on timing when new weights reach the sampler, so this run "
    "does not repeat itself bit for bit."
)


class Observer(Protocol):
    """Whoever watches a run: the progress display, a test."""

    def on_log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        """Called with every line that goes to metrics.jsonl."""
        ...


class Trainer:
    """One run, set up: policy, task, sampler, optimiser, run directory.

    With `resume`, `out` is a run that goes on from its newest sound checkpoint; `say` gets a
    sentence about each damaged one.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        observer: Observer | None = None,
        *,
        world: World | None = None,
        resume: bool = False,
        say: Say = lambda text: None,
    ):
        config = recipe.config
        self.config, self.observer, self.world = config, observer, world or World()
        self.checkpoints = Checkpoints(out / "checkpoints")
        saved = self.world.from_first(lambda: self._newest(say)) if resume else None
        state = {} if saved is None else read_state(saved)
        if saved is not None:
            check_settings(state, config, saved)
        self.task = self.world.together(lambda: task_from(config.data))
        stream = PromptStream(self.task.train, config.trainer.seed)
        seed = derive_seed(config.trainer.seed, "lora")
        self.policy = self.world.together(
            lambda: load_policy(
                config.model, config.sampler.temperature, seed=seed, checkpoint=saved
            )
        )
        self.policy.shard(self.world)
        self.updater = Updater(self.policy, config, self.world)
        self.state = RunState(config, self.world, self.policy, self.updater, stream)
        self.recorder = Recorder(config, self.policy.tokenizer, out, self.world)
        if saved is not None:
            self.state.restore(state, saved)
        if self.state.current is not None:
            self.recorder.resume(self.state.current, self.state.lines)
        self.saved, self._saved_moment = saved, self._moment
        self.run: RunDir | None = None

        def open_run() -> None:
            self.run = RunDir.reopen(out, recipe, state) if resume else RunDir(out, recipe)

        self.world.from_first(open_run)
        self.interrupts = Interrupts(self.world)
        self.producer = self._load_producer(stream, out, say)
        self.queue = RolloutQueue(self.state, self.producer, self.interrupts)

    def _load_producer(self, stream: PromptStream, out: Path, say: Say) -> Producer:
        config, policy, world = self.config, self.policy, self.world
        if config.rollout.overlap is not None:
            say(NOT_EXACT)
            return SamplerProcess(config, stream, policy, self.interrupts, world, out)
        sampler = world.together(lambda: load_sampler(config, policy, world))
        return InTurns(config, self.task, stream, policy, sampler, self.interrupts, world)

    def train(self) -> None:
        """The whole run, or what is left of it; files are closed and readable however it ends.

        `Stopped` (Ctrl-C, SIGTERM) and `SamplerLost` leave after a checkpoint.
        """
        try:
            with self.interrupts:
                try:
                    self._loop()
                except (Stopped, SamplerLost):
                    self.save()
                    raise
        finally:
            self.producer.close()
            if self.run is not None:
                self.run.close()

    def _loop(self) -> None:
        counters = self.state.counters
        self.producer.update_weights(counters.updates)  # a resumed run's, or for a server's sake
        while True:
            if self.state.current is not None:
                self._finish_rollout(self.state.current)
            improved = self._evaluate_if_due()
            last = counters.rollouts == self.config.trainer.rollouts
            if last or improved or _due(counters.rollouts, self.config.checkpoint.every):
                self.save()
            if last:
                return
            self.queue.fill()
            self._begin_rollout()
            self.interrupts.check()

    def save(self) -> Path:
        """A checkpoint of this moment, unless there is one; a collective."""
        self.queue.receive()
        if self.saved is None or self._saved_moment != self._moment:
            self.state.lines = self.recorder.lines
            self.saved = self.state.save(self.checkpoints, self.run)
            self._saved_moment = self._moment
        return self.saved

    @property
    def _moment(self) -> tuple[str, int, int]:
        return self.state.name, self.state.counters.evaluated, self.state.sampled

    def _begin_rollout(self) -> None:
        rollout = self.queue.take()
        self._save_samples(rollout)
        self.recorder.begin(rollout)
        self.state.current = rollout

    def _finish_rollout(self, rollout: ScoredRollout) -> None:
        """The updates that are still to be made, K × E of them in all."""
        counters = self.state.counters
        while not rollout.finished:
            self._update(rollout)
            if not rollout.finished:
                if _due(counters.updates, self.config.checkpoint.every_updates):
                    self.save()
                self.interrupts.check()
        self.recorder.end()
        self._log("rollout", rollout.number, rollout.summary())
        counters.rollouts = rollout.number
        self.state.current = None
        self.producer.update_weights(counters.updates)

    def _update(self, rollout: ScoredRollout) -> None:
        """One update; what ERC clips of a first mini-batch whose true ρ is 1 is noise."""
        started = time.perf_counter()
        counters = self.state.counters
        update, index, mini = counters.updates + 1, rollout.done + 1, rollout.order[rollout.done]
        seed = derive_seed(self.config.trainer.seed, "update", update, *self.world.own_name)
        seed_torch(seed)  # for random_mask
        with self.recorder.update(update, index) as watch:
            metrics = self.updater.update(rollout.scored[mini], watch)
        if index == 1:
            rollout.metrics |= {name: metrics[name] for name in DRIFT if name in metrics}
            if rollout.scored_at == counters.updates and uses_erc(self.config.loss):
                rollout.metrics["erc/noise_frac"] = metrics["clip/erc_frac"]
        places = {"update": update, "update_in_rollout": index}
        self._log("update", rollout.number, {**places, **metrics})
        counters.updates, rollout.done = update, index
        for name in ("time/update_s", "time/rollout_s"):
            rollout.metrics[name] += time.perf_counter() - started
        counters.skipped = counters.skipped + 1 if metrics["grad/skipped"] else 0
        if counters.skipped >= ACCIDENTS:
            self._give_up(rollout, mini)

    def _give_up(self, rollout: ScoredRollout, mini: int) -> None:
        """Too many updates in a row were skipped: the weights are those from before them."""
        update = self.state.counters.updates
        samples = rollout.mini_samples(mini)
        lines = [json.dumps(group_line(Group((sample,)))) + "\n" for sample in samples]
        batch = self.world.from_first(lambda: self.run and self.run.log_accident(update, lines))
        sound = weights_are_finite(self.policy.model, self.world)
        model = self.save() if sound else self.saved
        raise Diverged(
            f"{ACCIDENTS} updates in a row, the last of them update {update}, had a loss or a "
            f"gradient that is not finite; its batch is in {batch}; start a run from the weights "
            f"before them with a lower learning rate: --set model.path="
            f"{model or self.config.model.path} "
            f"--set trainer.learning_rate={self.config.trainer.learning_rate / 3:.1g}"
        )

    def _evaluate_if_due(self) -> bool:
        """Held-out accuracy, always of the same draws; whether it is the best so far."""
        counters, every = self.state.counters, self.config.eval.every
        rollout = counters.rollouts
        due = rollout in (0, self.config.trainer.rollouts) or _due(rollout, every)
        asked = len(held_out(self.task, self.config)) > 0
        if not due or counters.evaluated >= rollout or not asked:
            return False
        started = time.perf_counter()
        metrics = self.producer.evaluate()
        metrics["time/eval_s"] = time.perf_counter() - started
        self._log("eval", rollout, metrics)
        counters.evaluated = rollout
        counters.score = metrics[f"eval/{self.task.name}/avg_at_{self.config.eval.responses}"]
        if rollout == 0 or (counters.best is not None and counters.score <= counters.best):
            return False
        counters.best = counters.score
        return self.config.checkpoint.keep_best > 0

    def _newest(self, say: Say) -> Path | None:
        self.checkpoints.sweep()
        saved, complaints = self.checkpoints.newest()
        for complaint in complaints:
            say(complaint)
        if saved is None:
            say("There is no checkpoint to go on from: the run starts again.")
        return saved

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


def task_from(config: DataConfig) -> Task:
    """The task that a recipe's data section names."""
    return load_task(**config.model_dump())


def _due(count: int, every: int) -> bool:
    return every > 0 and count > 0 and count % every == 0
