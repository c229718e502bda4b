"""What a run's own rounding clips, measured now and then with one forward pass.

Old and new scores are computed in one layout, so at equal weights rounding repeats itself exactly,
and a rollout's first update shows none of it. With the weights, an update moves every place where a
product is rounded; then a token's two entropies differ by rounding, too. That is what is provoked
here without an update: token embeddings one unit in the last place away from zero are no other
policy, but everything computed from them is rounded elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from erclip.diagnostics.layouts import nudged_embeddings
from erclip.losses import MiniBatchRule, policy_loss, reinforce
from erclip.metrics import Pool
from erclip.updates import ScoredBatch, Updater

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
    token_rules = [c for c in updater.loss_fn.constraints if not isinstance(c, MiniBatchRule)]
    rules = policy_loss(reinforce(), token_rules)
    pool = Pool()
    with nudged_embeddings(updater.policy.model):
        for scored in mini_batch:
            out = rules(**updater.tensors(scored, updater.score(scored.batch)))
            pool.add({"clipped": (out.erc_low | out.erc_high).sum()}, scored.batch.num_tokens)
    return pool.means(updater.world)["clipped"]
