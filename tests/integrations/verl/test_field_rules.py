"""The rules that verl ships, on random batches: the same gradient, the same tokens dropped.

Values differ by design where a token is dropped: verl sets its loss to 0, here it keeps its value.
"""

from __future__ import annotations

import pytest
import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_rejection_mask

import erclip
from erclip import policy_loss, reinforce, truncated_reinforce

pytestmark = pytest.mark.verl

B, T = 8, 16
NO_CLIP = erclip.ppo_clip(float("inf"), float("inf"))


def batch(seed, ragged=True):
    g = torch.Generator().manual_seed(seed)
    old = -torch.rand(B, T, generator=g) * 3
    lengths = torch.randint(1, T + 1, (B, 1), generator=g)
    mask = torch.arange(T) < lengths if ragged else torch.ones(B, T, dtype=torch.bool)
    logprobs = (old + 0.6 * torch.randn(B, T, generator=g)).clamp(max=-1e-3)
    return old, logprobs, torch.randn(B, 1, generator=g).expand(B, T).contiguous(), mask


def config_of(actor_config, mode, low, high, **policy):
    config = actor_config("dapo")
    clip = {"clip_ratio": low, "clip_ratio_low": low, "clip_ratio_high": high, "clip_ratio_c": 20.0}
    for owner, settings in ((config, clip), (config.policy_loss, policy)):
        for name, value in settings.items():
            object.__setattr__(owner, name, value)  # verl's settings are frozen
    return config


CASES = {
    "dppo_tv": (
        policy_loss(
            truncated_reinforce(20.0, anchor="old"), [erclip.dppo_tv(0.1, 0.2, anchor="old")]
        ),
        {"low": 0.1, "high": 0.2},
    ),
    "dppo_kl": (
        policy_loss(truncated_reinforce(20.0, anchor="old"), [erclip.dppo_kl(0.05, anchor="old")]),
        {"low": 0.05, "high": 0.05},
    ),
    "clip_cov": (
        policy_loss(erclip.ppo_clip(0.2, 0.28), [erclip.clip_cov(1.0, 0.2, 3.0)]),
        {"low": 0.2, "high": 0.28, "clip_cov_ratio": 1.0, "clip_cov_lb": 0.2, "clip_cov_ub": 3.0},
    ),
    "kl_cov": (
        policy_loss(NO_CLIP, terms=[erclip.kl_cov(0.1, 0.5)]),
        {"low": 0.2, "high": 0.2, "kl_cov_ratio": 0.1, "ppo_kl_coef": 0.5},
    ),
    "geo_mean": (policy_loss(erclip.gmpo(0.3, 0.4)), {"low": 0.3, "high": 0.4}),
}


@pytest.mark.parametrize("mode", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_verls(mode, seed, actor_config):
    loss_fn, settings = CASES[mode]
    old, start, advantages, mask = batch(seed, ragged=mode != "geo_mean")
    gradients = []
    for ours in (True, False):
        logprobs = start.clone().requires_grad_()
        if ours:
            loss = loss_fn(
                logprobs=logprobs, old_logprobs=old, advantages=advantages, mask=mask
            ).loss
        else:
            loss, _ = get_policy_loss_fn(mode)(
                old_log_prob=old,
                log_prob=logprobs,
                advantages=advantages,
                response_mask=mask.float(),
                loss_agg_mode="token-mean",
                config=config_of(actor_config, mode, **settings),
            )
        loss.backward()
        gradients.append(logprobs.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("option", "threshold", "rule"),
    [
        ("seq_mean_k1", f"{1 / 1.03}_{1 / 0.97}", erclip.sequence_mask("geometric", 0.03, 0.03)),
        ("seq_max_k2", "0.02", erclip.sequence_mask("k2_max", high=0.02)),
        ("seq_mean_k3", "0.006", erclip.sequence_mask("k3_mean", high=0.006)),
    ],
)
def test_the_same_responses_are_masked(option, threshold, rule):
    """At a rollout's first update, where π_θ is the π_old that verl looks at."""
    dropped = 0
    for seed in range(5):
        sampler, _, advantages, mask = batch(seed)
        now = sampler + 0.1 * torch.randn(B, T, generator=torch.Generator().manual_seed(seed))
        out = policy_loss(reinforce(), [rule])(
            logprobs=now, old_logprobs=now, sampler_logprobs=sampler,
            advantages=advantages, mask=mask,
        )  # fmt: skip
        kept, _ = compute_rollout_rejection_mask(
            log_ratio=now - sampler,
            response_mask=mask.float(),
            rollout_rs=option,
            rollout_rs_threshold=threshold,
        )
        ours = out.clipped["sequence_low"] | out.clipped["sequence_high"]
        assert torch.equal(mask & ~ours, kept.bool())
        dropped += int(ours.sum())
    assert dropped
