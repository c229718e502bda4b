"""A run in one sentence: what it came to, with the reason. The report and the terminal say it.

>>> from erclip.report.headline import headline  # headline(read_run(folder)).sentence
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from erclip.pages.ticks import tick
from erclip.report.gains import Gain, gains
from erclip.report.verdict import Status, Verdict, verdicts
from erclip.runs import names, series
from erclip.runs.read import Run

_WARNINGS = 3  # in the sentence; the others are listed below it


class Headline(NamedTuple):
    """The sentence, and whether it is good news."""

    sentence: str
    status: Status


def headline(run: Run) -> Headline:
    """Say in one sentence what a run came to; of an unfinished one, what it has come to so far."""
    if not run.rollouts and not run.updates:
        return Headline("Nothing is trained yet: no rollout is finished.", "none")
    why = nothing_learned(run)
    if why is not None:
        return Headline(_so_far(run, f"Nothing was learned: {why}."), "warning")
    found = list(gains(run))
    text, status = _accuracy(found) if found else (_reward(run), "none")
    warnings = [v for v in verdicts(run) if v.status == "warning" and not _is_accuracy(v)]
    sentence = _so_far(run, f"{text}{_but(warnings, status)}.")
    return Headline(sentence, "warning" if warnings else status)


def nothing_learned(run: Run) -> str | None:
    """Why no update moved the weights, and what helps; None if one did."""
    norms = run.updates.column(names.GRAD_NORM)
    if bool((np.isnan(norms) | (np.isfinite(norms) & (norms > 0))).any()):
        return None
    truncated, kept, right = (
        series.finite(series.column(run.rollouts, name))
        for name in (names.TRUNCATED, names.GROUPS_KEPT, names.ACCURACY)
    )
    if len(truncated) and truncated.min() >= 1:
        return "every response was cut off; raise sampler.max_tokens"
    if len(kept) and kept.max() <= 0:
        if len(right) and right.max() <= 0:
            return "no response was right; take easier problems, or look at samples.jsonl"
        if len(right) and right.min() >= 1:
            return "every response was right; take harder problems"
        what = "100 % of groups had equal rewards"
        return f"{what}; raise rollout.responses or sampler.temperature"
    if len(norms) and not np.isfinite(norms).any():
        return "no gradient was finite; lower trainer.learning_rate"
    return "every gradient was zero"


def _accuracy(found: Sequence[Gain]) -> tuple[str, Status]:
    """One set with its numbers; of several sets how many went which way."""
    status: Status = "none"
    if any(gain.went == "fell" for gain in found):
        status = "warning"
    elif any(gain.went == "rose" for gain in found):
        status = "good"
    if len(found) > 1:
        ways = {way: [g for g in found if g.went == way] for way in _WAYS}
        parts = [f"{_WAYS[way]} on {_sets(own)}" for way, own in ways.items() if own]
        return f"Accuracy {', '.join(parts)}", status
    (gain,) = found
    ends = f"from {100 * gain.first:.1f} to {100 * gain.last:.1f} %"
    if gain.went in ("rose", "fell", "went"):
        return f"Accuracy on {gain.held_out} {gain.went} {ends} ({gain.points})", status
    text = f"No difference is shown: accuracy on {gain.held_out} went {ends} ({gain.points})"
    return text, status


_WAYS = {
    "rose": "rose",
    "fell": "fell",
    "no difference shown": "shows no difference",
    "went": "has no interval",
}


def _sets(found: Sequence[Gain]) -> str:
    points = [f"{100 * g.change.mean:+.1f}".replace("-", "−") for g in found]
    return ", ".join(f"{g.held_out} ({p} points)" for g, p in zip(found, points, strict=True))


def _reward(run: Run) -> str:
    """Of a run without two evaluations."""
    first, last = series.ends(series.by_rollout(run, names.REWARD).y)
    reward = "" if first != first else f", the training reward is {tick(last, 2)}"
    if first != last and reward:
        reward = f", the training reward went from {tick(first, 2)} to {tick(last, 2)}"
    return f"Whether accuracy rose is not known{reward}: there are no two evaluations to compare"


def _but(warnings: Sequence[Verdict], status: Status) -> str:
    if not warnings:
        return ""
    shown = [warning.words for warning in warnings[:_WARNINGS]]
    rest = len(warnings) - len(shown)
    shown += [f"{rest} more {'warning' if rest == 1 else 'warnings'}"] if rest else []
    return f"; {'but ' if status == 'good' else ''}{', '.join(shown)}"


def _is_accuracy(verdict: Verdict) -> bool:
    return verdict.name.startswith("accuracy on ")


def _so_far(run: Run, sentence: str) -> str:
    """The sentence, of an unfinished run with how far it has got."""
    planned, done = run.setting("trainer", "rollouts"), len(run.rollouts)
    if isinstance(planned, int) and done < planned:
        return f"After {done} of {planned} rollouts: {sentence[0].lower()}{sentence[1:]}"
    return sentence
