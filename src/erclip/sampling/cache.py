"""A key-value cache that does not copy itself at every step.

Letters: B sequences, K key-value heads, L tokens seen, C capacity, D head size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class GrowingLayer(DynamicLayer):
    """Keys and values are views [B, K, L, D] of buffers [B, K, C, D] with room for more.

    transformers' own layer concatenates, which copies all L tokens at every step; a buffer that
    grows by half when it is full copies each token about twice in all. `most` is the largest L
    that will be asked for: no buffer is made for more.
    """

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new tokens and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append(self.keys, key_states)
        self.values = self._append(self.values, value_states)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every sequence `repeats` times, one after the other."""
        self.keys, self.values = (
            self._empty(seen, len(seen) * repeats, 0)
            .unflatten(0, (len(seen), repeats))
            .copy_(seen[:, None])
            .flatten(0, 1)
            for seen in self._seen()
        )

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only those sequences."""
        self.keys, self.values = (
            self._empty(seen, len(indices), 0).copy_(seen[indices]) for seen in self._seen()
        )

    def _seen(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _append(self, seen: Tensor | None, new: Tensor) -> Tensor:
        if seen is None or not seen.numel():
            return self._empty(new, len(new), 0).copy_(new)
        length, total = seen.shape[-2], seen.shape[-2] + new.shape[-2]
        if _capacity(seen) < total:
            seen = self._empty(seen, len(seen), new.shape[-2]).copy_(seen)
        grown = seen.as_strided((*seen.shape[:2], total, seen.shape[-1]), seen.stride())
        grown[:, :, length:] = new
        return grown

    def _empty(self, like: Tensor, batch: int, needed: int) -> Tensor:
        """[batch, K, L, D] to be filled, with room for `needed` tokens and more behind it."""
        _, heads, length, size = like.shape
        least = length + needed
        capacity = max(least, min(self.most, least + max(64, length // 2)))
        return like.new_empty((batch, heads, capacity, size))[:, :, :length]


def growing_cache(config: Any, most: int) -> DynamicCache:
    """The model's cache for sequences of up to `most` tokens.

    Layers that keep every token grow without copying.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer(most) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def _capacity(view: Tensor) -> int:
    """Tokens that fit into the buffer behind a view."""
    return view.stride(1) // view.stride(2)
