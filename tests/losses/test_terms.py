"""The terms beside the policy loss, worked by hand: values and gradients of every row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from erclip.losses import (
    Term,
    entropy_bonus,
    kl_estimate,
    kl_penalty,
    policy_loss,
    ppo_clip,
    reinforce,
)

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
    out = policy_loss(reinforce(), terms=[kl_penalty(0.5, estimator)])(
        logprobs=logprobs,
        old_logprobs=reference,
        advantages=torch.zeros(1, dtype=torch.float64),
        mask=mask,
        reference_logprobs=reference,
        num_tokens=4,
    )
    out.loss.backward()
    close = {"rel": 1e-14, "abs": 1e-15}
    assert out.loss.item() == pytest.approx(0.5 * 2 * value / 4, **close)
    assert out.terms["kl_penalty"].tolist()[0] == pytest.approx([value, value, 0.0], **close)
    assert logprobs.grad[mask].tolist() == pytest.approx([0.5 * gradient / 4] * 2, **close)
    assert logprobs.grad[~mask].tolist() == [0.0]


def test_k1_and_k2_have_the_gradient_of_kl_and_k3_that_of_the_reverse():
    """Over a whole distribution of five tokens: E_π of the tokens' gradients, against autograd."""
    generator = torch.Generator().manual_seed(0)
    z = (0.5 * torch.randn(5, generator=generator, dtype=torch.float64)).requires_grad_()
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
            loss = kl_estimate(log_p[None, [token]], reference[None, [token]], estimator).sum()
            total += (
                log_p[token].exp().detach() * torch.autograd.grad(loss, z, retain_graph=True)[0]
            )
        assert torch.allclose(total, expected, atol=1e-14, rtol=0), estimator


def bonus(entropies, logprobs):
    return policy_loss(reinforce(), terms=[entropy_bonus(weight=0.5)])(
        logprobs=logprobs,
        old_logprobs=logprobs,
        advantages=torch.zeros(1),
        mask=torch.tensor([[True, True, False]]),
        entropies=entropies,
        num_tokens=8,
    )


def test_entropy_bonus_counts_masked_tokens_only():
    entropies = torch.tensor([[0.5, 1.5, math.nan]], requires_grad=True)
    out = bonus(entropies, torch.zeros(1, 3, requires_grad=True))
    out.loss.backward()
    assert out.loss.item() == -0.125
    assert entropies.grad.tolist() == [[-0.0625, -0.0625, 0.0]]


def test_entropy_bonus_refuses_entropies_that_teach_nothing():
    entropies = torch.tensor([[0.5, 1.5, 0.0]])
    with pytest.raises(ValueError, match=r"entropy_bonus needs .*`entropies` .* carry gradient"):
        bonus(entropies, torch.zeros(1, 3, requires_grad=True))
    assert bonus(entropies, torch.zeros(1, 3)).loss.item() == -0.125  # nobody differentiates


def test_weight_zero_is_measured_and_adds_nothing():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    inputs = {
        "logprobs": logprobs,
        "old_logprobs": logprobs.detach(),
        "advantages": torch.ones(1),
        "mask": torch.ones(1, 2, dtype=torch.bool),
    }
    free = policy_loss(reinforce())(**inputs)
    out = policy_loss(reinforce(), terms=[kl_penalty(0.0)])(
        **inputs, reference_logprobs=torch.zeros(1, 2)
    )
    assert torch.equal(out.loss, free.loss)
    assert out.terms["kl_penalty"].sum() > 0


def test_a_corrected_k3_is_kl_of_the_policy_under_an_older_ones_tokens():
    """Over a whole distribution: Σ_a μ(a) · cost of token a is KL(π‖π_ref), so is its gradient."""
    generator = torch.Generator().manual_seed(0)
    normal = {"generator": generator, "dtype": torch.float64}
    z = (0.5 * torch.randn(5, **normal)).requires_grad_()
    old, reference = (torch.log_softmax(0.5 * torch.randn(5, **normal), -1) for _ in range(2))
    log_p = torch.log_softmax(z, -1)
    kl = (log_p.exp() * (log_p - reference)).sum()
    out = policy_loss(reinforce(), terms=[kl_penalty(1.0, corrected=True)])(
        logprobs=log_p[:, None],
        old_logprobs=old[:, None],
        advantages=torch.zeros(5, 1, dtype=torch.float64),
        mask=torch.ones(5, 1, dtype=torch.bool),
        reference_logprobs=reference[:, None],
        num_tokens=1,
    )
    costs = out.terms["kl_penalty"][:, 0]
    assert (old.exp() * costs).sum().item() == pytest.approx(kl.item(), rel=1e-12)
    (want,) = torch.autograd.grad(kl, z, retain_graph=True)
    d = log_p - reference
    cost = (log_p - old).exp() * ((-d).exp() - 1 + d)
    torch.testing.assert_close(costs, cost.detach(), rtol=1e-12, atol=0)
    (got,) = torch.autograd.grad((old.exp() * cost).sum(), z, retain_graph=True)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    (of_loss,) = torch.autograd.grad(out.loss, z, retain_graph=True)
    (of_cost,) = torch.autograd.grad(cost.sum(), z)
    torch.testing.assert_close(of_loss, of_cost, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_a_correction_of_another_estimator_is_refused():
    with pytest.raises(ValueError, match="corrected goes with estimator = 'k3', not 'k1'"):
        kl_penalty(1.0, "k1", corrected=True)


@pytest.mark.parametrize("make", [lambda: kl_penalty(-1.0), lambda: kl_penalty(1.0, "k4")])
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@dataclass(frozen=True)
class measured(Term):
    """The entropy that is measured: without gradient."""

    weight: float = 0.1

    @property
    def needs(self):
        return frozenset({"entropies"})

    def __call__(self, inputs):
        return inputs.entropies


def test_a_cost_without_gradient_is_refused():
    one = torch.ones(2, 3)
    given = {
        "logprobs": -one.clone().requires_grad_(),
        "old_logprobs": -one,
        "advantages": one,
        "mask": one.bool(),
        "entropies": one.clone().requires_grad_(),
    }
    with pytest.raises(ValueError, match="measured has a cost without gradient"):
        policy_loss(ppo_clip(), terms=[measured()])(**given)
    out = policy_loss(ppo_clip(), terms=[measured(weight=0.0)])(**given)
    assert out.terms["measured"].eq(1).all()
    with torch.no_grad():  # nothing is to be taught
        policy_loss(ppo_clip(), terms=[measured()])(**given)


def test_a_cost_without_gradient_is_refused_before_anything_is_sampled():
    with pytest.raises(ValueError, match="without gradient"):
        policy_loss(ppo_clip(), terms=[measured()]).reports  # noqa: B018 - calls it on one token
