"""What a loss has to know of a whole update, before its first backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erclip.losses import policy_loss
from erclip.losses.types import Statistics


class UpdateStatistics:
    """Statistics of one update's micro-batches, over all ranks, taken at its first one."""

    def __init__(self, loss_fn: policy_loss, accelerator: Any) -> None:
        self._loss_fn, self._accelerator = loss_fn, accelerator
        self.last: Statistics | None = None  # for rules that adapt; a checkpoint keeps them
        self._taken = False

    def of(self, micros: Callable[[], Sequence[Mapping[str, Any]]]) -> Statistics | None:
        """Those of the update under way; `micros` are asked for at its first micro-batch only."""
        if self._loss_fn.mini_batch_rules and not self._taken:
            with torch.no_grad():
                self.last = self._loss_fn.statistics(micros(), self._gather, self.last)
            self._taken = True
        return self.last

    def close(self) -> None:
        """The update has been made."""
        self._taken = False

    def _gather(self, values: Tensor) -> Tensor:
        """A vector of every rank, one after the other; lengths may differ."""
        lengths = self._accelerator.gather(torch.tensor([len(values)], device=values.device))
        padded = self._accelerator.pad_across_processes(values, dim=0)
        parts = self._accelerator.gather(padded).view(len(lengths), -1)
        return torch.cat([part[:n] for part, n in zip(parts, lengths.tolist(), strict=True)])
