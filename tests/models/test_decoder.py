"""What a model remembers while it is sampled from: caches, states, padding, and refusals."""

from __future__ import annotations

import pytest
import torch
import transformers
from packaging.version import Version

from erclip.config import ModelConfig
from erclip.errors import UserError
from erclip.records import Prompt
from erclip.training.policy import load_policy
from erclip.training.sampling import SamplingSettings, TransformersSampler
from erclip.training.sampling.decoder import Decoder
from models.zoo import build, naive, saved, tokenizer

PROMPTS = [Prompt(t, ({"role": "user", "content": t},), None) for t in ("1+2?", "What?", "1+2? is")]


@pytest.mark.parametrize(
    ("name", "side_by_side"),
    [
        *[("mamba", True), ("lfm2", True), ("minimax", False), ("recurrent-gemma", False)],
        ("roberta", False),  # counts its positions itself, padding among them
    ],
)
def test_states_are_repeated_and_selected(name, side_by_side):
    """Five responses to each of three prompts, some of which end early."""
    model = build(name)
    sampler = TransformersSampler(model, tokenizer(template=None))
    sampler.end_ids = list(range(4, 80))  # so that rows are dropped on the way
    groups = sampler.sample(PROMPTS, SamplingSettings(5, 12), range(3))
    assert sampler._decoder is not None
    assert sampler._decoder.pads is side_by_side
    lengths = set()
    for response in (r for group in groups for r in group):
        lengths.add(len(response.token_ids))
        ids = [*response.prompt_ids, *response.token_ids]
        expected = naive(model, ids, len(response.prompt_ids))
        assert (torch.tensor(response.logprobs) - expected).abs().max() < 1e-4
    assert len(lengths) > 2


def test_the_first_response_is_greedy_generate():
    model = build("qwen3.5")
    sampler = TransformersSampler(model, tokenizer(template=None))
    greedy = SamplingSettings(1, 10, temperature=1e-6)
    for (response,) in sampler.sample(PROMPTS, greedy, range(3)):
        ids = torch.tensor([response.prompt_ids])
        theirs = model.generate(
            ids, do_sample=False, max_new_tokens=10, eos_token_id=sampler.end_ids, pad_token_id=0
        )
        assert list(response.token_ids) == theirs[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("name", ["openai-gpt", "rwkv"])
def test_a_model_without_a_memory_is_refused(name):
    with pytest.raises(UserError, match="cannot be sampled from here"):
        Decoder(build(name))


def test_a_model_whose_memory_is_wrong_is_refused(monkeypatch):
    """A layer that forgets to reorder its rows: silently another model's log-probs."""
    from transformers.cache_utils import LinearAttentionLayer

    monkeypatch.setattr(LinearAttentionLayer, "reorder_cache", lambda *_: None)
    with pytest.raises(UserError, match="cannot be sampled from here"):
        Decoder(build("qwen3.5"))


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.17"), reason="its step is as it reads"
)
@pytest.mark.parametrize("name", ["nemotron-h", "zamba2"])
def test_a_recurrent_step_that_differs_a_little_is_said(name):
    """transformers' own; the share of a nat is measured when the model is first sampled from."""
    with pytest.warns(UserWarning, match="samples are drawn from the first"):
        Decoder(build(name))


@pytest.mark.parametrize("name", ["qwen3.5", "mamba", "jamba", "lfm2", "mistral, window"])
def test_no_response_leaks_into_another(name, tmp_path):
    """Layers with a state or a window never read several responses in one row."""
    policy = load_policy(ModelConfig(path=str(saved(tmp_path, build(name)))))
    assert not policy.shares_prompts
