"""`Run` → its verdict in one sentence: what came of it, and the reason that its numbers show."""

from __future__ import annotations

import numpy as np

from erclip.report.verdict import Status, Verdict, verdicts
from erclip.runs import names, series
from erclip.runs.read import Run

NAME = "headline"
NO_REASON = ("clipping noise", "bottleneck", "sampler and trainer")  # of what an accuracy did


def headline(run: Run) -> Verdict:
    """Nothing learned, or what accuracy (else reward) did, with the loudest warning as a reason."""
    nothing = _nothing(run)
    if nothing is not None:
        return nothing
    found = verdicts(run)
    accuracy = next((v for v in found if v.name.startswith("accuracy on ")), None)
    warnings = [v for v in found if v.status == "warning" and v.name not in NO_REASON]
    reasons = [v for v in warnings if v is not accuracy]
    if accuracy is None:
        return _reward(run, reasons)
    held_out = accuracy.name.removeprefix("accuracy on ")
    said, comma, numbers = accuracy.sentence.partition(", ")
    verb = {"rose": "rose", "fell": "fell"}.get(said)
    if verb is None:
        start = f"No difference shown on {held_out}: {numbers if comma else accuracy.sentence}"
    else:
        start = f"Accuracy on {held_out} {verb}: {numbers}"
    worth = reasons if accuracy.status != "good" else []
    return Verdict(NAME, accuracy.status, start + _because(worth), accuracy.value)


def _because(reasons: list[Verdict]) -> str:
    if not reasons:
        return ""
    first = reasons[0]
    return f"; {first.name}: {first.sentence}" + (f"; {first.remedy}" if first.remedy else "")


def _nothing(run: Run) -> Verdict | None:
    """The whole run changed nothing, and why."""
    if not len(run.rollouts):
        return Verdict(NAME, "none", "No rollout was finished", 0.0)
    norms = series.column(run.updates, names.GRAD_NORM)
    if bool((norms > 0).any()) or (len(norms) and not np.isfinite(norms).any()):
        return None
    return Verdict(NAME, "warning", f"Nothing was learned: {_why(run)}", 0.0)


def _why(run: Run) -> str:
    """Of a run whose every gradient was zero, by means over its rollouts."""
    truncated, right, kept = (
        series.mean(series.by_rollout(run, name).y)
        for name in (names.TRUNCATED, names.ACCURACY, names.GROUPS_KEPT)
    )
    if truncated >= 1:
        return "100 % of responses were cut; raise sampler.max_tokens"
    if right == 0:
        return "no response was right; take easier prompts, or look at samples.jsonl"
    if right == 1:
        return "every response was right; take harder prompts"
    if kept == 0:
        return (
            "100 % of groups had equal rewards; raise rollout.responses or sampler.temperature, "
            "or take prompts of another difficulty"
        )
    return "every gradient was zero; look at the loss and at reward.function"


def _reward(run: Run, reasons: list[Verdict]) -> Verdict:
    """Without two evaluations the reward in training is all there is."""
    first, last = series.ends(series.by_rollout(run, names.REWARD).y)
    sentence = (
        f"Reward went from {first:.3g} to {last:.3g} in training; there are no two evaluations "
        "that would show what was learned"
    )
    return Verdict(NAME, "none", sentence + _because(reasons), last - first)


__all__ = ["Status", "headline"]
