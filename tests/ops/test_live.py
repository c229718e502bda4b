"""The loss that forms its gradients block by block, against autograd through the specification."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.profiler import profile

from erclip.ops import linear_logprob_entropy, linear_policy_loss

N, D, V = 11, 6, 29


def case(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(s, generator=g, dtype=dtype) for s in ((N, D), (V, D)))
    bias = torch.randn(V, generator=g, dtype=dtype)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
    return leaves, torch.randint(0, V, (N,), generator=g)


def clipped(with_entropy):
    """A nonlinear loss in which rows 3 to 6 are clipped."""
    advantages = torch.linspace(-1, 1, N).double()
    advantages[3:7] = 0

    def token_loss(scores, at):
        ratio = (scores.logprobs + 3).exp()
        bonus = 0.1 * scores.entropies.square() if with_entropy else 0.0
        return ((ratio * advantages[at] + bonus) / N).sum()

    return token_loss


@pytest.mark.parametrize(
    ("rows", "temperature", "softcap", "entropy"),
    itertools.product([1, 4, N, None], [1.0, 0.7], [None, 3.0], [False, True]),
)
def test_loss_gradients_and_scores_are_those_of_the_specification(
    rows, temperature, softcap, entropy
):
    (hidden, weight, bias), targets = case()
    options = {"bias": bias, "temperature": temperature, "softcap": softcap, "slopes": True}
    token_loss = clipped(entropy)
    scores = linear_logprob_entropy(hidden, weight, targets, impl="reference", **options)
    want = token_loss(scores, slice(0, N))
    got = linear_policy_loss(hidden, weight, targets, token_loss, rows=rows, **options)
    torch.testing.assert_close(got.loss, want, rtol=1e-12, atol=0)
    for ours, true in zip(got.scores[:4], scores[:4], strict=True):
        torch.testing.assert_close(ours, true.detach(), rtol=1e-11, atol=1e-13)
        assert not ours.requires_grad
    leaves = (hidden, weight, bias)
    ours, true = (torch.autograd.grad(3 * loss, leaves) for loss in (got.loss, want))
    for a, b in zip(ours, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_bf16_weight_gradient_is_rounded_once_not_once_a_block():
    (hidden, weight, _), targets = case()
    hidden, weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))

    def token_loss(scores, at):
        return scores.logprobs.sum()

    loss = linear_policy_loss(hidden, weight, targets, token_loss, rows=1).loss
    got = torch.autograd.grad(loss, weight)[0]
    scores = linear_logprob_entropy(hidden.double(), weight.double(), targets, impl="reference")
    want = torch.autograd.grad(scores.logprobs.sum(), weight)[0]
    assert got.dtype == torch.bfloat16
    assert (got.double() - want.double()).abs().max() <= 2**-8 * want.abs().max()


def test_frozen_head_and_no_tokens():
    (hidden, weight, _), targets = case()
    frozen = weight.detach()
    out = linear_policy_loss(hidden, frozen, targets, clipped(False), rows=4)
    (grad,) = torch.autograd.grad(out.loss, hidden)
    assert torch.count_nonzero(grad[3:7]) == 0
    none = linear_policy_loss(hidden[:0], weight, targets[:0], lambda s, at: s.logprobs.sum())
    none.loss.backward()
    assert none.loss == 0
    assert torch.count_nonzero(weight.grad) == 0


def test_peak_memory_is_a_block_of_logits_and_the_gradients():
    n, d, v = 1024, 32, 40_000
    hidden, weight = (torch.randn(s).requires_grad_() for s in ((n, d), (v, d)))
    targets = torch.randint(0, v, (n,))
    with profile(profile_memory=True) as run:
        linear_policy_loss(
            hidden, weight, targets, lambda s, at: s.logprobs.sum(), rows=64
        ).loss.backward()
    held = peak = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    block, tile = 64 * v * 4, 4 << 20
    assert peak < hidden.nbytes + weight.nbytes + block + 6 * tile


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rows": 0}, "rows must be at least 1"), ({"impl": "reference"}, "holds all logits")],
)
def test_refusals(change, message):
    (hidden, weight, _), targets = case()
    with pytest.raises(ValueError, match=message):
        linear_policy_loss(hidden, weight, targets, clipped(False), **change)
