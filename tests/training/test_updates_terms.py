"""KL penalty and entropy bonus inside an update: off is off bit for bit, cuts change nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from test_updates import capture, config, drift, samples, scored  # noqa: F401

from erclip.errors import UserError
from erclip.training.updates import Updater

KL = {"weight": 0.5, "estimator": "k3"}


def test_weight_zero_is_off_bit_for_bit(policy, samples):  # noqa: F811
    mini_batch = scored(policy, samples, 300)
    drift(policy)
    without, expected = capture(policy, mini_batch, config())
    metrics, got = capture(policy, mini_batch, config(kl={**KL, "weight": 0.0}, entropy_bonus=0.0))
    assert torch.equal(got, expected)
    assert metrics.pop("policy/kl_ref") > 0
    assert metrics == without


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_to_the_initial_weights_equals_plain_autograd(estimator, policy, samples):  # noqa: F811
    (whole,) = scored(policy, samples, 10**6)
    drift(policy)
    base, without = capture(policy, [whole], config())
    settings = config(kl={"weight": 0.5, "estimator": estimator})
    metrics, got = capture(policy, [whole], settings)
    new = policy.score(whole.batch)
    gap = (new.logprobs - whole.old.logprobs)[whole.batch.mask]  # old = the initial weights
    value = {"k1": gap, "k2": gap**2 / 2, "k3": (-gap).exp() - 1 + gap}[estimator].mean()
    assert metrics["policy/kl_ref"] == pytest.approx(value.item(), rel=1e-5)
    change = metrics["loss/policy"] - base["loss/policy"]
    assert change == pytest.approx(0.5 * value.item(), rel=1e-4)
    slope = 1 - (-gap.detach()).exp() if estimator == "k3" else gap.detach()
    policy.model.zero_grad()
    (0.5 * (slope * gap).mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.model.parameters()])
    assert (got - without - expected).abs().max() < 1e-5 * got.abs().max()


def test_entropy_bonus_equals_plain_autograd(policy, samples):  # noqa: F811
    (whole,) = scored(policy, samples, 10**6)
    drift(policy)
    base, without = capture(policy, [whole], config())
    metrics, got = capture(policy, [whole], config(entropy_bonus=0.3))
    entropy = policy.score(whole.batch, entropy_gradient=True).entropies[whole.batch.mask].mean()
    change = metrics["loss/policy"] - base["loss/policy"]
    assert change == pytest.approx(-0.3 * entropy.item(), rel=1e-4)
    policy.model.zero_grad()
    (-0.3 * entropy).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.model.parameters()])
    assert (got - without - expected).abs().max() < 1e-5 * got.abs().max()


def test_micro_batches_of_both_terms_add_up(policy, samples):  # noqa: F811
    whole, pieces = scored(policy, samples, 10**6), scored(policy, samples, 100)
    drift(policy)
    settings = config(kl=KL, entropy_bonus=0.1)
    metrics, expected = capture(policy, whole, settings)
    split_metrics, got = capture(policy, pieces, settings)
    assert (got - expected).abs().max() < 1e-6 * expected.abs().max()
    for name, value in metrics.items():
        assert split_metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name


def test_the_reference_stays_where_it_was(policy, samples):  # noqa: F811
    updater = Updater(policy, config(kl=KL))
    before = copy.deepcopy(updater.reference.model.state_dict())
    drift(policy)
    updater.update(scored(policy, samples, 300))
    after = updater.reference.model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not any(p.requires_grad for p in updater.reference.model.parameters())


def test_a_reference_that_is_not_there_is_one_sentence(policy):
    with pytest.raises(UserError, match=r"No model folder '\./nowhere'"):
        Updater(policy, config(kl={**KL, "model": "./nowhere"}))
