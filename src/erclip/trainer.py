"""The loop: evaluate, then rollout after rollout of sampling, scoring and updating."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from erclip.checkpoints.folders import Checkpoints, read_state
from erclip.checkpoints.keeper import Keeper, Say, newest_checkpoint
from erclip.checkpoints.run_state import RunState, check_settings
from erclip.checkpoints.soundness import is_served
from erclip.config import DataConfig
from erclip.diagnostics import rounding
from erclip.diagnostics.recorder import Recorder
from erclip.distributed import World
from erclip.errors import Diverged
from erclip.evaluation.training import evaluate
from erclip.flight import Flight, group_lines, plan_updates, score
from erclip.interrupts import Interrupts, Stopped
from erclip.locks import Lock
from erclip.metrics import Pool, sampler_mismatch
from erclip.prepare import load_trainable
from erclip.recipes import Recipe
from erclip.rewards import check_function
from erclip.rollouts import PromptStream, collect
from erclip.run_dir import RunDir
from erclip.run_folder import lock_run
from erclip.sampling.base import encode_prompts
from erclip.sampling.load import load_sampler
from erclip.seeds import derive_seed, seed_torch
from erclip.tasks import Task, load_task
from erclip.updates import ScoredBatch, Updater

CHECKED = 1000  # prompts that are tried before a run begins
ACCIDENTS = 5  # updates skipped in a row before the run gives up


class Observer(Protocol):
    """Whoever watches a run: the progress display, a test."""

    def on_log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        """Called with every line that goes to metrics.jsonl."""
        ...


class Trainer:
    """One run, set up: policy, task, sampler, optimiser, run directory.

    With `resume`, `out` is a run that goes on from its newest sound checkpoint; `say` gets a
    sentence about each damaged one. The folder is locked from here to the end of `train`: by the
    `lock` that the caller has on it, or by one of its own.
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
        say: Say = lambda text: None,
    ):
        self.config, self.observer, self.world = recipe.config, observer, world or World()
        self.lock = lock
        if lock is None:
            self.world.from_first(lambda: self._take(out, resume))
        try:
            self._set_up(recipe, out, resume, say)
        except BaseException:
            self._let_go()
            raise

    def _set_up(self, recipe: Recipe, out: Path, resume: bool, say: Say) -> None:
        config = recipe.config
        checkpoints, saved = Checkpoints(out / "checkpoints"), None
        if resume:
            saved = self.world.from_first(
                lambda: newest_checkpoint(out, checkpoints, config.checkpoint, say)
            )
        state = {} if saved is None else read_state(saved)
        if saved is not None:
            check_settings(state, config, saved)
        check_function(config.reward)
        self.task = self.world.together(lambda: task_from(config.data))
        for remark in self.task.remarks if self.world.first else ():
            say(remark)
        stream = PromptStream(self.task.train, config.trainer.seed)
        seed = derive_seed(config.trainer.seed, "lora")
        self.policy = self.world.together(
            lambda: load_trainable(config, self.task, say, seed=seed, checkpoint=saved)
        )
        self.world.together(lambda: self._check_prompts())
        self.policy.shard(self.world)
        self.updater = Updater(self.policy, config, self.world)
        self.state = RunState(config, self.world, self.policy, self.updater, stream)
        self.sampler = self.world.together(lambda: load_sampler(config, self.policy, self.world))
        self.recorder = Recorder(config, self.policy.tokenizer, out, self.world)
        if saved is not None:
            self.state.restore(state, saved)
        if self.state.flight is not None:
            self.recorder.resume(self.state.flight, self.state.lines)
        self.keeper = Keeper(self.state, checkpoints, lambda: self.recorder.lines, saved, say)
        self.run: RunDir | None = None
        self.world.from_first(lambda: self._open(recipe, out, state if resume else None, say))
        self.interrupts = Interrupts(self.world)

    def _check_prompts(self) -> None:
        """Have the tokenizer and its template refuse what they will refuse before a run begins."""
        for prompts in (self.task.train[:CHECKED], self.task.test[:CHECKED]):
            encode_prompts(self.policy.tokenizer, prompts, self.config.sampler.max_prompt_tokens)

    def _take(self, out: Path, resume: bool) -> None:
        self.lock = lock_run(out, resume)

    def _let_go(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def _open(self, recipe: Recipe, out: Path, state: Mapping[str, Any] | None, say: Say) -> None:
        new = state is None
        self.run = RunDir(out, recipe) if new else RunDir.reopen(out, recipe, state, say)
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
                    self.keeper.save()
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
            self._let_go()

    def _loop(self) -> None:
        counters = self.state.counters
        self.sampler.update_weights()  # a resumed run's, or what a server's last user left
        while True:
            if self.state.flight is not None:
                self._finish_rollout(self.state.flight)
            improved = self._evaluate_if_due()
            last = counters.rollouts == self.config.trainer.rollouts
            if last or improved or self.keeper.due(rollouts=counters.rollouts):
                self.keeper.save()
            if last and not self.keeper.is_saved:
                raise Diverged("After the last update the model gives NaN")
            if last:
                return
            self.interrupts.check()
            self._begin_rollout(counters.rollouts + 1)
            self.interrupts.check()

    @property
    def saved(self) -> Path | None:
        """The newest checkpoint."""
        return self.keeper.saved

    def _begin_rollout(self, number: int) -> None:
        """Sample, and score with the policy as it now is."""
        started = time.perf_counter()
        seed = derive_seed(self.config.trainer.seed, "rollout", number)
        seed_torch(self._seed("rollout", number))
        first = self.state.stream.position
        try:
            self._take_off(number, seed, first, started)
        except BaseException:
            if self.state.flight is None:
                self.state.stream.position = first
            raise

    def _take_off(self, number: int, seed: int, first: int, started: float) -> None:
        with self.interrupts.at_once(), self.policy.gathered():
            rollout = collect(
                self.state.stream, self.task, self.sampler, self.config, seed, self.world
            )
        collected = time.perf_counter()
        minis, order = plan_updates(rollout.sampled, rollout.kept, self.config, seed)
        flight = Flight(number, first, rollout.sampled, minis, order)
        flight.scored = [
            score(flight.mini_samples(mini), self.policy, self.config, self.world)
            for mini in range(len(minis))
        ]
        scored = time.perf_counter()
        flight.metrics = {
            **rollout.metrics(),
            **_old_metrics(flight.scored, self.world),
            **self._rounding(flight),
            "time/score_s": scored - collected,
            "time/update_s": 0.0,
            "time/rollout_s": time.perf_counter() - started,
        }
        self.recorder.begin(flight)
        self.state.flight = flight
        self._save_samples(flight)

    def _rounding(self, flight: Flight) -> dict[str, float]:
        """Now and then: what ERC clips of the first mini-batch for rounding alone."""
        if not flight.order or not self._uses_erc or not rounding.due(flight.number):
            return {}
        mini_batch = flight.scored[flight.order[0]]
        return {"erc/rounding_frac": rounding.rounding_share(self.updater, mini_batch)}

    def _finish_rollout(self, flight: Flight) -> None:
        """The updates that are still to be made, K × E of them in all."""
        while not flight.finished:
            self._update(flight)
            if not flight.finished:
                if self.keeper.due(updates=self.state.counters.updates):
                    self.keeper.save()
                self.interrupts.check()
        self.recorder.end()
        self.state.counters.rollouts = flight.number
        self.state.flight = None
        self._log("rollout", flight.number, flight.metrics)
        self.sampler.update_weights()

    def _update(self, flight: Flight) -> None:
        """One update; what ERC clips in a rollout's first one is noise (true ρ = 1)."""
        started = time.perf_counter()
        counters = self.state.counters
        update, index, mini = counters.updates + 1, flight.done + 1, flight.order[flight.done]
        seed_torch(self._seed("update", update))
        lots = None
        if "lots" in self.updater.loss_fn.needs:
            lots = flight.lots(derive_seed(self.config.trainer.seed, "lots", update))
        with self.recorder.update(update, index) as watch:
            metrics = self.updater.update(flight.scored[mini], watch, lots)
        largest = max(metrics["grad/norm"], flight.metrics.get("grad/norm_max", 0.0))
        flight.metrics["grad/norm_max"] = largest
        if index == 1 and self._uses_erc:
            flight.metrics["erc/noise_frac"] = metrics["clip/erc_frac"]
        counters.updates, flight.done = update, index
        counters.skipped = counters.skipped + 1 if metrics["grad/skipped"] else 0
        self.keeper.mend()
        places = {"update": update, "update_in_rollout": index}
        self._log("update", flight.number, {**places, **metrics})
        for name in ("time/update_s", "time/rollout_s"):
            flight.metrics[name] += time.perf_counter() - started
        if counters.skipped >= ACCIDENTS:
            self._give_up(flight, mini)

    def _give_up(self, flight: Flight, mini: int) -> None:
        """Too many updates in a row were skipped: the weights are those from before them."""
        update = self.state.counters.updates
        lines = group_lines(flight.mini_samples(mini))
        batch = self.world.from_first(lambda: self.run and self.run.log_accident(update, lines))
        if is_served(self.policy, self.world):
            self.keeper.save()
        raise Diverged(
            f"{ACCIDENTS} updates in a row, the last of them update {update}, had a loss or a "
            f"gradient that is not finite (NaN or too large); its batch is in {batch}"
        )

    def _advice(self) -> str:
        """Where to start again after training has diverged."""
        return (
            "start a run from the weights before with a lower learning rate: --set model.path="
            f"{self.saved or self.config.model.path} "
            f"--set trainer.learning_rate={self.config.trainer.learning_rate / 3:.1g}"
        )

    @cached_property
    def _uses_erc(self) -> bool:
        """Whether an entropy-ratio constraint is in the loss."""
        return "erc_low" in self.updater.loss_fn.reports

    def _evaluate_if_due(self) -> bool:
        """Held-out accuracy, always of the same draws; whether it is the best so far."""
        counters, every = self.state.counters, self.config.eval.every
        rollout = counters.rollouts
        due = rollout in (0, self.config.trainer.rollouts) or _due(rollout, every)
        prompts = self.task.test[: self.config.eval.prompts or None]
        if not due or counters.evaluated >= rollout or not len(prompts):
            return False
        started = time.perf_counter()
        seed = derive_seed(self.config.trainer.seed, "eval")
        with self.interrupts.at_once(), self.policy.gathered():
            metrics = evaluate(self.task, prompts, self.sampler, self.config, seed, self.world)
        metrics["time/eval_s"] = time.perf_counter() - started
        counters.evaluated = rollout
        counters.score = metrics[f"eval/{self.task.name}/avg_at_{self.config.eval.responses}"]
        self._log("eval", rollout, metrics)
        if rollout == 0 or (counters.best is not None and counters.score <= counters.best):
            return False
        counters.best = counters.score
        return self.config.checkpoint.keep_best > 0

    def _seed(self, *names: object) -> int:
        """A seed for one use of randomness in this process; counters are all a resume needs."""
        rank = [self.world.rank] if self.world.size > 1 else []
        return derive_seed(self.config.trainer.seed, *names, *rank)

    def _save_samples(self, flight: Flight) -> None:
        samples = flight.samples
        count = min(self.config.trainer.saved_samples, len(samples))
        chosen = random.Random(flight.number).sample(range(len(samples)), count)
        if self.run is not None:
            self.run.log_samples(flight.number, (samples[i] for i in sorted(chosen)))

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


def _old_metrics(scored: Sequence[Sequence[ScoredBatch]], world: World) -> dict[str, float]:
    """Entropy of the old policy, and how far the sampler's log-probs were from the trainer's."""
    pool = Pool()
    log_ratios = []
    for item in (item for mini in scored for item in mini):
        mask, old = item.batch.mask, item.old
        log_ratios.append((old.logprobs - item.batch.sampler_logprobs)[mask])
        pool.add({"policy/entropy": old.entropies.where(mask, 0.0).sum()}, item.batch.num_tokens)
    if not log_ratios:  # no group was kept, on any process
        return {}
    everywhere = world.concatenate(torch.cat(log_ratios))
    return {**pool.means(world), **(sampler_mismatch(everywhere) if len(everywhere) else {})}
