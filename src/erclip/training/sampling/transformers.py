"""Prompt → Response: batched sampling through transformers with a key-value cache.

Letters: P prompts, G responses to each, B = P·G sequences, L prompt tokens, V vocabulary.
A prompt is read once and what it left in the model's memory repeated for its G responses; sequences
that have ended leave the batch when half of it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from erclip.errors import Diverged, UserError
from erclip.records import Prompt, Response
from erclip.runs.work import Work
from erclip.training.policy.precision import kept_casts
from erclip.training.policy.signature import vocabulary_size
from erclip.training.sampling.base import (
    Reader,
    SamplingSettings,
    encode_prompts,
    end_ids,
    refuse_unknown_ids,
)
from erclip.training.sampling.decoder import Decoder, pad_left
from erclip.training.sampling.draw import Drawn, sample_token, uniforms
from erclip.training.sampling.rounding import Rounding, rounded_weights


@dataclass
class TransformersSampler:
    """Samples from a model in this process; sees every weight update at once.

    `follow` is called before every forward pass. It may change the weights, also in the middle of
    responses, whose keys and values stay those of the weights before; it returns their version.
    `work` hears after every step how many responses have ended, and the share of steps made.
    """

    model: Any
    tokenizer: Any
    batch_size: int = 256
    dtype: Rounding = "model"
    follow: Callable[[], int] | None = None
    work: Work = field(default_factory=Work)

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
        self._steps = Steps(1, 1)

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
            whole = self.dtype == "model"  # recorded graphs keep the weights' addresses
            self._decoder = Decoder(self.model, fixed=None if whole else False)
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
        per_batch = max(1, self.batch_size // settings.responses)
        results: list[list[Response]] = [[] for _ in prompts]
        reader = Reader(self.tokenizer, self.end_ids)
        batches = list(_batches(order, encoded, per_batch, mixed=self._decoder.pads))
        self._steps = Steps(len(batches), settings.max_tokens)
        for chosen in batches:
            draws = uniforms([seeds[i] for i in chosen], settings.responses, settings.max_tokens)
            with rounded_weights(self.model, self.dtype), kept_casts(self.model.device):
                rows = self._decode(self._decoder, [encoded[i] for i in chosen], settings, draws)
            self._steps.end_batch()
            for index, i in enumerate(chosen):
                own = rows[index * settings.responses : (index + 1) * settings.responses]
                results[i] = [reader.response(prompts[i], encoded[i], **row) for row in own]
        return results

    def _decode(
        self,
        decoder: Decoder,
        prompts: list[list[int]],
        settings: SamplingSettings,
        draws: Tensor,
    ) -> list[dict[str, Any]]:
        """What was drawn for each of the B sequences, siblings adjacent."""
        device = self.model.device
        ids, attention = pad_left(prompts, self.end_ids[0], device)
        versions = self._follow()
        logits = decoder.begin(ids, attention, ids.shape[1] + settings.max_tokens)
        if settings.responses > 1:
            repeat = torch.arange(len(ids), device=device).repeat_interleave(settings.responses)
            decoder.take(repeat, len(ids))
            attention, logits = attention[repeat], logits[repeat]
        draws = draws.to(device)
        rows = torch.arange(len(attention), device=device)  # which sequence each live row is
        ends = torch.tensor(self.end_ids, device=device)
        live = torch.ones(len(rows), dtype=torch.bool, device=device)
        drawn = Drawn(len(rows), settings, logits.shape[1], device)
        open_ = len(rows)
        for step in range(settings.max_tokens):
            draw = sample_token(
                logits, settings.temperature, settings.top_p, draws[rows, step], settings.top
            )
            drawn.put(step, rows, live, draw)
            token = draw.token
            live &= ~torch.isin(token, ends)
            alive = int(live.sum())
            if alive == 0 or step == settings.max_tokens - 1:
                break
            ended, left = len(live) - alive, settings.max_tokens - step
            self.work.advance(open_ - alive, share=self._steps.step())
            open_ = alive
            if alive <= len(live) // 2 and decoder.shrinks(ended, left):
                keep = live.nonzero().squeeze(1)
                decoder.take(keep, len(live))
                rows, token, attention, live = rows[keep], token[keep], attention[keep], live[keep]
            attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
            versions += self._follow()
            logits = decoder.read(token[:, None], attention)
        self.work.advance(open_, share=self._steps.step())
        if not torch.isfinite(drawn.logprobs).all():
            raise Diverged(
                "The model's logits are NaN or infinite, so it cannot be sampled from: training "
                "has diverged"
            )
        return drawn.rows(versions)

    def _follow(self) -> list[int]:
        """The version of the weights of the next step, where there are several."""
        return [] if self.follow is None else [self.follow()]


class Steps:
    """The share of all decoding steps that is behind, at least: a batch not begun may be long.

    >>> steps = Steps(batches=2, longest=4)
    >>> steps.step(), steps.step(), steps.end_batch(), steps.step()
    (0.125, 0.25, None, 0.75)
    """

    def __init__(self, batches: int, longest: int):
        self._batches, self._longest = batches, longest
        self._done, self._made, self._before = 0, 0, 0

    def step(self) -> float:
        """One more step is made."""
        self._made += 1
        usual = self._before / self._done if self._done else self._longest
        return min((self._done + min(self._made / usual, 1.0)) / self._batches, 1.0)

    def end_batch(self) -> None:
        """All responses of a batch have ended."""
        self._before += self._made
        self._done, self._made = self._done + 1, 0


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
