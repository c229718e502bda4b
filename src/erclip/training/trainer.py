"""A run, set up: everything that the loop goes on with, new or from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erclip.config import DataConfig
from erclip.config.recipes import Recipe
from erclip.machine.distributed import World
from erclip.machine.interrupts import Interrupts
from erclip.machine.locks import Lock
from erclip.runs.checkpoint_folders import Checkpoints, read_state
from erclip.runs.run_dir import RunDir
from erclip.runs.run_folder import lock_run
from erclip.runs.work import Work
from erclip.seeds import derive_seed
from erclip.tasks import Task, load_task
from erclip.training.checkpoints.keeper import Keeper, Log, newest_checkpoint
from erclip.training.checkpoints.run_state import RunState, check_settings
from erclip.training.drift import Drift
from erclip.training.loop import Evaluation, Loop, Observer
from erclip.training.policy import Policy
from erclip.training.prepare import load_trainable
from erclip.training.producers import InTurns, Producer, held_out
from erclip.training.recorder import Recorder
from erclip.training.rewards import check_function
from erclip.training.rollout_queue import RolloutQueue
from erclip.training.rollouts import PromptStream
from erclip.training.sampler_process import SamplerProcess
from erclip.training.sampling.base import encode_prompts
from erclip.training.sampling.load import load_sampler
from erclip.training.updates import Updater

CHECKED = 1000  # prompts that are tried before a run begins

NOT_EXACT = (
    "with rollout.overlap it depends on timing when new weights reach the sampler, so this run "
    "does not repeat itself bit for bit."
)


class Trainer(Loop):
    """One run: policy, task, sampler, optimiser, run directory, and who watches.

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
            self.world.from_first(self._take, out, resume)
        try:
            self._set_up(recipe, out, resume, log)
        except BaseException:
            self._let_go()
            raise

    def _set_up(self, recipe: Recipe, out: Path, resume: bool, log: Log) -> None:
        config, world = recipe.config, self.world
        checkpoints, saved = Checkpoints(out / "checkpoints"), None
        if resume:
            saved = world.from_first(newest_checkpoint, out, checkpoints, config.checkpoint, log)
        state = {} if saved is None else read_state(saved)
        if saved is not None:
            check_settings(state, config, saved)
        check_function(config.reward)
        self.work.begin("loading")
        self.task, stream, self.policy = world.together(self._load, saved, log)
        self.policy.shard(world)
        self.updater = Updater(self.policy, config, world, self.work)
        self.state = RunState(config, world, self.policy, self.updater, stream)
        self.drift = Drift(out, self.policy, config, world)
        recorder = Recorder(config, self.policy.tokenizer, out, world)
        if saved is not None:
            self.state.restore(state, saved)
        if self.state.current is not None:
            recorder.resume(self.state.current, self.state.lines)
        self.keeper = Keeper(self.state, checkpoints, lambda: recorder.lines, saved, log)
        self.run = None
        world.from_first(self._open, recipe, out, state if resume else None, log)
        farewell = f"go on with: erclip train --resume {out}"
        self.interrupts = Interrupts(world, self.work.say, farewell)
        self.producer = self._load_producer(stream, out, log)
        self.queue = RolloutQueue(self.state, self.producer, self.interrupts, self.work)
        self.recorder, self.evaluation = recorder, self._held_out()

    def _load(self, saved: Path | None, log: Log) -> tuple[Task, PromptStream, Policy]:
        """What is asked and who answers; tokenizer and template refuse no prompt later."""
        config = self.config
        task = task_from(config.data)
        for remark in task.remarks if self.world.first else ():
            log(remark)
        stream = PromptStream(task.train, config.trainer.seed)
        seed = derive_seed(config.trainer.seed, "lora")
        policy = load_trainable(config, task, log, seed=seed, checkpoint=saved)
        for prompts in (task.train[:CHECKED], task.test[:CHECKED]):
            encode_prompts(policy.tokenizer, prompts, config.sampler.max_prompt_tokens)
        return task, stream, policy

    def _load_producer(self, stream: PromptStream, out: Path, log: Log) -> Producer:
        config, policy, world = self.config, self.policy, self.world
        if config.rollout.overlap is not None:
            log(NOT_EXACT)
            return SamplerProcess(config, stream, policy, self.interrupts, world, out, self.work)
        sampler = world.together(load_sampler, config, policy, world, self.work)
        parts = (self.task, stream, policy, sampler, self.interrupts, world, self.work)
        return InTurns(config, *parts)

    def _held_out(self) -> Evaluation | None:
        """Held-out accuracy, always of the same draws, and the distance from the start."""
        if not held_out(self.task, self.config):
            return None
        return Evaluation(
            lambda rollout: {**self.producer.evaluate(), **self.drift.metrics(rollout)},
            f"eval/{self.task.name}/avg_at_{self.config.eval.responses}",
        )

    def _take(self, out: Path, resume: bool) -> None:
        self.lock = lock_run(out, resume)

    def _open(self, recipe: Recipe, out: Path, state: Mapping[str, Any] | None, log: Log) -> None:
        new = state is None
        self.run = RunDir(out, recipe) if new else RunDir.reopen(out, recipe, state, log)
        self.keeper.run, self.keeper.checkpoints.run = self.run, self.run.id


def task_from(config: DataConfig) -> Task:
    """The task that a recipe's data section names."""
    return load_task(**config.model_dump())
