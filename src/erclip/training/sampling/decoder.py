"""A model that reads its text bit by bit, whatever it remembers of what it has read.

Keys and values grow with the text; recurrent layers keep a state. Some models take transformers'
cache for both, some make one of their own, some keep states in their modules. What a model does
is seen by trying it once, on a few tokens: if reading bit by bit does not give what reading at once
gives, the model is refused.

Letters: B sequences, L tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from erclip.errors import UserError
from erclip.text import in_a_line
from erclip.training.policy.precision import autocast_dtype
from erclip.training.policy.signature import (
    FAILURES,
    argument_names,
    cache_name,
    vocabulary_size,
)
from erclip.training.sampling.cache import growing_cache, take_rows
from erclip.training.sampling.fixed import PAYS, FixedReader, why_not

PROMPTS = ((1, 2, 3), (4, 5, 6, 7, 8, 9))  # made up: of two lengths, so that one is padded
MORE = tuple(range(10, 18))  # read after them, one by one: what a step does wrong adds up
EXACT, ROUNDED = 1e-4, 2e-2  # nats that padding may add, in float32 and in 16 bits
SAID = 2e-5  # nats in float32, twenty times a shallow model's rounding; in 16 bits ROUNDED
LIMIT = 0.2  # nats; the recurrent steps of some models round like 16 bits do


class Decoder:
    """Logits of the next token, for sequences that grow together."""

    def __init__(self, model: Any, *, fixed: bool | None = None):
        """`fixed` buffers are for CUDA, where the model can be decoded in them (None)."""
        name = cache_name(model)
        if name is None:
            raise UserError(_refusal(model, "its forward takes no cache of the tokens before"))
        self.model, self.name = model, name
        self.takes = argument_names(model)
        self.makes_own = False  # the cache is the model's own kind, made at the first call
        self.pads = True  # prompts of different lengths may stand side by side, padded in front
        self.whole_mask = True  # later masks cover everything so far, not the new tokens alone
        self._states: list[
            tuple[Any, str]
        ] = []  # modules that keep tensors of their own, and where
        self._cache: Any = None
        self._most = 0
        self._reader: FixedReader | None = None
        self._failure: str | None = None  # what went wrong where reading bit by bit failed
        self.fixed = False
        wanted = model.device.type == "cuda" if fixed is None else fixed
        self._try(wanted)

    def begin(self, ids: Int[Tensor, "B L"], attention: Tensor, most: int) -> Float[Tensor, "B V"]:
        """Read the first tokens of sequences of up to `most` tokens."""
        self._cache = None if self.makes_own else growing_cache(self.model.config, most)
        self._most, self._reader = most, None
        return self.read(ids, attention)

    def read(self, ids: Int[Tensor, "B L"], attention: Tensor) -> Float[Tensor, "B V"]:
        """Read more; `attention` covers everything so far. Float32 logits of the last position.

        The next call may overwrite them.
        """
        new = ids.shape[1]
        if self.fixed and new == 1 and 1 < attention.shape[1] <= self._most:
            if self._reader is None:
                self._reader = FixedReader(self._forward, self._cache, attention, self._most)
            return self._reader.read(ids, attention)
        positions = (attention.cumsum(1) - 1).clamp(min=0)[:, -new:]
        return self._forward(ids, attention if self.whole_mask else attention[:, -new:], positions)

    def shrinks(self, ended: int, left: int) -> bool:
        """Whether leaving out what has `ended` pays with `left` tokens to come."""
        return not self.fixed or ended * left >= PAYS

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        arguments = {
            "attention_mask": mask,
            "position_ids": positions,
            "logits_to_keep": 1,
            self.name: self._cache,
        }
        known = {name: value for name, value in arguments.items() if name in self.takes}
        out = self.model(input_ids=ids, use_cache=True, **known)
        if self.makes_own:
            self._cache = getattr(out, self.name)
        return out.logits[:, -1].float()

    def take(self, index: Int[Tensor, " K"], batch: int) -> None:
        """Go on with some of the `batch` sequences, each as often as `index` names it."""
        self._cache, self._reader = take_rows(self._cache, index, batch), None
        for module, name in self._states:
            setattr(module, name, take_rows(getattr(module, name), index, batch))

    @torch.no_grad()
    def _try(self, fixed: bool) -> None:
        """Find out how the model remembers, and that it does."""
        vocabulary = vocabulary_size(self.model)
        prompts = [[i % vocabulary for i in prompt] for prompt in PROMPTS]
        more = [i % vocabulary for i in MORE]
        try:
            first = torch.tensor(prompts[:1], device=self.model.device)
            made = getattr(self.model(input_ids=first, use_cache=True), self.name, None)
            self.makes_own = made is not None and type(made) is not DynamicCache
            self._states = _states_of_one(self.model)
            expected = [self._at_once(prompt, more) for prompt in prompts]
        except FAILURES as error:
            raise UserError(_refusal(self.model, in_a_line(error))) from error
        if not all(torch.isfinite(logprobs).all() for logprobs in expected):
            return  # nothing to compare: the sampler says that training has diverged
        gap = self._alone(prompts, more, expected)
        if not gap <= LIMIT:
            gap = self._otherwise(prompts, more, expected)
        why = f"read token by token its log-probs are {gap:.2g} nats from those read at once"
        if not gap <= LIMIT:
            raise UserError(_refusal(self.model, self._failure or why))
        if gap > max(self._tolerance(SAID), 2 * self._rounding(prompts, more, expected)):
            warnings.warn(
                f"{type(self.model).__name__}, {why}: samples are drawn from the first, updates "
                "measure from the second (sampler/logprob_diff says how far apart they are)",
                stacklevel=3,
            )
        limit = 2 * gap + self._tolerance()
        self.pads = self._gap(prompts, more, expected) <= limit
        if fixed and self.pads and self.whole_mask and why_not(self.model, self._cache) is None:
            self.fixed = True
            self.fixed = self._gap(prompts, more, expected) <= limit

    def _otherwise(self, prompts: Any, more: Sequence[int], expected: Sequence[Tensor]) -> float:
        """The gap where the model takes a mask of the new tokens alone, or counts positions itself.

        RoBERTa's begin after its padding's id; what is passed to it would count from 0.
        """
        self.whole_mask = False
        gap = self._alone(prompts, more, expected)
        if not gap <= LIMIT:
            self.whole_mask, self.takes = True, self.takes - {"position_ids"}
            gap = self._alone(prompts, more, expected)
        return gap

    def _alone(self, prompts: Any, more: Sequence[int], expected: Sequence[Tensor]) -> float:
        return max(self._gap([p], more, [e]) for p, e in zip(prompts, expected, strict=True))

    def _rounding(self, prompts: Any, more: Sequence[int], expected: Sequence[Tensor]) -> float:
        """What a longer text alone changes in the log-probs before: the deeper, the more."""
        longer = [self._at_once(prompt, [*more, *more])[: len(more) + 1] for prompt in prompts]
        return max(
            float(_likely_gap(got, [*want]).mean())
            for got, want in zip(longer, expected, strict=True)
        )

    def _tolerance(self, exactly: float = EXACT) -> float:
        exact = self.model.dtype in (torch.float32, torch.float64)
        return exactly if exact and autocast_dtype(self.model) is None else ROUNDED

    def _at_once(self, prompt: Sequence[int], more: Sequence[int]) -> Float[Tensor, "L V"]:
        """Log-probs after the prompt and after each further token, in one pass without a cache."""
        ids = torch.tensor([[*prompt, *more]], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0]
        return torch.log_softmax(logits[len(prompt) - 1 :].float(), -1)

    def _gap(
        self, prompts: Sequence[list[int]], more: Sequence[int], expected: Sequence[Tensor]
    ) -> float:
        """Mean difference (nats) of likely tokens' log-probs, read bit by bit: prompts padded, then
        repeated, and before each further token a row less. Infinite where that fails.
        """
        ids, attention = pad_left(prompts, prompts[0][0], self.model.device)
        rows = torch.arange(len(prompts), device=ids.device)
        gaps = []
        try:
            logits = self.begin(ids, attention, ids.shape[1] + len(more))
            for step in range(len(more) + 1):
                gaps.append(_likely_gap(logits, [expected[i][step] for i in rows.tolist()]))
                if step == len(more):
                    break
                index = torch.arange(1, len(rows), device=ids.device)
                if step == 0:
                    index = torch.arange(len(rows), device=ids.device).repeat_interleave(len(more))
                self.take(index, len(rows))
                rows = rows[index]
                attention = torch.cat([attention[index], attention.new_ones(len(rows), 1)], 1)
                logits = self.read(ids.new_full((len(rows), 1), more[step]), attention)
        except FAILURES as error:
            self._failure = in_a_line(error)
            return float("inf")
        return float(torch.cat(gaps).mean())


def _likely_gap(logits: Float[Tensor, "B V"], expected: Sequence[Tensor]) -> Tensor:
    want = torch.stack(list(expected))
    likely = want.topk(min(16, want.shape[1])).indices
    got = torch.log_softmax(logits, -1)
    return (got.gather(1, likely) - want.gather(1, likely)).abs().flatten()


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Ids and attention mask, padding in front."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row)) + [*row] for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask.to(device)


def _states_of_one(model: Any) -> list[tuple[Any, str]]:
    """Where modules keep what they read, after they read one sequence: plain tensors [1, …]."""
    return [
        (module, name)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == 1
    ]


def _refusal(model: Any, why: str) -> str:
    return (
        f"{type(model).__name__} cannot be sampled from here: {why}; "
        "use another model, or sampler.kind = vllm if that knows it"
    )
