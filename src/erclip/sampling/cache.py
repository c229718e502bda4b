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
    grows by half when it is full copies each token about twice in all.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new tokens and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append(self.keys, key_states)
        self.values = self._append(self.values, value_states)
        return self.keys, self.values

    def _append(self, seen: Tensor | None, new: Tensor) -> Tensor:
        if seen is None or not seen.numel():
            return _with_room(new)
        length, total = seen.shape[-2], seen.shape[-2] + new.shape[-2]
        if _capacity(seen) < total:
            seen = _with_room(seen, new.shape[-2])
        grown = seen.as_strided((*seen.shape[:2], total, seen.shape[-1]), seen.stride())
        grown[:, :, length:] = new
        return grown


def growing_cache(config: Any) -> DynamicCache:
    """The model's cache, in which layers that keep every token grow without copying."""
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def _with_room(tensor: Tensor, needed: int = 0) -> Tensor:
    """The same [B, K, L, D], at the front of a buffer with room for `needed` tokens and more."""
    length = tensor.shape[-2]
    capacity = length + needed + max(64, length // 2)
    buffer = tensor.new_empty((*tensor.shape[:2], capacity, tensor.shape[-1]))
    buffer[:, :, :length] = tensor
    return buffer[:, :, :length]


def _capacity(view: Tensor) -> int:
    """Tokens that fit into the buffer behind a view."""
    return view.stride(1) // view.stride(2)
