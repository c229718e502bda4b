"""Decoding in buffers of fixed size: on CUDA a graph of kernels per token, not a thousand calls.

A small model's step is bound by launches: its kernels take less time than Python takes to call
them. Recorded once as a CUDA graph, they are replayed together; for that, keys and values stay in
buffers for the longest text, and a mask says how much of them is there.

Letters: B sequences, K key-value heads, C capacity in tokens, D head size, L tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from erclip.training.sampling.cache import GrowingLayer

MASKED = ("sdpa",)  # attention that takes a mask of booleans [B, 1, 1, C] as it is
PAYS = 2048  # tokens that need not be read, for which a smaller batch is recorded anew


class FixedLayer(DynamicLayer):
    """Keys and values [B, K, C, D]; `slot` [1] is where the next token's go."""

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.slot = keys, values, slot

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put the new token's in their place and return all."""
        keys, values = self._buffers()
        return (
            keys.index_copy_(2, self.slot, key_states),
            values.index_copy_(2, self.slot, value_states),
        )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The sequences that `beam_idx` names, in its order, each as often as it is named."""
        self.keys, self.values = (x.index_select(0, beam_idx) for x in self._buffers())

    def _buffers(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values


class FixedReader:
    """Reads one token per sequence, B and C fixed; `forward` runs the model on given arguments."""

    def __init__(
        self, forward: Callable[..., Tensor], cache: DynamicCache, attention: Tensor, most: int
    ):
        batch, device = len(attention), attention.device
        self.forward, self.cache = forward, cache
        self.ids = torch.zeros((batch, 1), dtype=torch.long, device=device)
        self.positions = torch.zeros_like(self.ids)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.mask = torch.zeros((batch, 1, 1, most), dtype=torch.bool, device=device)
        self.mask[:, 0, 0, : attention.shape[1]] = attention.bool()
        cache.layers = [fixed(layer, most, self.slot) for layer in cache.layers]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.records = device.type == "cuda"
        self.logits: Tensor | None = None

    def read(self, ids: Int[Tensor, "B 1"], attention: Int[Tensor, "B L"]) -> Float[Tensor, "B V"]:
        """Logits after one more token, which `attention` covers; overwritten by the next call."""
        self.ids.copy_(ids)
        self.positions.copy_(attention.sum(1, keepdim=True) - 1)
        self.slot.fill_(attention.shape[1] - 1)
        self.mask[..., attention.shape[1] - 1] = True
        if self.records and self.graph is None:
            self._record()
        if self.graph is None:
            return self._run()
        self.graph.replay()
        assert self.logits is not None
        return self.logits

    def _run(self) -> Tensor:
        return self.forward(self.ids, self.mask, self.positions)

    def _record(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._run()  # libraries make their workspaces outside the graph
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.logits = self._run()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"Decoding goes without a CUDA graph: {reason}", stacklevel=2)
            self.records = False
            return
        self.graph = graph


def fixed(layer: Any, most: int, slot: Tensor) -> FixedLayer:
    """The layer's keys and values in buffers for `most` tokens; buffers that are there are kept."""
    if isinstance(layer, FixedLayer):
        return FixedLayer(layer.keys, layer.values, slot)
    buffers = []
    for seen in (layer.keys, layer.values):
        buffer = seen.new_zeros((*seen.shape[:2], most, seen.shape[-1]))
        buffer[:, :, : seen.shape[2]] = seen
        buffers.append(buffer)
    return FixedLayer(*buffers, slot)


def why_not(model: Any, cache: Any) -> str | None:
    """Why this model, whose cache has read something, cannot be decoded so; None if it can."""
    if hasattr(model, "unshard"):
        return "its parameters are sharded"
    if model.config.get_text_config()._attn_implementation not in MASKED:
        return f"its attention is {model.config.get_text_config()._attn_implementation}, not sdpa"
    if type(cache) is not DynamicCache:
        return "it makes a cache of its own"
    if not all(isinstance(layer, GrowingLayer | FixedLayer) for layer in cache.layers):
        return "not all of its layers keep every token"
    return None
