"""One update of the trainer equals the same update done the obvious way, however it is cut up."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import erclip
from erclip.config import Config
from erclip.records import Grade, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import micro_batches, single_rows
from erclip.training.policy import Policy
from erclip.training.updates import Updater, score_old

TINY = 1e-30  # a step that moves no float32 weight
ERC = {"kind": "entropy_ratio_clip", "low": 0.05, "high": 0.05}


def config(**loss):
    return Config.model_validate(
        {
            "loss": {"constraints": [ERC], **loss},
            "trainer": {"learning_rate": TINY, "warmup_updates": 0, "grad_clip": math.inf},
        }
    )


@pytest.fixture
def samples(responses):
    """Advantages of both signs, correct and wrong responses."""
    flat = [response for group in responses for response in group]
    return [
        Sample(r, Grade(i % 3 == 0, None, "wrong"), 0.0, (-1.0) ** i * (1 + i / 10))
        for i, r in enumerate(flat)
    ]


def scored(policy, samples, token_budget):
    return [
        score_old(policy, make_batch(micro, pad_id=policy.pad_id, device=policy.device))
        for micro in micro_batches(single_rows(samples), token_budget)
    ]


def drift(policy):
    """Move the policy away from the one that scored, so that every constraint has work."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in policy.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def gradient(updater):
    return torch.cat([p.grad.flatten() for p in updater.parameters])


def capture(policy, mini_batch, settings):
    """(metrics, gradient) of one update, seen just before the optimiser's step."""
    updater = Updater(policy, settings)
    seen = []
    updater.optimizer.register_step_pre_hook(lambda *_: seen.append(gradient(updater).clone()))
    metrics = updater.update(mini_batch)
    return metrics, seen[0]


def test_micro_batches_change_nothing(policy, samples):
    whole, pieces = scored(policy, samples, 10**6), scored(policy, samples, 100)
    assert len(whole) == 1
    assert len(pieces) > 5
    drift(policy)
    settings = config(positive_nll=0.1)
    metrics, expected = capture(policy, whole, settings)
    split_metrics, got = capture(policy, pieces, settings)
    assert metrics["clip/erc_frac"] > 0.1
    assert metrics["clip/ppo_frac"] > 0.002
    # float32 sums in another order: up to 3e-6 on AVX-512; a mean of means would be off by percents
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    for name, value in metrics.items():
        assert split_metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name


def test_gradient_equals_full_logits_and_plain_autograd(policy, samples):
    (whole,) = scored(policy, samples, 10**6)
    drift(policy)
    _, got = capture(policy, [whole], config())
    plain = Policy(copy.deepcopy(policy.model), policy.tokenizer, head="logits")
    scores = plain.score(whole.batch)
    loss_fn = erclip.policy_loss(
        erclip.ppo_clip(), constraints=[erclip.entropy_ratio_clip(low=0.05, high=0.05)]
    )
    loss_fn(
        logprobs=scores.logprobs,
        old_logprobs=whole.old.logprobs,
        advantages=whole.batch.advantages,
        mask=whole.batch.mask,
        entropies=scores.entropies,
        old_entropies=whole.old.entropies,
    ).loss.backward()
    expected = torch.cat([p.grad.flatten() for p in plain.model.parameters()])
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_at_equal_weights_every_ratio_is_exactly_one(policy, samples):
    mini_batch = scored(policy, samples, 300)
    metrics, _ = capture(policy, mini_batch, config())
    assert metrics["clip/erc_frac"] == metrics["clip/ppo_frac"] == 0.0
    assert metrics["policy/kl_old"] == 0.0
    assert metrics["ratio/mean"] == metrics["erc/ratio_q01"] == metrics["erc/ratio_q99"] == 1.0


def test_positive_nll_is_averaged_over_correct_tokens(policy, samples):
    mini_batch = scored(policy, samples, 300)
    correct = [s for s in samples if s.grade.correct]
    (only_correct,) = scored(policy, correct, 10**6)
    nll = -only_correct.old.logprobs.sum().item() / only_correct.batch.num_tokens
    with_nll, _ = capture(policy, mini_batch, config(positive_nll=0.5))
    without, _ = capture(policy, mini_batch, config())
    assert with_nll["loss/policy"] - without["loss/policy"] == pytest.approx(0.5 * nll, rel=1e-5)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(policy, samples):
    mini_batch = scored(policy, samples, 10**6)
    before = copy.deepcopy(policy.model.state_dict())
    updater = Updater(policy, config())
    mini_batch[0].batch.advantages[3] = math.nan
    metrics = updater.update(mini_batch)
    assert metrics["grad/skipped"] == 1.0
    assert all(
        torch.equal(value, before[name]) for name, value in policy.model.state_dict().items()
    )


def test_warm_up_is_linear_and_starts_above_zero(policy, samples):
    settings = Config.model_validate({"trainer": {"learning_rate": TINY, "warmup_updates": 4}})
    updater = Updater(policy, settings)
    mini_batch = scored(policy, samples[:4], 10**6)
    rates = [updater.update(mini_batch)["train/learning_rate"] for _ in range(6)]
    assert [rate / TINY for rate in rates] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
