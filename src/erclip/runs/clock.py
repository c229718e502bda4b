"""What a run is doing in one line: phase, count, and what is left of the phase and of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

RECENT = 10  # rollouts, by whose time the others are estimated


@dataclass
class PhaseClock:
    """A phase since it began: `done` of `total` units, and the share of its work at least."""

    phase: str
    total: int = 0
    unit: str = ""
    done: int = 0
    share: float | None = None
    started: float = field(default_factory=lambda: time.monotonic())

    def advance(self, count: int, share: float | None) -> None:
        """So many units more."""
        self.done += count
        self.share = share

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.started

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, None while nothing is known; at most, if a share was told."""
        share = self.share
        if share is None and self.total:
            share = self.done / self.total
        return self.elapsed_s * (1 - min(share, 1.0)) / share if share else None

    def words(self) -> str:
        """The phase and its count.

        >>> PhaseClock("sampling", 512, "responses", 112).words()
        'sampling 112/512 responses'
        """
        if not self.total:
            return self.phase
        return f"{self.phase} {min(self.done, self.total):,}/{self.total:,} {self.unit}"


class RunClock:
    """How long the rest of a run takes, by its last rollouts and evaluations."""

    def __init__(self, rollouts: int, every: int):
        self.rollouts, self._every = rollouts, every
        self.rollout = 0  # the last that is finished
        self._rollout_s: list[float] = []
        self._eval_s: list[float] = []
        self._since = time.monotonic()

    def take(self, kind: str, rollout: int, metrics: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        if kind == "eval":
            self._eval_s.append(metrics.get("time/eval_s", 0.0))
        elif kind == "rollout":
            self._rollout_s.append(metrics.get("time/rollout_s", 0.0))
        else:
            return
        self.rollout, self._since = rollout, time.monotonic()

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of the run; None before a rollout has been timed."""
        if not self._rollout_s:
            return None
        left = self.rollouts - self.rollout
        evaluations = 0 if left <= 0 else 1 + (left // self._every if self._every else 0)
        of_eval = mean(self._eval_s) if self._eval_s else 0.0
        later = left * mean(self._rollout_s[-RECENT:]) + evaluations * of_eval
        return max(later - (time.monotonic() - self._since), 0.0)


def live_line(phase: PhaseClock, run: RunClock, width: int) -> str:
    """The line in as many words as fit into `width` cells."""
    at = "before training" if run.rollout == 0 and phase.phase in ("loading", "evaluating") else ""
    number = min(run.rollout + (phase.phase != "evaluating"), run.rollouts)
    at = at or f"rollout {number}/{run.rollouts}"
    left = None if phase.left_s is None else duration(phase.left_s)
    most = "at most " if phase.share is not None and left else ""
    whole = None if run.left_s is None else duration(max(run.left_s, phase.left_s or 0.0))
    return fitted(list(_wordings(at, phase, left, most, whole)), width)


def _wordings(
    at: str, phase: PhaseClock, left: str | None, most: str, whole: str | None
) -> Iterator[str]:
    words, short = phase.words(), at.removeprefix("rollout ")
    spent = duration(phase.elapsed_s)
    ends = [f"{most}{left} left" if left else f"for {spent}", f"run {whole} left" if whole else ""]
    yield "  ".join(filter(None, [at, words, *ends]))
    ends = [left or spent, f"run {whole}" if whole else ""]
    yield "  ".join(filter(None, [at, words, *ends]))
    yield "  ".join(filter(None, [short, words, *ends]))
    words = words.removesuffix(f" {phase.unit}")
    yield "  ".join([short, words, ends[1] or ends[0]])
    yield f"{short} {phase.phase}"


def fitted(wordings: Sequence[str], width: int) -> str:
    """The first wording that is shorter than `width` cells, else the last one.

    >>> fitted(["a long line", "short"], 8)
    'short'
    """
    return next((text for text in wordings if len(text) < width), wordings[-1])


def duration(seconds: float) -> str:
    """A time to read.

    >>> duration(9.6), duration(83), duration(5000), duration(200_000)
    ('0:10', '1:23', '1:23:20', '2 d 7 h')
    """
    whole = round(seconds)
    if whole >= 2 * 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
    hours, rest = divmod(whole, 3600)
    minutes, whole = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"
