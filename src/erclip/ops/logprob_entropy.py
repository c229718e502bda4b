"""The public op: log π(a_t) and H(π_t) from hidden states, without ever holding the logits.

Letters: N tokens, D hidden size, V vocabulary, K given ids. Nats throughout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erclip.ops.operators import head_backward, head_forward
from erclip.ops.options import HeadOptions, Impl, check_ids, check_inputs
from erclip.ops.picked import picked_logprobs
from erclip.ops.reference import reference


class LogprobEntropy(NamedTuple):
    """log π(a_t), H(π_t) and what was asked for; float32 (float64 from float64 inputs).

    With S_j = p_j (log p_j + H): `slope_means` are m = Σ p_j S_j and `slopes` m − S_a, in nats.
    `top_logprobs` are log π of the ids that were given.
    """

    logprobs: Float[Tensor, " N"]
    entropies: Float[Tensor, " N"]
    slopes: Float[Tensor, " N"] | None = None
    slope_means: Float[Tensor, " N"] | None = None
    top_logprobs: Float[Tensor, "N K"] | None = None


def linear_logprob_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    impl: Impl = "auto",
    chunk_size: int | None = None,
    slopes: bool = False,
    cache_logits: bool = False,
    top_ids: Int[Tensor, "N K"] | None = None,
) -> LogprobEntropy:
    """log π_a = z_a − lse(z), H = lse(z) − Σ p z, z = softcap · tanh((hWᵀ+b)/softcap)/temperature.

    Both are differentiable; an entropy nobody differentiates costs nothing, and so do rows whose
    upstream gradients are zero. `slopes` adds ⟨∂log π_a/∂z, ∂H/∂z⟩ = −(S_a − Σ p_j S_j) with
    S_j = p_j (log p_j + H), and Σ p_j S_j, without gradient: advantage · slope has the sign of the
    change of H that the update on this token makes. (H in the ratio of arXiv 2512.05591; the
    max-relative form and the slope are this package's, see docs/numerics.md.)

    Args:
        impl: `reference` is the specification and holds all logits; `chunked` is plain torch;
            `triton` needs CUDA (or Triton's interpreter). `auto` takes `triton` on CUDA where it
            is installed, else `chunked`. Score old and new policy with the same one.
        chunk_size: vocabulary columns in a tile; None is a size that suits the device.
        cache_logits: keep N × V float32 for the backward pass, which saves one product of four.
        top_ids: more tokens to score at every position, with gradient; each costs what one column
            of the vocabulary does, whatever `impl` is.

    Raises:
        ValueError: shapes or dtypes that do not fit, a target outside the vocabulary (on a GPU,
            where checking would wait for the device, its log-prob is NaN instead).

    >>> import torch
    >>> out = linear_logprob_entropy(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([0, 3]))
    >>> out.logprobs
    tensor([-1.3863, -1.3863])
    >>> out.entropies
    tensor([1.3863, 1.3863])
    """
    options = HeadOptions(temperature, softcap, chunk_size, slopes, cache_logits)
    impl = check_inputs(hidden, weight, targets, bias, impl)
    if top_ids is not None:
        check_ids(top_ids, hidden.shape[0], weight.shape[0])
    if impl == "reference" or hidden.shape[0] == 0:
        return LogprobEntropy(*reference(hidden, weight, bias, targets, options, top_ids))
    logprobs, entropies, slope_values = _Head.apply(hidden, weight, bias, targets, options, impl)
    scores = LogprobEntropy(logprobs, entropies, *(slope_values if slopes else ()))
    if top_ids is None:
        return scores
    top = picked_logprobs(hidden, weight, bias, targets, logprobs, top_ids, options)
    return scores._replace(top_logprobs=top)


class _Head(torch.autograd.Function):
    """Saves m + log1p S' and H per row; the logits are formed again, or were kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        options: HeadOptions,
        impl: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logprobs, entropies, slopes, log_sum, kept = head_forward(
            hidden,
            weight,
            bias,
            targets,
            impl,
            options.temperature,
            options.softcap,
            options.chunk_size,
            options.slopes,
            options.cache_logits and any(ctx.needs_input_grad[:3]),
        )
        ctx.options, ctx.impl = options, impl
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, bias, targets, log_sum, entropies, kept)
        ctx.mark_non_differentiable(slopes)
        return logprobs, entropies, slopes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_sum, entropies, kept = ctx.saved_tensors
        grad_logprobs, grad_entropies = grads[0], grads[1]
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(log_sum)
        wanted = list(ctx.needs_input_grad[:3])
        out = head_backward(
            hidden,
            weight,
            bias,
            targets,
            log_sum,
            entropies,
            grad_logprobs,
            grad_entropies,
            kept,
            ctx.impl,
            ctx.options.temperature,
            ctx.options.softcap,
            ctx.options.chunk_size,
            wanted,
        )
        return (*(g if want else None for g, want in zip(out, wanted, strict=True)), *[None] * 3)
