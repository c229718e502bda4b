"""The terms beside the policy loss, worked by hand: values and gradients of every row."""

from __future__ import annotations

import math

import pytest
import torch

from erclip.losses import entropy_bonus, kl_penalty

E = math.e


@pytest.mark.parametrize(
    ("estimator", "gap", "value", "gradient"),
    [
        ("k1", 1.0, 1.0, 1.0),
        ("k1", -1.0, -1.0, -1.0),
        ("k2", 1.0, 0.5, 1.0),
        ("k2", -2.0, 2.0, -2.0),
        ("k3", 1.0, 1 / E, 1 - 1 / E),
        ("k3", -1.0, E - 2, 1 - E),
        ("k3", -2.6, math.exp(2.6) - 3.6, 1 - math.exp(2.6)),
        ("k3", -2.7, 10.0, 0.0),  # cut: e^2.7 − 3.7 is above 10
        ("k3", -30.0, 10.0, 0.0),
        ("k3", 15.0, math.exp(-15) + 14, 1 - math.exp(-15)),
        ("k1", 0.0, 0.0, 0.0),
        ("k2", 0.0, 0.0, 0.0),
        ("k3", 0.0, 0.0, 0.0),
    ],
)
def test_kl_penalty_row_by_row(estimator, gap, value, gradient):
    """Three tokens, one outside the mask and NaN; N counts four."""
    reference = torch.tensor([[-2.0, -1.0, math.nan]], dtype=torch.float64)
    logprobs = (reference + gap).requires_grad_()
    mask = torch.tensor([[True, True, False]])
    loss = kl_penalty(logprobs, reference, mask, 4, estimator)
    loss.backward()
    assert loss.item() == pytest.approx(2 * value / 4, rel=1e-14, abs=1e-15)
    assert logprobs.grad[mask].tolist() == pytest.approx([gradient / 4] * 2, rel=1e-14, abs=1e-15)
    assert logprobs.grad[~mask].tolist() == [0.0]


def test_k1_and_k2_have_the_gradient_of_kl_and_k3_that_of_the_reverse():
    """Over a whole distribution of five tokens: E_π of the tokens' gradients, against autograd."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = 0.5 * torch.randn(5, generator=generator, dtype=torch.float64)  # where k3 is not cut
    reference = torch.log_softmax(logits, -1)
    log_p = torch.log_softmax(z, -1)
    exact = {
        "k1": (log_p.exp() * (log_p - reference)).sum(),
        "k3": (reference.exp() * (reference - log_p)).sum(),
    }
    exact = {name: torch.autograd.grad(v, z, retain_graph=True)[0] for name, v in exact.items()}
    exact["k2"] = exact["k1"]
    for estimator, expected in exact.items():
        total = torch.zeros(5, dtype=torch.float64)
        for token in range(5):
            one = torch.ones(1, 1, dtype=torch.bool)
            loss = kl_penalty(
                log_p[token].view(1, 1), reference[token].view(1, 1), one, 1, estimator
            )
            total += (
                log_p[token].exp().detach() * torch.autograd.grad(loss, z, retain_graph=True)[0]
            )
        assert torch.allclose(total, expected, atol=1e-14, rtol=0), estimator


def test_entropy_bonus_counts_masked_tokens_only():
    entropies = torch.tensor([[0.5, 1.5, math.nan]], requires_grad=True)
    loss = entropy_bonus(entropies, torch.tensor([[True, True, False]]), 8)
    loss.backward()
    assert loss.item() == -0.25
    assert entropies.grad.tolist() == [[-0.125, -0.125, 0.0]]
