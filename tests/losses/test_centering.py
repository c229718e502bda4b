"""Score centering: by pencil, by enumeration of whole distributions, and its one-line bugs."""

from __future__ import annotations

import importlib
import math
import types
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import erclip
from erclip import policy_loss, reinforce, score_centering, truncated_reinforce

NONE = -math.inf


class Row(NamedTuple):
    why: str
    part: str
    p: tuple[float, ...]
    q: tuple[float, ...]
    advantage: float
    coefficients: tuple[float, ...]


def parts(module):
    return {
        "plain": module.score_centering(),
        "half": module.score_centering(0.5),
        "capped": module.score_centering(cap=2.0),
        "free": module.score_centering(cap=math.inf),
    }


ROWS = [
    # w = 1: q − ρ p with ρ = (1 − Σq)/(1 − Σp)
    Row("ρ = 0.2/0.2", "plain", (0.4, 0.4), (0.5, 0.3), 1.0, (0.1, -0.1)),
    Row("ρ = 0.5/0.25", "plain", (0.5, 0.25), (0.3, 0.2), 1.0, (-0.7, -0.3)),
    Row("A = −2", "plain", (0.4, 0.4), (0.5, 0.3), -2.0, (0.1, -0.1)),
    Row("A = 0", "plain", (0.4, 0.4), (0.5, 0.3), 0.0, (0.1, -0.1)),
    Row("p = q", "plain", (0.7, 0.2), (0.7, 0.2), 1.0, (0.0, 0.0)),
    Row("no tails: both are floored, ρ = 1", "plain", (0.6, 0.4), (0.5, 0.5), 1.0, (-0.1, 0.1)),
    Row("no tail of q: ρ = 1e-6/0.5", "plain", (0.3, 0.2), (0.5, 0.5), 1.0,
        (0.5 - 0.3 * 2e-6, 0.5 - 0.2 * 2e-6)),
    Row("one token is not known", "plain", (0.4, 0.4), (0.5, 0.0), 1.0, (0.5 - 0.4 * 0.5 / 0.6, 0)),
    Row("half the weight", "half", (0.4, 0.4), (0.5, 0.3), 1.0, (0.1, -0.1)),
    # min(p, 2q) − min(1, 2ρ) p
    Row("nothing truncated", "capped", (0.4, 0.4), (0.5, 0.3), 1.0, (0.0, 0.0)),
    Row("the first: 2q = 0.2", "capped", (0.4, 0.4), (0.1, 0.7), 1.0, (-0.2, 0.0)),
    Row("the tail: ρ = 0.05/0.5", "capped", (0.3, 0.2), (0.45, 0.5), 1.0, (0.24, 0.16)),
    Row("w = p/q: gone", "free", (0.4, 0.4), (0.1, 0.7), 1.0, (0.0, 0.0)),
    Row("no q at all", "free", (0.4, 0.4), (0.0, 0.7), 1.0, (0.0, 0.0)),
]  # fmt: skip


def check(row, made):
    """Two tokens of which one is outside the mask; N counts four. Value and gradient."""
    part = made[row.part]
    p = torch.tensor([[row.p, (math.nan, math.nan)]], dtype=torch.float64).log().requires_grad_()
    q = torch.tensor([[row.q, (math.nan, 1e30)]], dtype=torch.float64).log()
    zero = torch.zeros(1, 2, dtype=torch.float64)
    out = policy_loss(reinforce(), terms=[part])(
        logprobs=zero,
        old_logprobs=zero,
        advantages=torch.tensor([row.advantage], dtype=torch.float64),
        mask=torch.tensor([[True, False]]),
        top_logprobs=p,
        sampler_top_logprobs=q,
        num_tokens=4,
    )
    out.loss.backward()
    expected = [part.weight * row.advantage * c / 4 for c in row.coefficients]
    assert p.grad[0, 0].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert p.grad[0, 1].tolist() == [0.0, 0.0]
    cost = row.advantage * sum(
        c * math.log(x) for c, x in zip(row.coefficients, row.p, strict=True)
    )
    assert out.terms["score_centering"][0].tolist() == pytest.approx([cost, 0.0], abs=1e-14)
    assert out.loss.item() == pytest.approx(part.weight * cost / 4, abs=1e-14)


def fails(row, made):
    try:
        check(row, made)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.part}: {row.why}")
def test_every_branch(row):
    check(row, parts(erclip))


# By enumeration -----------------------------------------------------------------------------------

SIZE = 9


def mean_gradient(loss_fn, p_logits, q, advantages, top):
    """E_q of the loss's gradient for the policy's logits: every token once, weighed by q."""
    z = p_logits.clone().requires_grad_()
    ids = q.topk(top).indices
    total = torch.zeros_like(z)
    for token, share in enumerate(q):
        log_p = torch.log_softmax(z, -1)
        loss = loss_fn(
            logprobs=log_p[None, [token]],
            old_logprobs=log_p[None, [token]].detach(),
            sampler_logprobs=q.log()[None, [token]],
            advantages=advantages[[token]],
            mask=torch.ones(1, 1, dtype=torch.bool),
            top_logprobs=log_p[ids][None, None],
            sampler_top_logprobs=q.log()[ids][None, None],
        ).loss
        total += share * torch.autograd.grad(loss, z)[0]
    return total


def distributions(seed, scale=0.7):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, SIZE, generator=g, dtype=torch.float64)
    return logits[0], torch.softmax(logits[0] + scale * logits[1], -1), g


@pytest.mark.parametrize("cap", [None, 1.0, 1.3])
@pytest.mark.parametrize("seed", range(5))
def test_a_constant_advantage_teaches_nothing(cap, seed):
    """Over the whole vocabulary centering is exact; without it the policy is pulled to q."""
    z, q, _ = distributions(seed)
    surrogate = reinforce() if cap is None else truncated_reinforce(cap)
    ones = torch.ones(SIZE, dtype=torch.float64)
    alone = mean_gradient(policy_loss(surrogate), z, q, ones, SIZE)
    centred = policy_loss(surrogate, terms=[score_centering(cap=cap)])
    assert mean_gradient(centred, z, q, ones, SIZE).abs().max() < 1e-12 < alone.abs().max()


@pytest.mark.parametrize("cap", [None, 1.3])
def test_the_covariance_is_left(cap):
    """E_q[A (w s − E_q[w s])] is the covariance of A and the score, in float64 by a sum."""
    z, q, g = distributions(7)
    advantages = torch.randn(SIZE, generator=g, dtype=torch.float64)
    surrogate = reinforce() if cap is None else truncated_reinforce(cap)
    found = mean_gradient(
        policy_loss(surrogate, terms=[score_centering(cap=cap)]), z, q, advantages, SIZE
    )
    p = torch.softmax(z, -1)
    weights = torch.ones(SIZE) if cap is None else (p / q).clamp(max=cap)
    scores = weights[:, None] * (torch.eye(SIZE, dtype=torch.float64) - p)
    covariance = (q * advantages) @ scores - (q @ advantages) * (q @ scores)
    assert torch.allclose(found, -covariance, atol=1e-12, rtol=0)


@pytest.mark.parametrize("cap", [None, 1.1])
def test_a_tail_that_has_the_policys_shape_is_centred_exactly(cap):
    """The k likeliest tokens differ, the others are p scaled: what the rule assumes of them."""
    g = torch.Generator().manual_seed(3)
    z = torch.randn(SIZE, generator=g, dtype=torch.float64)
    z[:4] += 3
    p = torch.softmax(z, -1)
    q = torch.cat([p[:4] * torch.tensor([0.7, 1.2, 0.9, 1.05]).double(), 0 * p[4:]])
    q = q + torch.cat([0 * p[:4], p[4:] * (1 - q.sum()) / p[4:].sum()])
    surrogate = reinforce() if cap is None else truncated_reinforce(cap)
    ones = torch.ones(SIZE, dtype=torch.float64)
    centred = policy_loss(surrogate, terms=[score_centering(cap=cap, top=4)])
    assert mean_gradient(centred, z, q, ones, 4).abs().max() < 1e-12


def test_an_infinite_cap_is_no_rule_bit_for_bit():
    inputs = erclip.losses.testing.random_inputs(0)
    plain, more = (
        policy_loss(truncated_reinforce(1.5), terms=terms)(**inputs).loss
        for terms in ((), [score_centering(cap=math.inf)])
    )
    assert torch.equal(plain, more)


def test_the_loss_says_how_many_tokens_it_looks_at():
    terms = [score_centering(top=8), score_centering(0.0, top=32)]
    assert policy_loss(reinforce(), terms=terms).top == 32
    assert policy_loss(reinforce()).top == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: score_centering(-1.0), "weight of score_centering must be at least 0"),
        (lambda: score_centering(cap=0.0), "cap of score_centering must be above 0"),
        (lambda: score_centering(top=0), "top of score_centering must be at least 1"),
    ],
)
def test_settings_that_cannot_be(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


# Mutants ------------------------------------------------------------------------------------------

MUTANTS = [
    ("inputs.advantages * scores", "scores"),
    ("inputs.advantages * scores", "-inputs.advantages * scores"),
    ("coefficients * top", "coefficients * top.exp()"),
    ("_coefficients(top.detach(), sampler", "_coefficients(top, sampler"),
    ("_coefficients(top.detach(), sampler", "_coefficients(sampler, top.detach()"),
    ("tails = q_tail / p_tail", "tails = p_tail / q_tail"),
    ("(q - tails * p)", "(q - p)"),
    ("(q - tails * p)", "(q * tails - p)"),
    ("torch.minimum(p, cap * q", "torch.minimum(p, q"),
    ("torch.minimum(p, cap * q", "torch.maximum(p, cap * q"),
    ("(cap * tails).clamp(max=1.0)", "(cap * tails)"),
    ("(cap * tails).clamp(max=1.0)", "tails.clamp(max=1.0)"),
    (".clamp(min=SMALLEST_TAIL)", ".clamp(min=0.0)"),
    ("torch.where(known, x, -torch.inf)", "x"),
    (", 0.0).sum(-1)", ", 0.0).mean(-1)"),
]


@pytest.mark.parametrize(("right", "wrong"), MUTANTS)
def test_every_mutant_is_found(right, wrong):
    module = importlib.import_module("erclip.losses.centering")
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert right in source
    mutant = types.ModuleType(module.__name__)
    exec(compile(source.replace(right, wrong), "mutant", "exec"), mutant.__dict__)
    assert any(fails(row, parts(mutant)) for row in ROWS)
