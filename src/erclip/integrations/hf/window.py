"""One optimiser step's metrics, pooled over its micro-batches and over all ranks.

These trainers average a mean per micro-batch; where micro-batches differ in length, that is another
number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from erclip.losses import LossOutput
from erclip.losses.types import Flags, Tokens
from erclip.runs.metrics import ratio_quantiles, token_sums


class UpdateWindow:
    """Sums over tokens until `close`, which divides once."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._rhos: list[Tensor] = []

    def add(self, out: LossOutput, entropies: Tokens, mask: Flags) -> None:
        """Add one micro-batch, on its device, without waiting for it."""
        sums = token_sums(out, entropies, mask)
        self._names = list(sums)
        values = torch.stack([*sums.values(), mask.sum()]).detach().double()
        self._sums = values if self._sums is None else self._sums + values
        if out.entropy_ratio is not None:
            self._rhos.append(out.entropy_ratio[mask])

    def close(self, accelerator: Any) -> dict[str, float]:
        """Means over every rank's tokens, quantiles of ρ, the token count; then empty again."""
        assert self._sums is not None, "closed before anything was added"
        *sums, count = accelerator.reduce(self._sums, reduction="sum").tolist()
        pairs = zip(self._names, sums, strict=True)
        means = {name: value / max(count, 1.0) for name, value in pairs}
        rhos = torch.cat(self._rhos)
        every = accelerator.gather(
            accelerator.pad_across_processes(rhos, dim=0, pad_index=float("nan"))
        )
        every = every[~every.isnan()]
        self._sums, self._rhos = None, []
        quantiles = ratio_quantiles(every) if len(every) else {}
        return {**means, **quantiles, "train/tokens": count}
