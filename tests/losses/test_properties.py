"""What must hold for every surrogate and any input (hypothesis)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import erclip
from losses.branches import SURROGATES

PER_TOKEN = sorted(set(SURROGATES) - {"gspo"})  # GSPO's ratio couples the tokens of a row


def batch(seed, rows=4, length=5, spread=0.4):
    """A random batch; responses have different lengths, no row is empty."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    old = -normal(rows, length).abs()
    lengths = torch.randint(1, length + 1, (rows,), generator=g)
    old_entropies = normal(rows, length).abs()
    return {
        "logprobs": old + spread * normal(rows, length),
        "old_logprobs": old,
        "advantages": normal(rows),
        "mask": torch.arange(length)[None] < lengths[:, None],
        "entropies": old_entropies * (1 + 0.1 * normal(rows, length)).abs(),
        "old_entropies": old_entropies,
        "entropy_slopes": normal(rows, length),
    }


def compose(name, constraints=()):
    return erclip.policy_loss(SURROGATES[name], constraints)


def loss_and_gradient(loss_fn, inputs, **more):
    inputs = dict(inputs)
    inputs["logprobs"] = inputs["logprobs"].clone().requires_grad_()
    out = loss_fn(**inputs, **more)
    out.loss.backward()
    return out.loss.detach(), inputs["logprobs"].grad


def erc(**kwargs):
    return [erclip.entropy_ratio_clip(**kwargs)]


seeds = st.integers(0, 2**31)
surrogates = st.sampled_from(sorted(SURROGATES))
rules = st.sampled_from(["paper", "directional"])


@settings(deadline=None, max_examples=40)
@given(seeds, surrogates, rules, st.integers(1, 3))
def test_micro_batches_add_up(seed, surrogate, rule, cut):
    inputs = batch(seed)
    loss_fn = compose(surrogate, erc(rule=rule))
    total = inputs["mask"].sum()
    whole, gradient = loss_and_gradient(loss_fn, inputs)
    parts = [
        loss_and_gradient(loss_fn, {k: v[rows] for k, v in inputs.items()}, num_tokens=total)
        for rows in (slice(None, cut), slice(cut, None))
    ]
    assert torch.allclose(whole, parts[0][0] + parts[1][0], rtol=1e-12, atol=1e-14)
    split = torch.cat([part[1] for part in parts])
    assert torch.allclose(gradient, split, rtol=1e-13, atol=0)  # last bit: see below


@settings(deadline=None, max_examples=40)
@given(seeds, surrogates, rules)
def test_order_of_responses_does_not_matter(seed, surrogate, rule):
    inputs = batch(seed)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    loss_fn = compose(surrogate, erc(rule=rule))
    loss, gradient = loss_and_gradient(loss_fn, inputs)
    shuffled, shuffled_gradient = loss_and_gradient(
        loss_fn, {name: value[order] for name, value in inputs.items()}
    )
    assert torch.allclose(loss, shuffled, rtol=1e-12, atol=1e-14)
    # rows elsewhere in memory: torch's vectorised exp and its scalar tail differ in the last bit
    assert torch.allclose(gradient[order], shuffled_gradient, rtol=1e-13, atol=0)


@settings(deadline=None, max_examples=40)
@given(seeds, surrogates, rules, st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_padding_changes_nothing(seed, surrogate, rule, rubbish):
    inputs = batch(seed)
    loss_fn = compose(surrogate, erc(rule=rule))
    loss, gradient = loss_and_gradient(loss_fn, inputs)
    mask = inputs["mask"]
    dirty = {
        name: value.masked_fill(~mask, rubbish) if value.shape == mask.shape else value
        for name, value in inputs.items()
        if name != "mask"
    }
    dirty_loss, dirty_gradient = loss_and_gradient(loss_fn, {**dirty, "mask": mask})
    assert torch.equal(loss, dirty_loss)
    assert torch.equal(gradient, dirty_gradient)
    assert not gradient[~mask].any()


@settings(deadline=None, max_examples=20)
@given(seeds, surrogates)
def test_zero_advantage_gives_zero_gradient(seed, surrogate):
    inputs = {**batch(seed), "advantages": torch.zeros(4, dtype=torch.float64)}
    loss, gradient = loss_and_gradient(compose(surrogate), inputs)
    assert loss == 0
    assert not gradient.any()


@settings(deadline=None, max_examples=20)
@given(seeds, surrogates, rules)
def test_infinite_band_is_no_erc(seed, surrogate, rule):
    inputs = batch(seed)
    free = loss_and_gradient(compose(surrogate), inputs)
    wide = loss_and_gradient(
        compose(surrogate, erc(low=math.inf, high=math.inf, rule=rule)), inputs
    )
    assert torch.equal(free[0], wide[0])
    assert torch.equal(free[1], wide[1])


@settings(deadline=None, max_examples=20)
@given(seeds, surrogates)
def test_on_policy_gradient_is_reinforce(seed, surrogate):
    inputs = batch(seed)
    inputs["old_logprobs"] = inputs["logprobs"]
    inputs["old_entropies"] = inputs["entropies"]
    _, gradient = loss_and_gradient(compose(surrogate, erc()), inputs)
    _, reinforce = loss_and_gradient(compose("reinforce"), inputs)
    assert torch.allclose(gradient, reinforce, rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from(PER_TOKEN), rules)
def test_erc_only_takes_gradients_away(seed, surrogate, rule):
    inputs = batch(seed)
    free_loss, free = loss_and_gradient(compose(surrogate), inputs)
    loss, gradient = loss_and_gradient(compose(surrogate, erc(rule=rule)), inputs)
    assert torch.equal(loss, free_loss)
    assert torch.equal(gradient[gradient != 0], free[gradient != 0])


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_directional_clips_a_subset_of_the_paper_rule(seed):
    inputs = batch(seed)
    paper = compose("ppo", erc())(**inputs)
    directional = compose("ppo", erc(rule="directional"))(**inputs)
    assert not (directional.erc_low & ~paper.erc_low).any()
    assert not (directional.erc_high & ~paper.erc_high).any()


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 5)])
def test_advantages_per_response_or_per_token(shape):
    inputs = batch(0)
    advantages = inputs["advantages"]
    per_token = advantages[:, None].expand(4, 5)
    inputs["advantages"] = per_token if shape == (4, 5) else advantages.reshape(shape)
    loss, _ = loss_and_gradient(compose("ppo"), inputs)
    expected, _ = loss_and_gradient(compose("ppo"), {**inputs, "advantages": per_token})
    assert torch.equal(loss, expected)


def test_an_empty_batch_has_zero_loss():
    inputs = batch(0)
    inputs["mask"] = torch.zeros_like(inputs["mask"])
    loss, gradient = loss_and_gradient(compose("gppo", erc()), inputs)
    assert loss == 0
    assert not gradient.any()


def without(inputs, *names):
    return {name: value for name, value in inputs.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: without(x, "old_entropies"), "needs `entropies` and `old_entropies`"),
        (lambda x: without(x, "entropies"), "needs `entropies` and `old_entropies`"),
        (lambda x: {**x, "mask": x["mask"].long()}, "mask must be boolean"),
        (lambda x: {**x, "logprobs": x["logprobs"].bfloat16()}, "must be float32"),
        (lambda x: {**x, "old_logprobs": x["old_logprobs"][:, :2]}, r"shape \(4, 2\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_inputs_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        compose("ppo", erc())(**change(batch(0)))


def test_directional_refuses_to_guess_slopes():
    with pytest.raises(ValueError, match="entropy_slopes"):
        compose("ppo", erc(rule="directional"))(**without(batch(0), "entropy_slopes"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: erclip.ppo_clip(low=-0.1),
        lambda: erclip.ppo_clip(dual=1.1),
        lambda: erclip.gppo_clip(high=math.nan),
        lambda: erclip.ce_gppo_clip(beta_low=-1.0),
        lambda: erclip.sapo(tau_positive=0.0),
        lambda: erclip.entropy_ratio_clip(high=-0.05),
        lambda: erclip.entropy_ratio_clip(rule="both"),
        lambda: erclip.random_mask(1.5),
        lambda: erclip.ppo_clip(anchor="new"),
        lambda: erclip.dppo_tv(high=-0.1),
        lambda: erclip.sequence_mask("k2_max"),
        lambda: erclip.sequence_mask("k3_mean", low=0.1, high=0.1),
        lambda: erclip.sequence_mask("mean"),
        lambda: erclip.sequence_mask(low=-0.1),
        lambda: erclip.top_entropy(0.0),
        lambda: erclip.top_entropy(of="new"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_refused(make):
    with pytest.raises(ValueError, match=r"must|rule|bounded by"):
        make()
