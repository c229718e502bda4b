"""Prompt → Response: batched sampling through transformers with a key-value cache.

Letters: P prompts, G responses to each, B = P·G sequences, L prompt tokens, V vocabulary.
A prompt is read once and what it left in the model's memory repeated for its G responses; sequences
that have ended leave the batch when half of it is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from erclip.errors import Diverged, UserError
from erclip.policy.precision import kept_casts
from erclip.policy.signature import vocabulary_size
from erclip.records import Prompt, Response
from erclip.sampling.base import (
    SamplingSettings,
    encode_prompts,
    end_ids,
    make_response,
    refuse_unknown_ids,
)
from erclip.sampling.decoder import Decoder, pad_left
from erclip.sampling.draw import sample_token, uniforms


@dataclass
class TransformersSampler:
    """Samples from a model in this process; sees every weight update at once."""

    model: Any
    tokenizer: Any
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Read the ids that end a response."""
        known = vocabulary_size(self.model)
        self.end_ids = [
            i for i in end_ids(self.model.generation_config, self.tokenizer) if i < known
        ]
        if not self.end_ids:
            raise UserError(
                f"The model's vocabulary ends at {known - 1}, before every end-of-sequence token: "
                "give the model its own tokenizer"
            )
        self._decoder: Decoder | None = None  # made when whole parameters are at hand

    def update_weights(self) -> None:
        """Nothing to do: the sampler reads the trained model itself."""

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Prompt], settings: SamplingSettings, seeds: Sequence[int]
    ) -> list[list[Response]]:
        """See `Sampler.sample`; same seeds, weights and batch size give the same responses."""
        encoded = encode_prompts(self.tokenizer, prompts, settings.max_prompt_tokens)
        refuse_unknown_ids(self.tokenizer, encoded, vocabulary_size(self.model))
        if self._decoder is None:
            self._decoder = Decoder(self.model)
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
        per_batch = max(1, self.batch_size // settings.responses)
        results: list[list[Response]] = [[] for _ in prompts]
        for chosen in _batches(order, encoded, per_batch, mixed=self._decoder.pads):
            draws = uniforms([seeds[i] for i in chosen], settings.responses, settings.max_tokens)
            with kept_casts(self.model.device):
                rows = self._decode(self._decoder, [encoded[i] for i in chosen], settings, draws)
            for index, i in enumerate(chosen):
                own = rows[index * settings.responses : (index + 1) * settings.responses]
                results[i] = [
                    make_response(self.tokenizer, self.end_ids, prompts[i], encoded[i], *row)
                    for row in own
                ]
        return results

    def _decode(
        self,
        decoder: Decoder,
        prompts: list[list[int]],
        settings: SamplingSettings,
        draws: Tensor,
    ) -> list[tuple[list[int], list[float]]]:
        """(token ids, log-probs) of each of the B sequences, responses to a prompt adjacent."""
        device = self.model.device
        ids, attention = pad_left(prompts, self.end_ids[0], device)
        logits = decoder.begin(ids, attention, ids.shape[1] + settings.max_tokens)
        if settings.responses > 1:
            repeat = torch.arange(len(ids), device=device).repeat_interleave(settings.responses)
            decoder.take(repeat, len(ids))
            attention, logits = attention[repeat], logits[repeat]
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
            if alive <= len(live) // 2 and decoder.shrinks(settings.max_tokens - step):
                keep = live.nonzero().squeeze(1)
                decoder.take(keep, len(live))
                rows, token, attention, live = rows[keep], token[keep], attention[keep], live[keep]
            attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
            logits = decoder.read(token[:, None], attention)
        if not torch.isfinite(logprobs).all():
            raise Diverged(
                "The model's logits are NaN or infinite, so it cannot be sampled from: training "
                "has diverged; go back to an earlier checkpoint with a lower trainer.learning_rate"
            )
        lengths = (tokens >= 0).sum(1).tolist()
        return [
            (row[:n], values[:n])
            for row, values, n in zip(tokens.tolist(), logprobs.tolist(), lengths, strict=True)
        ]


def _batches(
    order: Sequence[int], encoded: Sequence[Sequence[int]], most: int, *, mixed: bool
) -> Iterator[list[int]]:
    """Prompts that are decoded together, at most `most`; unless `mixed`, of one length each."""
    kinds = (
        [list(order)] if mixed else [list(g) for _, g in groupby(order, lambda i: len(encoded[i]))]
    )
    for kind in kinds:
        for start in range(0, len(kind), most):
            yield kind[start : start + most]
