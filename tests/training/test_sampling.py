"""Prompt → Response: the right distribution, the right log-probs, nothing lost on the way."""

from __future__ import annotations

import pytest
import torch

from erclip.config import Config
from erclip.errors import Diverged, UserError
from erclip.records import Grade, Prompt, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.sampling import SamplingSettings, TransformersSampler, draw, encode_prompt
from erclip.training.sampling.draw import nucleus, sample_token, uniforms
from erclip.training.sampling.rounding import rounded_weights


def sampler(policy, batch_size=64):
    return TransformersSampler(policy.model, policy.tokenizer, batch_size)


def test_at_low_temperature_it_is_greedy_generate(policy, countdown):
    prompts = list(countdown.test[:16])
    ours = sampler(policy).sample(prompts, SamplingSettings(1, 24, temperature=1e-6), range(16))
    for prompt, (response,) in zip(prompts, ours, strict=True):
        ids = torch.tensor([encode_prompt(policy.tokenizer, prompt)])
        theirs = policy.model.generate(ids, do_sample=False, max_new_tokens=24)
        assert list(response.token_ids) == theirs[0, ids.shape[1] :].tolist()


def test_logprobs_are_the_trainers(policy, responses):
    """Left-padded cached decoding and right-padded scoring agree token by token."""
    flat = [response for group in responses for response in group]
    assert len({len(r.prompt_ids) for r in flat}) > 1
    grade = Grade(False, None, "wrong")
    batch = make_batch(
        single_rows(Sample(r, grade, 0.0, 0.0) for r in flat),
        pad_id=policy.pad_id,
        device=policy.device,
    )
    with torch.no_grad():
        scores = policy.score(batch)
    gap = (scores.logprobs - batch.sampler_logprobs)[batch.mask].abs().max().item()
    assert gap < 2e-5


def test_every_prompt_gets_its_own_responses_in_order(policy, countdown):
    prompts = list(countdown.train[:7])
    groups = sampler(policy, batch_size=6).sample(prompts, SamplingSettings(3, 24), range(7))
    assert [[r.prompt.id for r in group] for group in groups] == [[p.id] * 3 for p in prompts]
    for group in groups:
        for response in group:
            ended = response.token_ids[-1] == policy.tokenizer.eos_token_id
            assert response.truncated == (not ended)
            assert len(response.logprobs) == len(response.token_ids)
            assert response.text == policy.tokenizer.decode(
                response.token_ids, skip_special_tokens=True
            )


def test_same_seed_same_responses(policy, countdown):
    prompts = list(countdown.train[:8])
    runs = [
        sampler(policy).sample(prompts, SamplingSettings(4, 24), range(first, first + 8))
        for first in (3, 3, 30)
    ]
    texts = [[r.text for group in run for r in group] for run in runs]
    assert texts[0] == texts[1] != texts[2]


def test_a_response_depends_on_its_own_seed_only(policy, countdown):
    """Alone, among others and in another order: the same tokens."""
    prompts, seeds = list(countdown.train[:8]), list(range(50, 58))
    settings = SamplingSettings(4, 24, temperature=1.3)
    together = sampler(policy).sample(prompts, settings, seeds)
    for i in (5, 2):
        (alone,) = sampler(policy).sample([prompts[i]], settings, [seeds[i]])
        assert [r.token_ids for r in alone] == [r.token_ids for r in together[i]]


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf"), 0.0, -float("inf")]]).expand(5, 5)
    uniform = torch.tensor([0.0, 0.4999, 0.5, 0.9, 1 - 2**-53], dtype=torch.float64)
    token, logprob, *_ = sample_token(logits, 1.0, 1.0, uniform)
    assert token.tolist() == [1, 1, 3, 3, 3]
    assert torch.allclose(logprob, torch.full((5,), 0.5).log())


def test_weights_that_are_no_numbers_are_said_in_a_sentence(policy, countdown):
    with torch.no_grad():
        next(policy.model.parameters()).fill_(torch.nan)
    sampler = TransformersSampler(policy.model, policy.tokenizer)
    with pytest.raises(Diverged, match="NaN or infinite"):
        sampler.sample(list(countdown.test[:2]), SamplingSettings(2, 8), range(2))


def test_responses_are_cut_at_max_tokens(policy, countdown):
    groups = sampler(policy).sample(list(countdown.train[:8]), SamplingSettings(2, 3), range(8))
    assert {len(r.token_ids) for group in groups for r in group} == {3}
    assert all(r.truncated for group in groups for r in group)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_rows_are_drawn_alike_in_blocks_and_at_once(monkeypatch, top_p):
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    uniform = uniforms([1], 7, 1)[:, 0]
    whole = sample_token(logits, 0.8, top_p, uniform)
    for block in (1, 100, 349):  # one row, two, six and a single one
        monkeypatch.setattr(draw, "BLOCK", block)
        parts = sample_token(logits, 0.8, top_p, uniform)
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_tokens_follow_the_distribution():
    """20,000 draws from one row: each frequency within five standard errors of its probability."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, 4)
    token, logprob, *_ = sample_token(logits, 0.7, 1.0, uniforms(range(100), 200, 1)[:, 0])
    expected = torch.softmax(logits[0] / 0.7, 0)
    frequency = torch.bincount(token, minlength=4) / 20_000
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((frequency - expected).abs() < 5 * error).all()
    assert torch.allclose(logprob, expected.log()[token], atol=1e-6)


def test_nucleus_keeps_the_smallest_sufficient_set():
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])
    kept = nucleus(probs, 0.6) > 0
    assert kept[0].tolist() == [False, True, False, True]
    assert kept[1].sum() == 3
    assert kept[2].tolist() == [False, True, False, False]


def test_a_prompt_that_is_too_long_is_named(policy):
    prompt = Prompt(id="long one", messages=({"role": "user", "content": "1 2 3=6"},), gold=None)
    settings = SamplingSettings(2, 4, max_prompt_tokens=5)
    with pytest.raises(UserError, match=r"long one has 8 tokens.*max_prompt_tokens = 5"):
        sampler(policy).sample([prompt], settings, [0])


def test_a_sampler_of_rounded_weights_is_another_policy_and_leaves_the_trainers_alone(
    policy, countdown
):
    """Its log-probs are those of a model whose weights were rounded by hand; int8 is coarser."""
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    prompts, plan = list(countdown.train[:8]), SamplingSettings(4, 24)

    def gap(dtype):
        ours = TransformersSampler(policy.model, policy.tokenizer, 64, dtype)
        flat = [r for group in ours.sample(prompts, plan, range(8)) for r in group]
        grade = Grade(False, None, "wrong")
        rows = single_rows(Sample(r, grade, 0.0, 0.0) for r in flat)
        batch = make_batch(rows, pad_id=policy.pad_id, device=policy.device)
        with torch.no_grad():
            scores = policy.score(batch)
            by_hand = None
            if dtype == "bfloat16":
                for p in policy.model.parameters():
                    p.data = p.data.bfloat16().float()
                by_hand = policy.score(batch)
                for name, p in policy.model.named_parameters():
                    p.data = before[name].clone()
        if by_hand is not None:
            assert (by_hand.logprobs - batch.sampler_logprobs)[batch.mask].abs().max() < 2e-5
        return (scores.logprobs - batch.sampler_logprobs)[batch.mask].abs().mean().item()

    same, bfloat16, int8 = gap("model"), gap("bfloat16"), gap("int8")
    assert same < 1e-5
    assert 1e-4 < bfloat16 < int8 < 0.5
    for name, p in policy.model.named_parameters():
        assert torch.equal(p, before[name]), name


def test_rounding_to_int8_has_127_steps_a_side_in_each_row():
    layer = torch.nn.Linear(64, 3)
    with torch.no_grad():
        layer.weight[1] *= 1000
    kept = layer.weight.detach().clone()
    with rounded_weights(layer, "int8"):
        for row, old in zip(layer.weight, kept, strict=True):
            step = old.abs().max() / 127
            assert len(row.unique()) > 20
            assert torch.allclose(row / step, (row / step).round(), atol=1e-3)
            assert (row - old).abs().max() <= step / 2 * 1.001
    assert torch.equal(layer.weight, kept)
    with pytest.raises(KeyError), rounded_weights(layer, "bfloat16"):
        raise KeyError
    assert torch.equal(layer.weight, kept)


def test_weights_that_change_in_between_are_not_rounded():
    table = {"sampler": {"dtype": "int8"}, "rollout": {"staleness": 1, "overlap": True}}
    with pytest.raises(ValueError, match=r"sampler\.dtype = 'int8' rounds the weights before"):
        Config.model_validate(table)
