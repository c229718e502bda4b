"""Hidden states → log π and H, through an exact or a rounded head; two such passes → clips.

Letters: N tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from erclip.losses import entropy_ratio_clip, policy_loss, ppo_clip
from erclip.ops import layer_logprob_entropy
from erclip.records import Response
from erclip.training.policy import Policy

HEADS = ("float32", "model")


class Scored(NamedTuple):
    """log π and H of every token, in nats."""

    logprobs: Float[Tensor, " N"]
    entropies: Float[Tensor, " N"]


@torch.no_grad()
def score(
    policy: Policy, hidden: Float[Tensor, "N D"], responses: Sequence[Response], head: str
) -> Scored:
    """log π and H from hidden states, through one of the two heads."""
    targets = torch.tensor([i for r in responses for i in r.token_ids], device=hidden.device)
    output = policy.model.get_output_embeddings()
    if head == "float32":
        out = layer_logprob_entropy(output, hidden, targets, softcap=policy.softcap)
        return Scored(out.logprobs.cpu(), out.entropies.cpu())
    parts = [_rounded_head(output, policy.softcap, *p) for p in _blocks(hidden, targets)]
    return Scored(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _blocks(hidden: Tensor, targets: Tensor, size: int = 512) -> list[tuple[Tensor, Tensor]]:
    return list(zip(hidden.split(size), targets.split(size), strict=True))


def _rounded_head(output: Any, softcap: float | None, hidden: Tensor, targets: Tensor) -> Scored:
    """Logits in the model's dtype, then a float32 softmax: what most trainers do."""
    logits = output(hidden)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    log_p = torch.log_softmax(logits.float(), -1)
    entropies = -torch.xlogy(log_p.exp(), log_p.exp()).sum(-1)
    return Scored(log_p.gather(1, targets[:, None])[:, 0], entropies)


def clips(
    old: Scored, new: Scored, band: tuple[float, float], clip: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Tokens outside the band, and outside the clip range whatever the advantage's sign."""
    constraint = entropy_ratio_clip(*band)
    flags = []
    for sign in (1.0, -1.0):
        out = policy_loss(ppo_clip(*clip), [constraint])(
            logprobs=new.logprobs[None],
            old_logprobs=old.logprobs[None],
            advantages=torch.full_like(new.logprobs, sign)[None],
            mask=torch.ones(1, len(new.logprobs), dtype=torch.bool),
            entropies=new.entropies[None],
            old_entropies=old.entropies[None],
        )
        flags.append((out.erc_low[0] | out.erc_high[0], out.ppo_low[0] | out.ppo_high[0]))
    return flags[0][0], flags[0][1] | flags[1][1]
