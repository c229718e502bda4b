"""Lines of metrics.jsonl in words: a rollout, an evaluation, and why a rollout taught nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from erclip.runs.clock import duration, fitted
from erclip.runs.metrics import sides
from erclip.statistics import Interval


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


def describe_rollout(place: str, m: Mapping[str, Any], width: int) -> str:
    """Reward, entropy, clipped shares, gradient norm and time on one line of `width` cells."""
    parts = [f"reward {m['train/reward']:.2f}"]
    if "policy/entropy" in m:
        parts.append(f"entropy {m['policy/entropy']:.2f}")
    if "clip/ppo_frac" in m:
        parts.append("clipped " + " ".join(f"{rule} {_percent(m[n])}" for rule, n in _rules(m)))
    more = [f"grad {m['grad/norm']:.2f}"] if "grad/norm" in m else []
    more += [duration(m["time/rollout_s"])] if "time/rollout_s" in m else []
    wordings = ["  ".join([f"rollout {place}", *parts, *more]), "  ".join([place, *parts, *more])]
    wordings += [" ".join([place, *parts]), *(" ".join([place, *parts[:n]]) for n in (2, 1))]
    return fitted(wordings, width)


def _rules(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The surrogate's range, ERC, and every rule of the loss that is no switch of the two."""
    own = sides(name.removeprefix("clip/").removesuffix("_frac") for name in m if "clip/" in name)
    shown = [rule for rule in own if f"clip/{rule}_frac" in m and rule not in ("dual", "random")]
    return [(rule, f"clip/{rule}_frac") for rule in dict.fromkeys(("ppo", "erc", *shown))]


def describe_eval(m: Mapping[str, Any]) -> str:
    """Every avg@k of one evaluation, with its interval."""
    return ", ".join(f"{n.removeprefix('eval/')} {with_interval(m, n)}" for n in accuracies(m))


def accuracies(m: Mapping[str, Any]) -> list[str]:
    """The names of every avg@k of one evaluation."""
    return [name for name in m if "/avg_at_" in name and name[-1].isdigit()]


def with_interval(m: Mapping[str, Any], name: str) -> str:
    """A number with its interval."""
    return Interval(m[name], m[f"{name}_low"], m[f"{name}_high"]).text()


def when(rollout: int) -> str:
    """When an evaluation was made.

    >>> when(0), when(3)
    ('before training', 'after rollout 3')
    """
    return "before training" if rollout == 0 else f"after rollout {rollout}"


def _percent(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"
