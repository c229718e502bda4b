"""The metric names that a report reads: the only place in this package where they are spelled."""

from __future__ import annotations

import re

from erclip.runs.metrics import METRICS

REWARD = "train/reward"
ACCURACY = "train/accuracy"
RESPONSE_LENGTH = "train/response_length"
TRUNCATED = "train/truncated_frac"
NO_ANSWER = "train/no_answer_frac"
GROUPS_KEPT = "train/groups_kept_frac"
RESPONSES = "train/responses"
TOKENS = "train/tokens"

ENTROPY = "policy/entropy"
KL_OLD = "policy/kl_old"
KL_START = "policy/kl_start"
GRAD_NORM = "grad/norm"
GRAD_SKIPPED = "grad/skipped"
LOGPROB_DIFF = "sampler/logprob_diff"

STALENESS = ("staleness/mean", "staleness/max")
STALE_KL = "staleness/kl"
EFFECTIVE = "staleness/effective_frac"

NOISE = "erc/noise_frac"
ROUNDING = "erc/rounding_frac"
ERC = ("clip/erc_frac", "clip/erc_low_frac", "clip/erc_high_frac")
PPO = ("clip/ppo_frac", "clip/ppo_low_frac", "clip/ppo_high_frac")
RANDOM = "clip/random_frac"

RATIO_QUANTILES = {percent: f"erc/ratio_q{percent:02d}" for percent in (1, 5, 25, 50, 75, 95, 99)}

TIME_PARTS = {
    "sample": "time/sample_s",
    "grade": "time/grade_s",
    "score": "time/score_s",
    "update": "time/update_s",
}
TIME_ROLLOUT = "time/rollout_s"
WAITS = ("time/trainer_wait_frac", "time/sampler_wait_frac")
ELAPSED = "time_s"

CLIP = re.compile(r"clip/(\w+)_frac")
"""Share of tokens on which a rule acted."""

_AVG_AT = re.compile(r"eval/(?P<set>.+)/avg_at_(?P<k>\d+)")


def axis_label(words: str, name: str) -> str:
    """Return the label of an axis that shows this metric, with its declared unit if it has one.

    >>> axis_label("entropy", "policy/entropy"), axis_label("gradient norm", "grad/norm")
    ('entropy (nats/token)', 'gradient norm')
    """
    unit = METRICS[name].unit
    return words if unit in ("1", "fraction", words) else f"{words} ({unit})"


def side(name: str) -> str:
    """Return which tokens a clipped share counts.

    >>> side("clip/erc_frac"), side("clip/erc_low_frac")
    ('all', 'below the range')
    """
    which = name.removesuffix("_frac").rpartition("_")[2]
    return {"low": "below the range", "high": "above the range"}.get(which, "all")


def avg_at(name: str) -> tuple[str, int] | None:
    """Return the held-out set and k of a metric `eval/<set>/avg_at_<k>`, None for any other name.

    >>> avg_at("eval/countdown/avg_at_4"), avg_at("eval/countdown/avg_at_4_low")
    (('countdown', 4), None)
    """
    match = _AVG_AT.fullmatch(name)
    return (match["set"], int(match["k"])) if match else None


def pass_at(held_out: str, k: int) -> str:
    """Return the name of the pass@k metric that stands beside avg@k.

    >>> pass_at("countdown", 4)
    'eval/countdown/pass_at_4'
    """
    return f"eval/{held_out}/pass_at_{k}"


def greedy_name(held_out: str) -> str:
    """Return the name under which the likeliest responses to a set are evaluated, as one more set.

    >>> greedy_name("countdown")
    'countdown-greedy'
    """
    return f"{held_out}-greedy"
