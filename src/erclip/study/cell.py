"""One cell: train by its settings, and boil the run down to a row and a curve."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from erclip.config import Config
from erclip.config.recipes import Recipe
from erclip.errors import Diverged, UserError
from erclip.runs import names, series, words
from erclip.runs.checkpoint_folders import Checkpoints
from erclip.runs.read import Row, Run, read_run
from erclip.runs.run_folder import run_id
from erclip.study.design import settings_hash
from erclip.study.machine import cpu
from erclip.training.trainer import Trainer

MEANS = {  # column → metric of the updates
    "kl_old": names.KL_OLD,
    "grad_norm": names.GRAD_NORM,
    "clip_erc_frac": names.ERC[0],
    "clip_ppo_frac": names.PPO[0],
    "clip_random_frac": names.RANDOM,
}


class Outcome(NamedTuple):
    """What a run comes to: the columns of its row, and a point per evaluation."""

    values: dict[str, Any]
    curve: list[dict[str, Any]]


def run_cell(config: Config, folder: Path) -> Outcome:
    """Train in `folder`, from its newest checkpoint if an earlier try left one.

    A run that gives up because its gradients are no numbers is a result as well: its row says
    "diverged" and holds what was measured up to there. Checkpoints are removed at the end.
    """
    cpu, wall = time.process_time(), time.perf_counter()
    begun = (folder / "config.json").is_file()
    status = "finished"
    try:
        Trainer(Recipe("study", config), folder, resume=begun).train()
    except Diverged:
        status = "diverged"
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    outcome = read_outcome(read_run(folder), status)
    Checkpoints(folder / "checkpoints", run_id(folder)).remove_all()
    stamp = {"settings": settings_hash(config), "status": status, **spent}
    return Outcome({**outcome.values, **stamp}, outcome.curve)


def read_outcome(run: Run, status: str) -> Outcome:
    """The row and the curve of a run directory, without the time it took."""
    evaluations = series.evaluations(run)
    if not evaluations:
        raise UserError(f"{run.path} has no held-out evaluation, which a study compares.")
    (held_out, k), points = next(iter(evaluations.items()))
    first, last = points[0], points[-1]
    greedy = {p.rollout: p.value for p in evaluations.get((names.greedy_name(held_out), 1), ())}
    best = max(points, key=lambda point: point.value)
    entropies = series.column(run.rollouts, names.ENTROPY)
    entropies = entropies[np.isfinite(entropies)]
    updates = run.updates
    values = {
        "k": k,
        "first_accuracy": first.value,
        "final_accuracy": last.value,
        "best_accuracy": best.value,
        "best_rollout": best.rollout,
        "final_pass_at_k": last.pass_at_k,
        "first_greedy": greedy.get(first.rollout),
        "final_greedy": greedy.get(last.rollout),
        "kl_start": _at(run, last.rollout, names.KL_START),
        "final_reward": _mean(run.rollouts[-max(1, len(run.rollouts) // 10) :], names.REWARD),
        "collapsed": status == "diverged" or _below(last, first),
        "first_entropy": entropies[0] if len(entropies) else None,
        "final_entropy": entropies[-1] if len(entropies) else None,
        **{column: _mean(updates, metric) for column, metric in MEANS.items()},
        **{f"{name}_max": _largest(updates, MEANS[name]) for name in ("kl_old", "grad_norm")},
        "updates": len(updates),
        "skipped_updates": int(np.nansum(series.column(updates, names.GRAD_SKIPPED))),
        "commit": run.config.get("commit"),
        "hardware": words.hardware(run.config.get("hardware")),
        "cpu": cpu(),
        "versions": _versions(run.config.get("versions") or {}),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Outcome(values, _curve(run, points, greedy))


def _curve(
    run: Run, points: Sequence[series.Evaluation], greedy: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Means over the rollouts and updates since the evaluation before."""
    found = []
    before = 0
    for point in points:
        rollouts = [row for row in run.rollouts if before < row["rollout"] <= point.rollout]
        updates = [row for row in run.updates if before < row["rollout"] <= point.rollout]
        found.append(
            {
                "rollout": point.rollout,
                "accuracy": point.value,
                "pass_at_k": point.pass_at_k,
                "greedy": greedy.get(point.rollout),
                "train_accuracy": _mean(rollouts, names.ACCURACY),
                "entropy": _mean(rollouts, names.ENTROPY),
                **{column: _mean(updates, metric) for column, metric in MEANS.items()},
                "grad_norm_max": _largest(updates, names.GRAD_NORM),
                "kl_start": _at(run, point.rollout, names.KL_START),
            }
        )
        before = point.rollout
    return found


def _at(run: Run, rollout: int, name: str) -> float:
    """A metric of the evaluation after this rollout."""
    return _mean([row for row in run.evals if row["rollout"] == rollout], name)


def _below(last: series.Evaluation, first: series.Evaluation) -> bool:
    """Whether training left less than it found, by more than the choice of problems explains."""
    if last.high is None or first.low is None:
        return last.value < first.value
    return last.high < first.low


def _mean(rows: Sequence[Row], name: str) -> float:
    values = series.column(tuple(rows), name)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _largest(rows: Sequence[Row], name: str) -> float:
    values = series.column(tuple(rows), name)
    values = values[np.isfinite(values)]
    return float(values.max()) if len(values) else math.nan


def _versions(versions: Mapping[str, str]) -> str:
    kept = ("erclip", "torch", "transformers")
    return " ".join(f"{name} {versions[name]}" for name in kept if name in versions)
