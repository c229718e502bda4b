"""The loop: evaluate, then rollout after rollout of sampling, scoring and updating."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from erclip.batches import (
    Group,
    TokenBatch,
    deal,
    empty_batch,
    make_batch,
    micro_batches,
    mini_batches,
)
from erclip.config import Config, DataConfig, EntropyRatioClip
from erclip.diagnostics.recorder import Recorder
from erclip.distributed import World
from erclip.evaluation.training import evaluate
from erclip.metrics import Pool, sampler_mismatch
from erclip.policy import load_policy
from erclip.recipes import Recipe
from erclip.rollouts import PromptStream, Rollout, collect
from erclip.run_dir import RunDir
from erclip.sampling import TransformersSampler
from erclip.seeds import derive_seed
from erclip.tasks import Task, load_task
from erclip.updates import ScoredBatch, Updater, score_old


class Observer(Protocol):
    """Whoever watches a run: the progress display, a test."""

    def on_log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        """Called with every line that goes to metrics.jsonl."""
        ...


class Trainer:
    """One run, set up: policy, task, sampler, optimiser, run directory."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        observer: Observer | None = None,
        world: World | None = None,
    ):
        config = recipe.config
        self.config, self.observer, self.world = config, observer, world or World()
        self.task = task_from(config.data)
        self.policy = load_policy(config.model, config.sampler.temperature)
        self.policy.shard(self.world)
        self.updater = Updater(self.policy, config, self.world)
        self.sampler = TransformersSampler(
            self.policy.model, self.policy.tokenizer, config.sampler.batch_size
        )
        self.stream = PromptStream(self.task.train, config.trainer.seed)
        self.updates = 0
        self.run = RunDir(out, recipe)
        self.recorder = Recorder(config, self.policy.tokenizer, out)

    def train(self) -> None:
        """The whole run; files are closed and readable however it ends."""
        trainer = self.config.trainer
        try:
            self.evaluate(rollout=0)
            for rollout in range(1, trainer.rollouts + 1):
                self.one_rollout(rollout)
                last = rollout == trainer.rollouts
                if last or _due(rollout, self.config.eval.every):
                    self.evaluate(rollout)
                if last or _due(rollout, trainer.checkpoint_every):
                    self.run.save_checkpoint(self.policy, rollout)
        finally:
            self.run.close()

    def one_rollout(self, number: int) -> None:
        """Sample, score with the policy as it now is, update K × E times."""
        started = time.perf_counter()
        seed = derive_seed(self.config.trainer.seed, "rollout", number)
        with self.policy.gathered():
            rollout = collect(self.stream, self.task, self.sampler, self.config, seed, self.world)
        self._save_samples(number, rollout)
        collected = time.perf_counter()
        mini = self._mini_batches(rollout.kept, random.Random(seed))
        scored = [[score_old(self.policy, batch) for batch in batches] for batches in mini]
        scored_at = time.perf_counter()
        self.recorder.begin(number, rollout.sampled, itertools.chain(*scored))
        noise = self._updates(number, scored, random.Random(seed + 1))
        self.recorder.end()
        finished = time.perf_counter()
        metrics = {
            **rollout.metrics(),
            **_old_metrics(scored),
            **noise,
            "time/score_s": scored_at - collected,
            "time/update_s": finished - scored_at,
            "time/rollout_s": finished - started,
        }
        self._log("rollout", number, metrics)

    def evaluate(self, rollout: int) -> None:
        """Held-out accuracy; the same prompts and draws each time."""
        prompts = self.task.test[: self.config.eval.prompts or None]
        if len(prompts):
            seed = derive_seed(self.config.trainer.seed, "eval")
            started = time.perf_counter()
            with self.policy.gathered():
                metrics = evaluate(self.task, prompts, self.sampler, self.config, seed, self.world)
            metrics["time/eval_s"] = time.perf_counter() - started
            self._log("eval", rollout, metrics)

    def _mini_batches(self, groups: list[Group], rng: random.Random) -> Iterator[list[TokenBatch]]:
        """K lists of this process's micro-batches; a batch is built when it is asked for.

        Every process gets as many as the one with the most: sharded layers work in step.
        """
        pad_id, device = self.policy.pad_id, self.policy.device
        mask_truncated = self.config.loss.mask_truncated
        make = partial(make_batch, pad_id=pad_id, device=device, mask_truncated=mask_truncated)
        for mini in mini_batches(groups, self.config.trainer.updates_per_rollout, rng):
            samples = [sample for group in mini for sample in group.samples]
            splits = [
                micro_batches(share, self.config.trainer.token_budget)
                for share in deal(samples, self.world.size)
            ]
            own = splits[self.world.rank]
            batches = [make(micro) for micro in own]
            missing = max(map(len, splits)) - len(own)
            yield batches + [empty_batch(pad_id=pad_id, device=device) for _ in range(missing)]

    def _updates(
        self, number: int, scored: list[list[ScoredBatch]], rng: random.Random
    ) -> dict[str, float]:
        """All updates of one rollout; what ERC clipped in the first one is noise (true ρ = 1)."""
        noise: dict[str, float] = {}
        index = 0
        for epoch in range(self.config.trainer.epochs):
            order = list(range(len(scored)))
            if epoch:
                rng.shuffle(order)
            for i in order:
                index += 1
                torch.manual_seed(self._seed("update", self.updates + 1))  # for random_mask
                with self.recorder.update(self.updates + 1, index) as watch:
                    metrics = self.updater.update(scored[i], watch)
                self.updates += 1
                if index == 1 and uses_erc(self.config):
                    noise = {"erc/noise_frac": metrics["clip/erc_frac"]}
                counters = {"update": self.updates, "update_in_rollout": index}
                self._log("update", number, {**counters, **metrics})
        return noise

    def _seed(self, *names: object) -> int:
        """A seed for one use of randomness in this process; counters are all a resume needs."""
        rank = [self.world.rank] if self.world.size > 1 else []
        return derive_seed(self.config.trainer.seed, *names, *rank)

    def _save_samples(self, number: int, rollout: Rollout) -> None:
        samples = [sample for group in rollout.sampled for sample in group.samples]
        count = min(self.config.trainer.saved_samples, len(samples))
        chosen = random.Random(number).sample(range(len(samples)), count)
        self.run.log_samples(number, (samples[i] for i in sorted(chosen)))

    def _log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        self.run.log(kind, rollout, metrics)
        if self.observer is not None:
            self.observer.on_log(kind, rollout, metrics)


def task_from(config: DataConfig) -> Task:
    """The task that a recipe's data section names."""
    return load_task(**config.model_dump())


def uses_erc(config: Config) -> bool:
    """Whether an entropy-ratio constraint is in the loss."""
    return any(isinstance(part, EntropyRatioClip) for part in config.loss.constraints)


def _due(rollout: int, every: int) -> bool:
    return every > 0 and rollout % every == 0


def _old_metrics(scored: list[list[ScoredBatch]]) -> dict[str, float]:
    """Entropy of the old policy, and how far the sampler's log-probs were from the trainer's."""
    pool = Pool()
    log_ratios = []
    for item in (item for mini in scored for item in mini):
        mask, old = item.batch.mask, item.old
        log_ratios.append((old.logprobs - item.batch.sampler_logprobs)[mask])
        pool.add({"policy/entropy": old.entropies.where(mask, 0.0).sum()}, item.batch.num_tokens)
    mismatch = sampler_mismatch(torch.cat(log_ratios)) if pool.count else {}
    return {**pool.means(), **mismatch}
