"""Prompt → Response: batched sampling through transformers with a key-value cache.

Letters: P prompts, G responses to each, B = P·G sequences, L prompt tokens, V vocabulary.
A prompt is read once and its cache repeated for its G responses; sequences that have ended leave
the batch when half of it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from erclip.errors import Diverged
from erclip.policy.precision import kept_casts
from erclip.records import Prompt, Response
from erclip.sampling.base import SamplingSettings, encode_prompts, end_ids, make_response
from erclip.sampling.cache import growing_cache
from erclip.sampling.draw import sample_token, uniforms


@dataclass
class TransformersSampler:
    """Samples from a model in this process; sees every weight update at once."""

    model: Any
    tokenizer: Any
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Read the ids that end a response."""
        self.end_ids = end_ids(self.model.generation_config, self.tokenizer)

    def update_weights(self) -> None:
        """Nothing to do: the sampler reads the trained model itself."""

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Prompt], settings: SamplingSettings, seeds: Sequence[int]
    ) -> list[list[Response]]:
        """See `Sampler.sample`; same seeds, weights and batch size give the same responses."""
        encoded = encode_prompts(self.tokenizer, prompts, settings.max_prompt_tokens)
        if self.model.training:  # with gradient checkpointing, that mode has no cache
            self.model.eval()
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
        per_batch = max(1, self.batch_size // settings.responses)
        results: list[list[Response]] = [[] for _ in prompts]
        for start in range(0, len(order), per_batch):
            chosen = order[start : start + per_batch]
            draws = uniforms([seeds[i] for i in chosen], settings.responses, settings.max_tokens)
            with kept_casts(self.model.device):
                rows = self._decode([encoded[i] for i in chosen], settings, draws)
            for index, i in enumerate(chosen):
                own = rows[index * settings.responses : (index + 1) * settings.responses]
                results[i] = [
                    make_response(self.tokenizer, self.end_ids, prompts[i], encoded[i], *row)
                    for row in own
                ]
        return results

    def _decode(
        self, prompts: list[list[int]], settings: SamplingSettings, draws: Tensor
    ) -> list[tuple[list[int], list[float]]]:
        """(token ids, log-probs) of each of the B sequences, responses to a prompt adjacent."""
        device = self.model.device
        ids, attention = _pad_left(prompts, self.end_ids[0], device)
        cache = growing_cache(self.model.config, ids.shape[1] + settings.max_tokens)
        logits = self._forward(ids, attention, cache)
        if settings.responses > 1:
            cache.batch_repeat_interleave(settings.responses)
            attention = attention.repeat_interleave(settings.responses, 0)
            logits = logits.repeat_interleave(settings.responses, 0)
        draws = draws.to(device)
        rows = torch.arange(len(attention), device=device)  # which sequence each live row is
        ends = torch.tensor(self.end_ids, device=device)
        live = torch.ones(len(rows), dtype=torch.bool, device=device)
        tokens = torch.full((len(rows), settings.max_tokens), -1, device=device)
        logprobs = torch.zeros(tokens.shape, device=device)
        for step in range(settings.max_tokens):
            token, logprob = sample_token(
                logits, settings.temperature, settings.top_p, draws[rows, step]
            )
            tokens[rows[live], step] = token[live]
            logprobs[rows[live], step] = logprob[live]
            live &= ~torch.isin(token, ends)
            alive = int(live.sum())
            if alive == 0 or step == settings.max_tokens - 1:
                break
            if alive <= len(live) // 2:
                keep = live.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                rows, token, attention, live = rows[keep], token[keep], attention[keep], live[keep]
            attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
            logits = self._forward(token[:, None], attention, cache)
        if not torch.isfinite(logprobs).all():
            raise Diverged(
                "The model's logits are NaN or infinite, so it cannot be sampled from: training "
                "has diverged"
            )
        lengths = (tokens >= 0).sum(1).tolist()
        return [
            (row[:n], values[:n])
            for row, values, n in zip(tokens.tolist(), logprobs.tolist(), lengths, strict=True)
        ]

    def _forward(self, ids: Tensor, attention: Tensor, cache: Cache) -> Tensor:
        """Logits of the last position, float32 [B V]."""
        positions = (attention.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()


def _pad_left(rows: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask.to(device)
