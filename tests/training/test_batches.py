"""Groups → micro-batches: nothing lost, nothing doubled, nothing that depends on the budget."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erclip.records import Grade, Group, Prompt, Response, Sample
from erclip.training.batches import make_batch, mini_batches
from erclip.training.packing import micro_batches, single_rows

PROMPT = Prompt("p", (), None)


def sample(prompt_length=2, length=3, truncated=False, correct=True):
    response = Response(
        PROMPT,
        tuple(range(10, 10 + prompt_length)),
        tuple(range(20, 20 + length)),
        "",
        truncated,
        tuple(-0.1 * t for t in range(length)),
    )
    return Sample(response, Grade(correct, None, "wrong"), 0.0, float(length))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 30)), min_size=1), st.integers(1, 200))
def test_micro_batches_partition_within_the_budget(lengths, budget):
    samples = [sample(*pair) for pair in lengths]
    batches = micro_batches(single_rows(samples), budget)
    flat = [item for batch in batches for row in batch for item in row.samples]
    assert sorted(map(id, flat)) == sorted(map(id, samples))
    for batch in batches:
        widest = max(row.length for row in batch)
        assert len(batch) == 1 or len(batch) * widest <= budget


@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 5))
def test_mini_batches_are_even_and_complete(groups, count, seed):
    pool = [Group((sample(),)) for _ in range(groups)]
    batches = mini_batches(pool, count, random.Random(seed))
    assert len(batches) == min(count, groups)
    assert sorted(id(g) for batch in batches for g in batch) == sorted(map(id, pool))
    sizes = {len(batch) for batch in batches}
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_indices_point_at_the_position_before_each_token():
    batch = make_batch(
        single_rows([sample(2, 3), sample(4, 1)]), pad_id=0, device=torch.device("cpu")
    )
    assert batch.inputs["input_ids"].tolist() == [[10, 11, 20, 21], [10, 11, 12, 13]]
    assert batch.inputs["attention_mask"].sum(1).tolist() == [4, 4]
    assert batch.hidden_index.tolist() == [1, 2, 3, 4 + 3]
    assert batch.token_index.tolist() == [0, 1, 2, 3]
    assert batch.targets.tolist() == [20, 21, 22, 20]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.num_tokens == 4
    assert batch.sampler_logprobs[0].tolist() == pytest.approx([0.0, -0.1, -0.2])


def test_overlong_filtering_masks_truncated_responses():
    rows = [sample(2, 3, truncated=True), sample(2, 3)]
    device = torch.device("cpu")
    filtered = make_batch(single_rows(rows), pad_id=0, device=device, mask_truncated=True)
    assert filtered.mask.tolist() == [[False] * 3, [True] * 3]
    assert filtered.num_tokens == 3
    assert filtered.targets.tolist() == [20, 21, 22]
    assert make_batch(single_rows(rows), pad_id=0, device=device).num_tokens == 6
