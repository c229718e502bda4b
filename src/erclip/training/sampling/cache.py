"""A key-value cache that does not copy itself at every step.

Letters: B sequences, K key-value heads, L tokens seen, C capacity, D head size.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The sequences that `beam_idx` names, in its order, each as often as it is named."""
        if self.keys is None or self.values is None:
            return
        self.keys, self.values = (
            self._empty(seen, len(beam_idx), 0).copy_(seen.index_select(0, beam_idx))
            for seen in (self.keys, self.values)
        )

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

    Layers that keep every token grow without copying; others (windows, recurrent states) are
    transformers' own.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer(most) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def take_rows(cache: Any, index: Int[Tensor, " B"], batch: int) -> Any:
    """The cache of some of its `batch` sequences, each as often as `index` names it.

    Layers of a `DynamicCache` know how. Anything else that a model makes for itself is walked
    through: its tensors have the sequences in front.
    """
    if type(cache) is DynamicCache:
        cache.reorder_cache(index)
        return cache
    if isinstance(cache, Tensor):
        rows = cache.ndim > 1 and len(cache) == batch
        return cache.index_select(0, index) if rows else cache
    if isinstance(cache, dict):
        return {key: take_rows(value, index, batch) for key, value in cache.items()}
    if isinstance(cache, (list, tuple)):
        return type(cache)(take_rows(value, index, batch) for value in cache)
    if hasattr(cache, "__dict__"):
        for name, value in vars(cache).items():
            setattr(cache, name, take_rows(value, index, batch))
    return cache


def _capacity(view: Tensor) -> int:
    """Tokens that fit into the buffer behind a view."""
    return view.stride(1) // view.stride(2)
