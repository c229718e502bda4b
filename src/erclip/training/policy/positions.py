"""How far a model can count: tables of positions, rotary factors that depend on a text's length.

LongRoPE and dynamic NTK choose their factors by the longest text of a batch, so a response's
log-probs would depend on its neighbours, and on its own length: no autoregressive distribution.
Here the factors are those of one length for a whole run, as in an inference engine.
"""

from __future__ import annotations

import inspect
from copy import deepcopy
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from erclip.errors import UserError
from erclip.training.policy.signature import FAILURES

FAR = 1 << 22  # positions: longer than any text


def context_length(model: Any) -> int | None:
    """How many positions the model was made for; None if its configuration does not say.

    XLNet's says −1: there is no end.
    """
    said = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return said if said is not None and said > 0 else None


class Positions:
    """The lengths that a model serves, and rotary factors held at those of one length."""

    def __init__(self, model: Any):
        self.model = model
        self.held: int | None = None  # the length whose factors every text gets
        rotary = [m for m in model.modules() if _is_rotary(m) and not _alike(m, 1, FAR)]
        if rotary:
            self.held = min(_longest_alike(module) for module in rotary)
            self._unforced = self.held
        for module in rotary:
            module.forward = self._holding(module.forward)

    def fit(self, prompt: int, response: int) -> str | None:
        """Get ready for prompts and responses of so many tokens; a sentence if that is a strain.

        Raises UserError where the model has no position for them.
        """
        context, name = context_length(self.model), type(self.model).__name__
        longest = prompt + response
        if context is not None and longest > context:
            said = (
                f"the longest prompt takes {prompt} tokens and a response may take {response}, but "
                f"{name} was made for {context}"
            )
            alone = prompt >= context or (response >= context and self.held is None)
            if alone or _has_table(self.model, context):
                raise UserError(f"{said}; lower sampler.max_tokens, or leave long prompts out")
        if self.held is not None and longest > self.held:
            before, self.held = self.held, longest
            return (
                f"texts of up to {longest} tokens pass the {before} up to which {name}'s rotary "
                f"factors stay the same: every text, short ones too, gets those of {longest} tokens"
            )
        return said if context is not None and longest > context else None

    def _holding(self, forward: Any) -> Any:
        """The module's forward with one position more, the last of the length that is held."""

        @wraps(forward)
        def held(x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            assert self.held is not None
            longest = int(position_ids.max()) + 1
            if longest > self.held:
                raise UserError(
                    f"a text of {longest} tokens is longer than the {self.held} that this model's "
                    "rotary factors are held at; shorten the prompt or the response"
                )
            if self.held == self._unforced:
                return forward(x, position_ids, *args, **kwargs)
            last = torch.full_like(position_ids[..., :1], self.held - 1)
            out = forward(x, torch.cat([position_ids, last], -1), *args, **kwargs)
            if isinstance(out, Tensor):
                return out[..., :-1, :]
            return tuple(part[..., :-1, :] for part in out)

        return held


def _is_rotary(module: nn.Module) -> bool:
    """Whether it turns positions into numbers: no weights, and position_ids are asked for."""
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is None:
        return False
    return list(inspect.signature(module.forward).parameters)[1:2] == ["position_ids"]


@torch.no_grad()
def _factors(module: Any, length: int) -> list[Tensor]:
    """What the module says of the first position but one in a text of this length."""
    device = next(module.buffers()).device
    kinds = getattr(module, "rope_type", None)
    more = [{"layer_type": kind} for kind in kinds] if isinstance(kinds, dict) else [{}]
    positions = torch.tensor([[1, length - 1]], device=device)
    found = []
    for arguments in more:
        out = module(torch.zeros(1, 2, 8, device=device), positions, **arguments)
        found += [part[..., 0, :] for part in ([out] if isinstance(out, Tensor) else out)]
    return found


def _alike(module: Any, short: int, long: int) -> bool:
    """Whether texts of both lengths get the same factors from a module that has seen no other.

    Copies are asked: a module may keep the factors of the longest text that it has seen.
    """
    try:
        found = (_factors(deepcopy(module), length) for length in (short, long))
        return all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    except FAILURES:
        return True  # it wants other positions than these; no such module is known to change


def _longest_alike(module: Any) -> int:
    """The longest text that gets the factors of a short one, by bisection."""
    low, high = 2, FAR
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _alike(module, 1, middle) else (low, middle)
    return low


def _has_table(model: Any, context: int) -> bool:
    """Whether something in the model has an entry per position: an embedding, a mask, sines."""

    def counts(length: int) -> bool:
        return context <= length < context + 16  # OPT's and others' tables begin with an offset

    given = model.get_input_embeddings()
    for module in model.modules():
        table = isinstance(module, nn.Embedding) and module is not given
        if table and counts(module.num_embeddings):
            return True
        held = [*module.buffers(recurse=False), *vars(module).values()]
        tables = [value for value in held if isinstance(value, Tensor) and value.ndim > 1]
        if any(counts(length) for table in tables for length in table.shape):
            return True
    return False
