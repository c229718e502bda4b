"""Every rule that no installed framework ships, written down a second time: loops over numbers.

From the papers' formulas, in float64 and without tensors: the weight with which a token's ∇ log π
enters the objective, times N. Distributions over a small vocabulary are whole, so that entropies,
slopes and the likeliest tokens are those of the same policies.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import erclip
from losses.test_every_rule import in_a_loss

VOCABULARY, LENGTHS = 11, (5, 1, 7, 3, 6)
SEEDS = range(6)


def batch(seed):
    """Tokens of three policies that have drifted apart, as tensors and as a list of records."""
    g = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS), VOCABULARY)

    def normal(*size):
        return torch.randn(*size, generator=g, dtype=torch.float64)

    spread = (0.1, 0.5, 1.5)[seed % 3]
    sampler = torch.log_softmax(2 * normal(*shape), -1)
    old = torch.log_softmax(sampler + spread / 2 * normal(*shape), -1)
    now = torch.log_softmax(old + spread * normal(*shape), -1)
    a = torch.distributions.Categorical(logits=torch.rand(shape, generator=g)).sample()[..., None]
    advantages = normal(len(LENGTHS), 1).expand(shape[:2]).contiguous()
    advantages[1] = 0.0
    mask = torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]
    tensors = {
        "logprobs": now.gather(-1, a)[..., 0],
        "old_logprobs": old.gather(-1, a)[..., 0],
        "sampler_logprobs": sampler.gather(-1, a)[..., 0],
        "advantages": advantages,
        "mask": mask,
        "entropies": -(now.exp() * now).sum(-1),
        "old_entropies": -(old.exp() * old).sum(-1),
        "correct": advantages > 0,
    }
    p, h = now.exp(), tensors["entropies"][..., None]
    z = now.clone().requires_grad_()  # the slope as what it is: ⟨∇_z log π(a), ∇_z H⟩
    log_p = torch.log_softmax(z, -1)
    (up,) = torch.autograd.grad(log_p.gather(-1, a).sum(), z, retain_graph=True)
    (entropy,) = torch.autograd.grad(-(log_p.exp() * log_p).sum(), z)
    tensors["entropy_slopes"] = (up * entropy).sum(-1)
    tensors["entropy_slope_means"] = (p * p * (now + h)).sum(-1)
    tokens = [
        SimpleNamespace(
            row=i,
            p=now[i, t].exp().tolist(),
            old_p=old[i, t].exp().tolist(),
            q=sampler[i, t].exp().tolist(),
            a=int(a[i, t]),
            A=float(advantages[i, t]),
        )
        for i, length in enumerate(LENGTHS)
        for t in range(length)
    ]
    for token in tokens:
        token.pi, token.old, token.mu = token.p[token.a], token.old_p[token.a], token.q[token.a]
    return tensors, tokens


def anchored(part, token):
    """The anchor's probability, and r."""
    mu = token.mu if getattr(part, "anchor", "old") == "sampler" else token.old
    return mu, token.pi / mu


def bernoulli(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def rows(tokens):
    return [[t for t in tokens if t.row == i] for i in range(len(LENGTHS))]


def entropy(p):
    return -sum(x * math.log(x) for x in p)


# Surrogates: what each token's ∇ log π is multiplied with -----------------------------------------


def spo(part, token):
    _, r = anchored(part, token)
    return r * token.A - r * abs(token.A) * (r - 1) / part.epsilon


def drpo(part, token):
    mu, r = anchored(part, token)
    return r * token.A - r * abs(token.A) * (token.pi - mu) / part.epsilon


def truncated_reinforce(part, token):
    return min(anchored(part, token)[1], part.cap) * token.A


def dgpo(part, token):
    _, r = anchored(part, token)
    low, high = 1 - part.low, 1 + part.high
    if token.A < 0 and r < low:
        return token.A * r ** (part.n + 1) / low**part.n
    if token.A > 0 and r > high:
        return token.A * high ** (1 / part.m) * r ** (1 - 1 / part.m)
    return token.A * r


def aspo(part, token):
    _, r = anchored(part, token)
    if (token.A > 0 and r > 1 + part.high) or (token.A < 0 and r < 1 - part.low):
        return 0.0
    return token.A * (min(1 / r, part.cap) if token.A > 0 else r)


def gppo_clip(part, token):
    _, r = anchored(part, token)
    if token.A > 0:
        return token.A * min(r, 1 + part.high)
    return token.A * max(r, 1 - part.low)


def ce_gppo_clip(part, token):
    _, r = anchored(part, token)
    if token.A > 0 and r > 1 + part.high:
        return token.A * part.beta_high * (1 + part.high)
    if token.A < 0 and r < 1 - part.low:
        return token.A * part.beta_low * (1 - part.low)
    return token.A * r


def bandpo(part, token):
    """Without a bound: is the token past it, and would it move on?"""
    mu, r = anchored(part, token)
    far = {
        "tv": lambda: abs(token.pi - mu),
        "chi2": lambda: (token.pi - mu) ** 2 / (mu * (1 - mu)),
        "kl": lambda: bernoulli(mu, token.pi),
    }[part.divergence]()
    moves_on = (token.A > 0 and token.pi > mu) or (token.A < 0 and token.pi < mu)
    return 0.0 if far > part.radius and moves_on else token.A * r


SURROGATES = [
    (spo, erclip.spo(0.3)), (spo, erclip.spo(anchor="sampler")),
    (drpo, erclip.drpo(0.2)), (drpo, erclip.drpo(anchor="old")),
    (truncated_reinforce, erclip.truncated_reinforce(1.5)),
    (dgpo, erclip.dgpo(0.1, 0.3)), (dgpo, erclip.dgpo(0.2, 0.2, 2.0, 3.0, anchor="sampler")),
    (aspo, erclip.aspo()), (aspo, erclip.aspo(0.5, 1.0, 1.7, anchor="sampler")),
    (gppo_clip, erclip.gppo_clip(0.2, 0.3)), (gppo_clip, erclip.gppo_clip(anchor="sampler")),
    (ce_gppo_clip, erclip.ce_gppo_clip()), (ce_gppo_clip, erclip.ce_gppo_clip(anchor="sampler")),
    *((bandpo, erclip.bandpo(d, 0.05, anchor=anchor))
      for d in ("tv", "chi2", "kl") for anchor in ("old", "sampler")),
]  # fmt: skip


# Constraints: the tokens that lose their gradient ----------------------------------------------


def ipo(part, tokens):
    return [abs(t.pi - anchored(part, t)[0]) > part.threshold for t in tokens]


def kpop(part, tokens):
    pairs = [(t.pi, anchored(part, t)[0]) for t in tokens]
    return [max(bernoulli(p, mu), bernoulli(mu, p)) > part.threshold for p, mu in pairs]


def dppo_tv(part, tokens):
    gaps = [t.pi - anchored(part, t)[0] for t in tokens]
    return [
        gap > part.high if t.A > 0 else gap < -part.low for t, gap in zip(tokens, gaps, strict=True)
    ]


def m2po(part, tokens):
    """Throw the furthest out, one by one, until the mean of the rest is small."""

    def in_scope(token):
        gap = math.log(anchored(part, token)[1])
        return part.scope == "all" or gap * token.A > 0

    inside = [t for t in tokens if in_scope(t)]
    moments = {id(t): math.log(anchored(part, t)[1]) ** 2 for t in inside}
    while inside and sum(moments[id(t)] for t in inside) / len(inside) > part.threshold:
        inside.remove(max(inside, key=lambda t: moments[id(t)]))
    kept = {id(t) for t in inside}
    return [in_scope(t) and id(t) not in kept for t in tokens]


def clip_b(part, tokens):
    values = [t.old * (math.log(t.old) + entropy(t.old_p)) for t in tokens]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in values) / len(values))
    return [
        t.A < 0 and x - mean < -part.scale * deviation for t, x in zip(tokens, values, strict=True)
    ]


def clip_v(part, tokens):
    """D = E_π[S] − S_a by a sum over the vocabulary."""
    gaps = []
    for t in tokens:
        h = entropy(t.p)
        s = [p * (math.log(p) + h) for p in t.p]
        gaps.append(sum(p * x for p, x in zip(t.p, s, strict=True)) - s[t.a])
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in gaps) / len(gaps))
    far = [i for i, t in enumerate(tokens) if t.A < 0 and gaps[i] > part.scale * deviation]
    far.sort(key=lambda i: -gaps[i])
    dropped = set(far[: max(int(part.fraction * len(tokens)), 1)])
    return [i in dropped for i in range(len(tokens))]


def top_entropy(part, tokens):
    values = [entropy(t.p if part.of == "current" else t.old_p) for t in tokens]
    least = sorted(values, reverse=True)[math.ceil(part.fraction * len(values)) - 1]
    return [x < least - 1e-12 for x in values]


def sequence_mask(part, tokens):
    dropped = []
    for own in rows(tokens):
        gaps = [math.log(anchored(part, t)[1]) for t in own]
        number = {
            "geometric": lambda x: math.exp(sum(x) / len(x)),
            "k2_max": lambda x: max(gap**2 / 2 for gap in x),
            "k3_mean": lambda x: sum(math.exp(gap) - 1 - gap for gap in x) / len(x),
        }[part.statistic](gaps)
        low, high = (
            (1 - part.low, 1 + part.high)
            if part.statistic == "geometric"
            else (-math.inf, part.high)
        )
        dropped += [not low <= number <= high] * len(own)
    return dropped


def off_policy_sequence_mask(part, tokens):
    dropped = []
    for own in rows(tokens):
        mean = -sum(math.log(anchored(part, t)[1]) for t in own) / len(own)
        dropped += [own[0].A < 0 and mean > part.threshold] * len(own)
    return dropped


CONSTRAINTS = [
    (ipo, erclip.ipo(0.05)), (ipo, erclip.ipo(0.05, anchor="old")),
    (kpop, erclip.kpop(0.05)), (kpop, erclip.kpop(0.05, anchor="old")),
    (dppo_tv, erclip.dppo_tv(0.05, 0.1)),
    (m2po, erclip.m2po()), (m2po, erclip.m2po(0.1, "all", anchor="old")),
    (clip_b, erclip.clip_b(0.5)), (clip_v, erclip.clip_v(0.3, 0.1)),
    (top_entropy, erclip.top_entropy(0.3)), (top_entropy, erclip.top_entropy(0.4, of="current")),
    (sequence_mask, erclip.sequence_mask("geometric", 0.05, 0.06)),
    (sequence_mask, erclip.sequence_mask("k2_max", high=0.5)),
    (sequence_mask, erclip.sequence_mask("k3_mean", high=0.1, anchor="old")),
    (off_policy_sequence_mask, erclip.off_policy_sequence_mask(0.02)),
]  # fmt: skip


# Importance: weights of REINFORCE ----------------------------------------------


def weights_of(part, tokens):
    ratios = [t.old / t.mu for t in tokens]
    if isinstance(part, erclip.icepop):
        return [w if part.low <= w <= part.high else 0.0 for w in ratios]
    if isinstance(part, erclip.masked_importance):
        return [w if 1 / part.cap <= w <= part.cap else 0.0 for w in ratios]
    if part.level == "token":
        return [min(w, part.cap) for w in ratios]
    products = {i: math.prod(t.old / t.mu for t in own) for i, own in enumerate(rows(tokens))}
    return [min(products[t.row], part.cap) for t in tokens]


IMPORTANCE = [
    erclip.icepop(), erclip.icepop(0.9, 1.2), erclip.masked_importance(1.2),
    erclip.truncated_importance(1.1), erclip.truncated_importance(1.3, "sequence"),
]  # fmt: skip


# The comparison ----------------------------------------------


def gradients(part, tensors, leaf="logprobs"):
    """N times the gradient of the objective, token by token."""
    given = {**tensors, leaf: tensors[leaf].clone().requires_grad_()}
    in_a_loss(part)(**given).loss.backward()
    mask = tensors["mask"]
    return (-given[leaf].grad[mask] * mask.sum()).tolist()


def named(value):
    return getattr(value, "__name__", repr(value))


def same(found, expected):
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("form", "part"), SURROGATES, ids=named)
def test_surrogates(form, part, seed):
    tensors, tokens = batch(seed)
    same(gradients(part, tensors), [form(part, token) for token in tokens])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("form", "part"), CONSTRAINTS, ids=named)
def test_constraints(form, part, seed):
    tensors, tokens = batch(seed)
    expected = [
        0.0 if dropped else token.A
        for token, dropped in zip(tokens, form(part, tokens), strict=True)
    ]
    same(gradients(part, tensors), expected)


def test_every_constraint_here_drops_some_and_keeps_some():
    """Or the comparison would be of nothing."""
    for form, part in CONSTRAINTS:
        found = {flag for seed in SEEDS for flag in form(part, batch(seed)[1])}
        assert found == {True, False}, part


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("part", IMPORTANCE, ids=repr)
def test_importance(part, seed):
    tensors, tokens = batch(seed)
    weights = weights_of(part, tokens)
    same(gradients(part, tensors), [w * token.A for w, token in zip(weights, tokens, strict=True)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("anchor", ["old", "sampler"])
def test_log_ratio_penalty(seed, anchor):
    tensors, tokens = batch(seed)
    part = erclip.log_ratio_penalty(0.3, anchor=anchor)
    expected = [t.A - 0.3 * 2 * math.log(anchored(part, t)[1]) for t in tokens]
    same(gradients(part, tensors), expected)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("of", ["old", "current"])
@pytest.mark.parametrize("target", [0.5, 5.0])
def test_adaptive_entropy(seed, of, target):
    """The first mini-batch: from `low`, a step up if the mean is at or below the target."""
    tensors, tokens = batch(seed)
    part = erclip.adaptive_entropy(target, 0.1, 0.2, 1.0, of=of)
    mean = sum(entropy(t.p if of == "current" else t.old_p) for t in tokens) / len(tokens)
    expected = 0.3 if mean <= target else 0.0
    same(gradients(part, tensors, "entropies"), [expected] * len(tokens))


@pytest.mark.parametrize("seed", SEEDS)
def test_positive_nll(seed):
    tensors, tokens = batch(seed)
    right = sum(t.A > 0 for t in tokens)
    expected = [t.A + (0.4 * len(tokens) / right if t.A > 0 else 0.0) for t in tokens]
    same(gradients(erclip.positive_nll(0.4), tensors), expected)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cap", [None, 1.2])
@pytest.mark.parametrize("top", [4, VOCABULARY])
def test_score_centering(seed, cap, top):
    """−A Σ_v (q_v f(p_v/q_v) − ρ f(1/ρ) p_v) on the sampler's likeliest tokens."""
    tensors, tokens = batch(seed)
    order = [sorted(range(VOCABULARY), key=lambda v, t=t: -t.q[v])[:top] for t in tokens]
    mask = tensors["mask"]
    given = []
    for name in ("p", "q"):
        values = torch.zeros((*mask.shape, top), dtype=torch.float64)
        values[mask] = torch.tensor(
            [
                [math.log(getattr(t, name)[v]) for v in own]
                for t, own in zip(tokens, order, strict=True)
            ],
            dtype=torch.float64,
        )
        given.append(values)
    leaf = given[0].requires_grad_()
    loss_fn = erclip.policy_loss(erclip.reinforce(), terms=[erclip.score_centering(cap=cap)])
    loss_fn(**tensors, top_logprobs=leaf, sampler_top_logprobs=given[1]).loss.backward()

    def f(ratio):
        return 1.0 if cap is None else min(ratio, cap)

    expected = []
    for t, own in zip(tokens, order, strict=True):
        tails = [max(1 - math.fsum(x[v] for v in own), 1e-6) for x in (t.q, t.p)]
        rho = tails[0] / tails[1]
        expected += [-t.A * (t.q[v] * f(t.p[v] / t.q[v]) - rho * f(1 / rho) * t.p[v]) for v in own]
    found = (-leaf.grad[mask] * mask.sum()).flatten().tolist()
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)
