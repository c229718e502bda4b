"""The loop: evaluate, then rollout after rollout of sampling, scoring and updating."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from erclip.checkpoints.folders import Checkpoints, read_state
from erclip.checkpoints.run_state import RunState, check_settings
from erclip.checkpoints.training_state import weights_are_finite
from erclip.config import Config, DataConfig
from erclip.config.loss import EntropyRatioClip
from erclip.diagnostics import rounding
from erclip.diagnostics.recorder import Recorder
from erclip.distributed import World
from erclip.errors import Diverged
from erclip.evaluation.training import evaluate
from erclip.flight import Flight, group_lines, plan_updates, score
from erclip.interrupts import Interrupts, Stopped
from erclip.metrics import Pool, sampler_mismatch
from erclip.policy import load_policy
from erclip.recipes import Recipe
from erclip.rollouts import PromptStream, collect
from erclip.run_dir import RunDir
from erclip.sampling.load import load_sampler
from erclip.seeds import derive_seed, seed_torch
from erclip.tasks import Task, load_task
from erclip.updates import ScoredBatch, Updater

ACCIDENTS = 5  # updates skipped in a row before the run gives up


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
        say: Callable[[str], None] = lambda text: None,
    ):
        config = recipe.config
        self.config, self.observer, self.world = config, observer, world or World()
        self.checkpoints = Checkpoints(out / "checkpoints")
        saved = self.world.from_first(lambda: self._newest(say)) if resume else None
        state = {} if saved is None else read_state(saved)
        if saved is not None:
            check_settings(state, config, saved)
        self.task = self.world.together(lambda: task_from(config.data))
        for remark in self.task.remarks if self.world.first else ():
            say(remark)
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
        self.sampler = self.world.together(lambda: load_sampler(config, self.policy, self.world))
        self.recorder = Recorder(config, self.policy.tokenizer, out, self.world)
        if saved is not None:
            self.state.restore(state, saved)
        if self.state.flight is not None:
            self.recorder.resume(self.state.flight, self.state.lines)
        self.saved = saved
        self._saved_moment = (self.state.name, self.state.counters.evaluated)
        self.run: RunDir | None = None

        def open_run() -> None:
            self.run = RunDir.reopen(out, recipe, state) if resume else RunDir(out, recipe)

        self.world.from_first(open_run)
        self.interrupts = Interrupts(self.world)

    def train(self) -> None:
        """The whole run, or what is left of it; files are closed and readable however it ends.

        `Stopped` (Ctrl-C, SIGTERM) leaves after a checkpoint.
        """
        try:
            with self.interrupts:
                try:
                    self._loop()
                except Stopped:
                    self.save()
                    raise
        finally:
            if self.run is not None:
                self.run.close()

    def _loop(self) -> None:
        counters = self.state.counters
        self.sampler.update_weights()  # a resumed run's, or what a server's last user left
        while True:
            if self.state.flight is not None:
                self._finish_rollout(self.state.flight)
            improved = self._evaluate_if_due()
            last = counters.rollouts == self.config.trainer.rollouts
            if last or improved or _due(counters.rollouts, self.config.checkpoint.every):
                self.save()
            if last:
                return
            self.interrupts.check()
            self._begin_rollout(counters.rollouts + 1)
            self.interrupts.check()

    def save(self) -> Path:
        """A checkpoint of this moment, unless there is one; a collective."""
        moment = (self.state.name, self.state.counters.evaluated)
        if self.saved is None or self._saved_moment != moment:
            self.state.lines = self.recorder.lines
            self.saved = self.state.save(self.checkpoints, self.run)
            self._saved_moment = moment
        return self.saved

    def _begin_rollout(self, number: int) -> None:
        """Sample, and score with the policy as it now is."""
        started = time.perf_counter()
        seed = derive_seed(self.config.trainer.seed, "rollout", number)
        seed_torch(self._seed("rollout", number))
        first = self.state.stream.position
        try:
            with self.interrupts.at_once(), self.policy.gathered():
                rollout = collect(
                    self.state.stream, self.task, self.sampler, self.config, seed, self.world
                )
        except Stopped:
            self.state.stream.position = first
            raise
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
        self._save_samples(flight)
        self.recorder.begin(flight)
        self.state.flight = flight

    def _rounding(self, flight: Flight) -> dict[str, float]:
        """Now and then: what ERC clips of the first mini-batch for rounding alone."""
        if not flight.order or not uses_erc(self.config) or not rounding.due(flight.number):
            return {}
        mini_batch = flight.scored[flight.order[0]]
        return {"erc/rounding_frac": rounding.rounding_share(self.updater, mini_batch)}

    def _finish_rollout(self, flight: Flight) -> None:
        """The updates that are still to be made, K × E of them in all."""
        while not flight.finished:
            self._update(flight)
            if not flight.finished:
                if _due(self.state.counters.updates, self.config.checkpoint.every_updates):
                    self.save()
                self.interrupts.check()
        self.recorder.end()
        self._log("rollout", flight.number, flight.metrics)
        self.state.counters.rollouts = flight.number
        self.state.flight = None
        self.sampler.update_weights()

    def _update(self, flight: Flight) -> None:
        """One update; what ERC clips in a rollout's first one is noise (true ρ = 1)."""
        started = time.perf_counter()
        counters = self.state.counters
        update, index, mini = counters.updates + 1, flight.done + 1, flight.order[flight.done]
        seed_torch(self._seed("update", update))  # for random_mask
        with self.recorder.update(update, index) as watch:
            metrics = self.updater.update(flight.scored[mini], watch)
        if index == 1 and uses_erc(self.config):
            flight.metrics["erc/noise_frac"] = metrics["clip/erc_frac"]
        places = {"update": update, "update_in_rollout": index}
        self._log("update", flight.number, {**places, **metrics})
        counters.updates, flight.done = update, index
        for name in ("time/update_s", "time/rollout_s"):
            flight.metrics[name] += time.perf_counter() - started
        counters.skipped = counters.skipped + 1 if metrics["grad/skipped"] else 0
        if counters.skipped >= ACCIDENTS:
            self._give_up(flight, mini)

    def _give_up(self, flight: Flight, mini: int) -> None:
        """Too many updates in a row were skipped: the weights are those from before them."""
        update = self.state.counters.updates
        lines = group_lines(flight.mini_samples(mini))
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
        prompts = self.task.test[: self.config.eval.prompts or None]
        if not due or counters.evaluated >= rollout or not len(prompts):
            return False
        started = time.perf_counter()
        seed = derive_seed(self.config.trainer.seed, "eval")
        with self.interrupts.at_once(), self.policy.gathered():
            metrics = evaluate(self.task, prompts, self.sampler, self.config, seed, self.world)
        metrics["time/eval_s"] = time.perf_counter() - started
        self._log("eval", rollout, metrics)
        counters.evaluated = rollout
        counters.score = metrics[f"eval/{self.task.name}/avg_at_{self.config.eval.responses}"]
        if rollout == 0 or (counters.best is not None and counters.score <= counters.best):
            return False
        counters.best = counters.score
        return self.config.checkpoint.keep_best > 0

    def _newest(self, say: Callable[[str], None]) -> Path | None:
        self.checkpoints.sweep()
        saved, complaints = self.checkpoints.newest()
        for complaint in complaints:
            say(complaint)
        if saved is None:
            say("There is no checkpoint to go on from: the run starts again.")
        return saved

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


def uses_erc(config: Config) -> bool:
    """Whether an entropy-ratio constraint is in the loss."""
    return any(isinstance(part, EntropyRatioClip) for part in config.loss.constraints)


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
