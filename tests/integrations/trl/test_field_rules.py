"""The rules that TRL ships, on random batches: the same weights, the same tokens dropped."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import erclip
from erclip import policy_loss, reinforce

pytestmark = pytest.mark.trl
trl = pytest.importorskip("trl")

B, T = 8, 16


def batch(seed):
    g = torch.Generator().manual_seed(seed)
    old = -torch.rand(B, T, generator=g) * 3
    mask = torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=g)
    logprobs = old + 0.15 * torch.randn(B, T, generator=g)
    return old, logprobs, torch.randn(B, 1, generator=g), mask, g


def needs(name):
    if not hasattr(trl.GRPOTrainer, name):
        pytest.skip(f"this TRL has no {name}")
    return getattr(trl.GRPOTrainer, name)


@pytest.mark.parametrize("seed", range(3))
def test_vespo(seed):
    weights_of = needs("get_gamma_weights")
    old, start, advantages, mask, _ = batch(seed)
    logprobs = start.clone().requires_grad_()
    out = policy_loss(erclip.vespo())(
        logprobs=logprobs, old_logprobs=old, advantages=advantages, mask=mask
    )
    out.loss.backward()
    phi = weights_of(advantages, start - old, mask.float(), None)
    want = torch.where(mask, -phi * advantages, 0.0) / mask.sum()
    assert torch.allclose(logprobs.grad, want, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_off_policy_sequence_mask(seed):
    mask_of = needs("get_off_policy_mask")
    old, logprobs, advantages, mask, g = batch(seed)
    sampler = old + 0.1 * torch.randn(B, T, generator=g)
    rule = erclip.off_policy_sequence_mask(0.01)
    out = policy_loss(reinforce(), [rule])(
        logprobs=logprobs, old_logprobs=old, sampler_logprobs=sampler,
        advantages=advantages, mask=mask,
    )  # fmt: skip
    kept = mask_of(advantages, logprobs, sampler, mask.float(), 0.01)
    assert torch.equal(out.clipped["off_policy_sequence"], mask & ~kept.bool())


def test_top_entropy():
    """101 tokens: the quantile at 0.8 is the entropy of one of them, and 21 are at or above it."""
    mask_of = needs("get_high_entropy_mask")
    entropies = torch.rand(1, 101, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 101, dtype=torch.bool)
    one_process = SimpleNamespace(pad_across_processes=lambda x, **_: x, gather=lambda x: x)
    kept = mask_of(SimpleNamespace(accelerator=one_process), entropies, mask, 0.8)
    zero = torch.zeros(1, 101)
    out = policy_loss(reinforce(), [erclip.top_entropy(0.2)])(
        logprobs=zero, old_logprobs=zero, advantages=torch.ones(1), mask=mask,
        old_entropies=entropies,
    )  # fmt: skip
    assert int(kept.sum()) == 21
    assert torch.equal(~out.clipped["low_entropy"], kept.bool())
