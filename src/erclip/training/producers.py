"""Where the trainer's rollouts come from: sampled in turns with the updates, or beside them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from erclip.config import Config
from erclip.machine.distributed import World
from erclip.machine.interrupts import Interrupts, Stopped
from erclip.records import Prompt
from erclip.runs.names import greedy_name
from erclip.runs.work import Work
from erclip.seeds import derive_seed, seed_torch
from erclip.tasks import Task
from erclip.training.held_out import evaluate, evaluation_settings, greedy_settings
from erclip.training.policy import Policy
from erclip.training.rollouts import PromptStream, Rollout, collect
from erclip.training.sampling import Sampler


class Producer(Protocol):
    """Whoever samples rollouts, one after the other, and evaluates."""

    def ask(self, number: int) -> None:
        """Rollout `number` shall be sampled, after those that were asked for before."""
        ...

    def arrived(self, *, wait: bool) -> list[Rollout]:
        """Rollouts that were asked for and are there; with `wait` at least one."""
        ...

    def update_weights(self, version: int) -> None:
        """Sample with the policy as it now is, after `version` updates; a collective."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Held-out accuracy of the policy as it now is, always of the same draws; a collective."""
        ...

    def close(self) -> None:
        """Nothing more will be asked."""
        ...


class InTurns:
    """Samples when it is asked, while everything else waits; every rollout has one version."""

    def __init__(
        self,
        config: Config,
        task: Task,
        stream: PromptStream,
        policy: Policy,
        sampler: Sampler,
        interrupts: Interrupts,
        world: World,
        work: Work | None = None,
    ):
        self.config, self.task, self.stream = config, task, stream
        self.policy, self.sampler, self.interrupts, self.world = policy, sampler, interrupts, world
        self.work = work or Work()
        self._version = 0
        self._done: list[Rollout] = []

    def ask(self, number: int) -> None:
        """Sample at once; a signal breaks it off and leaves no trace."""
        started, first = time.perf_counter(), self.stream.position
        seed = self.config.trainer.seed
        seed_torch(derive_seed(seed, "rollout", number, *self.world.own_name))
        try:
            with self.interrupts.at_once(), self.policy.gathered():
                rollout = collect(
                    self.stream,
                    self.task,
                    self.sampler,
                    self.config,
                    derive_seed(seed, "rollout", number),
                    self.world,
                    self.work,
                )
        except Stopped:
            self.stream.position = first
            raise
        rollout.number, rollout.version = number, self._version
        rollout.waited_s = time.perf_counter() - started
        self._done.append(rollout)

    def arrived(self, *, wait: bool) -> list[Rollout]:
        """All that were asked for."""
        done, self._done = self._done, []
        return done

    def update_weights(self, version: int) -> None:
        """Let an engine or a server take them over; our own sampler reads the model itself."""
        self.sampler.update_weights()
        self._version = version

    def evaluate(self) -> dict[str, float]:
        """With this process's sampler; a signal breaks it off."""
        with self.interrupts.at_once(), self.policy.gathered():
            return evaluate_held_out(self.task, self.sampler, self.config, self.world, self.work)

    def close(self) -> None:
        """Nothing to do."""


def held_out(task: Task, config: Config) -> Sequence[Prompt]:
    """The prompts that an evaluation asks."""
    return task.test[: config.eval.prompts or None]


def evaluate_held_out(
    task: Task, sampler: Sampler, config: Config, world: World, work: Work
) -> dict[str, float]:
    """`evaluate` on those prompts, with the run's seed."""
    seed, prompts = derive_seed(config.trainer.seed, "eval"), held_out(task, config)
    count = -(-len(prompts) // world.size) * config.eval.drawn
    work.begin("evaluating", count, "responses")
    settings = evaluation_settings(config)
    numbers = evaluate(task, prompts, sampler, settings, seed, world)
    if config.eval.greedy:
        settings, name = greedy_settings(settings), greedy_name(task.name)
        numbers |= evaluate(task, prompts, sampler, settings, seed, world, name=name)
    return numbers
