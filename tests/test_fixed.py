"""Decoding in fixed buffers is the plain decoding, model by model, or is not used."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from erclip.training.sampling import SamplingSettings, TransformersSampler
from erclip.training.sampling.decoder import Decoder, pad_left

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def build(model_class, config_class, **more):
    torch.manual_seed(0)
    return model_class(config_class(**{**SMALL, **more})).eval()


MODELS = {
    "llama": lambda: build(LlamaForCausalLM, LlamaConfig),
    "qwen3": lambda: build(Qwen3ForCausalLM, Qwen3Config, head_dim=8),
    "gpt-neox": lambda: build(GPTNeoXForCausalLM, GPTNeoXConfig),
}


def logits_of(decoder, steps=6):
    """Logits of every step: prompts of two lengths, repeated, then a row less."""
    ids, attention = pad_left([[5, 6, 7], [8, 9, 10, 11, 12]], 0, torch.device("cpu"))
    found = [decoder.begin(ids, attention, ids.shape[1] + steps)]
    index = torch.tensor([0, 0, 1, 1])
    decoder.take(index, 2)
    attention = attention[index]
    for step in range(steps):
        if step == 3:
            keep = torch.tensor([1, 2])
            decoder.take(keep, 4)
            attention = attention[keep]
        new = torch.arange(len(attention))[:, None] + 13 + step
        attention = torch.cat([attention, attention.new_ones(len(attention), 1)], 1)
        found.append(decoder.read(new, attention).clone())
    return found


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_logits_are_those_of_growing_buffers(name):
    model = MODELS[name]()
    plain, fixed = Decoder(model), Decoder(model, fixed=True)
    assert fixed.fixed
    assert not plain.fixed
    for a, b in zip(logits_of(plain), logits_of(fixed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_windows_and_other_attentions_keep_to_growing_buffers():
    sliding = build(
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    )
    assert not Decoder(sliding, fixed=True).fixed
    eager = MODELS["llama"]()
    eager.set_attn_implementation("eager")
    assert not Decoder(eager, fixed=True).fixed


@pytest.mark.parametrize("length", [24, 250])
def test_the_sampler_draws_the_same(policy, countdown, length):
    """Also where ended sequences leave the batch, which needs many tokens to come."""
    left = Decoder(policy.model, fixed=True).shrinks(ended=16, left=length - 16)
    assert left == (length == 250)
    prompts, settings = list(countdown.train[:12]), SamplingSettings(4, length, 1.2)
    runs = []
    for fixed in (False, True):
        sampler = TransformersSampler(policy.model, policy.tokenizer, batch_size=32)
        sampler._decoder = Decoder(policy.model, fixed=fixed)
        assert sampler._decoder.fixed == fixed
        runs.append(sampler.sample(prompts, settings, range(12)))
    for a, b in zip(*((r for group in run for r in group) for run in runs), strict=True):
        assert a.token_ids == b.token_ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
