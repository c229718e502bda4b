"""The registered function on SkyRL's own arguments: log-probs, masks, advantages with N inside."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import torch

from erclip.errors import UserError
from erclip.integrations.skyrl import Loss, check_version, entropies_now
from erclip.losses import entropy_ratio_clip, gppo_clip, policy_loss

CONFIG = SimpleNamespace(policy_loss_type="erclip")


def arguments(seed=0):
    """A micro-batch as a worker's: padding holds anything, advantages are divided by N."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 6)
    old = -torch.rand(shape, generator=generator) - 0.1
    new = old + 0.5 * torch.randn(shape, generator=generator)
    mask = torch.arange(6) < torch.tensor([[6], [2], [4]])
    new[1, 2:] = float("nan")
    advantages = torch.tensor([[1.0], [-1.0], [0.5]]).expand(shape) / mask.sum()
    return {
        "log_probs": new.requires_grad_(),
        "old_log_probs": old,
        "advantages": advantages,
        "config": CONFIG,
        "loss_mask": mask.long(),
        "rollout_logprobs": old - 0.05,
    }


@pytest.mark.parametrize("rule", ["gppo_clip", "gspo_clip", "sapo", "cispo_clip"])
def test_the_sum_is_the_token_mean_of_our_composition(rule):
    given = arguments()
    value, metrics = Loss({"surrogate": rule})(**given)
    value.backward()
    mask = given["loss_mask"].bool()
    new = given["log_probs"].detach().clone().requires_grad_()
    out = Loss({"surrogate": rule}).loss_fn(
        logprobs=new,
        old_logprobs=given["old_log_probs"],
        advantages=given["advantages"] * mask.sum(),
        mask=mask,
    )
    out.loss.backward()
    assert value.item() == pytest.approx(out.loss.item(), abs=1e-6)
    torch.testing.assert_close(given["log_probs"].grad, new.grad, rtol=0, atol=1e-7)
    assert all(isinstance(number, float) for number in metrics.values())  # SkyRL drops others
    assert "policy/entropy" not in metrics


def test_old_entropies_come_as_the_imaginary_part():
    given, section = arguments(), {"surrogate": "gppo_clip", "constraints": ["entropy_ratio_clip"]}
    old_entropies = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) + 0.1
    entropies = old_entropies * torch.tensor([1.0, 1.2, 0.8, 1.01, 0.99, 1.06])
    given["old_log_probs"] = torch.complex(given["old_log_probs"], old_entropies)
    token = entropies_now.set(entropies)
    try:
        value, metrics = Loss(section)(**given)
    finally:
        entropies_now.reset(token)
    value.backward()
    new = given["log_probs"].detach().clone().requires_grad_()
    mask = given["loss_mask"].bool()
    out = policy_loss(gppo_clip(), [entropy_ratio_clip()])(
        logprobs=new,
        old_logprobs=given["old_log_probs"].real,
        entropies=entropies,
        old_entropies=old_entropies,
        advantages=given["advantages"] * mask.sum(),
        mask=mask,
    )
    out.loss.backward()
    torch.testing.assert_close(given["log_probs"].grad, new.grad, rtol=0, atol=1e-7)
    clipped = (out.erc_low | out.erc_high).sum() / mask.sum()
    assert 0.2 < clipped < 0.8
    assert metrics["clip/erc_frac"] == pytest.approx(clipped.item())
    assert metrics["policy/entropy"] == pytest.approx(entropies[mask].mean().item())


def test_a_loss_is_pickled_as_its_section():
    made = Loss({"surrogate": "sapo"})
    assert made.loss_fn is made.loss_fn
    again = pickle.loads(pickle.dumps(made))
    assert (again, repr(again.loss_fn)) == (made, repr(made.loss_fn))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"constraints": ["entropy_ratio_clip"]}, "skyrl.erc.ERCExp in the place of BasePPOExp"),
        ({"constraints": ["dppo_tv"]}, "set generator.sampling_params.logprobs=1"),
        ({"terms": [{"kind": "log_ratio_penalty", "weight": 0.1}]}, "SkyRL's N"),
        ({"kl": {"weight": 0.1}}, "loss.kl is trainer.algorithm.use_kl_loss in SkyRL"),
        ({"constraints": ["m2po"]}, "rests on the whole mini-batch"),
        (
            {"constraints": [{"kind": "entropy_ratio_clip", "rule": "directional"}]},
            "needs entropy_slopes, which SkyRL does not have",
        ),
    ],
)
def test_refusals_are_one_sentence(section, words):
    with pytest.raises(UserError) as error:
        Loss(section)(**{**arguments(), "rollout_logprobs": None})
    assert words in str(error.value)


def test_versions_that_were_not_read_are_refused():
    with pytest.raises(UserError, match=r"SkyRL 0\.5\.0 is not supported, only 0\.3 and 0\.4"):
        check_version("0.5.0")
