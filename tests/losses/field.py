"""The field's rules by pencil: one row per branch, with the gradient of every token.

π of the tokens of one response now, under π_old and under the sampler's μ; where one of the two is
not given it is 0.5 throughout, so that a rule which looks at the wrong one shows. `gradient` is
N · d objective / d log π, under REINFORCE for what is no surrogate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import erclip


class Case(NamedTuple):
    why: str
    part: str
    now: tuple[float, ...]
    past: tuple[float, ...]
    advantage: float
    gradient: tuple[float, ...]
    fired: frozenset[str] = frozenset()


def case(why, part, now, past, advantage, gradient, *fired):
    return Case(why, part, now, past, advantage, gradient, frozenset(fired))


def grown(*logs, of=0.5):
    """Probabilities whose log ratios to `of` these are."""
    return tuple(of * math.exp(x) for x in logs)


def parts(factories):
    """The parts that the rows name."""
    f = factories
    return {
        "spo": f.spo(epsilon=0.2),
        "spo_mu": f.spo(epsilon=0.2, anchor="sampler"),
        "drpo": f.drpo(epsilon=0.2),
        "drpo_old": f.drpo(epsilon=0.2, anchor="old"),
        "truncated": f.truncated_reinforce(cap=2.0),
        "truncated_old": f.truncated_reinforce(cap=2.0, anchor="old"),
        "dgpo": f.dgpo(low=0.2, high=0.25),
        "dgpo_mu": f.dgpo(low=0.2, high=0.25, anchor="sampler"),
        "dgpo_2": f.dgpo(low=0.2, high=0.25, n=2.0, m=1.0),
        "aspo": f.aspo(low=0.2, high=0.25, cap=3.0),
        "aspo_mu": f.aspo(low=0.2, high=0.25, cap=3.0, anchor="sampler"),
        "gmpo": f.gmpo(low=0.4, high=0.5),
        "gmpo_mu": f.gmpo(low=0.4, high=0.5, anchor="sampler"),
        "vespo": f.vespo(),
        "vespo_mu": f.vespo(anchor="sampler"),
        "tv": f.bandpo("tv", radius=0.05),
        "tv_mu": f.bandpo("tv", radius=0.05, anchor="sampler"),
        "chi2": f.bandpo("chi2", radius=0.05),
        "kl": f.bandpo("kl", radius=0.05),
        "dppo_kl": f.dppo_kl(threshold=0.05),
        "dppo_kl_old": f.dppo_kl(threshold=0.05, anchor="old"),
        "dppo_kl_85": f.dppo_kl(threshold=0.085),
        "ipo": f.ipo(threshold=0.1),
        "ipo_old": f.ipo(threshold=0.1, anchor="old"),
        "kpop": f.kpop(threshold=2.0),
        "kpop_old": f.kpop(threshold=2.0, anchor="old"),
        "opsm": f.off_policy_sequence_mask(threshold=0.1),
        "opsm_old": f.off_policy_sequence_mask(threshold=0.1, anchor="old"),
        "m2po": f.m2po(threshold=0.04),
        "m2po_all": f.m2po(threshold=0.04, scope="all"),
        "m2po_old": f.m2po(threshold=0.04, anchor="old"),
        "penalty": f.log_ratio_penalty(0.1),
        "penalty_old": f.log_ratio_penalty(0.1, anchor="old"),
    }


PARTS = parts(erclip)
KL_EDGE = 0.5 + 0.5 * math.sqrt(1 - math.exp(-0.1))  # KL(0.5‖π) = −log(4π(1 − π))/2 = 0.05

CASES = [
    # SPO: r (A − |A| (r − 1)/0.2)
    case("half of it at half of ε", "spo", (0.55,), (0.5,), 2.0, (1.1,)),
    case("0 at ε", "spo", (0.6,), (0.5,), 1.0, (0.0,)),
    case("back beyond ε", "spo", (0.7,), (0.5,), 1.0, (-1.4,)),
    case("A < 0, falling", "spo", (0.45,), (0.5,), -2.0, (-0.9,)),
    case("A < 0, far below: back", "spo", (0.35,), (0.5,), -1.0, (0.35,)),
    case("moving back is pushed harder", "spo", (0.45,), (0.5,), 1.0, (1.35,)),
    case("A = 0", "spo", (0.7,), (0.5,), 0.0, (0.0,)),
    case("against the sampler", "spo_mu", (0.44,), (0.4,), 2.0, (1.1,)),
    # DRPO: r (A − |A| (π − μ)/0.2)
    case("half of it at half of ε", "drpo", (0.5,), (0.4,), 2.0, (1.25,)),
    case("0 at ε", "drpo", (0.6,), (0.4,), 1.0, (0.0,)),
    case("back beyond ε", "drpo", (0.8,), (0.4,), 1.0, (-2.0,)),
    case("a rare token may triple", "drpo", (0.003,), (0.001,), 1.0, (2.97,)),
    case("A < 0, falling", "drpo", (0.4,), (0.5,), -1.0, (-0.4,)),
    case("against the old policy", "drpo_old", (0.5,), (0.4,), 2.0, (1.25,)),
    # min(r, 2)
    case("below the cap", "truncated", (0.6,), (0.4,), 2.0, (3.0,)),
    case("above", "truncated", (0.8,), (0.2,), 1.0, (2.0,), "truncated"),
    case("whatever A", "truncated", (0.8,), (0.2,), -1.0, (-2.0,), "truncated"),
    case("A = 0", "truncated", (0.8,), (0.2,), 0.0, (0.0,)),
    case("against the old policy", "truncated_old", (0.6,), (0.4,), 2.0, (3.0,)),
    # DGPO in [0.8, 1.25], n = 1, m = 2
    case("inside: r", "dgpo", (0.44,), (0.4,), 2.0, (2.2,)),
    case("at half of lo: r/2", "dgpo", (0.16,), (0.4,), -1.0, (-0.2,), "ppo_low"),
    case("below, A > 0: r", "dgpo", (0.16,), (0.4,), 1.0, (0.4,)),
    case("at four times hi: 2 hi", "dgpo", (0.5,), (0.1,), 1.0, (2.5,), "ppo_high"),
    case("above, A < 0: r", "dgpo", (0.5,), (0.1,), -1.0, (-5.0,)),
    case("A = 0", "dgpo", (0.5,), (0.1,), 0.0, (0.0,)),
    case("n = 2: r/4", "dgpo_2", (0.16,), (0.4,), -1.0, (-0.1,), "ppo_low"),
    case("m = 1: hi", "dgpo_2", (0.5,), (0.1,), 1.0, (1.25,), "ppo_high"),
    case("against the sampler", "dgpo_mu", (0.16,), (0.4,), -1.0, (-0.2,), "ppo_low"),
    # ASPO: PPO's bounds are [0.8, 1.25], the cap is 3
    case("A > 0: 1/r", "aspo", (0.2,), (0.4,), 1.0, (2.0,)),
    case("A > 0, above 1", "aspo", (0.48,), (0.4,), 1.0, (1 / 1.2,)),
    case("capped", "aspo", (0.04,), (0.4,), 2.0, (6.0,), "truncated"),
    case("PPO clips above", "aspo", (0.6,), (0.4,), 1.0, (0.0,), "ppo_high"),
    case("PPO clips below", "aspo", (0.2,), (0.4,), -1.0, (0.0,), "ppo_low"),
    case("A < 0: r", "aspo", (0.36,), (0.4,), -1.0, (-0.9,)),
    case("A < 0, above", "aspo", (0.6,), (0.4,), -1.0, (-1.5,)),
    case("against the sampler", "aspo_mu", (0.2,), (0.4,), 1.0, (2.0,)),
    # GMPO: log r held at 0.5 and −0.4, then its mean
    case("inside", "gmpo", grown(0.2, 0.3, of=0.3), (0.3,) * 2, 2.0, (2 * math.exp(0.25),) * 2),
    case("inside, above low", "gmpo", grown(0.45, 0.15, of=0.3), (0.3,) * 2, 1.0,
         (math.exp(0.3),) * 2),
    case("held above", "gmpo", grown(0.2, 0.9, of=0.3), (0.3,) * 2, 1.0, (math.exp(0.35), 0.0),
         "ppo_high"),
    case("held below", "gmpo", grown(-0.2, -0.9), (0.5,) * 2, -1.0, (-math.exp(-0.3), 0.0),
         "ppo_low"),
    case("above, A < 0", "gmpo", grown(0.9, 0.2, of=0.3), (0.3,) * 2, -1.0,
         (-math.exp(0.55),) * 2),
    case("below, A > 0", "gmpo", grown(-0.9, 0.2, of=0.3), (0.3,) * 2, 1.0,
         (math.exp(-0.35),) * 2),
    case("against the sampler", "gmpo_mu", grown(0.2, 0.3, of=0.3), (0.3,) * 2, 1.0,
         (math.exp(0.25),) * 2),
    # VESPO: e^λ Wᵏ e^(−λW), W the product
    case("A > 0: k 2, λ 3", "vespo", grown(0.1, 0.2, of=0.3), (0.3,) * 2, 2.0,
         (2 * math.exp(3 + 0.6 - 3 * math.exp(0.3)),) * 2),
    case("A < 0: k 3, λ 2", "vespo", grown(0.1, 0.2, of=0.3), (0.3,) * 2, -1.0,
         (-math.exp(2 + 0.9 - 2 * math.exp(0.3)),) * 2),
    case("1 at W = 1", "vespo", grown(0.2, -0.2, of=0.3), (0.3,) * 2, 1.0, (1.0, 1.0)),
    case("log W ends at log 1e-8", "vespo", grown(-15.0, -15.0), (0.5,) * 2, 1.0,
         (math.exp(3 - 3e-8) * 1e-16,) * 2),
    case("against the sampler", "vespo_mu", grown(0.1, 0.2, of=0.3), (0.3,) * 2, 1.0,
         (math.exp(3 + 0.6 - 3 * math.exp(0.3)),) * 2),
    # Band, total variation: 1 ± 0.05/μ
    case("μ 0.4: up to 1.125", "tv", (0.448,), (0.4,), 1.0, (1.12,)),
    case("beyond", "tv", (0.452,), (0.4,), 1.0, (0.0,), "ppo_high"),
    case("μ 0.03: up to 2.67", "tv", (0.078,), (0.03,), 1.0, (2.6,)),
    case("beyond", "tv", (0.081,), (0.03,), 1.0, (0.0,), "ppo_high"),
    case("below 0.875", "tv", (0.348,), (0.4,), -1.0, (0.0,), "ppo_low"),
    case("rare tokens have no lower bound", "tv", (3e-5,), (0.03,), -1.0, (-1e-3,)),
    case("above, A < 0", "tv", (0.6,), (0.4,), -1.0, (-1.5,)),
    case("against the sampler", "tv_mu", (0.452,), (0.4,), 1.0, (0.0,), "ppo_high"),
    # Band, χ²: 1 ± √(0.05 (1 − μ)/μ)
    case("μ 0.1: up to 1.67", "chi2", (0.166,), (0.1,), 1.0, (1.66,)),
    case("beyond", "chi2", (0.168,), (0.1,), 1.0, (0.0,), "ppo_high"),
    case("μ 0.5: down to 0.776", "chi2", (0.39,), (0.5,), -1.0, (-0.78,)),
    case("beyond", "chi2", (0.385,), (0.5,), -1.0, (0.0,), "ppo_low"),
    # Band, KL
    case("within", "kl", (KL_EDGE - 1e-6,), (0.5,), 1.0, (2 * (KL_EDGE - 1e-6),)),
    case("beyond", "kl", (KL_EDGE + 1e-6,), (0.5,), 1.0, (0.0,), "ppo_high"),
    case("within, below", "kl", (1 - KL_EDGE + 1e-6,), (0.5,), -1.0, (-2 * (1 - KL_EDGE + 1e-6),)),
    case("beyond, below", "kl", (1 - KL_EDGE - 1e-6,), (0.5,), -1.0, (0.0,), "ppo_low"),
    case("KL(μ‖π), not KL(π‖μ): 0.0493", "kl", (0.193,), (0.1,), 1.0, (1.93,)),
    # DPPO-KL: the same edge, and only outward
    case("within", "dppo_kl", (KL_EDGE - 1e-6,), (0.5,), 1.0, (1.0,)),
    case("beyond, A > 0", "dppo_kl", (KL_EDGE + 1e-6,), (0.5,), 1.0, (0.0,), "dppo_high"),
    case("beyond, A < 0: moves back", "dppo_kl", (KL_EDGE + 1e-6,), (0.5,), -1.0, (-1.0,)),
    case("below, A < 0", "dppo_kl", (1 - KL_EDGE - 1e-6,), (0.5,), -1.0, (0.0,), "dppo_low"),
    case("below, A > 0: moves back", "dppo_kl", (1 - KL_EDGE - 1e-6,), (0.5,), 1.0, (1.0,)),
    case("A = 0 counts as falling", "dppo_kl", (0.3,), (0.5,), 0.0, (0.0,), "dppo_low"),
    case("KL(μ‖π) = 0.082, not 0.087", "dppo_kl_85", (0.5,), (0.3,), 1.0, (1.0,)),
    case("against the old policy", "dppo_kl_old", (0.7,), (0.4,), 1.0, (0.0,), "dppo_high"),
    case("only against that", "dppo_kl_old", (0.7,), (0.65,), 1.0, (1.0,)),
    # IPO: |π − μ| ≤ 0.1
    case("within", "ipo", (0.49,), (0.4,), 1.0, (1.0,)),
    case("above, A > 0", "ipo", (0.51,), (0.4,), 1.0, (0.0,), "ipo"),
    case("above, A < 0 as well", "ipo", (0.51,), (0.4,), -1.0, (0.0,), "ipo"),
    case("below", "ipo", (0.29,), (0.4,), 1.0, (0.0,), "ipo"),
    case("against the old policy", "ipo_old", (0.55,), (0.4,), 1.0, (0.0,), "ipo"),
    # KPop: the larger of both directions ≤ 2 nats
    case("0.83 and 1.49", "kpop", (0.5,), (0.05,), 1.0, (1.0,)),
    case("KL(π‖μ) = 2.9", "kpop", (0.99,), (0.05,), 1.0, (0.0,), "kpop"),
    case("KL(μ‖π) = 3.9, KL(π‖μ) = 0.7", "kpop", (1e-4,), (0.5,), 1.0, (0.0,), "kpop"),
    case("KL(π‖μ) = 3.9, KL(μ‖π) = 0.7", "kpop", (0.5,), (1e-4,), -1.0, (0.0,), "kpop"),
    case("against the old policy", "kpop_old", (0.5,), (1e-4,), -1.0, (0.0,), "kpop"),
    # OPSM: mean (log μ − log π) ≤ 0.1, or A ≥ 0
    case("0.112, A < 0", "opsm", (0.4, 0.3), (0.5, 0.3), -1.0, (0.0, 0.0), "off_policy_sequence"),
    case("0.112, A > 0", "opsm", (0.4, 0.3), (0.5, 0.3), 1.0, (1.0, 1.0)),
    case("0.087", "opsm", (0.42, 0.3), (0.5, 0.3), -1.0, (-1.0, -1.0)),
    case("the other way", "opsm", (0.9, 0.3), (0.5, 0.3), -1.0, (-1.0, -1.0)),
    case("old", "opsm_old", (0.4, 0.3), (0.5, 0.3), -1.0, (0.0, 0.0), "off_policy_sequence"),
    # M2PO: drop the largest (log r)² until the mean is ≤ 0.04
    case("0.01, 0.04, 0.25", "m2po", grown(0.1, 0.2, 0.5, of=0.3), (0.3,) * 3, 1.0,
         (1.0, 1.0, 0.0), "m2po"),
    case("(0.01 + 0.0625)/2", "m2po", grown(0.25, 0.1, of=0.3), (0.3,) * 2, 1.0, (1.0, 1.0)),
    case("(0.0225 + 0.0625)/2", "m2po", grown(0.25, 0.15, of=0.3), (0.3,) * 2, 1.0, (0.0, 1.0),
         "m2po"),
    case("one too far", "m2po", grown(0.5, of=0.3), (0.3,), 1.0, (0.0,), "m2po"),
    case("inward is out of scope", "m2po", grown(0.1, -0.9, of=0.3), (0.3,) * 2, 1.0, (1.0, 1.0)),
    case("A < 0: falling is outward", "m2po", grown(0.1, -0.9, of=0.3), (0.3,) * 2, -1.0,
         (-1.0, 0.0), "m2po"),
    case("scope all", "m2po_all", grown(0.1, -0.9, of=0.3), (0.3,) * 2, 1.0, (1.0, 0.0), "m2po"),
    case("old", "m2po_old", grown(0.5, of=0.3), (0.3,), 1.0, (0.0,), "m2po"),
    # 0.1 (log r)²: the objective loses 0.2 log r
    case("above", "penalty", grown(0.5, of=0.3), (0.3,), 0.0, (-0.1,)),
    case("below, beside A", "penalty", grown(-1.0, of=0.3), (0.3,), 1.0, (1.2,)),
    case("against the old policy", "penalty_old", grown(0.5, of=0.3), (0.3,), 0.0, (-0.1,)),
]  # fmt: skip
