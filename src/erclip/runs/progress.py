"""The live display of a run: where it is, what it learns, what is clipped, how long it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from erclip.config import Config
from erclip.machine.console import Console
from erclip.runs.metrics import sides
from erclip.runs.noise import noise_warning
from erclip.statistics import Interval


class ProgressDisplay:
    """Follows the lines of metrics.jsonl: a live bar on a terminal, a line per tenth elsewhere."""

    def __init__(self, config: Config, console: Console | None = None):
        self.console = console or Console()
        self.rollouts = config.trainer.rollouts
        self.evals: list[tuple[int, Mapping[str, Any]]] = []
        self._updates: list[Mapping[str, Any]] = []  # of the rollout that is under way
        self._warned = False
        self._idle: list[str] = []  # why each rollout that taught nothing did not
        self._rollouts = 0
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
        self._rollouts += 1
        why = why_nothing_learned(metrics, self._updates)
        if why is not None:
            self._idle.append(why)
            if len(self._idle) == 1:
                self.warn(f"rollout {rollout} trained nothing: {why}")
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

    def last_word(self) -> str | None:
        """A sentence if the whole run changed nothing; None if it learned."""
        if not self._rollouts or len(self._idle) < self._rollouts:
            return None
        return f"nothing was trained in {self._rollouts} rollouts; the last: {self._idle[-1]}"

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


def why_nothing_learned(
    metrics: Mapping[str, Any], updates: Sequence[Mapping[str, Any]]
) -> str | None:
    """Why no update of a rollout had a gradient; None if one had.

    >>> why_nothing_learned({"train/accuracy": 0.0, "train/groups_kept_frac": 0.0}, [])
    'no response was right; take easier prompts, or look at samples.jsonl'
    """
    if any(0 < update.get("grad/norm", 1.0) < math.inf for update in updates):
        return None
    if metrics.get("train/truncated_frac", 0.0) >= 1:
        return "every response was cut; raise sampler.max_tokens"
    if metrics.get("train/groups_kept_frac", 1.0) > 0:
        return "every gradient was zero or not finite"
    if metrics.get("train/accuracy") == 0:
        return "no response was right; take easier prompts, or look at samples.jsonl"
    if metrics.get("train/accuracy") == 1:
        return "every response was right; take harder prompts"
    return "in no group did responses differ; raise rollout.responses or sampler.temperature"


def mean_of_updates(updates: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """A rollout's clipped shares, pooled over its updates' tokens, and its mean gradient norm."""
    tokens = [update.get("train/tokens") or 1.0 for update in updates]
    first = updates[0] if updates else {}
    weights = {name: tokens for name in first if name.startswith("clip/")}
    weights["grad/norm"] = [1.0] * len(updates)
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
        parts.append("clipped " + " ".join(f"{rule} {_percent(m[n])}" for rule, n in _rules(m)))
    if "grad/norm" in m:
        parts.append(f"grad {m['grad/norm']:.2f}")
    return "  ".join(parts)


def _rules(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The surrogate's range, ERC, and every rule of the loss that is no switch of the two."""
    own = sides(name.removeprefix("clip/").removesuffix("_frac") for name in m if "clip/" in name)
    shown = [rule for rule in own if f"clip/{rule}_frac" in m and rule not in ("dual", "random")]
    return [(rule, f"clip/{rule}_frac") for rule in dict.fromkeys(("ppo", "erc", *shown))]


def describe_eval(m: Mapping[str, Any]) -> str:
    """Every avg@k of one evaluation, with its interval."""
    names = filter(_is_accuracy, m)
    return ", ".join(f"{name.removeprefix('eval/')} {_with_interval(m, name)}" for name in names)


def _is_accuracy(name: str) -> bool:
    return "/avg_at_" in name and name[-1].isdigit()


def _with_interval(m: Mapping[str, Any], name: str) -> str:
    return Interval(m[name], m[f"{name}_low"], m[f"{name}_high"]).text()


def _percent(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _when(rollout: int) -> str:
    return "before training" if rollout == 0 else f"after rollout {rollout}"
