"""Our losses as prime-rl's custom RL loss: every rule that log-probs suffice for.

    [trainer.loss]
    type = "custom"
    import_path = "erclip.integrations.prime_rl.loss"
    kwargs.surrogate = { kind = "gspo_clip", low = 3e-4, high = 4e-4 }

prime-rl calls the function once per sequence and divides the sum of all by the batch's token count.
It takes ratios to the policy that sampled, keeps no old policy beside it and no entropies of any:
ERC and what else needs them is refused (docs/prime-rl.md says what is missing upstream). Nothing of
prime-rl is imported.

Letters: S positions of one sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from jaxtyping import Bool, Float
from torch import Tensor

from erclip.errors import UserError
from erclip.extras import stand_on

stand_on("train", "the adapter for prime-rl")

from erclip.integrations.home import Home, token_means
from erclip.losses import policy_loss

HOME = Home(
    "prime-rl's custom loss",
    given=frozenset({"sampler_logprobs", "lots"}),
    elsewhere={
        "importance": "would be 1 everywhere, for ratios are to the sampler already",
        "mask_truncated": "is the orchestrator's business",
    },
    section="trainer.loss.kwargs",
)
_built: dict[str, policy_loss] = {}


class Inputs(Protocol):
    """What is read of `prime_rl.trainer.rl.loss.LossInputs`."""

    trainer_logprobs: Float[Tensor, " S"]
    inference_logprobs: Float[Tensor, " S"]
    advantages: Float[Tensor, " S"]
    loss_mask: Bool[Tensor, " S"]
    loss_weights: Float[Tensor, " S"] | None


class Outputs(NamedTuple):
    """The fields of `prime_rl.trainer.rl.loss.LossOutputs`."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor]


def loss(inputs: Inputs, **section: Any) -> Outputs:
    """−Σ keep · surrogate over one sequence, with r = π_trainer/π_inference, and its metrics.

    `section` is the `loss` section of a recipe. `loss_weights` scale the advantages, in which every
    surrogate is linear; a term would not be scaled, so weights other than 1 beside terms are
    refused. Raises UserError.

    >>> from types import SimpleNamespace
    >>> one = torch.ones(2)
    >>> inputs = SimpleNamespace(trainer_logprobs=-one, inference_logprobs=-one, advantages=one,
    ...                          loss_mask=one.bool(), loss_weights=None)
    >>> loss(inputs, surrogate="gppo_clip").loss.item()
    -2.0
    """
    loss_fn = _loss_fn(section)
    mask, advantages, weights = inputs.loss_mask, inputs.advantages, inputs.loss_weights
    if weights is not None:
        if loss_fn.terms and (weights[mask] != 1).any():
            raise UserError(
                f"trainer.loss.kwargs: {loss_fn.terms[0]!r} cannot be scaled by the weights per "
                "token of this algorithm; leave the term out."
            )
        advantages = advantages * weights
    out = loss_fn(
        logprobs=inputs.trainer_logprobs.float()[None],
        old_logprobs=inputs.inference_logprobs.float()[None],
        sampler_logprobs=inputs.inference_logprobs.float()[None],
        advantages=advantages[None],
        mask=mask[None],
        num_tokens=1,
    )
    return Outputs(out.loss, token_means(out, mask[None]))


def _loss_fn(section: dict[str, Any]) -> policy_loss:
    """Built once per section, not once per sequence."""
    key = repr(sorted(section.items()))
    if key not in _built:
        _built[key] = HOME.read(section)
    return _built[key]
