"""Every metric's name, unit, reduction and meaning, and how fractions are pooled.

A fraction is a sum over a count, pooled over all micro-batches before it is divided, so that
micro-batch size never changes a number. Counts are of response tokens inside the loss's mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from erclip.losses import LossOutput
from erclip.machine.distributed import World

Reduction = Literal["mean", "sum", "last", "quantile", "max"]


class Metric(NamedTuple):
    """What a number in metrics.jsonl is."""

    unit: str
    reduction: Reduction
    meaning: str


METRICS: dict[str, Metric] = {
    # one line per rollout
    "train/reward": Metric("reward", "mean", "reward per sampled response, all groups"),
    "train/accuracy": Metric("fraction", "mean", "correct responses among all sampled"),
    "train/response_length": Metric("tokens", "mean", "length of a sampled response"),
    "train/truncated_frac": Metric("fraction", "mean", "responses cut at max_tokens"),
    "train/completed_reward": Metric(
        "reward", "mean", "reward per response that was not cut at max_tokens, if there is one"
    ),
    "train/no_answer_frac": Metric("fraction", "mean", "responses in which no answer was found"),
    "train/groups_kept_frac": Metric("fraction", "mean", "groups that teach, by `rollout.keep`"),
    "train/responses": Metric("responses", "sum", "responses sampled"),
    "sampler/logprob_diff": Metric("nats", "mean", "|sampler − trainer| log-prob of a token"),
    "sampler/kl": Metric("nats/token", "mean", "KL(sampler‖trainer), estimated by w − 1 − log w"),
    "sampler/chi2": Metric("1", "mean", "χ²(trainer‖sampler), estimated by (w − 1)²"),
    "sampler/nucleus_mass": Metric(
        "fraction",
        "mean",
        "probability of what top_p left to draw from, apart from any drift: log-probs, and so w, "
        "are those before the cut; only where sampler.top_p < 1 and the sampler tells it",
    ),
    "sampler/ratio_mean": Metric("1", "mean", "w = π_old/π_sampler of the sampled tokens"),
    "sampler/ratio_q01": Metric("1", "quantile", "1 % quantile of w"),
    "sampler/ratio_q99": Metric("1", "quantile", "99 % quantile of w"),
    "sampler/ratio_max": Metric("1", "max", "largest w of the rollout"),
    "sampler/effective_frac": Metric(
        "fraction", "mean", "(Σw)²/(N Σw²): share of the tokens that their weights leave"
    ),
    "staleness/mean": Metric(
        "updates", "mean", "between the weights that drew a token and the rollout's first update"
    ),
    "staleness/max": Metric("updates", "max", "the same of the oldest token"),
    "staleness/kl": Metric(
        "nats/token",
        "mean",
        "KL(sampler‖policy), estimated by w − 1 − log w with w = π_θ/π_sampler; at every update, "
        "and a rollout's is that of its first",
    ),
    "staleness/chi2": Metric("1", "mean", "χ²(policy‖sampler), estimated by (w − 1)², likewise"),
    "staleness/effective_frac": Metric(
        "fraction", "mean", "(Σw)²/(N Σw²), the effective sample size over N, likewise"
    ),
    "erc/noise_frac": Metric(
        "fraction",
        "mean",
        "tokens ERC clips in a rollout's first mini-batch, where the true ρ is 1",
    ),
    "erc/rounding_frac": Metric(
        "fraction",
        "mean",
        "tokens ERC clips for rounding alone: that mini-batch with embeddings one unit in the "
        "last place off, rollouts 1, 11, 21, …",
    ),
    "grad/norm_max": Metric("1", "max", "largest gradient norm of its updates, before clipping"),
    "time/sample_s": Metric("s", "sum", "sampling responses"),
    "time/grade_s": Metric("s", "sum", "grading them"),
    "time/score_s": Metric("s", "sum", "scoring them with the old policy"),
    "time/update_s": Metric("s", "sum", "all updates of the rollout"),
    "time/rollout_s": Metric("s", "sum", "the whole rollout, evaluation not included"),
    "time/trainer_wait_frac": Metric(
        "fraction", "mean", "of that time, the trainer waited for the sampler's process"
    ),
    "time/sampler_wait_frac": Metric(
        "fraction", "mean", "of its own time, the sampler's process had nothing to sample"
    ),
    "time/eval_s": Metric("s", "sum", "one evaluation"),
    # one line per update; policy/entropy also per rollout, of the old policy
    "policy/entropy": Metric("nats/token", "mean", "entropy of the next-token distribution"),
    "policy/kl_old": Metric("nats/token", "mean", "KL(old‖new), estimated by r − 1 − log r"),
    "policy/kl_ref": Metric(
        "nats/token", "mean", "KL(new‖reference), by the estimator of the KL penalty"
    ),
    "policy/kl_start": Metric(
        "nats/token",
        "mean",
        "KL(start‖policy) at an evaluation, by w − 1 − log w on tokens of the first rollout",
    ),
    "loss/policy": Metric("reward", "sum", "the policy loss, with every term that is added to it"),
    "grad/norm": Metric("1", "last", "norm of the gradient before clipping"),
    "grad/skipped": Metric("updates", "sum", "updates skipped for a gradient that is not finite"),
    "ratio/mean": Metric("1", "mean", "importance ratio π_θ/π_old of the sampled tokens"),
    "clip/ppo_frac": Metric("fraction", "mean", "tokens past a bound of the surrogate"),
    "clip/ppo_low_frac": Metric("fraction", "mean", "… below the lower one, A < 0"),
    "clip/ppo_high_frac": Metric("fraction", "mean", "… above the upper one, A > 0"),
    "clip/dual_frac": Metric("fraction", "mean", "tokens past the dual clip"),
    "clip/erc_frac": Metric("fraction", "mean", "tokens whose gradient ERC took away"),
    "clip/erc_low_frac": Metric("fraction", "mean", "… with ρ at or below 1 − low"),
    "clip/erc_high_frac": Metric("fraction", "mean", "… with ρ at or above 1 + high"),
    "clip/random_frac": Metric("fraction", "mean", "tokens taken away by the random mask"),
    "train/learning_rate": Metric("1", "last", "learning rate of the update"),
    "train/tokens": Metric("tokens", "sum", "response tokens in the mini-batch, N"),
    **{
        f"erc/ratio_q{q:02d}": Metric("1", "quantile", f"{q} % quantile of the entropy ratio ρ")
        for q in (1, 5, 25, 50, 75, 95, 99)
    },
    # evaluation: eval/<set>/<name>
    "avg_at_k": Metric("fraction", "mean", "mean accuracy over k responses per problem"),
    "pass_at_k": Metric("fraction", "mean", "problems solved at least once in k responses"),
    "response_length": Metric("tokens", "mean", "length of a response"),
    "truncated_frac": Metric("fraction", "mean", "responses cut at max_tokens"),
}

CORE_RULES = ("ppo_low", "ppo_high", "dual", "erc_low", "erc_high", "random")

_AT_K = re.compile(r"_at_\d+(_low|_high)?$")


def find_metric(name: str) -> Metric | None:
    """The declaration of a name in metrics.jsonl; `eval/<set>/<name>` is declared by <name>.

    `clip/<rule>_frac`, `weight/<rule>` and `loss/<term>` are what parts of the loss report.

    >>> find_metric("eval/countdown/avg_at_4_low").unit, find_metric("kind")
    ('fraction', None)
    """
    if name.startswith("eval/"):
        name = _AT_K.sub("_at_k", name.rpartition("/")[2])
    return METRICS.get(name) or _of_a_rule(name)


def _of_a_rule(name: str) -> Metric | None:
    """What the parts of a loss report under names of their own."""
    area, _, own = name.partition("/")
    if area == "clip" and own.endswith("_frac"):
        rule = own.removesuffix("_frac")
        return Metric("fraction", "mean", f"tokens on which the rule {rule} acted")
    if area == "weight":
        return Metric("1", "mean", f"share of gradient that {own} leaves a token")
    if area == "loss":
        return Metric("1", "mean", f"the cost {own} per token, before its weight")
    return None


QUANTILES = (1, 5, 25, 50, 75, 95, 99)


class Pool:
    """Sums over tokens and their count; `means` divides once, at the end.

    >>> pool = Pool()
    >>> pool.add({"a": torch.tensor(3.0)}, count=2)
    >>> pool.add({"a": torch.tensor(1.0)}, count=2)
    >>> pool.means()
    {'a': 1.0}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, sums: Mapping[str, Tensor], count: int) -> None:
        """Add one micro-batch's sums, kept on their device so that nothing waits for them."""
        for name, value in sums.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.count += count

    def means(self, world: World | None = None) -> dict[str, float]:
        """Sum over count of every name; over all processes of `world`."""
        totals = (world or World()).sums({**self._sums, "": torch.tensor(float(self.count))})
        count = max(int(totals.pop("")), 1)
        return {name: (total / count).item() for name, total in totals.items()}


def token_sums(out: LossOutput, entropies: Tensor | None, mask: Tensor) -> dict[str, Tensor]:
    """What one micro-batch adds to the pool: sums over its masked tokens."""
    ratio = out.ratio
    known = {} if entropies is None else {"policy/entropy": torch.where(mask, entropies, 0.0).sum()}
    sums = known | {
        "policy/kl_old": torch.where(mask, ratio - 1 - ratio.log(), 0.0).sum(),
        "ratio/mean": torch.where(mask, ratio, 0.0).sum(),
    }
    return sums | _clip_sums(out) | _weight_sums(out, mask) | _term_sums(out)


def _clip_sums(out: LossOutput) -> dict[str, Tensor]:
    """Tokens by the names of the rules that acted on them.

    Rules that are as old as this package are there in every run, so that runs compare.
    """
    sums = {}
    for rule, names in sides((*CORE_RULES, *out.clipped)).items():
        flags = [out.flags(name) for name in names]
        if len(flags) > 1:
            sums[f"clip/{rule}_frac"] = (flags[0] | flags[1]).sum()
        sums |= {f"clip/{n}_frac": hit.sum() for n, hit in zip(names, flags, strict=True)}
    return sums


def sides(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Rules and the names they report under: `x_low` and `x_high` are two sides of one rule x.

    >>> sides(["erc_low", "erc_high", "low_entropy"])
    {'erc': ('erc_low', 'erc_high'), 'low_entropy': ('low_entropy',)}
    """
    known = dict.fromkeys(names)
    found = {}
    for name in known:
        rule, _, side = name.rpartition("_")
        pair = (f"{rule}_low", f"{rule}_high")
        if side in ("low", "high") and all(other in known for other in pair):
            found[rule] = pair
        else:
            found[name] = (name,)
    return found


def _weight_sums(out: LossOutput, mask: Tensor) -> dict[str, Tensor]:
    return {
        f"weight/{name}": torch.where(mask, weight, 0.0).sum()
        for name, weight in out.weights.items()
    }


def _term_sums(out: LossOutput) -> dict[str, Tensor]:
    known = {"kl_penalty": "policy/kl_ref"}
    return {known.get(name, f"loss/{name}"): cost.sum() for name, cost in out.terms.items()}


def sampler_sums(logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What one micro-batch adds to the pool for `staleness`: w = π_θ/π_sampler of its tokens."""
    log_w = torch.where(mask, logprobs.detach() - sampler_logprobs, 0.0).double()
    w = torch.where(mask, log_w.exp(), 0.0)
    return {
        "staleness/kl": torch.where(mask, w - 1 - log_w, 0.0).sum(),
        "w": w.sum(),
        "w²": (w * w).sum(),
    }


def staleness(means: Mapping[str, float]) -> dict[str, float]:
    """The pool's means with (mean w)² / mean w² and mean (w − 1)² in the place of both.

    >>> staleness({"w": 1.0, "w²": 1.25, "ratio/mean": 1.0})
    {'ratio/mean': 1.0, 'staleness/chi2': 0.25, 'staleness/effective_frac': 0.8}
    """
    rest = {name: value for name, value in means.items() if name not in ("w", "w²")}
    if "w" not in means:
        return rest
    mean, squares = means["w"], means["w²"]
    return {
        **rest,
        "staleness/chi2": max(squares - 2 * mean + 1, 0.0) if squares else 0.0,
        "staleness/effective_frac": mean**2 / squares if squares else 0.0,
    }


def ratio_quantiles(entropy_ratios: Tensor) -> dict[str, float]:
    """Quantiles of all entropy ratios of an update [N], any N ≥ 1."""
    values = _quantiles(entropy_ratios, QUANTILES)
    return {f"erc/ratio_q{q:02d}": value for q, value in values.items()}


def sampler_mismatch(log_ratios: Tensor) -> dict[str, float]:
    """How far the sampler's policy was from the trainer's: log π_old − log π_sampler [N], N ≥ 1.

    Taken over the tokens that the sampler drew, so that the mean of w − 1 − log w estimates
    KL(sampler‖trainer) and w has mean 1 where the two are the same policy.
    """
    log_w = log_ratios.double()
    w = log_w.exp()
    quantiles = _quantiles(w, (1, 99))
    return {
        "sampler/logprob_diff": log_w.abs().mean().item(),
        "sampler/kl": (w - 1 - log_w).mean().item(),
        "sampler/chi2": ((w - 1) ** 2).mean().item(),
        "sampler/ratio_mean": w.mean().item(),
        "sampler/ratio_q01": quantiles[1],
        "sampler/ratio_q99": quantiles[99],
        "sampler/ratio_max": w.max().item(),
        "sampler/effective_frac": (w.sum() ** 2 / (len(w) * (w * w).sum())).item(),
    }


def _quantiles(values: Tensor, percents: Sequence[int]) -> dict[int, float]:
    """Quantiles with linear interpolation; torch.quantile refuses more than 2^24 values."""
    ordered = values.flatten().double().sort().values
    last = len(ordered) - 1
    result = {}
    for q in percents:
        position = q / 100 * last
        low = int(position)
        high = min(low + 1, last)
        value = ordered[low] + (position - low) * (ordered[high] - ordered[low])
        result[q] = value.item()
    return result
