"""bfloat16 below the head: the same rounding in every pass, float32 weights and head."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from erclip.config import Config, ModelConfig
from erclip.embedded import embedded_model_dir
from erclip.errors import UserError
from erclip.machine.distributed import World
from erclip.records import Grade
from erclip.training.batches import Sample
from erclip.training.policy import load_policy
from erclip.training.policy.precision import unrounded
from erclip.training.policy.saving import few_logprobs
from erclip.training.rounding import rounding_share
from erclip.training.sampling import SamplingSettings, TransformersSampler
from erclip.training.scored_rollout import own_batches
from erclip.training.updates import Updater, score_old


def rounded(**more):
    return load_policy(ModelConfig(autocast="bfloat16", **more))


def config(**trainer):
    erc = {"constraints": ["entropy_ratio_clip"]}
    sampler = {"max_tokens": 24}
    own = {"warmup_updates": 0, **trainer}
    return Config.model_validate({"loss": erc, "sampler": sampler, "trainer": own})


def batches(responses, policy, budget=300):
    """Micro-batches of samples with advantages of both signs."""
    flat = [response for group in responses for response in group]
    grade = Grade(True, "1", "correct")
    samples = [Sample(r, grade, 1.0, (-1.0) ** i) for i, r in enumerate(flat)]
    return own_batches(samples, policy, config(token_budget=budget), World())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_ratios_are_exactly_one_at_equal_weights(checkpointing, responses):
    """One pass has a gradient to prepare and the other has not; both round alike."""
    policy = rounded(gradient_checkpointing=checkpointing)
    for batch in batches(responses, policy):
        old = score_old(policy, batch).old
        new = policy.score(batch, slopes=True)
        assert new.logprobs.requires_grad
        assert torch.equal(new.logprobs, old.logprobs)
        assert torch.equal(new.entropies, old.entropies)
        assert new.logprobs.dtype == new.entropies.dtype == torch.float32


def test_products_are_rounded_weights_and_head_are_not(policy, responses):
    low = rounded()
    seen = {}
    for name in ("model.layers.0.mlp.up_proj", "lm_head"):
        low.model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.dtype})
        )
    ids = torch.tensor([[3, 7, 2, 9]])
    with torch.no_grad():
        gap = (low.model(input_ids=ids).logits - policy.model(input_ids=ids).logits).abs().max()
        hidden = low.model.base_model(input_ids=ids).last_hidden_state
    assert seen == {"model.layers.0.mlp.up_proj": torch.bfloat16, "lm_head": torch.float32}
    assert hidden.dtype == torch.float32
    assert 1e-4 < gap < 0.2
    assert {p.dtype for p in low.model.parameters()} == {torch.float32}


def test_small_steps_are_kept(responses):
    """At 1e-6, bfloat16 weights would stay where they are; float32 ones move."""
    moved = {}
    for name, model in (
        ("autocast", ModelConfig(autocast="bfloat16")),
        ("bfloat16", ModelConfig(dtype="bfloat16")),
    ):
        policy = load_policy(model)
        before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
        settings = config(learning_rate=1e-6, weight_decay=0.0)
        scored = [score_old(policy, batch) for batch in batches(responses, policy)]
        metrics = Updater(policy, settings).update(scored)
        assert metrics["clip/erc_frac"] == metrics["clip/ppo_frac"] == 0
        changed = [(p != before[n]).float().mean() for n, p in policy.model.named_parameters()]
        moved[name] = torch.stack(changed).mean()
    assert moved["autocast"] > 0.9
    assert moved["bfloat16"] < 0.1


def test_a_run_sees_its_rounding(responses):
    """What ERC clips where embeddings move by one bfloat16 unit is what bfloat16 weights clip."""
    shares = {}
    for name, model in (
        ("float32", ModelConfig()),
        ("autocast", ModelConfig(autocast="bfloat16")),
    ):
        policy = load_policy(model)
        scored = [score_old(policy, batch) for batch in batches(responses, policy)]
        shares[name] = rounding_share(Updater(policy, config()), scored)
    assert shares["float32"] == 0
    assert 0.02 < shares["autocast"] < 0.5


def test_both_heads_agree(responses):
    scores = [
        [policy.score(batch) for batch in batches(responses, policy)]
        for policy in (rounded(head="op"), rounded(head="logits"))
    ]
    for op, full in zip(*scores, strict=True):
        assert (op.logprobs - full.logprobs).abs().max() < 1e-5
        assert (op.entropies - full.entropies).abs().max() < 1e-5


def test_the_sampler_rounds_as_the_trainer_does(responses, countdown):
    policy = rounded()
    sampler = TransformersSampler(policy.model, policy.tokenizer, batch_size=16)
    groups = sampler.sample(list(countdown.train[:12]), SamplingSettings(4, 24), range(12))
    gaps = []
    for batch in batches(groups, policy):
        old = score_old(policy, batch).old
        gaps.append((old.logprobs - batch.sampler_logprobs)[batch.mask])
    assert torch.cat(gaps).abs().mean() < 1e-3  # float32 against bfloat16: about 5e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_over_16_bit_weights_is_refused(dtype):
    with pytest.raises(ValidationError, match=f"no effect on {dtype} weights"):
        ModelConfig(dtype=dtype, autocast="bfloat16")


def test_a_model_that_rounds_by_nats_is_saved(tmp_path):
    """SmolLM2 under autocast says 6.8 nats else of a made-up text: rounding, not a wrong folder."""
    policy = rounded()
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "norm" in name:
                parameter *= 20
    exact = AutoModelForCausalLM.from_pretrained(embedded_model_dir())
    exact.load_state_dict(policy.model.state_dict())
    assert off(policy, exact) > 1
    with unrounded(policy.model):
        assert off(policy, exact) == 0
    policy.save_model(tmp_path / "model")
    assert off(policy, exact) > 1, "autocast is on again"


def off(policy, exact):
    return float((few_logprobs(policy.model) - few_logprobs(exact)).abs().mean())


@pytest.mark.parametrize(
    "more",
    [{"dtype": "float32"}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "lora": {"rank": 2}}],
)
def test_a_folder_with_other_numbers_is_refused(more, tmp_path, monkeypatch):
    policy = load_policy(ModelConfig(**more))
    damaged = AutoModelForCausalLM.from_pretrained(embedded_model_dir(), dtype=policy.model.dtype)
    with torch.no_grad():
        damaged.model.layers[0].mlp.up_proj.weight *= 1.5
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: (damaged, {}))
    with pytest.raises(UserError, match="does not hold the trained model"):
        policy.save_model(tmp_path / "model")
