"""Numbers that are computed between metrics.jsonl and the pictures, against hand-worked ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from erclip.runs import names, series
from erclip.runs.metrics import METRICS
from erclip.runs.read import Run


def run_of(updates=(), rollouts=(), evals=()) -> Run:
    return Run(Path("run"), "run", {}, tuple(rollouts), tuple(updates), tuple(evals), (), ())


def update(rollout, step, **metrics):
    return {"rollout": rollout, "update_in_rollout": step} | {
        name.replace("__", "/"): value for name, value in metrics.items()
    }


def test_shares_are_pooled_over_tokens_not_averaged_over_updates():
    updates = [
        update(1, 1, clip__erc_frac=0.0, train__tokens=900),
        update(1, 2, clip__erc_frac=0.5, train__tokens=100),
        update(2, 1, clip__erc_frac=0.25, train__tokens=100),
        update(2, 2, clip__erc_frac=math.nan, train__tokens=300),
        update(3, 1, clip__erc_frac=None, train__tokens=300),
    ]
    curve = series.share_by_rollout(run_of(updates), "clip/erc_frac")
    np.testing.assert_array_equal(curve.x, [1, 2, 3])
    np.testing.assert_array_equal(curve.y, [0.05, 0.25, math.nan])
    assert series.share(run_of(updates), "clip/erc_frac") == (50 + 25) / 1100
    assert math.isnan(series.share(run_of(updates), "clip/dual_frac"))


def test_the_noise_floor_is_the_larger_of_two_where_both_were_measured():
    rows = [
        {"rollout": 1, "erc/noise_frac": 0.0, "erc/rounding_frac": 0.12},
        {"rollout": 2, "erc/noise_frac": 0.01},
        {"rollout": 3, "erc/noise_frac": 0.2, "erc/rounding_frac": 0.11},
    ]
    curve = series.noise_floor(run_of(rollouts=rows))
    assert (curve.x.tolist(), curve.y.tolist()) == ([1, 3], [0.12, 0.2])
    alone = series.noise_floor(run_of(rollouts=[rows[1]]))
    assert (alone.x.tolist(), alone.y.tolist()) == ([2], [0.01])


def test_shares_without_token_counts_are_plain_means():
    updates = [update(1, 1, clip__ppo_frac=0.1), update(1, 2, clip__ppo_frac=0.3)]
    curve = series.share_by_rollout(run_of(updates), "clip/ppo_frac")
    np.testing.assert_allclose(curve.y, [0.2], rtol=0, atol=1e-15)


def test_updates_are_spread_around_their_rollout():
    steps = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1)]
    updates = [update(r, s, grad__norm=float(i)) for i, (r, s) in enumerate(steps)]
    curve = series.by_update(run_of(updates), "grad/norm")
    np.testing.assert_array_equal(curve.x, [0.625, 0.875, 1.125, 1.375, 1.625])
    np.testing.assert_array_equal(curve.y, [0, 1, 2, 3, 4])


def test_medians_and_largest_ignore_what_is_not_a_number():
    values = [(1, 1, 3.0), (1, 2, math.inf), (1, 3, 1.0), (2, 1, None), (2, 2, math.nan)]
    run = run_of([update(r, s, grad__norm=value) for r, s, value in values])
    np.testing.assert_array_equal(series.median_by_rollout(run, "grad/norm").y, [2.0, math.nan])
    np.testing.assert_array_equal(series.largest_by_rollout(run, "grad/norm").y, [3.0, math.nan])


def test_median_by_step_is_over_rollouts():
    values = [(1, 1, 1.0), (1, 2, 2.0), (2, 1, 5.0), (2, 2, 4.0), (3, 1, 1.5)]
    run = run_of([update(r, s, erc__ratio_q50=value) for r, s, value in values])
    curve = series.median_by_step(run, "erc/ratio_q50")
    np.testing.assert_array_equal(curve.x, [1, 2])
    np.testing.assert_array_equal(curve.y, [1.5, 3.0])


def test_evaluations_by_set_and_k():
    evals = [
        {"rollout": 0, "eval/a/b/avg_at_4": 0.5, "eval/a/b/avg_at_4_low": 0.25},
        {
            "rollout": 2,
            "eval/a/b/avg_at_4": math.nan,
            "eval/c/avg_at_32": 0.125,
            "eval/c/pass_at_32": 1.0,
        },
    ]
    assert series.evaluations(run_of(evals=evals)) == {
        ("a/b", 4): [series.Evaluation(0, 0.5, 0.25, None, None)],
        ("c", 32): [series.Evaluation(2, 0.125, None, None, 1.0)],
    }


def test_every_name_that_the_report_reads_is_declared_by_the_trainer():
    read = [value for name, value in vars(names).items() if name.isupper() and name != "METRICS"]
    flat = set()
    for value in read:
        if isinstance(value, str):
            flat.add(value)
        elif isinstance(value, dict):
            flat |= set(value.values())
        elif isinstance(value, tuple):
            flat |= set(value)
    assert len(flat) > 30
    assert flat - {names.ELAPSED} <= set(METRICS)
