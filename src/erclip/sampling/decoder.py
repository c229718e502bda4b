"""A model that reads its text bit by bit, whatever it remembers of what it has read.

Keys and values grow with the text; recurrent layers keep a state. Some models take transformers'
cache for both, some make one of their own, some keep states in their modules. What a model does
is seen by trying it once, on a few tokens: if reading bit by bit does not give what reading at once
gives, the model is refused.

Letters: B sequences, L tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from erclip.errors import UserError
from erclip.policy.signature import cache_name
from erclip.sampling.cache import growing_cache, take_rows

PROMPTS = ((1, 2, 3), (4, 5, 6, 7, 8, 9))  # made up: of two lengths, so that one is padded
MORE = (10, 11, 12)  # read after them, one by one
EXACT = 1e-3  # nats, the largest difference in float32
ROUNDED = 0.2  # nats, the mean difference in 16 bits


class Decoder:
    """Logits of the next token, for sequences that grow together."""

    def __init__(self, model: Any):
        name = cache_name(model)
        if name is None:
            raise UserError(_refusal(model, "its forward takes no cache of the tokens before"))
        self.model, self.name = model, name
        self.takes = _taken(model)
        self.makes_own = False  # the cache is the model's own kind, made at the first call
        self.pads = True  # prompts of different lengths may stand side by side, padded in front
        self._states: list[tuple[Any, str]] = []  # modules that keep tensors of their own, and where
        self._cache: Any = None
        self._try()

    def begin(self, ids: Int[Tensor, "B L"], attention: Tensor, most: int) -> Float[Tensor, "B V"]:
        """Read the first tokens of sequences of up to `most` tokens."""
        self._cache = None if self.makes_own else growing_cache(self.model.config, most)
        return self.read(ids, attention)

    def read(self, ids: Int[Tensor, "B L"], attention: Tensor) -> Float[Tensor, "B V"]:
        """Read more; `attention` covers everything so far. Float32 logits of the last position."""
        positions = (attention.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        arguments = {
            "attention_mask": attention,
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
        self._cache = take_rows(self._cache, index, batch)
        for module, name in self._states:
            setattr(module, name, take_rows(getattr(module, name), index, batch))

    @torch.no_grad()
    def _try(self) -> None:
        """Find out how the model remembers, and that it does."""
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        prompts = [[i % vocabulary for i in prompt] for prompt in PROMPTS]
        more = [i % vocabulary for i in MORE]
        first = torch.tensor(prompts[:1], device=self.model.device)
        made = getattr(self.model(input_ids=first, use_cache=True), self.name, None)
        if made is None:
            raise UserError(_refusal(self.model, "it returns no cache of what it has read"))
        self.makes_own = type(made) is not DynamicCache
        self._states = _states_of_one(self.model)
        expected = [self._at_once(prompt, more) for prompt in prompts]
        if not all(torch.isfinite(logprobs).all() for logprobs in expected):
            return  # nothing to compare: the sampler says that training has diverged
        self.pads = self._agrees(prompts, more, expected)
        if not self.pads and not all(
            self._agrees([prompt], more, [want])
            for prompt, want in zip(prompts, expected, strict=True)
        ):
            raise UserError(
                _refusal(self.model, "read token by token it gives other log-probs than at once")
            )

    def _at_once(self, prompt: Sequence[int], more: Sequence[int]) -> Float[Tensor, "L V"]:
        """Log-probs after the prompt and after each further token, in one pass without a cache."""
        ids = torch.tensor([[*prompt, *more]], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0]
        return torch.log_softmax(logits[len(prompt) - 1 :].float(), -1)

    def _agrees(
        self, prompts: Sequence[list[int]], more: Sequence[int], expected: Sequence[Tensor]
    ) -> bool:
        """Whether the same comes out bit by bit: padded, repeated, and with rows dropped."""
        ids, attention = pad_left(prompts, prompts[0][0], self.model.device)
        try:
            logits = [self.begin(ids, attention, ids.shape[1] + len(more))]
            rows = [i for i in range(len(prompts)) for _ in range(2)]
            for step, token in enumerate(more):
                keep = rows if step == 0 else list(range(1, len(attention)))
                index = torch.tensor(keep, device=ids.device)
                self.take(index, len(attention))
                attention = torch.cat([attention[index], attention.new_ones(len(index), 1)], 1)
                logits.append(self.read(attention.new_full((len(index), 1), token), attention))
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return False
        gaps = []
        for step, found in enumerate(logits):
            own = list(range(len(prompts))) if step == 0 else rows[step - 1 :]
            want = torch.stack([expected[i][step] for i in own])
            likely = want.topk(min(16, want.shape[1])).indices
            got = torch.log_softmax(found, -1)
            gaps.append((got.gather(1, likely) - want.gather(1, likely)).abs().flatten())
        gap = torch.cat(gaps)
        if self.model.dtype in (torch.float32, torch.float64):
            return bool(gap.max() <= EXACT)
        return bool(gap.mean() <= ROUNDED)


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


def _taken(model: Any) -> set[str]:
    """Names that reach the model: its own, and the trunk's where it passes them on."""
    parameters = inspect.signature(model.forward).parameters
    names = set(parameters)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        names |= set(inspect.signature(model.base_model.forward).parameters)
    return names


def _refusal(model: Any, why: str) -> str:
    return (
        f"{type(model).__name__} cannot be sampled from here: {why}; "
        "use another model, or sampler.kind = vllm if that knows it"
    )
