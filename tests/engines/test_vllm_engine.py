"""The engine in this process says what transformers says, before and after every update."""

from __future__ import annotations

import math

import pytest
import torch

from engines.models import move
from erclip.errors import UserError
from erclip.records import Grade
from erclip.training.batches import Sample, make_batch
from erclip.training.packing import single_rows
from erclip.training.sampling import SamplingSettings, TransformersSampler

pytestmark = pytest.mark.vllm

SEEDS = [11, 12, 13, 14, 15, 16]
MERGED = 5e-4
"""Nats between x Wᵀ + s (x Aᵀ) Bᵀ in the trainer and x (W + s B A)ᵀ in the engine. The adapters of
the test are large: in float32 either form is up to 1.1e-4 from float64, six times as far as
without them, and which side of 1e-4 their difference lies on is a matter of the CPU's sums."""


def flat(groups):
    return [(r.token_ids, r.logprobs) for group in groups for r in group]


def trainer_gap(policy, groups):
    """max |sampler − trainer| log-prob, each token scored by the policy's own forward pass."""
    grade = Grade(False, None, "wrong")
    rows = single_rows(Sample(r, grade, 0.0, 0.0) for group in groups for r in group)
    batch = make_batch(rows, pad_id=policy.pad_id, device=policy.device)
    with torch.no_grad():
        scores = policy.score(batch)
    return (scores.logprobs - batch.sampler_logprobs)[batch.mask].abs().max().item()


def check_likely(policy, groups, temperature, top):
    """The tokens said to be likely are the `top` likeliest of the policy's own distribution."""
    for response in (r for group in groups for r in group):
        ids = torch.tensor([response.prompt_ids + response.token_ids])
        with torch.no_grad():
            logits = policy.model(ids).logits[0, len(response.prompt_ids) - 1 : -1]
        expected = (logits.float() / temperature).log_softmax(-1)
        assert response.top is not None
        found_ids = torch.frombuffer(bytearray(response.top.ids), dtype=torch.int32).view(-1, top)
        found = torch.frombuffer(bytearray(response.top.logprobs), dtype=torch.float32)
        torch.testing.assert_close(
            found.view(-1, top), expected.topk(top).values, atol=1e-4, rtol=0
        )
        by_id = expected.gather(-1, found_ids.long())
        torch.testing.assert_close(found.view(-1, top), by_id, atol=1e-4, rtol=0)


@pytest.fixture
def prompts(countdown):
    return list(countdown.train[:6])


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_an_updated_engine_is_bit_equal_to_a_fresh_one(
    tiny, engine_for, prompts, compiled, tmp_path
):
    """Prefix caching is on and warm when the weights change; the head may be tied."""
    policy, engine = engine_for(tiny, compile=compiled)
    settings = SamplingSettings(4, 24)
    before = engine.sample(prompts, settings, SEEDS)
    assert trainer_gap(policy, before) < 1e-4
    for round_ in range(2):
        move(policy)
        stale = flat(engine.sample(prompts, settings, SEEDS))
        engine.update_weights()
        updated = engine.sample(prompts, settings, SEEDS)
        assert trainer_gap(policy, updated) < 1e-4
        policy.model.save_pretrained(tmp_path / str(round_))
        policy.tokenizer.save_pretrained(tmp_path / str(round_))
        _, fresh = engine_for(tmp_path / str(round_), compile=compiled)
        assert flat(updated) == flat(fresh.sample(prompts, settings, SEEDS)) != stale


def test_an_engine_gets_merged_adapters(tiny, engine_for, prompts, tmp_path):
    """It starts with the frozen model, follows the adapters, and is what their checkpoint is."""
    policy, engine = engine_for(tiny, lora={"rank": 4})
    settings = SamplingSettings(4, 24)
    assert trainer_gap(policy, engine.sample(prompts, settings, SEEDS)) < 1e-4
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.2)
    assert trainer_gap(policy, engine.sample(prompts, settings, SEEDS)) > 0.1
    engine.update_weights()
    updated = engine.sample(prompts, settings, SEEDS)
    assert trainer_gap(policy, updated) < MERGED
    policy.save_model(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    _, fresh = engine_for(tmp_path)
    assert flat(updated) == flat(fresh.sample(prompts, settings, SEEDS))


def test_greedy_text_is_that_of_transformers(smollm2, engine_for, prompts):
    policy, engine = engine_for(smollm2)
    settings = SamplingSettings(2, 32, temperature=1e-6)
    ours = TransformersSampler(policy.model, policy.tokenizer).sample(prompts, settings, SEEDS)
    theirs = engine.sample(prompts, settings, SEEDS)
    assert [[r.text for r in group] for group in theirs] == [[r.text for r in g] for g in ours]
    assert all(math.isnan(x) for group in theirs for r in group for x in r.logprobs)


def test_a_large_tied_model_follows_its_updates(smollm2, engine_for, prompts, tmp_path):
    policy, engine = engine_for(smollm2, temperature=0.7)
    settings = SamplingSettings(4, 32, temperature=0.7)
    assert policy.model.config.tie_word_embeddings
    assert trainer_gap(policy, engine.sample(prompts, settings, SEEDS)) < 1e-4
    move(policy, 0.02)
    assert trainer_gap(policy, engine.sample(prompts, settings, SEEDS)) > 0.1  # still the old ones
    engine.update_weights()
    updated = engine.sample(prompts, settings, SEEDS)
    assert trainer_gap(policy, updated) < 1e-4
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    _, fresh = engine_for(tmp_path, temperature=0.7)
    assert flat(updated) == flat(fresh.sample(prompts, settings, SEEDS))


def test_a_nucleus_does_not_change_what_a_logprob_means(tiny, engine_for, prompts):
    policy, engine = engine_for(tiny, top_p=0.8)
    groups = engine.sample(prompts, SamplingSettings(4, 24, top_p=0.8), SEEDS)
    assert trainer_gap(policy, groups) < 1e-4
    unknown = engine.sample(prompts, SamplingSettings(1, 4, temperature=0.5, top_p=0.8), SEEDS)
    assert all(math.isnan(x) for group in unknown for r in group for x in r.logprobs)


def test_likely_tokens_are_those_of_the_trainer(tiny, engine_for, prompts):
    """What score centering needs, at the sampling temperature, before and after an update."""
    centering = {"terms": [{"kind": "score_centering", "top": 5}]}
    policy, engine = engine_for(tiny, loss=centering, temperature=0.7)
    settings = SamplingSettings(2, 16, temperature=0.7, top=5)
    before = engine.sample(prompts, settings, SEEDS)
    check_likely(policy, before, 0.7, 5)
    move(policy)
    engine.update_weights()
    updated = engine.sample(prompts, settings, SEEDS)
    check_likely(policy, updated, 0.7, 5)
    assert [r.top for r in updated[0]] != [r.top for r in before[0]]


def test_seeds_and_stop_tokens(tiny, engine_for, prompts):
    """A prompt's responses come from its own seed; each ends at the first end token."""
    policy, engine = engine_for(tiny)
    end = policy.tokenizer.eos_token_id
    settings = SamplingSettings(8, 32)
    together = engine.sample(prompts, settings, SEEDS)
    alone = [engine.sample([p], settings, [s])[0] for p, s in zip(prompts, SEEDS, strict=True)]
    tokens = [[[r.token_ids for r in group] for group in run] for run in (together, alone)]
    assert tokens[0] == tokens[1]
    assert len({ids for group in tokens[0] for ids in group}) > 40  # of 48: all draws differ
    responses = [r for group in together for r in group]
    assert {r.truncated for r in responses} == {True, False}
    for r in responses:
        assert r.truncated == (end not in r.token_ids)
        assert r.truncated or r.token_ids.index(end) == len(r.token_ids) - 1
        assert len(r.token_ids) == 32 or not r.truncated
    other = engine.sample(prompts, settings, [seed + 100 for seed in SEEDS])
    assert flat(other) != flat(together)


def test_what_does_not_fit_is_one_sentence(tiny, engine_for, prompts):
    _, engine = engine_for(tiny, max_model_len=40)
    with pytest.raises(UserError, match=r"leaves no room for 39 more within vLLM's 40; lower"):
        engine.sample(prompts, SamplingSettings(2, 39), SEEDS)
    with pytest.raises(UserError, match=r"max_model_len = 4096, but the model's own limit is 128"):
        engine_for(tiny, max_model_len=4096)
