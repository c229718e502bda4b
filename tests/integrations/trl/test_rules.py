"""Every rule of erclip.losses in an ERCTrainer: trained with, or refused in one sentence."""

from __future__ import annotations

import math

import pytest
import torch

from erclip.config.rules import built_in
from erclip.errors import UserError
from erclip.integrations.trl.tensors import loss_tensors

from .conftest import NO_ERC, SMALL, next_batches, nudge
from .test_config import config

NEEDED = {  # arguments that have no default
    "adaptive_entropy": {"target": 1.0, "step": 0.01, "low": 0.0, "high": 0.1},
    "entropy_bonus": {"weight": 0.1},
    "kl_penalty": {"weight": 0.1},
    "log_ratio_penalty": {"weight": 0.1},
    "off_policy_sequence_mask": {"threshold": 0.01},
    "random_mask": {"rate": 0.1},
}
REFUSED = {
    "positive_nll": "needs verdicts, and TRL's reward functions return numbers",
    "score_centering": "needs sampler_top_logprobs, which an ERCTrainer does not have",
}
RULES = [
    (role, kind)
    for role in ("Surrogate", "Constraint", "Importance", "Term")
    for kind in sorted(built_in(role))
]


def test_the_rules_are_all_there():
    assert len(RULES) >= 35


def loss_with(role, kind):
    rule = {"kind": kind, **NEEDED.get(kind, {})}
    return {
        "Surrogate": {"surrogate": rule, "constraints": []},
        "Constraint": {"constraints": [rule]},
        "Importance": {**NO_ERC, "importance": rule},
        "Term": {**NO_ERC, "terms": [rule]},
    }[role]


def rollout(prompts, trainer):
    """A sampler beside the policy: it says log-probs, some of which it does not know."""
    texts = ["1+2=3", "1+2+3=6"]
    ids = [trainer._tokenizer.encode(texts[i % 2]) for i, _ in enumerate(prompts)]
    given = [[math.nan, math.nan] + [-1.0 - 0.1 * i for i in range(len(row) - 2)] for row in ids]
    return {"prompt_ids": ids, "completion_ids": ids, "logprobs": given}


def shorter(completion_ids, **_):
    return [-float(len(ids)) for ids in completion_ids]


@pytest.mark.parametrize(("role", "kind"), RULES)
def test_a_rule_is_trained_with_or_refused(make, role, kind):
    loss = loss_with(role, kind)
    if kind in REFUSED:
        with pytest.raises(UserError, match=REFUSED[kind]):
            config(loss=loss)
        return
    extra = {"rollout_func": rollout} if role == "Importance" else {}
    trainer = make(loss=loss, per_device_train_batch_size=32, steps_per_generation=2, extra=extra)
    trainer.reward_funcs = [shorter]
    batch = next_batches(trainer)[0]
    nudge(trainer.model)
    got = trainer._compute_loss(trainer.model, batch)
    got.backward()
    grads = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert got.isfinite()
    assert all(grad.isfinite().all() for grad in grads)
    assert any(grad.abs().max() > 0 for grad in grads)

    new = trainer._score(trainer.model, batch, slopes="entropy_slopes" in trainer.loss_fn.needs)
    tensors = loss_tensors(batch, new)
    statistics = trainer.loss_fn.statistics([tensors]) if trainer.loss_fn.mini_batch_rules else None
    count = batch["num_items_in_batch"] / 2
    want = trainer.loss_fn(**tensors, num_tokens=count, statistics=statistics)
    assert got.item() == pytest.approx(want.loss.item(), abs=1e-6)


def test_log_probs_that_a_sampler_does_not_know_are_the_old_policys(make):
    loss = loss_with("Importance", "truncated_importance")
    trainer = make(loss=loss, extra={"rollout_func": rollout})
    batch = next_batches(trainer)[0]
    sampled = batch["sampling_per_token_logps"]
    assert sampled[:, :2].isnan().all()
    used = loss_tensors(batch, None)["sampler_logprobs"]
    old = batch["old_per_token_logps"]
    assert torch.equal(used[:, :2], old[:, :2])
    assert torch.equal(used[:, 2:], sampled[:, 2:])
    assert not torch.equal(used[:, 2:], old[:, 2:])


def test_importance_without_another_sampler_is_refused(make):
    with pytest.raises(UserError, match=r"'icepop' weighs tokens of another sampler.*leave it out"):
        make(loss=loss_with("Importance", "icepop"))


def test_settings_of_the_tests_are_off_policy():
    assert SMALL["steps_per_generation"] > 1
