"""The live display of a run: what it is doing, what it learns, what is clipped, what is left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.live import Live
from rich.text import Text

from erclip.config import Config
from erclip.machine.console import Console
from erclip.runs.clock import PhaseClock, RunClock, duration, live_line
from erclip.runs.noise import noise_warning
from erclip.runs.rollout_words import (
    describe_eval,
    describe_rollout,
    mean_of_updates,
    when,
    why_nothing_learned,
)
from erclip.runs.work import Phase, Work

EVERY_S = 60.0  # where no line can be redrawn, a long phase is told this often
MEASURED_S = 2.0  # of an evaluation, before its cost is told
COSTLY_S = 60.0  # an evaluation that takes longer is worth a word
UNLIMITED = 10_000  # cells of a line in a file


class ProgressDisplay(Work):
    """Follows a run's phases and the lines of metrics.jsonl.

    A terminal shows one live line at the bottom, and a finished line per rollout above it. In a
    pipe or a file there are only finished lines, and one a minute while a phase lasts.
    """

    def __init__(self, config: Config, console: Console | None = None):
        self.console = console or Console()
        self.config = config
        self.evals: list[tuple[int, Mapping[str, Any]]] = []
        self._updates: list[Mapping[str, Any]] = []  # of the rollout that is under way
        self._warned = self._told_cost = self._told_idle = False
        self._clock = RunClock(config.trainer.rollouts, config.eval.every)
        self._phase = PhaseClock("loading")
        self._told = time.monotonic()
        terminal = self.console.is_terminal and not self.console.is_dumb_terminal
        self.plain = not terminal or self.console.is_jupyter
        self._live = Live(
            console=self.console, get_renderable=self._line, transient=True, refresh_per_second=4
        )

    def __enter__(self) -> ProgressDisplay:
        if not self.plain and not self.console.quiet:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def begin(self, phase: Phase, total: int = 0, unit: str = "") -> None:
        """See `Work`."""
        self._phase = PhaseClock(phase, total, unit)

    def advance(self, count: int = 0, *, share: float | None = None) -> None:
        """See `Work`."""
        phase = self._phase
        phase.advance(count, share)
        if phase.phase == "evaluating" and phase.elapsed_s > MEASURED_S and not self._told_cost:
            self._tell_cost(phase)
        now = time.monotonic()
        if self.plain and now - max(self._told, phase.started) > EVERY_S:
            self._told = now
            self.console.print(live_line(phase, self._clock, UNLIMITED))

    def say(self, text: str) -> None:
        """See `Work`; any thread may call it."""
        self.console.print(text)

    def resume(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take over what metrics.jsonl has from before."""
        for row in rows:
            if row["kind"] == "eval":
                self.evals.append((row["rollout"], row))
            self._clock.take(row["kind"], row["rollout"], row)

    def on_log(self, kind: str, rollout: int, metrics: Mapping[str, Any]) -> None:
        """Take over one line of metrics.jsonl."""
        self._clock.take(kind, rollout, metrics)
        if kind == "eval":
            self.evals.append((rollout, dict(metrics)))
            self.console.print(f"{when(rollout)}: {describe_eval(metrics)}")
        elif kind == "update":
            self._updates.append(metrics)
        else:
            self._end_rollout(rollout, metrics)

    def _end_rollout(self, rollout: int, metrics: Mapping[str, Any]) -> None:
        why = why_nothing_learned(metrics, self._updates)
        if why is not None and not self._told_idle:
            self._told_idle = True
            self.warn(f"rollout {rollout} trained nothing: {why}")
        means = mean_of_updates(self._updates)
        self._updates = []
        noise = max(metrics.get(name, 0.0) for name in ("erc/noise_frac", "erc/rounding_frac"))
        self._warn_of_noise(noise, means.get("clip/erc_frac", 0.0))
        place = f"{rollout}/{self.config.trainer.rollouts}"
        width = UNLIMITED if self.plain else self.console.width
        self.console.print(describe_rollout(place, {**metrics, **means}, width))

    def _line(self) -> Text:
        return Text(live_line(self._phase, self._clock, self.console.width), no_wrap=True)

    def _tell_cost(self, phase: PhaseClock) -> None:
        """What the first evaluation takes, once its speed is known."""
        whole = phase.elapsed_s + (phase.left_s or 0.0)
        self._told_cost = True
        if whole < COSTLY_S:
            return
        config = self.config
        longest = config.eval.max_tokens or config.sampler.max_tokens
        prompts, responses = phase.total // config.eval.drawn, config.eval.drawn
        count = 2 + (config.trainer.rollouts - 1) // config.eval.every if config.eval.every else 2
        self.say(
            f"each of {count} evaluations takes at most {duration(whole)}: {prompts:,} prompts × "
            f"{responses} responses of up to {longest:,} tokens; what makes it cheaper: "
            "--set eval.prompts=…, eval.responses=…, eval.max_tokens=…"
        )

    def _warn_of_noise(self, noise: float, clipped: float) -> None:
        """Say once that what ERC clips is rounding, and what helps."""
        warning = noise_warning(noise, clipped)
        if warning and not self._warned:
            self._warned = True
            self.warn(warning)

    def warn(self, text: str) -> None:
        """A warning above the live line; any thread may call it."""
        self.console.print(f"warning: {text}", style="yellow")
