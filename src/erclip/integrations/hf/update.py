"""One optimiser step of a trainer that shows a loss one micro-batch at a time.

Its token count and statistics are taken at its first micro-batch, its metrics are pooled until the
last, and what ERC clips for noise and for rounding is told apart from what it clips for drift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erclip.integrations.hf.statistics import UpdateStatistics
from erclip.integrations.hf.window import UpdateWindow
from erclip.losses import policy_loss
from erclip.training.policy import Scores
from erclip.training.rounding import due, nudged_embeddings, token_rules
from erclip.training.updates import uses_erc


class Host(NamedTuple):
    """What an update asks of its trainer: scores of a micro-batch, and the loss's arguments."""

    score: Callable[[Any], Scores]
    tensors: Callable[[Any, Scores | None], dict[str, Any]]


class Update:
    """The update under way; `model` holds the embeddings, `host` is asked about micro-batches."""

    def __init__(self, loss_fn: policy_loss, accelerator: Any, model: Any, host: Host):
        self.loss_fn, self.accelerator, self.model, self.host = loss_fn, accelerator, model, host
        self._statistics = UpdateStatistics(loss_fn, accelerator)
        self._window = UpdateWindow()
        self._num_tokens: Tensor | None = None
        self._first = False
        self._rollouts = 0
        self._rounding: dict[str, float] = {}

    def loss(self, micro: Any, new: Scores, batches: Sequence[Any], first: bool) -> Tensor:
        """Σ of one micro-batch over the whole update's N, times the number of ranks.

        `batches` are all of this rank's micro-batches, `first` says whether the update is the
        first of its rollout.
        """
        if self._num_tokens is None:
            self._begin(batches, first)
        statistics = self._statistics.of(lambda: self._past(batches))
        tensors = self.host.tensors(micro, new)
        out = self.loss_fn(**tensors, num_tokens=self._num_tokens, statistics=statistics)
        self._window.add(out, new.entropies.detach(), tensors["mask"])
        return out.loss

    def close(self) -> dict[str, float]:
        """The update's metrics; the next micro-batch begins another."""
        metrics = {**self._window.close(self.accelerator), **self._rounding}
        if self._first:
            metrics["erc/noise_frac"] = metrics["clip/erc_frac"]
        self._statistics.close()
        self._num_tokens, self._rounding = None, {}
        return metrics

    def _begin(self, batches: Sequence[Any], first: bool) -> None:
        masks = [self.host.tensors(batch, None)["mask"] for batch in batches]
        count = torch.stack([mask.sum() for mask in masks]).sum().float()
        total = self.accelerator.reduce(count, reduction="sum").clamp(min=1.0)
        self._num_tokens = total / self.accelerator.num_processes  # gradients are averaged
        self._first = first
        self._rollouts += first
        if first and uses_erc(self.loss_fn) and due(self._rollouts):
            self._rounding = {"erc/rounding_frac": self._clipped_by_rounding(batches)}

    def _past(self, batches: Sequence[Any]) -> list[dict[str, Any]]:
        """What the rules measure; the policy in training is scored only if one asks for it."""
        current = self.loss_fn.measures_current
        return [self.host.tensors(b, self.host.score(b) if current else None) for b in batches]

    @torch.no_grad()
    def _clipped_by_rounding(self, batches: Sequence[Any]) -> float:
        """See `erclip.training.rounding`."""
        rules, window = token_rules(self.loss_fn), UpdateWindow()
        with nudged_embeddings(self.model):
            for batch in batches:
                new = self.host.score(batch)
                tensors = self.host.tensors(batch, new)
                window.add(rules(**tensors, num_tokens=1), new.entropies, tensors["mask"])
        return window.close(self.accelerator)["clip/erc_frac"]
