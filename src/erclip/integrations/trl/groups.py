"""Dynamic sampling on TRL's batches: which groups teach, and how kept rows are dealt to ranks.

A batch is TRL's dict of tensors; those with a row per response are "rows". Letters: R responses of
all ranks, T tokens. Every rank computes the same answer from gathered data.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erclip.training.rollouts import derive_seed

Rows = dict[str, Tensor]
Item = TypeVar("Item")


def informative(
    rewards: Float[Tensor, "R F"], weights: Float[Tensor, " F"], responses: int
) -> Bool[Tensor, " R"]:
    """Rows of groups whose weighted rewards differ; a row without any reward decides nothing.

    >>> informative(torch.tensor([[1.0], [1.0], [1.0], [0.0]]), torch.ones(1), 2).tolist()
    [False, False, True, True]
    """
    total = (rewards * weights.to(rewards.device)).nansum(1)
    unscored = rewards.isnan().all(1)
    high = total.masked_fill(unscored, -math.inf).view(-1, responses).amax(1)
    low = total.masked_fill(unscored, math.inf).view(-1, responses).amin(1)
    return (high > low).repeat_interleave(responses)


def extra_rows(
    dataset: Any, prompts: int, responses: int, seed: Sequence[object], rank: int, ranks: int
) -> list[Any]:
    """This rank's share of `prompts` fresh prompts, each `responses` times, as TRL lays them out.

    The draw depends on `seed` alone, so a resumed run repeats it.
    """
    while prompts * responses % ranks:
        prompts += 1  # every rank generates the same number of responses
    rng = random.Random(derive_seed(*seed))
    every = range(len(dataset))
    chosen = rng.sample(every, prompts) if prompts <= len(every) else rng.choices(every, k=prompts)
    rows = [dataset[index] for index in chosen for _ in range(responses)]
    local = len(rows) // ranks
    return rows[rank * local : (rank + 1) * local]


def gather_rows(output: Mapping[str, Any], accelerator: Any, pad_id: int) -> Rows:
    """Every rank's rows on every rank, in rank order: groups may lie across ranks."""
    local = len(output["prompt_ids"])
    rows = {}
    for name, value in output.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == local:
            wide = value
            if value.dim() > 1:
                wide = accelerator.pad_across_processes(
                    value, dim=1, pad_index=_padding(name, pad_id), pad_first=_left(name)
                )
            rows[name] = accelerator.gather(wide.contiguous())
    return rows


def select(rows: Rows, keep: Bool[Tensor, " R"]) -> Rows:
    """The rows to keep."""
    return {name: value[keep.to(value.device)] for name, value in rows.items()}


def concatenate(parts: Sequence[Rows], pad_id: int) -> Rows:
    """Rows of several rounds of sampling, padded to the widest."""
    rows = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if values[0].dim() > 1:
            width = max(value.shape[1] for value in values)
            values = [_widen(v, width, _padding(name, pad_id), _left(name)) for v in values]
        rows[name] = torch.cat(values)
    return rows


def deal(rows: Rows, steps: int, rank: int, ranks: int) -> Rows:
    """This rank's rows: the same number for every rank, divisible by `steps` micro-batches.

    Where the kept rows do not divide, copies without a completion fill the last places: they count
    no token and carry no advantage, but give DDP's ranks the same number of passes.
    """
    kept = len(rows["prompt_ids"])
    local = steps * max(1, math.ceil(kept / (ranks * steps)))
    index = torch.arange(local * ranks).view(ranks, local)[rank]
    rows = {name: value[index.to(value.device) % kept] for name, value in rows.items()}
    filler = (index >= kept).to(rows["completion_mask"].device)
    rows["completion_mask"] = rows["completion_mask"].masked_fill(filler[:, None], 0)
    rows["advantages"] = rows["advantages"].masked_fill(filler, 0.0)
    return rows


def trim(rows: Rows) -> Rows:
    """Cut columns that are padding in every row, but leave one token."""
    prompt = rows["prompt_mask"].any(0).nonzero()
    start = int(prompt[0]) if len(prompt) else 0
    completion = rows["completion_mask"].any(0).nonzero()
    end = int(completion[-1]) + 1 if len(completion) else 1
    return {
        name: value
        if value.dim() < 2 or value.shape[1] == 1
        else (value[:, start:] if _left(name) else value[:, :end])
        for name, value in rows.items()
    }


def _left(name: str) -> bool:
    return name.startswith("prompt_")


def _padding(name: str, pad_id: int) -> int:
    return pad_id if name.endswith("_ids") else 0


def _widen(value: Tensor, width: int, fill: int, left: bool) -> Tensor:
    missing = width - value.shape[1]
    return torch.nn.functional.pad(value, (missing, 0) if left else (0, missing), value=fill)
