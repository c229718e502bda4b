"""prime-rl's custom loss on a stand-in of its inputs: the fields and the sum that its trainer has.

It is not on a registry; the stand-in was written from its sources at commit 559b447.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from erclip.errors import UserError
from erclip.integrations.prime_rl import loss
from erclip.losses import gspo_clip, policy_loss

LENGTHS = (5, 1, 7)


@dataclass
class LossInputs:
    """Every field of prime-rl's own record."""

    trainer_logprobs: Tensor
    inference_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    loss_mask: Tensor
    loss_weights: Tensor | None = None


def sequences(seed=0, spread=0.5):
    """Prompt and response of three sequences; the prompt, outside the mask, may be anything."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for length, advantage in zip(LENGTHS, (1.5, -1.0, -0.3), strict=True):
        prompt = torch.full((2,), float("nan"))
        old = -torch.rand(length, generator=generator) - 0.1
        new = old + spread * torch.randn(length, generator=generator)
        made.append(
            LossInputs(
                trainer_logprobs=torch.cat([prompt, new]).requires_grad_(),
                inference_logprobs=torch.cat([prompt, old]),
                ref_logprobs=None,
                advantages=torch.full((length + 2,), advantage),
                loss_mask=torch.arange(length + 2) >= 2,
            )
        )
    return made


def compute_loss(function, inputs, scale):
    """What prime-rl's trainer makes of it: a sum over sequences, and metrics stacked by name."""
    total, metrics = torch.zeros(()), {}
    for one in inputs:
        result = function(one)
        total = total + result.loss
        for name, value in result.metrics.items():
            metrics.setdefault(name, []).append(value)
    return total / scale, {name: torch.stack(values) for name, values in metrics.items()}


def gradients(function, inputs):
    value, _ = compute_loss(function, inputs, sum(LENGTHS))
    value.backward()
    return [one.trainer_logprobs.grad[2:] for one in inputs]


def test_a_batch_of_sequences_is_the_whole_padded_batch():
    inputs = sequences()
    value, metrics = compute_loss(lambda i: loss(i, surrogate="gspo_clip"), inputs, sum(LENGTHS))
    value.backward()

    def padded(name):
        rows = [getattr(one, name).detach() for one in inputs]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    new = padded("trainer_logprobs").requires_grad_()
    out = policy_loss(gspo_clip())(
        logprobs=new,
        old_logprobs=padded("inference_logprobs"),
        advantages=padded("advantages"),
        mask=padded("loss_mask").bool(),
    )
    out.loss.backward()
    assert value.item() == pytest.approx(out.loss.item(), abs=1e-6)
    for row, one in zip(new.grad, inputs, strict=True):
        length = len(one.trainer_logprobs)
        torch.testing.assert_close(one.trainer_logprobs.grad, row[:length], rtol=0, atol=1e-7)
        assert not one.trainer_logprobs.grad[:2].any()
    assert all(values.shape == (3,) and values.isfinite().all() for values in metrics.values())
    assert "policy/entropy" not in metrics  # nobody computed one
    weighted = (metrics["clip/ppo_frac"] * torch.tensor(LENGTHS)).sum() / sum(LENGTHS)
    fired = (out.ppo_low | out.ppo_high).float().sum() / sum(LENGTHS)
    assert weighted.item() == pytest.approx(fired.item())


def default_loss(inputs, low=0.2, high=0.2, tau=1e-3, symmetric=False):
    """prime-rl's own losses, in its words: `default` (DPPO-TV and log² r) and `ipo`."""
    log_ratio = inputs.trainer_logprobs - inputs.inference_logprobs
    moved = inputs.trainer_logprobs.exp() - inputs.inference_logprobs.exp()
    invalid = torch.where(inputs.advantages > 0, moved > high, moved < -low)
    keep = ~(moved.abs() > high if symmetric else invalid)
    each = -keep.float() * inputs.advantages * log_ratio.exp() + tau * log_ratio**2
    return type("Out", (), {"loss": each[inputs.loss_mask].sum(), "metrics": {}})


PLAIN = {"kind": "ppo_clip", "low": 1.0, "high": float("inf")}
PENALTY = {"kind": "log_ratio_penalty", "weight": 1e-3}


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ({"kind": "dppo_tv", "low": 0.2, "high": 0.2}, {}),
        ({"kind": "ipo", "threshold": 0.2}, {"symmetric": True}),
    ],
)
def test_its_own_losses_are_compositions_of_ours(rule, settings):
    """The same gradients; of dropped tokens it zeroes the value too, which moves no weight."""
    section = {"surrogate": PLAIN, "constraints": [rule], "terms": [PENALTY]}
    ours = gradients(lambda i: loss(i, **section), sequences())
    theirs = gradients(lambda i: default_loss(i, **settings), sequences())
    free = gradients(lambda i: loss(i, surrogate=PLAIN, terms=[PENALTY]), sequences())
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(ours, free, strict=True))  # something dropped


def test_weights_scale_and_an_empty_mask_has_a_gradient_of_zero():
    half = sequences()[0]
    half.loss_weights = torch.full_like(half.advantages, 0.5)
    whole = loss(sequences()[0], surrogate="gppo_clip").loss
    assert loss(half, surrogate="gppo_clip").loss.item() == pytest.approx(whole.item() / 2)
    empty = sequences()[0]
    empty.loss_mask = torch.zeros_like(empty.loss_mask)
    result = loss(empty, surrogate="gppo_clip", terms=[PENALTY])
    result.loss.backward()
    assert result.loss == 0
    assert not empty.trainer_logprobs.grad.any()
    assert all(value == 0 for value in result.metrics.values())


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"constraints": ["entropy_ratio_clip"]}, "needs entropies, old_entropies, which prime-rl"),
        ({"constraints": ["top_entropy"]}, "needs old_entropies"),
        ({"constraints": ["m2po"]}, "rests on the whole mini-batch"),
        ({"kl": {"weight": 0.1}}, "needs reference_logprobs"),
        ({"importance": "icepop"}, "ratios are to the sampler already"),
        ({"surrogate": "gppo"}, "trainer.loss.kwargs.surrogate = 'gppo'"),
        ({"surogate": "gppo_clip"}, "trainer.loss.kwargs.surogate"),
    ],
)
def test_refusals_name_the_key(section, words):
    with pytest.raises(UserError) as error:
        loss(sequences()[0], **section)
    assert words in str(error.value)


def test_weights_beside_a_term_are_refused():
    one = sequences()[0]
    one.loss_weights = torch.full_like(one.advantages, 0.5)
    with pytest.raises(UserError, match="cannot be scaled by the weights per token"):
        loss(one, terms=[PENALTY])
    one.loss_weights = torch.ones_like(one.advantages)
    assert loss(one, terms=[PENALTY]).loss.isfinite()
