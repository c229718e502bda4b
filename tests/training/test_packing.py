"""A prompt that is read once for several responses: the same numbers, from fewer positions."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from erclip.records import Grade, Prompt, Response, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import Row, lay_out, micro_batches, shared_rows, single_rows
from erclip.training.policy.probes import prompts_can_be_shared


def sample(prompt_ids, token_ids, truncated=False):
    prompt = Prompt(str(prompt_ids), (), None)
    logprobs = (0.0,) * len(token_ids)
    response = Response(prompt, tuple(prompt_ids), tuple(token_ids), "", truncated, logprobs)
    return Sample(response, Grade(False, None, "wrong"), 0.0, 1.0)


@pytest.fixture
def family():
    """Three responses of 4, 1 and 2 tokens to one prompt, and one to another."""
    tokens = ([5, 6, 7, 1], [1], [8, 9])
    return [*(sample([3, 4, 5], t) for t in tokens), sample([6, 7, 8, 9, 10, 11, 12, 13], [4, 1])]


def batch_of(rows, **options):
    return make_batch(rows, pad_id=0, device=torch.device("cpu"), **options)


def test_the_layout_by_hand(family):
    (inputs, predictors) = lay_out([Row(tuple(family[:3]))], pad_id=0)
    assert inputs["input_ids"].tolist() == [[3, 4, 5, 5, 6, 7, 8]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 3]]
    assert predictors == [[2, 3, 4, 5], [2], [2, 6]]
    sees = inputs["attention_mask"][0, 0].int().tolist()
    assert sees[2] == [1, 1, 1, 0, 0, 0, 0]
    assert sees[5] == [1, 1, 1, 1, 1, 1, 0]
    assert sees[6] == [1, 1, 1, 0, 0, 0, 1]


def layouts(family):
    return {
        "alone": single_rows(family),
        "all together": [Row(tuple(family[:3])), Row((family[3],))],
        "in part": [Row(tuple(family[:2])), Row((family[2],)), Row((family[3],))],
    }


@pytest.mark.parametrize("mask_truncated", [False, True])
def test_scores_and_gradients_are_those_of_single_rows(policy, responses, mask_truncated):
    """On real responses, a third of them truncated; float32, so up to rounding."""
    groups = [
        [
            Sample(
                Response(**{**vars(r), "truncated": i % 3 == 0}), Grade(False, None, "wrong"), 0, 1
            )
            for i, r in enumerate(group)
        ]
        for group in responses
    ]
    flat = [item for group in groups for item in group]
    results = []
    for rows in (single_rows(flat), [Row(tuple(group)) for group in groups]):
        batch = batch_of(rows, mask_truncated=mask_truncated)
        scores = policy.score(batch, slopes=True)
        weights = torch.linspace(-1, 1, scores.logprobs.numel()).view_as(scores.logprobs)
        gradients = torch.autograd.grad(
            (scores.logprobs * weights).sum(), list(policy.model.parameters())
        )
        assert scores.slopes is not None
        results.append((batch, scores, gradients))
    (one, alone, expected), (other, together, got) = results
    assert one.samples == other.samples
    assert torch.equal(one.mask, other.mask)
    assert other.inputs["input_ids"].numel() < 0.8 * one.inputs["input_ids"].numel()
    assert (alone.logprobs - together.logprobs).abs().max() < 5e-6
    assert (alone.entropies - together.entropies).abs().max() < 5e-6
    assert (alone.slopes - together.slopes).abs().max() < 5e-6
    for a, b in zip(expected, got, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm() + 1e-7


@pytest.mark.parametrize("layout", ["all together", "in part"])
def test_every_layout_scores_the_same(policy, family, layout):
    rows = layouts(family)
    expected = policy.score(batch_of(rows["alone"]))
    got = policy.score(batch_of(rows[layout]))
    assert (expected.logprobs - got.logprobs).abs().max() < 5e-6  # of numbers up to 15
    assert (expected.entropies - got.entropies).abs().max() < 2e-6


def test_sharing_happens_where_it_costs_less():
    """Long prompts are shared; long responses are not, since siblings would be looked at."""
    chatty = [sample(range(100), range(50)) for _ in range(8)]
    assert [len(row.samples) for row in shared_rows(chatty, 576, 10_000)] == [8]
    thoughtful = [sample(range(10), range(2000)) for _ in range(8)]
    assert [len(row.samples) for row in shared_rows(thoughtful, 64, 10**6)] == [1] * 8


def test_a_shared_row_stays_within_the_budget(family):
    chatty = [sample(range(100), range(51)) for _ in range(8)]
    rows = shared_rows([*chatty, *family], 576, 320)
    assert sorted(id(s) for row in rows for s in row.samples) == sorted(map(id, [*chatty, *family]))
    assert [row.length for row in rows if row.length > 100] == [300, 300]
    assert all(len(batch) * batch[-1].length <= 320 for batch in micro_batches(rows, 320))


def tiny(config, model, **settings):
    return model(
        config(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            **settings,
        )
    )


def test_models_that_look_through_a_window_or_an_own_kernel_read_every_row_alone():
    assert prompts_can_be_shared(tiny(LlamaConfig, LlamaForCausalLM))
    assert not prompts_can_be_shared(tiny(MistralConfig, MistralForCausalLM, sliding_window=4096))
    eager = tiny(LlamaConfig, LlamaForCausalLM)
    eager.set_attn_implementation("eager")
    assert not prompts_can_be_shared(eager)
