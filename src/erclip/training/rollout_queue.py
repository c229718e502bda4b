"""Rollouts that are sampled ahead: asked for, received, scored by the old policy, handed out.

While rollout n is trained on, n + 1 to n + staleness have been sampled (or are being sampled): each
with the weights after the updates of rollout n − 1 − staleness, or the initial ones. What lies here
is part of every checkpoint.
"""

from __future__ import annotations

import time

from erclip.machine.interrupts import Interrupts
from erclip.runs.work import Work
from erclip.seeds import derive_seed
from erclip.training import rounding
from erclip.training.checkpoints.run_state import RunState
from erclip.training.producers import Producer
from erclip.training.scored_rollout import ScoredRollout, plan_rollout
from erclip.training.updates import uses_erc


class RolloutQueue:
    """Keeps `state.waiting` filled from a producer, the oldest first."""

    def __init__(
        self,
        state: RunState,
        producer: Producer,
        interrupts: Interrupts,
        work: Work | None = None,
    ):
        self.state, self.producer, self.interrupts = state, producer, interrupts
        self.work = work or Work()
        self._asked = state.sampled

    def fill(self) -> None:
        """Ask for what may be sampled now: up to `staleness` past the next one, and the last."""
        config = self.state.config
        ahead = self.state.counters.rollouts + 1 + config.rollout.staleness
        while self._asked < min(ahead, config.trainer.rollouts):
            self.interrupts.check()
            self.producer.ask(self._asked + 1)
            self._asked += 1
            self.receive()

    def receive(self, *, wait: bool = False) -> None:
        """Take over what has been sampled; with `wait` at least one rollout."""
        config = self.state.config
        for rollout in self.producer.arrived(wait=wait):
            seed = derive_seed(config.trainer.seed, "rollout", rollout.number)
            planned = plan_rollout(rollout, config, seed)
            if config.rollout.old_policy == "sampled":
                self._score(planned)
                planned.set_aside()
            self.state.waiting.append(planned)

    def take(self) -> ScoredRollout:
        """The oldest one, scored and ready to be trained on."""
        self.receive(wait=not self.state.waiting)
        state, rollout = self.state, self.state.waiting.pop(0)
        if rollout.scored_at is None:
            self._score(rollout)
        else:
            rollout.take_up(state.policy, state.config, state.world)
        if state.config.rollout.staleness:
            rollout.metrics |= rollout.staleness_metrics(state.counters.updates)
        return rollout

    def _score(self, rollout: ScoredRollout) -> None:
        """The policy as it now is becomes the old one; now and then its rounding is measured."""
        started, state = time.perf_counter(), self.state
        updates = state.counters.updates
        rollout.score(state.policy, state.config, state.world, updates, self.work)
        scored = time.perf_counter()
        rollout.metrics |= rollout.score_metrics(state.world)
        if rollout.order and uses_erc(state.updater.loss_fn) and rounding.due(rollout.number):
            share = rounding.rounding_share(state.updater, rollout.scored[rollout.order[0]])
            rollout.metrics["erc/rounding_frac"] = share
        rollout.metrics["time/score_s"] = scored - started
        rollout.metrics["time/update_s"] = 0.0
        waited_s = rollout.metrics.pop("time/rollout_s")
        rollout.metrics["time/rollout_s"] = waited_s + time.perf_counter() - started
