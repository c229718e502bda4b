"""Samples → rows of a forward pass: what stands side by side, and what is read only once.

Responses to one prompt can share a row: the prompt stands in it once, every response sees it and
itself, and counts its positions from the prompt's end. A response's last token is left out of the
row, since nothing is scored after it. The layout changes time and memory, never a number.

Letters: R rows, L positions of the longest row, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from erclip.records import Sample

PADDING = -1  # whose position it is: 0 the prompt's, 1, 2, … its responses'


@dataclass(frozen=True)
class Row:
    """A prompt, and after it one response or several that share it."""

    samples: tuple[Sample, ...]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt that stands first."""
        return self.samples[0].response.prompt_ids

    @cached_property
    def length(self) -> int:
        """L of this row alone."""
        return len(self.prompt_ids) + sum(len(s.response.token_ids) - 1 for s in self.samples)


class Inputs(NamedTuple):
    """Arguments of the trunk, and where each sample's tokens are predicted in flattened [R·L]."""

    arguments: dict[str, Tensor]
    predictors: list[list[int]]


def single_rows(samples: Iterable[Sample]) -> list[Row]:
    """Every response in a row of its own."""
    return [Row((sample,)) for sample in samples]


def shared_rows(samples: Iterable[Sample], hidden_size: int, token_budget: int) -> list[Row]:
    """Responses to one prompt in one row wherever that costs less and fits the budget."""
    siblings: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        siblings.setdefault(sample.response.prompt_ids, []).append(sample)
    return [row for group in siblings.values() for row in _share(group, hidden_size, token_budget)]


def micro_batches(rows: Iterable[Row], token_budget: int) -> list[list[Row]]:
    """Split rows so that number × longest stays within `token_budget` padded positions.

    Rows of similar length share a micro-batch. A row longer than the budget stands alone. The split
    changes memory and speed, never the loss: all micro-batches share the mini-batch's denominator.
    """
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.length):
        if batches and (len(batches[-1]) + 1) * row.length <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def lay_out(rows: Sequence[Row], pad_id: int) -> Inputs:
    """Rows padded at the end to one rectangle."""
    width = max(row.length for row in rows)
    ids, positions, segments, predictors = [], [], [], []
    for index, row in enumerate(rows):
        prompt = len(row.prompt_ids)
        tokens, places, owners = list(row.prompt_ids), list(range(prompt)), [0] * prompt
        for owner, sample in enumerate(row.samples, start=1):
            own = sample.response.token_ids[:-1]
            start = index * width + len(tokens)
            predictors.append([index * width + prompt - 1, *range(start, start + len(own))])
            tokens += own
            places += range(prompt, prompt + len(own))
            owners += [owner] * len(own)
        ids.append(_padded(tokens, width, pad_id))
        positions.append(_padded(places, width, 0))
        segments.append(_padded(owners, width, PADDING))
    arguments, owned = {"input_ids": torch.tensor(ids)}, torch.tensor(segments)
    if all(len(row.samples) == 1 for row in rows):
        arguments["attention_mask"] = (owned != PADDING).long()
    else:
        arguments["position_ids"] = torch.tensor(positions)
        arguments["attention_mask"] = _sees(owned)[:, None]
    return Inputs(arguments, predictors)


def _padded(values: list[int], width: int, fill: int) -> list[int]:
    """As many as a row has places: one tensor of all rows costs far less than one for each."""
    return values + [fill] * (width - len(values))


def _sees(segments: Int[Tensor, "R L"]) -> Tensor:
    """Which position attends to which [R, L, L]: the prompt, its own response, itself."""
    asking, asked = segments[:, :, None], segments[:, None, :]
    length = segments.shape[1]
    past = torch.ones(length, length, dtype=torch.bool).tril()
    itself = torch.eye(length, dtype=torch.bool)  # padding too: a row of nothing would be NaN
    return past & ((asked == asking) | (asked == 0)) | itself


def _share(samples: Sequence[Sample], hidden_size: int, token_budget: int) -> list[Row]:
    """One row if it is cheaper than one each, else both halves, asked again."""
    together = Row(tuple(samples))
    alone = sum(_cost(row, hidden_size) for row in single_rows(samples))
    fits = together.length <= token_budget
    if len(samples) == 1 or (fits and _cost(together, hidden_size) < alone):
        return [together]
    half = len(samples) // 2
    return [
        row
        for part in (samples[:half], samples[half:])
        for row in _share(part, hidden_size, token_budget)
    ]


def _cost(row: Row, hidden_size: int) -> int:
    """Work per layer in units of one attended pair (4·D operations): L² pairs, 24·D² per token."""
    return row.length**2 + 6 * hidden_size * row.length
