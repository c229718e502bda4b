"""Ways in which the same tokens pass through a model: one mathematics, other rounding.

Each layout gives the hidden states before every response token, so that any head can follow.
Letters: N response tokens of all responses in their order, D hidden size, B rows, L columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from erclip.errors import UserError
from erclip.records import Response
from erclip.training.policy.signature import cache_name, trunk
from erclip.training.rounding import nudged_embeddings

Layout = Callable[[Any, Sequence[Response], int], Float[Tensor, "N D"]]


def right_padded(model: Any, responses: Sequence[Response], rows: int) -> Float[Tensor, "N D"]:
    """What the trainer does: `rows` sequences at a time, padded at the end."""
    return _padded(model, responses, rows, left=False)


def left_padded(model: Any, responses: Sequence[Response], rows: int) -> Float[Tensor, "N D"]:
    """What many trainers do, because generation pads there."""
    return _padded(model, responses, rows, left=True)


def alone(model: Any, responses: Sequence[Response], rows: int) -> Float[Tensor, "N D"]:
    """Every sequence by itself: another batch size, and no padding at all."""
    return _padded(model, responses, 1, left=False)


def packed(model: Any, responses: Sequence[Response], rows: int) -> Float[Tensor, "N D"]:
    """`rows` sequences one after another in a single row, told apart by their positions."""
    found = []
    for chunk in _chunks(responses, rows):
        sequences = [_ids(response) for response in chunk]
        ids = torch.tensor([[i for sequence in sequences for i in sequence]], device=model.device)
        positions = torch.cat([torch.arange(len(sequence)) for sequence in sequences])
        hidden = trunk(model)(
            input_ids=ids, position_ids=positions[None].to(model.device), use_cache=False
        ).last_hidden_state[0]
        start = 0
        for response, sequence in zip(chunk, sequences, strict=True):
            found.append(hidden[_before_response(start, response)])
            start += len(sequence)
    return torch.cat(found)


def cached(model: Any, responses: Sequence[Response], rows: int) -> Float[Tensor, "N D"]:
    """What a sampler does: prompts padded in front, then a token at a time with a cache."""
    found = []
    for chunk in _chunks(responses, rows):
        ids, attention = _rectangle([list(r.prompt_ids) for r in chunk], True, model.device)
        steps, _ = _rectangle([list(r.token_ids) for r in chunk], False, model.device)
        name = cache_name(trunk(model))
        if name is None:
            raise UserError(f"{type(model).__name__} takes no cache: leave out the layout sampler")
        cache = DynamicCache(config=model.config)
        columns = []
        for step in range(steps.shape[1]):
            positions = (attention.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = trunk(model)(
                input_ids=ids,
                attention_mask=attention,
                position_ids=positions,
                use_cache=True,
                **{name: cache},
            )
            columns.append(out.last_hidden_state[:, -1])
            ids = steps[:, step : step + 1]
            attention = torch.cat([attention, attention.new_ones(len(chunk), 1)], dim=1)
        hidden = torch.stack(columns, 1)
        found += [hidden[row, : len(r.token_ids)] for row, r in enumerate(chunk)]
    return torch.cat(found)


def rounded_elsewhere(model: Any, responses: Sequence[Response], rows: int) -> Float[Tensor, "N D"]:
    """What a run does to measure its own noise: the trainer's layout, embeddings nudged."""
    with nudged_embeddings(model):
        return right_padded(model, responses, rows)


LAYOUTS: dict[str, Layout] = {
    "same": right_padded,
    "batch": alone,
    "padding": left_padded,
    "packing": packed,
    "sampler": cached,
    "rounding": rounded_elsewhere,
}
"""What the second pass does; the first one is always `right_padded`."""


def _padded(
    model: Any, responses: Sequence[Response], rows: int, left: bool
) -> Float[Tensor, "N D"]:
    found = []
    for chunk in _chunks(responses, rows):
        sequences = [_ids(response) for response in chunk]
        ids, attention = _rectangle(sequences, left, model.device)
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        hidden = trunk(model)(
            input_ids=ids, attention_mask=attention, position_ids=positions, use_cache=False
        ).last_hidden_state
        for row, (response, sequence) in enumerate(zip(chunk, sequences, strict=True)):
            start = ids.shape[1] - len(sequence) if left else 0
            found.append(hidden[row, _before_response(start, response)])
    return torch.cat(found)


def _chunks(responses: Sequence[Response], rows: int) -> list[Sequence[Response]]:
    return [responses[start : start + rows] for start in range(0, len(responses), rows)]


def _ids(response: Response) -> list[int]:
    return [*response.prompt_ids, *response.token_ids]


def _before_response(start: int, response: Response) -> slice:
    """Positions whose hidden states predict the response's tokens, in a sequence from `start`."""
    first = start + len(response.prompt_ids) - 1
    return slice(first, first + len(response.token_ids))


def _rectangle(
    sequences: Sequence[list[int]], left: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Ids and attention mask [B, L]; padding holds id 0, which attention never sees."""
    width = max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, place] = torch.tensor(sequence)
        attention[row, place] = 1
    return ids.to(device), attention.to(device)
