"""Value, gradient and flags of every branch, against pencil and paper."""

from __future__ import annotations

import math

import pytest
import torch

import erclip
from losses.branches import (
    CONSTRAINTS,
    ERC_ROWS,
    IMPORTANCE_ROWS,
    IMPORTANCES,
    ROWS,
    RULE_ROWS,
    RULES,
    SURROGATES,
)


def one(value):
    return torch.tensor([[value]], dtype=torch.float64)


def run(loss_fn, logprob, advantage, **entropies):
    logprobs = one(logprob).requires_grad_()
    out = loss_fn(
        logprobs=logprobs,
        old_logprobs=one(0.0),
        advantages=one(advantage),
        mask=torch.ones(1, 1, dtype=torch.bool),
        **{name: one(value) for name, value in entropies.items()},
    )
    out.loss.backward()
    fired = {name for name, flags in out.clipped.items() if flags.item()}
    for name in ("ppo_low", "ppo_high", "dual", "erc_low", "erc_high", "random"):
        assert getattr(out, name).item() == (name in fired)
    return -out.loss.item(), -logprobs.grad.item(), fired


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.surrogate}: {row.why}")
def test_surrogate(row):
    loss_fn = erclip.policy_loss(SURROGATES[row.surrogate])
    value, gradient, fired = run(loss_fn, math.log(row.ratio), row.advantage)
    assert value == pytest.approx(row.value, abs=1e-12)
    assert gradient == pytest.approx(row.gradient, abs=1e-12)
    assert fired == row.fired


@pytest.mark.parametrize("row", ERC_ROWS, ids=lambda row: f"{row.rule}: {row.why}")
def test_entropy_ratio_clip(row):
    loss_fn = erclip.policy_loss(erclip.ppo_clip(), constraints=[CONSTRAINTS[row.rule]])
    value, gradient, fired = run(
        loss_fn,
        math.log(row.ratio),
        row.advantage,
        entropies=row.entropy,
        old_entropies=row.old_entropy,
        entropy_slopes=row.slope,
    )
    full = row.ratio * row.advantage
    assert value == pytest.approx(full, abs=1e-12)  # a clipped token still counts
    assert gradient == pytest.approx(full * row.kept, abs=1e-12)
    assert fired == row.fired


@pytest.mark.parametrize("row", IMPORTANCE_ROWS, ids=lambda row: f"{row.importance}: {row.why}")
def test_importance(row):
    loss_fn = erclip.policy_loss(erclip.ppo_clip(), importance=IMPORTANCES[row.importance])
    value, gradient, _ = run(
        loss_fn,
        math.log(row.ratio),
        row.advantage,
        sampler_logprobs=-math.log(row.sampler_ratio),  # log π_old = 0
    )
    assert value == pytest.approx(row.value, abs=1e-12)
    assert gradient == pytest.approx(row.gradient, abs=1e-12)


@pytest.mark.parametrize("row", RULE_ROWS, ids=lambda row: f"{row.rule}: {row.why}")
def test_rules(row):
    """REINFORCE under one constraint: the value stays A log π, a dropped token has no gradient."""
    rule, count = RULES[row.rule], len(row.now)
    past = torch.tensor([row.past], dtype=torch.float64).log()
    half = torch.full_like(past, 0.5).log()
    old, sampler = (past, half) if getattr(rule, "anchor", "") == "old" else (half, past)
    entropies = torch.arange(1.0, count + 1, dtype=torch.float64)[None]
    logprobs = torch.tensor([row.now], dtype=torch.float64).log().requires_grad_()
    out = erclip.policy_loss(erclip.reinforce(), [rule])(
        logprobs=logprobs,
        old_logprobs=old,
        sampler_logprobs=sampler,
        advantages=torch.tensor([row.advantage], dtype=torch.float64),
        mask=torch.ones(1, count, dtype=torch.bool),
        entropies=entropies.flip(-1),
        old_entropies=entropies,
    )
    out.loss.backward()
    expected = [0.0 if dropped else row.advantage / count for dropped in row.dropped]
    value = row.advantage * sum(map(math.log, row.now)) / count
    assert -out.loss.item() == pytest.approx(value, abs=1e-12)
    assert (-logprobs.grad[0]).tolist() == pytest.approx(expected, abs=1e-12)
    fired = {name: flags[0].tolist() for name, flags in out.clipped.items() if flags.any()}
    assert fired == ({row.name: list(row.dropped)} if row.name else {})


def test_importance_acts_with_a_constraint_and_needs_the_samplers_logprobs():
    """A token that ERC clips keeps its weighted value and loses its gradient."""
    loss_fn = erclip.policy_loss(
        erclip.ppo_clip(), [CONSTRAINTS["paper"]], importance=IMPORTANCES["truncated"]
    )
    entropies = {"entropies": 1.6, "old_entropies": 1.0}
    value, gradient, fired = run(loss_fn, 0.0, 1.0, sampler_logprobs=-math.log(1.5), **entropies)
    assert (value, gradient, fired) == (pytest.approx(1.5), 0.0, {"erc_high"})
    with pytest.raises(ValueError, match="needs `sampler_logprobs`"):
        run(loss_fn, 0.0, 1.0, **entropies)


def test_log_ratio_is_clamped_at_20():
    value, gradient, _ = run(erclip.policy_loss(erclip.ppo_clip()), 25.0, -1.0)
    assert value == pytest.approx(-math.exp(20))
    assert gradient == 0.0


def test_gspo_ratio_is_the_geometric_mean_over_the_mask():
    """Two scored tokens with log-ratios 0.4 and 0.0, one masked: s = e^0.2, within (0.8, 1.25)."""
    logprobs = torch.tensor([[0.4, 0.0, 9.0]], dtype=torch.float64, requires_grad=True)
    out = erclip.policy_loss(erclip.gspo_clip(low=0.2, high=0.25))(
        logprobs=logprobs,
        old_logprobs=torch.zeros(1, 3, dtype=torch.float64),
        advantages=torch.tensor([2.0], dtype=torch.float64),
        mask=torch.tensor([[True, True, False]]),
    )
    out.loss.backward()
    s = math.exp(0.2)
    assert out.loss.item() == pytest.approx(-2 * s)
    assert logprobs.grad.tolist()[0] == pytest.approx([-s, -s, 0.0])


def test_random_mask_takes_its_rate():
    ones = torch.ones(200, 100)
    generator = torch.Generator().manual_seed(0)
    loss_fn = erclip.policy_loss(
        erclip.ppo_clip(), constraints=[erclip.random_mask(0.3, generator=generator)]
    )
    logprobs = (-ones).requires_grad_()
    out = loss_fn(logprobs=logprobs, old_logprobs=-ones, advantages=ones, mask=ones.bool())
    out.loss.backward()
    assert torch.equal(logprobs.grad == 0, out.random)
    assert out.random.double().mean().item() == pytest.approx(0.3, abs=0.015)


def test_positive_nll_is_a_mean_over_the_correct_tokens_of_the_mini_batch():
    """Two correct tokens here and two elsewhere, of eight in all."""
    loss_fn = erclip.policy_loss(erclip.reinforce(), terms=[erclip.positive_nll(weight=2.0)])
    zero = torch.zeros(2, 2)
    rest = {"old_logprobs": zero, "advantages": zero, "mask": torch.ones(2, 2, dtype=torch.bool)}
    micros = [{**rest, "correct": torch.tensor([True, False])}] * 2
    logprobs = torch.tensor([[-1.0, -2.0], [-4.0, -8.0]], requires_grad=True)
    statistics = loss_fn.statistics(micros)
    out = loss_fn(logprobs=logprobs, **micros[0], num_tokens=8, statistics=statistics)
    out.loss.backward()
    assert out.loss.item() == 2 * 0.75
    assert logprobs.grad.tolist() == [[-0.5, -0.5], [0.0, 0.0]]
