"""What a run's own rounding clips, measured now and then with one forward pass.

Old and new scores are computed in one layout, so at equal weights rounding repeats itself exactly,
and a rollout's first update shows none of it. With the weights, an update moves every place where a
product is rounded; then a token's two entropies differ by rounding, too. That is what is provoked
here without an update: token embeddings one unit in the last place away from zero are no other
policy, but everything computed from them is rounded elsewhere.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from erclip.losses import MiniBatchRule, policy_loss, reinforce
from erclip.runs.metrics import Pool
from erclip.training.policy.precision import autocast_dtype
from erclip.training.updates import ScoredBatch, Updater

EVERY = 10  # rollouts from one measurement to the next, the first one included


def due(rollout: int) -> bool:
    """Whether this rollout measures.

    >>> [rollout for rollout in range(1, 25) if due(rollout)]
    [1, 11, 21]
    """
    return rollout % EVERY == 1


@torch.no_grad()
def rounding_share(updater: Updater, mini_batch: Sequence[ScoredBatch]) -> float:
    """Σ clipped / Σ tokens of a mini-batch at the weights that scored it; a collective."""
    rules, pool = token_rules(updater.loss_fn), Pool()
    with nudged_embeddings(updater.policy.model):
        for scored in mini_batch:
            out = rules(**updater.tensors(scored, updater.score(scored.batch)))
            pool.add({"clipped": (out.erc_low | out.erc_high).sum()}, scored.batch.num_tokens)
    return pool.means(updater.world)["clipped"]


def token_rules(loss_fn: policy_loss) -> policy_loss:
    """The constraints that look at tokens one by one, under a surrogate that clips nothing."""
    rules = [c for c in loss_fn.constraints if not isinstance(c, MiniBatchRule)]
    return policy_loss(reinforce(), rules)


@contextmanager
def nudged_embeddings(model: Any, autocast: torch.dtype | None = None) -> Generator[None]:
    """Within it, every number of a token's embedding is the next one away from zero.

    The next one of the dtype in which products are rounded, which autocast makes coarser; None is
    the model's own.
    """
    rounded = autocast or autocast_dtype(model)

    def away(module: Any, arguments: Any, output: Tensor) -> Tensor:
        device = output.device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        coarse = rounded or cast or output.dtype
        # m·2^e grows by m/2 units in its last place, 1 ≤ m < 2: rounded, that is one
        step = 1 + torch.finfo(coarse).eps / 2
        return (output.to(coarse).double() * step).to(coarse).to(output.dtype)

    handle = model.get_input_embeddings().register_forward_hook(away)
    try:
        yield
    finally:
        handle.remove()
