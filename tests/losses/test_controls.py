"""shuffled_erc takes as much as ERC would take of the same mini-batch, and from others."""

from __future__ import annotations

import pytest
import torch

from erclip.losses import entropy_ratio_clip, policy_loss, ppo_clip, random_mask, shuffled_erc

OLD = torch.full((4, 50), -0.7)


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shape = (4, 50)
    return {
        "logprobs": OLD + 0.1 * torch.randn(shape, generator=draw),
        "old_logprobs": OLD,
        "advantages": torch.tensor([1.0, -2.0, 0.0, 0.5]),
        "mask": torch.rand(shape, generator=draw) < 0.8,
        "entropies": torch.rand(shape, generator=draw) * 0.3 + 0.85,
        "old_entropies": torch.ones(shape),
        "entropy_slopes": torch.randn(shape, generator=draw),
    }


def judge(constraint, **inputs):
    return policy_loss(ppo_clip(), constraints=[constraint])(**inputs)


@pytest.mark.parametrize("rule", ["paper", "directional", "directional_sampled"])
def test_as_many_tokens_as_erc_clips_but_others(rule):
    inputs = batch()
    erc, ours = (judge(part(rule=rule), **inputs) for part in (entropy_ratio_clip, shuffled_erc))
    clipped = erc.erc_low | erc.erc_high
    assert 0 < int(clipped.sum()) < int(inputs["mask"].sum())
    assert int(ours.random.sum()) == int(clipped.sum())
    assert not (ours.random & ~inputs["mask"]).any()
    assert (ours.random != clipped).any()
    assert not (ours.erc_low | ours.erc_high).any()


def test_as_much_gradient_as_erc_takes():
    """Σ |A| r (1 − π) of what is dropped, against ERC's: within half of the largest token."""
    inputs = batch()
    ratio = (inputs["logprobs"] - OLD).exp()
    mass = inputs["advantages"].abs()[:, None] * ratio * (1 - inputs["logprobs"].exp())
    erc = judge(entropy_ratio_clip(), **inputs)
    target = mass[(erc.erc_low | erc.erc_high) & inputs["mask"]].sum()
    for seed in range(5):
        lots = torch.rand(4, 50, generator=torch.Generator().manual_seed(seed))
        ours = judge(shuffled_erc(match="gradient"), **inputs, lots=lots)
        assert abs(float(mass[ours.random].sum() - target)) <= float(mass.max()) / 2 + 1e-4


def test_the_first_update_loses_nothing():
    """There ρ is 1: a random mask of a fixed rate takes its share all the same."""
    inputs = {**batch(), "entropies": torch.ones(4, 50)}
    for match in ("tokens", "gradient"):
        assert not judge(shuffled_erc(match=match), **inputs).random.any()
    assert judge(random_mask(0.5), **inputs).random.any()


def test_it_falls_on_every_token_alike(unchecked):
    """1,000 shuffles: each token is dropped about as often as any other."""
    inputs, draw = batch(), torch.Generator().manual_seed(0)
    counts = torch.zeros(4, 50)
    for _ in range(1000):
        lots = torch.rand(4, 50, generator=draw)
        counts += judge(shuffled_erc(), **inputs, lots=lots).random
    shares = counts[inputs["mask"]] / 1000
    rate = shares.mean()
    assert float((shares - rate).abs().max()) < 5 * float(rate * (1 - rate) / 1000) ** 0.5


def test_gradient_of_a_dropped_token_is_zero_and_of_the_others_as_before():
    inputs = batch()
    free = inputs["logprobs"].clone().requires_grad_()
    policy_loss(ppo_clip())(**{**inputs, "logprobs": free}).loss.backward()
    torch.manual_seed(0)
    again = inputs["logprobs"].clone().requires_grad_()
    out = judge(shuffled_erc(), **{**inputs, "logprobs": again})
    out.loss.backward()
    assert (again.grad[out.random] == 0).all()
    assert torch.equal(again.grad[~out.random], free.grad[~out.random])


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_match_is_refused():
    with pytest.raises(
        ValueError, match="match of shuffled_erc must be one of tokens, gradient, not 'mass'"
    ):
        shuffled_erc(match="mass")
    with pytest.raises(ValueError, match="low of entropy_ratio_clip must be at least 0"):
        shuffled_erc(low=-1.0)
