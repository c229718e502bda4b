"""The live display of a run: where it is, what it learns, what is clipped, how long it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from erclip.config import Config
from erclip.console import Console
from erclip.report.verdict import noise_warning


class ProgressDisplay:
    """Follows the lines of metrics.jsonl: a live bar on a terminal, a line per tenth elsewhere."""

    def __init__(self, config: Config, console: Console | None = None):
        self.console = console or Console()
        self.rollouts = config.trainer.rollouts
        self.evals: list[tuple[int, Mapping[str, Any]]] = []
        self._updates: list[Mapping[str, Any]] = []  # of the rollout that is under way
        self._warned = False
        self._progress = Progress(
            TextColumn("rollout"),
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=self.rollouts, numbers="")

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def on_log(self, kind: str, rollout: int, metrics: Mapping[str, Any]) -> None:
        """Take over one line of metrics.jsonl."""
        if kind == "eval":
            self.evals.append((rollout, dict(metrics)))
            self._progress.console.print(f"{_when(rollout)}: {describe_eval(metrics)}")
            return
        if kind == "update":
            self._updates.append(metrics)
            return
        means = mean_of_updates(self._updates)
        self._updates = []
        noise = max(metrics.get(name, 0.0) for name in ("erc/noise_frac", "erc/rounding_frac"))
        self._warn_of_noise(noise, means.get("clip/erc_frac", 0.0))
        numbers = describe_rollout({**metrics, **means})
        self._progress.update(self._bar, completed=rollout, numbers=numbers)
        plain = not self.console.is_terminal
        if plain and (rollout == 1 or rollout % max(1, self.rollouts // 10) == 0):
            self.console.print(f"rollout {rollout}/{self.rollouts}  {numbers}")

    def _warn_of_noise(self, noise: float, clipped: float) -> None:
        """Say once that what ERC clips is rounding, and what helps."""
        warning = noise_warning(noise, clipped)
        if warning and not self._warned:
            self._warned = True
            self.warn(warning)

    def warn(self, text: str) -> None:
        """A warning above the bar; any thread may call it."""
        self._progress.console.print(f"warning: {text}", style="yellow")

    def summary(self) -> Table | None:
        """Accuracy before and after, with intervals; None without an evaluation."""
        if not self.evals:
            return None
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("held-out", "before", "after"):
            table.add_column(heading)
        before, after = self.evals[0][1], self.evals[-1][1]
        both = [name for name in before if _is_accuracy(name) and {name, f"{name}_low"} <= {*after}]
        for name in both:
            short = name.removeprefix("eval/")
            table.add_row(short, _with_interval(before, name), _with_interval(after, name))
        return table


def mean_of_updates(updates: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """A rollout's clipped shares, pooled over its updates' tokens, and its mean gradient norm."""
    tokens = [update.get("train/tokens") or 1.0 for update in updates]
    weights = {"clip/ppo_frac": tokens, "clip/erc_frac": tokens, "grad/norm": [1.0] * len(updates)}
    present = [name for name in weights if updates and all(name in update for update in updates)]
    return {
        name: sum(w * update[name] for w, update in zip(weights[name], updates, strict=True))
        / sum(weights[name])
        for name in present
    }


def describe_rollout(m: Mapping[str, Any]) -> str:
    """Reward, entropy, clipped shares and gradient norm on one line."""
    parts = [f"reward {m['train/reward']:.2f}"]
    if "policy/entropy" in m:
        parts.append(f"entropy {m['policy/entropy']:.2f}")
    if "clip/ppo_frac" in m:
        parts.append(
            f"clipped ppo {_percent(m['clip/ppo_frac'])} erc {_percent(m['clip/erc_frac'])}"
        )
    if "grad/norm" in m:
        parts.append(f"grad {m['grad/norm']:.2f}")
    return "  ".join(parts)


def describe_eval(m: Mapping[str, Any]) -> str:
    """Every avg@k of one evaluation, with its interval."""
    names = filter(_is_accuracy, m)
    return ", ".join(f"{name.removeprefix('eval/')} {_with_interval(m, name)}" for name in names)


def _is_accuracy(name: str) -> bool:
    return "/avg_at_" in name and name[-1].isdigit()


def _with_interval(m: Mapping[str, Any], name: str) -> str:
    return f"{m[name]:.3f} ({m[f'{name}_low']:.3f} to {m[f'{name}_high']:.3f})"


def _percent(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _when(rollout: int) -> str:
    return "before training" if rollout == 0 else f"after rollout {rollout}"
