"""The hand-worked branch table: one row per branch, value and gradient by pencil.

Every row is one token with log π_old = 0, so r = exp(logprob). `value` is the objective (the loss
is its negative), `gradient` is d objective / d log π. c = 3 where a dual clip is named.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import erclip


class Row(NamedTuple):
    why: str
    surrogate: str
    ratio: float
    advantage: float
    value: float
    gradient: float
    fired: frozenset[str] = frozenset()


def row(why, surrogate, ratio, advantage, value, gradient, *fired):
    return Row(why, surrogate, ratio, advantage, value, gradient, frozenset(fired))


def surrogates(factories):
    """The surrogates that the rows name, from any module with erclip's factories."""
    return {
        "ppo": factories.ppo_clip(low=0.2, high=0.28),
        "ppo_dual": factories.ppo_clip(low=0.2, high=0.28, dual=3.0),
        "gppo": factories.gppo_clip(low=0.2, high=0.25),
        "gppo_dual": factories.gppo_clip(low=0.2, high=0.25, dual=3.0),
        "ce_gppo": factories.ce_gppo_clip(low=0.2, high=0.25, beta_low=0.5, beta_high=0.75),
        "ce_gppo_zero": factories.ce_gppo_clip(low=0.2, high=0.25, beta_low=0.0, beta_high=0.0),
        "cispo": factories.cispo_clip(low=0.5, high=1.0),
        "gspo": factories.gspo_clip(low=0.2, high=0.25),
        "sapo": factories.sapo(tau_positive=1.0, tau_negative=2.0),
        "reinforce": factories.reinforce(),
    }


def constraints(factories):
    """The constraints that the ERC rows name; the band is (0.75, 1.5)."""
    clip = factories.entropy_ratio_clip
    return {
        "paper": clip(low=0.25, high=0.5),
        "directional": clip(low=0.25, high=0.5, rule="directional"),
        "sampled": clip(low=0.25, high=0.5, rule="directional_sampled"),
        "min_change": clip(low=0.25, high=0.5, min_entropy_change=0.001),
        "soft": clip(low=0.25, high=0.5, softness=0.1),
    }


SURROGATES = surrogates(erclip)
CONSTRAINTS = constraints(erclip)

LN2 = math.log(2)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


ROWS = [
    # PPO-clip with clip-higher: [0.8, 1.28]
    row("inside, A > 0: r A", "ppo", 1.1, 2.0, 2.2, 2.2),
    row("inside, A < 0: r A", "ppo", 0.9, -2.0, -1.8, -1.8),
    row("above, A > 0: bound, no gradient", "ppo", 1.5, 2.0, 2.56, 0.0, "ppo_high"),
    row("above, A < 0: the minimum is r A", "ppo", 1.5, -2.0, -3.0, -3.0),
    row("below, A > 0: the minimum is r A", "ppo", 0.5, 2.0, 1.0, 1.0),
    row("below, A < 0: bound, no gradient", "ppo", 0.5, -2.0, -1.6, 0.0, "ppo_low"),
    row("between 1 + low and 1 + high: clip-higher is not symmetric", "ppo", 1.25, 1.0, 1.25, 1.25),
    row("A = 0 teaches nothing and is not clipped", "ppo", 1.5, 0.0, 0.0, 0.0),
    row("far above, A < 0, no dual clip", "ppo", 5.0, -2.0, -10.0, -10.0),
    # dual clip: c A is the least objective for A < 0
    row("dual: r > c, A < 0", "ppo_dual", 5.0, -2.0, -6.0, 0.0, "dual"),
    row("dual: r < c, A < 0", "ppo_dual", 2.0, -2.0, -4.0, -4.0),
    row("dual does nothing for A > 0", "ppo_dual", 5.0, 2.0, 2.56, 0.0, "ppo_high"),
    # GPPO: [0.8, 1.25], clipped tokens keep (1 ± ε) A
    row("inside, A > 0", "gppo", 1.1, 2.0, 2.2, 2.2),
    row("above, A > 0: gradient (1 + high) A", "gppo", 2.0, 2.0, 2.5, 2.5, "ppo_high"),
    row("below, A < 0: gradient (1 − low) A", "gppo", 0.5, -2.0, -1.6, -1.6, "ppo_low"),
    row("above, A < 0: r A", "gppo", 2.0, -2.0, -4.0, -4.0),
    row("below, A > 0: r A", "gppo", 0.5, 2.0, 1.0, 1.0),
    row("dual clip takes the gradient", "gppo_dual", 5.0, -2.0, -6.0, 0.0, "dual"),
    row("dual leaves GPPO's low side alone", "gppo_dual", 0.5, -2.0, -1.6, -1.6, "ppo_low"),
    # CE-GPPO: value of PPO, gradient scaled by 0.5 below and 0.75 above
    row("above, A > 0: beta_high (1 + high) A", "ce_gppo", 2.0, 2.0, 2.5, 1.875, "ppo_high"),
    row("below, A < 0: beta_low (1 − low) A", "ce_gppo", 0.5, -2.0, -1.6, -0.8, "ppo_low"),
    row("inside is not scaled", "ce_gppo", 1.1, 2.0, 2.2, 2.2),
    row("above, A < 0 is not scaled", "ce_gppo", 2.0, -2.0, -4.0, -4.0),
    row("0/0 is PPO-clip above", "ce_gppo_zero", 2.0, 2.0, 2.5, 0.0, "ppo_high"),
    row("0/0 is PPO-clip below", "ce_gppo_zero", 0.5, -2.0, -1.6, 0.0, "ppo_low"),
    # CISPO: weight clip(r, 0.5, 2) A on log π
    row("weight r", "cispo", 1.5, 2.0, 3.0 * math.log(1.5), 3.0),
    row("weight capped above", "cispo", 4.0, 1.0, 2.0 * 2 * LN2, 2.0, "ppo_high"),
    row("… whatever the sign of A", "cispo", 4.0, -1.0, -2.0 * 2 * LN2, -2.0, "ppo_high"),
    row("weight raised below", "cispo", 0.25, 1.0, 0.5 * -2 * LN2, 0.5, "ppo_low"),
    # GSPO on a response of one token: the sequence ratio is the token's
    row("inside", "gspo", 1.1, 2.0, 2.2, 2.2),
    row("above, A > 0", "gspo", 2.0, 2.0, 2.5, 0.0, "ppo_high"),
    row("below, A < 0", "gspo", 0.5, -2.0, -1.6, 0.0, "ppo_low"),
    # SAPO: (4/τ) σ(τ(r − 1)) A, τ = 1 for A > 0 and 2 for A < 0
    row("at r = 1 the gradient is A", "sapo", 1.0, 2.0, 4.0, 2.0),
    row("gate for A > 0", "sapo", 2.0, 1.0, 4 * sigmoid(1), 4 * sigmoid(1) * (1 - sigmoid(1)) * 2),
    row(
        "gate for A < 0",
        "sapo",
        2.0,
        -1.0,
        -2 * sigmoid(2),
        -4 * sigmoid(2) * (1 - sigmoid(2)) * 2,
    ),
    # REINFORCE does not look at r
    row("A log π", "reinforce", 4.0, 3.0, 3 * 2 * LN2, 3.0),
]


def importances(factories):
    """The weights that the importance rows name."""
    return {
        "truncated": factories.truncated_importance(cap=2.0),
        "masked": factories.masked_importance(cap=4.0),
    }


IMPORTANCES = importances(erclip)


class ImportanceRow(NamedTuple):
    why: str
    importance: str
    sampler_ratio: float
    advantage: float
    ratio: float
    value: float
    gradient: float


# π_old/π_sampler, A and r = π/π_old; PPO-clip with clip-higher, w times its value and gradient.
IMPORTANCE_ROWS = [
    ImportanceRow("below the cap: w = ratio", "truncated", 1.5, 2.0, 1.1, 3.3, 3.3),
    ImportanceRow("… however small", "truncated", 0.25, 2.0, 1.1, 0.55, 0.55),
    ImportanceRow("above the cap: w = cap", "truncated", 8.0, 2.0, 1.1, 4.4, 4.4),
    ImportanceRow("A < 0 is weighted alike", "truncated", 8.0, -2.0, 0.9, -3.6, -3.6),
    ImportanceRow("a clipped token stays clipped", "truncated", 1.5, 2.0, 2.0, 3.84, 0.0),
    ImportanceRow("inside [1/cap, cap]", "masked", 3.0, 2.0, 1.1, 6.6, 6.6),
    ImportanceRow("inside, below 1", "masked", 0.5, -2.0, 0.9, -0.9, -0.9),
    ImportanceRow("above the cap: nothing", "masked", 4.5, 2.0, 1.1, 0.0, 0.0),
    ImportanceRow("below 1/cap: nothing", "masked", 0.2, 2.0, 1.1, 0.0, 0.0),
]


class ErcRow(NamedTuple):
    why: str
    rule: str
    entropy: float
    old_entropy: float
    advantage: float
    slope: float
    kept: float
    fired: frozenset[str] = frozenset()
    ratio: float = 1.1


def erc(why, rule, entropy, old_entropy, advantage, slope, kept, *fired, ratio=1.1):
    fired = frozenset(fired)
    return ErcRow(why, rule, entropy, old_entropy, advantage, slope, kept, fired, ratio)


def at(ratio):
    """The entropy whose ratio to an old entropy of 1 nat is `ratio`, in float64 exactly."""
    return ratio * (1.0 + 1e-8) - 1e-8


# Band (0.75, 1.5); a token's gradient is r A times the share that is kept, r = 1.1 unless said.
ERC_ROWS = [
    erc("inside the band", "paper", 1.4, 1.0, 1.0, 0.5, True),
    erc("above the band", "paper", 1.6, 1.0, 1.0, 0.5, False, "erc_high"),
    erc("below the band", "paper", 0.7, 1.0, 1.0, 0.5, False, "erc_low"),
    erc("exactly on the upper edge: strict", "paper", at(1.5), 1.0, 1.0, 0.5, False, "erc_high"),
    erc("exactly on the lower edge: strict", "paper", at(0.75), 1.0, -1.0, 0.5, False, "erc_low"),
    erc("the sign of A does not matter", "paper", 1.6, 1.0, -1.0, 0.5, False, "erc_high"),
    erc("two one-hot policies have ratio 1", "paper", 0.0, 0.0, 1.0, 0.0, True),
    erc("1e-8 nats against none: ρ = 2", "paper", 1e-8, 0.0, 1.0, 0.0, False, "erc_high"),
    erc("NaN is never kept", "paper", math.nan, 1.0, 1.0, 0.5, False, "erc_low", "erc_high"),
    erc("above, H rises: out", "directional", 1.6, 1.0, 1.0, 0.5, False, "erc_high"),
    erc("above, H falls: back in", "directional", 1.6, 1.0, -1.0, 0.5, True),
    erc("above, A and slope < 0: out", "directional", 1.6, 1.0, -1.0, -0.5, False, "erc_high"),
    erc("below, H falls: out", "directional", 0.7, 1.0, -1.0, 0.5, False, "erc_low"),
    erc("below, H rises: back in", "directional", 0.7, 1.0, 1.0, 0.5, True),
    erc("inside, whatever the direction", "directional", 1.0, 1.0, 1.0, 9.0, True),
    # log π + H > 0 with r = 1.1, so that dH has the sign of −A; r = 0.85 and H = 0.1 turn it round
    erc("above, A > 0: H falls, back in", "sampled", 1.6, 1.0, 1.0, 0.5, True),
    erc("above, A < 0: H rises, out", "sampled", 1.6, 1.0, -1.0, 0.5, False, "erc_high"),
    erc("below, A > 0: H falls, out", "sampled", 0.7, 1.0, 1.0, 0.5, False, "erc_low"),
    erc("below, A < 0: H rises, back in", "sampled", 0.7, 1.0, -1.0, 0.5, True),
    erc("rare token, A > 0: out", "sampled", 0.1, 0.05, 1.0, 0.5, False, "erc_high", ratio=0.85),
    erc("not so rare as H is large", "sampled", 1.6, 1.0, 1.0, 0.5, True, ratio=0.85),
    erc("rare token, A < 0: back in", "sampled", 0.1, 0.05, -1.0, 0.5, True, ratio=0.85),
    erc("0.2 above: e^−2 is kept", "soft", at(1.7), 1.0, 1.0, 0.5, math.exp(-2), "erc_high"),
    erc("0.05 below: e^−0.5 is kept", "soft", at(0.7), 1.0, -1.0, 0.5, math.exp(-0.5), "erc_low"),
    erc("on the edge: all is kept", "soft", at(1.5), 1.0, 1.0, 0.5, 1.0, "erc_high"),
    erc("inside", "soft", 1.4, 1.0, 1.0, 0.5, 1.0),
    erc("NaN is never kept", "soft", math.nan, 1.0, 1.0, 0.5, 0.0, "erc_low", "erc_high"),
    erc("|ΔH| below min_entropy_change", "min_change", 0.0016, 0.001, 1.0, 0.5, True),
    erc("|ΔH| above min_entropy_change", "min_change", 0.016, 0.01, 1.0, 0.5, False, "erc_high"),
]


def rules(factories):
    """The constraints that the rows below name, each under the anchor that it is worked for."""
    sequence = factories.sequence_mask
    return {
        "dppo": factories.dppo_tv(low=0.1, high=0.2),
        "dppo_old": factories.dppo_tv(low=0.1, high=0.2, anchor="old"),
        "geometric": sequence("geometric", low=0.1, high=0.2),
        "geometric_old": sequence("geometric", low=0.1, high=0.2, anchor="old"),
        "k2_max": sequence("k2_max", high=0.02),
        "k3_mean": sequence("k3_mean", high=0.02),
        "top": factories.top_entropy(fraction=0.5),
        "top_current": factories.top_entropy(fraction=0.5, of="current"),
    }


RULES = rules(erclip)


class RuleRow(NamedTuple):
    """One response: π of its tokens now and in the past, and which of them lose their gradient.

    Past is the sampler's where the rule's anchor is the sampler (π_old is then 0.5 throughout), and
    the old policy's otherwise (the sampler's is then 0.5). Entropies are 1, 2, …: the old policy's
    in this order, the current one's in reverse.
    """

    why: str
    rule: str
    now: tuple[float, ...]
    past: tuple[float, ...]
    advantage: float
    dropped: tuple[bool, ...]
    name: str = ""


T, F = True, False
LOW, HIGH = "dppo_low", "dppo_high"
RULE_ROWS = [
    # DPPO-TV: π − μ in [−0.1, 0.2] or moving back
    RuleRow("within, A > 0", "dppo", (0.65,), (0.5,), 1.0, (F,)),
    RuleRow("above, A > 0: would move on", "dppo", (0.75,), (0.5,), 1.0, (T,), HIGH),
    RuleRow("above, A < 0: moves back", "dppo", (0.75,), (0.5,), -1.0, (F,)),
    RuleRow("below, A < 0: would move on", "dppo", (0.35,), (0.5,), -1.0, (T,), LOW),
    RuleRow("below, A > 0: moves back", "dppo", (0.35,), (0.5,), 1.0, (F,)),
    RuleRow("within, A < 0", "dppo", (0.45,), (0.5,), -1.0, (F,)),
    RuleRow("A = 0 counts as falling", "dppo", (0.35,), (0.5,), 0.0, (T,), LOW),
    RuleRow("A = 0, above: kept", "dppo", (0.75,), (0.5,), 0.0, (F,)),
    RuleRow("a ratio of 30 that is no distance", "dppo", (0.03,), (0.001,), 1.0, (F,)),
    RuleRow("a ratio of 1.3 that is one", "dppo", (0.95,), (0.73,), 1.0, (T,), HIGH),
    RuleRow("against the sampler", "dppo", (0.65,), (0.4,), 1.0, (T,), HIGH),
    RuleRow("against the old policy", "dppo_old", (0.75,), (0.5,), 1.0, (T,), HIGH),
    RuleRow("only against that", "dppo_old", (0.75,), (0.7,), 1.0, (F,)),
    # geometric mean of r in [0.9, 1.2]
    RuleRow("one token out, √(1.44 · 1) = 1.2", "geometric", (0.719, 0.5), (0.5, 0.5), 1, (F, F)),
    RuleRow("√(1.07 · 1): against the sampler", "geometric", (0.8, 0.5), (0.75, 0.5), 1, (F, F)),
    RuleRow("√(1.6 · 1) = 1.26", "geometric", (0.8, 0.5), (0.5, 0.5), 1, (T, T), "sequence_high"),
    RuleRow("√(2 · 0.6) = 1.095: both out, s in", "geometric", (0.8, 0.3), (0.4, 0.5), 1, (F, F)),
    RuleRow("√(0.8 · 1) = 0.894", "geometric", (0.4, 0.5), (0.5, 0.5), 1, (T, T), "sequence_low"),
    RuleRow("whatever A", "geometric", (0.4, 0.5), (0.5, 0.5), -1, (T, T), "sequence_low"),
    RuleRow("old", "geometric_old", (0.8, 0.5), (0.5, 0.5), 1, (T, T), "sequence_high"),
    RuleRow("old, in", "geometric_old", (0.8, 0.5), (0.75, 0.5), 1, (F, F)),
    # max x²/2 ≤ 0.02: |log r| ≤ 0.2
    RuleRow("|log 1.21| = 0.19", "k2_max", (0.605, 0.5), (0.5, 0.5), 1, (F, F)),
    RuleRow("|log 1.23| = 0.207", "k2_max", (0.615, 0.5), (0.5, 0.5), 1, (T, T), "sequence_high"),
    RuleRow("|log 0.81| = 0.211", "k2_max", (0.405, 0.5), (0.5, 0.5), 1, (T, T), "sequence_high"),
    # mean of r − 1 − log r ≤ 0.02
    RuleRow("(1.25 − 1 − log 1.25)/2 = 0.0134", "k3_mean", (0.625, 0.5), (0.5, 0.5), 1, (F, F)),
    RuleRow("(1.35 − 1 − log 1.35)/2 = 0.0249", "k3_mean", (0.675, 0.5), (0.5, 0.5), 1, (T, T),
            "sequence_high"),
    RuleRow("(0.76 − 1 − log 0.76)/2 = 0.0172", "k3_mean", (0.38, 0.5), (0.5, 0.5), 1, (F, F)),
    RuleRow("(0.7 − 1 − log 0.7)/2 = 0.0283", "k3_mean", (0.35, 0.5), (0.5, 0.5), 1, (T, T),
            "sequence_high"),
    # the higher half by entropy: 1, 2, 3 (old) and 3, 2, 1 (current); ⌈1.5⌉ = 2 are kept
    RuleRow("lowest old entropy", "top", (0.5,) * 3, (0.5,) * 3, 1, (T, F, F), "low_entropy"),
    RuleRow("⌈0.5⌉ = 1", "top", (0.5,), (0.5,), 1, (F,)),
    RuleRow("lowest of all four", "top", (0.5,) * 4, (0.5,) * 4, 1, (T, T, F, F), "low_entropy"),
    RuleRow("lowest now", "top_current", (0.5,) * 3, (0.5,) * 3, 1, (F, F, T), "low_entropy"),
]  # fmt: skip
