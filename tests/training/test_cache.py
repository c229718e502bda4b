"""The growing cache holds what transformers' own holds, in fewer copies."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from erclip.training.sampling.cache import GrowingLayer, growing_cache


def steps(seed, lengths, heads=2, size=4, batch=3):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2, batch, heads, length, size, generator=g) for length in lengths]


def test_it_equals_concatenation_beyond_its_room(policy):
    """A prefill, single tokens, and twice more of them than there was room for."""
    ours, theirs = GrowingLayer(10_000), DynamicCache(config=policy.model.config).layers[0]
    for keys, values in steps(0, [5, 1, 60, 2, 1, 200, 4, 1]):
        got, expected = ours.update(keys, values), theirs.update(keys, values)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert ours.get_seq_length() == theirs.get_seq_length() == 274


def test_rows_can_be_repeated_and_dropped_between_steps(policy):
    ours, theirs = GrowingLayer(10_000), DynamicCache(config=policy.model.config).layers[0]
    first, second, third = (
        steps(1, [4], batch=2)[0],
        steps(2, [1], batch=6)[0],
        steps(3, [1], batch=2)[0],
    )
    for layer in (ours, theirs):
        layer.update(*first)
        layer.reorder_cache(torch.arange(2).repeat_interleave(3))
        layer.update(*second)
        layer.reorder_cache(torch.tensor([1, 4]))
        layer.update(*third)
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)


def test_a_step_with_room_copies_nothing():
    layer = GrowingLayer(10_000)
    (keys, values), (more, others) = steps(4, [5, 1])
    layer.update(keys, values)
    before = layer.keys.data_ptr()
    layer.update(more, others)
    assert layer.keys.data_ptr() == before


def test_every_full_layer_of_a_model_grows(policy):
    cache = growing_cache(policy.model.config, 33)
    assert [type(layer) for layer in cache.layers] == [GrowingLayer] * len(cache.layers)


def test_no_buffer_is_made_for_more_than_will_be_asked_for():
    """Neither the first nor those after repeating and dropping rows; and the last token fits."""
    layer = GrowingLayer(8)
    layer.update(*steps(5, [5], batch=2)[0])
    layer.reorder_cache(torch.arange(2).repeat_interleave(3))
    layer.update(*steps(6, [1], batch=6)[0])
    layer.reorder_cache(torch.tensor([0, 3, 5]))
    before = layer.keys.data_ptr()
    layer.update(*steps(7, [2], batch=3)[0])
    assert layer.keys.shape == (3, 2, 8, 4)
    assert layer.keys.data_ptr() == before
    assert layer.keys.untyped_storage().nbytes() == 3 * 2 * 8 * 4 * 4
