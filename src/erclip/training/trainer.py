"""The loop: evaluate, then rollout after rollout of sampling, scoring and updating."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from erclip.config import DataConfig
from erclip.config.recipes import Recipe
from erclip.errors import Diverged
from erclip.machine.distributed import World
from erclip.machine.interrupts import Interrupts, Stopped
from erclip.machine.locks import Lock
from erclip.records import Group
from erclip.runs.checkpoint_folders import Checkpoints, read_state
from erclip.runs.run_dir import RunDir
from erclip.runs.run_folder import lock_run
from erclip.runs.work import Work
from erclip.seeds import derive_seed, seed_torch
from erclip.tasks import Task, load_task
from erclip.training.checkpoints.keeper import Keeper, Log, newest_checkpoint
from erclip.training.checkpoints.rollout_files import group_line
from erclip.training.checkpoints.run_state import RunState, check_settings
from erclip.training.checkpoints.soundness import is_served
from erclip.training.drift import Drift
from erclip.training.prepare import load_trainable
from erclip.training.producers import InTurns, Producer, held_out
from erclip.training.recorder import Recorder
from erclip.training.rewards import check_function
from erclip.training.rollout_queue import RolloutQueue
from erclip.training.rollouts import PromptStream
from erclip.training.sampler_process import SamplerProcess
from erclip.training.sampling.base import encode_prompts
from erclip.training.sampling.load import load_sampler
from erclip.training.scored_rollout import ScoredRollout
from erclip.training.updates import Updater, uses_erc

CHECKED = 1000  # prompts that are tried before a run begins
DRIFT = ("staleness/kl", "staleness/effective_frac")  # a rollout's are those of its first update
IN_A_ROW = 5  # updates skipped in a row before the run gives up


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

    With `resume`, `out` is a run that goes on from its newest sound checkpoint; `log` gets a
    sentence about each damaged one. The folder is locked from here to the end of `train`: by the
    `lock` that the caller has on it, or by one of its own. `work` hears what is being done.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        observer: Observer | None = None,
        *,
        world: World | None = None,
        resume: bool = False,
        lock: Lock | None = None,
        log: Log = lambda text: None,
        work: Work | None = None,
    ):
        self.work = work or Work()
        self.config, self.observer, self.world = recipe.config, observer, world or World()
        self.lock = lock
        if lock is None:
            self.world.from_first(lambda: self._take(out, resume))
        try:
            self._set_up(recipe, out, resume, log)
        except BaseException:
            self._let_go()
            raise

    def _set_up(self, recipe: Recipe, out: Path, resume: bool, log: Log) -> None:
        config = recipe.config
        checkpoints, saved = Checkpoints(out / "checkpoints"), None
        if resume:
            saved = self.world.from_first(
                lambda: newest_checkpoint(out, checkpoints, config.checkpoint, log)
            )
        state = {} if saved is None else read_state(saved)
        if saved is not None:
            check_settings(state, config, saved)
        check_function(config.reward)
        self.work.begin("loading")
        self.task = self.world.together(lambda: task_from(config.data))
        for remark in self.task.remarks if self.world.first else ():
            log(remark)
        stream = PromptStream(self.task.train, config.trainer.seed)
        seed = derive_seed(config.trainer.seed, "lora")
        self.policy = self.world.together(
            lambda: load_trainable(config, self.task, log, seed=seed, checkpoint=saved)
        )
        self.world.together(lambda: self._check_prompts())
        self.policy.shard(self.world)
        self.updater = Updater(self.policy, config, self.world, self.work)
        self.state = RunState(config, self.world, self.policy, self.updater, stream)
        self.drift = Drift(out, self.policy, config, self.world)
        self.recorder = Recorder(config, self.policy.tokenizer, out, self.world)
        if saved is not None:
            self.state.restore(state, saved)
        if self.state.current is not None:
            self.recorder.resume(self.state.current, self.state.lines)
        self.keeper = Keeper(self.state, checkpoints, lambda: self.recorder.lines, saved, log)
        self.run: RunDir | None = None
        self.world.from_first(lambda: self._open(recipe, out, state if resume else None, log))
        farewell = f"go on with: erclip train --resume {out}"
        self.interrupts = Interrupts(self.world, self.work.say, farewell)
        self.producer = self._load_producer(stream, out, log)
        self.queue = RolloutQueue(self.state, self.producer, self.interrupts, self.work)

    def _load_producer(self, stream: PromptStream, out: Path, log: Log) -> Producer:
        config, policy, world = self.config, self.policy, self.world
        if config.rollout.overlap is not None:
            log(NOT_EXACT)
            return SamplerProcess(config, stream, policy, self.interrupts, world, out, self.work)
        sampler = world.together(lambda: load_sampler(config, policy, world, self.work))
        parts = (self.task, stream, policy, sampler, self.interrupts, world, self.work)
        return InTurns(config, *parts)

    def _check_prompts(self) -> None:
        """Have the tokenizer and its template refuse what they will refuse before a run begins."""
        for prompts in (self.task.train[:CHECKED], self.task.test[:CHECKED]):
            encode_prompts(self.policy.tokenizer, prompts, self.config.sampler.max_prompt_tokens)

    def _take(self, out: Path, resume: bool) -> None:
        self.lock = lock_run(out, resume)

    def _let_go(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def _open(self, recipe: Recipe, out: Path, state: Mapping[str, Any] | None, log: Log) -> None:
        new = state is None
        self.run = RunDir(out, recipe) if new else RunDir.reopen(out, recipe, state, log)
        self.keeper.run, self.keeper.checkpoints.run = self.run, self.run.id

    def train(self) -> None:
        """The whole run, or what is left of it; files are readable however it ends.

        `Stopped` (Ctrl-C, SIGTERM, SIGHUP) leaves after a checkpoint; so does, where it can, an
        error: its sentence then says how to go on.
        """
        try:
            with self.interrupts:
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
        asked = len(held_out(self.task, self.config)) > 0
        if not due or counters.evaluated >= rollout or not asked:
            return False
        started = time.perf_counter()
        metrics = {**self.producer.evaluate(), **self.drift.metrics(rollout)}
        metrics["time/eval_s"] = time.perf_counter() - started
        counters.evaluated = rollout
        counters.score = metrics[f"eval/{self.task.name}/avg_at_{self.config.eval.responses}"]
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


def task_from(config: DataConfig) -> Task:
    """The task that a recipe's data section names."""
    return load_task(**config.model_dump())


def _due(count: int, every: int) -> bool:
    return every > 0 and count > 0 and count % every == 0
