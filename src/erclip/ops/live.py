"""A scalar loss whose gradients are formed while the logits of its rows are still there.

The op in `logprob_entropy` cannot know the loss, so its backward pass multiplies hidden by weight
once more. Where the loss is a sum over tokens, it can be asked block by block: three products
instead of four, at the price of a block of logits [R, V] and, below float32, one float32 [V, D].

Letters: N tokens, D hidden size, V vocabulary, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erclip.ops import chunked
from erclip.ops.chunked import Gradients, Head
from erclip.ops.gradient import Saved
from erclip.ops.logprob_entropy import LogprobEntropy
from erclip.ops.matmul import accumulation_dtype
from erclip.ops.operators import active_rows, epilogue_of, resolve
from erclip.ops.options import HeadOptions, Impl, check_inputs, check_targets
from erclip.ops.tiles import spans

TokenLoss = Callable[[LogprobEntropy, slice], Tensor]


class PolicyLoss(NamedTuple):
    """The loss, with gradient, and the scores it was computed from, without."""

    loss: Float[Tensor, ""]
    scores: LogprobEntropy


def linear_policy_loss(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    token_loss: TokenLoss,
    *,
    bias: Float[Tensor, " V"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    impl: Impl = "auto",
    rows: int | None = None,
    slopes: bool = False,
) -> PolicyLoss:
    """loss = Σ_blocks token_loss(scores of the block, rows of the block), with one product less.

    `token_loss` gets the scores of consecutive tokens and where they lie, and returns their share
    of the loss: a sum over tokens divided by the global token count, never a mean over the block.
    Gradients are formed during this call, so it does not serve under torch.compile.

    Args:
        rows: tokens in a block; None is 128 on a CPU (the logits of a block are rows · V · 4 bytes)
            and 2,048 elsewhere.

    >>> import torch
    >>> hidden = torch.zeros(3, 2, requires_grad=True)
    >>> out = linear_policy_loss(
    ...     hidden, torch.eye(2), torch.tensor([0, 1, 1]), lambda s, at: -s.logprobs.sum() / 3
    ... )
    >>> out.loss.backward()
    >>> hidden.grad[0]
    tensor([-0.1667,  0.1667])
    """
    options = HeadOptions(temperature, softcap, None, slopes, cache_logits=True)
    impl = check_inputs(hidden, weight, targets, bias, impl)
    check_targets(targets, weight.shape[0])
    if impl == "reference":
        raise ValueError("impl='reference' holds all logits: differentiate it directly instead")
    if rows is not None and rows < 1:
        raise ValueError(f"rows must be at least 1 or None, got {rows!r}")
    rows = rows or (128 if hidden.device.type == "cpu" else 2048)
    loss, *scores = _Live.apply(hidden, weight, bias, targets, token_loss, options, impl, rows)
    return PolicyLoss(loss, LogprobEntropy(*(scores if slopes else scores[:2])))


class _Live(torch.autograd.Function):
    """Holds the finished gradients; the one backward pass multiplies them by its scalar."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        token_loss: TokenLoss,
        options: HeadOptions,
        impl: Impl,
        rows: int,
    ) -> tuple[Tensor, ...]:
        head, dtype = Head(hidden, weight, bias), accumulation_dtype(hidden)
        totals = Gradients(
            *(
                torch.zeros_like(x, dtype=dtype) if x is not None and want else None
                for x, want in zip(head, ctx.needs_input_grad[:3], strict=True)
            )
        )
        loss = torch.zeros((), dtype=dtype, device=hidden.device)
        kinds = 4 if options.slopes else 2
        scores = torch.empty((kinds, hidden.shape[0]), dtype=dtype, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for r in spans(hidden.shape[0], rows):
                part = _block(head, targets, r, token_loss, options, impl, totals, scores)
                loss += part
        ctx.grads = [
            None if total is None or x is None else total.to(x.dtype)
            for total, x in zip(totals, head, strict=True)
        ]
        outputs = tuple(row.clone() for row in scores)
        ctx.mark_non_differentiable(*outputs)
        return (loss, *outputs)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the gradients of linear_policy_loss were already handed over")
        held, ctx.grads = ctx.grads, None  # handed over, not copied
        unchanged = bool(upstream[0] == 1)  # the usual call
        grads = (g if g is None or unchanged else g * upstream[0].to(g.dtype) for g in held)
        return (*grads, *[None] * 5)


def _block(
    head: Head,
    targets: Tensor,
    r: slice,
    token_loss: TokenLoss,
    options: HeadOptions,
    impl: Impl,
    totals: Gradients,
    scores: Tensor,
) -> Tensor:
    """Score the rows r, ask for their loss, and add their gradients to `totals`."""
    hidden, epilogue = head.hidden[r], epilogue_of(impl)
    options = resolve(options, hidden, head.weight)
    out, kept = chunked.forward(Head(hidden, *head[1:]), targets[r], options, epilogue)
    scores[:2, r] = torch.stack(out[:2])
    if options.slopes:
        scores[2:, r] = out.slopes
    with torch.enable_grad():
        logprobs, entropies = out.logprobs.requires_grad_(), out.entropies.requires_grad_()
        slopes = out.slopes.unbind(0) if options.slopes else ()
        loss = token_loss(LogprobEntropy(logprobs, entropies, *slopes), r)
        grads = torch.autograd.grad(loss, (logprobs, entropies), allow_unused=True)
    grad_logprobs = torch.zeros_like(logprobs) if grads[0] is None else grads[0]
    rows = active_rows(grad_logprobs, grads[1])
    if len(rows) and any(total is not None for total in totals):
        saved = Saved(targets[r], out.log_sum, out.entropies.detach(), grad_logprobs, grads[1])
        part = None if totals.hidden is None else torch.zeros_like(totals.hidden[r][rows])
        into = Gradients(part, totals.weight, totals.bias)
        picked = Head(hidden[rows], *head[1:])
        kept = kept._replace(rows=rows)
        chunked.backward(picked, saved.at(rows), kept, options, into, epilogue)
        if totals.hidden is not None and part is not None:
            totals.hidden[r][rows] = part
    return loss.detach()
