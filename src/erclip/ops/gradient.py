"""The gradient of one tile of logits in plain torch.

∂L/∂z_v = g (1[v = a] − p_v) − g_H p_v (log p_v + H), with g and g_H the upstream gradients of
log π_a and H; then 1/temperature and the softcap's slope 1 − tanh².

Letters: N tokens, R rows and C columns of a tile.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from erclip.ops.matmul import Arithmetic
from erclip.ops.options import HeadOptions
from erclip.ops.softmax import FLOOR
from erclip.ops.tiles import local_targets, to_z


class Saved(NamedTuple):
    """What the backward pass needs of its rows, each [N]; log_sum is m + log1p S'.

    Without `grad_logprobs` every g is 1 (the caller scales whole rows); without `grad_entropies`
    every g_H is 0.
    """

    targets: Tensor
    log_sum: Tensor
    entropies: Tensor
    grad_logprobs: Tensor | None
    grad_entropies: Tensor | None

    def at(self, rows: slice | Tensor) -> Saved:
        """The same for some of the rows."""
        grads = (None if grad is None else grad[rows] for grad in self[3:])
        return Saved(self.targets[rows], self.log_sum[rows], self.entropies[rows], *grads)


def gradient_tile(
    raw: Tensor,
    bias: Tensor | None,
    saved: Saved,
    start: int,
    options: HeadOptions,
    out_dtype: torch.dtype,
) -> Tensor:
    """−temperature · ∂L/∂raw of one tile [R, C]; overwrites the raw products."""
    z = to_z(raw, bias, options)
    squash = None
    if options.softcap is not None:
        squash = 1 - (z * (options.temperature / options.softcap)).square_()
    log_p = z.sub_(saved.log_sum[:, None])
    grad_at_target = saved.grad_logprobs
    if grad_at_target is None:
        grad_at_target = torch.ones_like(saved.log_sum)
    if saved.grad_entropies is not None:
        log_p.clamp_(min=FLOOR)
        p = log_p.exp()
        out = log_p.add_(saved.entropies[:, None]).mul_(saved.grad_entropies[:, None])
        out.add_(grad_at_target[:, None]).mul_(p)
    else:
        out = log_p.exp_()
        if saved.grad_logprobs is not None:
            out.mul_(grad_at_target[:, None])
    index, inside = local_targets(saved.targets, start, out.shape[1])
    out.scatter_add_(1, index, torch.where(inside, -grad_at_target, 0.0)[:, None])
    return (out if squash is None else out.mul_(squash)).to(out_dtype)


def factor_out(
    saved: Saved, temperature: float, arithmetic: Arithmetic
) -> tuple[Saved, Tensor | None]:
    """What `gradient_tile` leaves out, as one factor per row [N], and `saved` without it.

    Where products are as wide as their sums, g is taken out of the V-wide tile and put on the
    D-wide rows. Where a product rounds the tile to 16 bits, the tile keeps g, so that it is rounded
    once; stored as bf16 it keeps all, and the factor is None. Stored as fp16 it loses a power of
    two: gradients of 1e-8 would vanish.
    """
    grads, grad_entropies = saved.grad_logprobs, saved.grad_entropies
    assert grads is not None
    operand, total, exact = arithmetic
    if exact and grad_entropies is None:
        return saved._replace(grad_logprobs=None), grads / -temperature
    if exact:
        return saved, torch.full_like(grads, -1.0 / temperature)
    divisor = torch.full_like(grads[0], -temperature)
    factor: Tensor | None = torch.ones_like(divisor) if operand == total else None
    if operand == torch.float16:
        largest = grads.abs().amax()
        if grad_entropies is not None:
            largest = torch.maximum(largest, grad_entropies.abs().amax())
        divisor = torch.exp2(torch.log2(largest).ceil()).clamp_min(torch.finfo(grads.dtype).tiny)
        factor = divisor / -temperature
    scaled = saved._replace(
        grad_logprobs=grads / divisor,
        grad_entropies=None if grad_entropies is None else grad_entropies / divisor,
    )
    return scaled, None if factor is None else factor.expand_as(saved.log_sum)


def stacked(saved: Saved) -> Tensor:
    """log_sum, g, H and g_H of the rows, [4, R]; what is not there is never read."""
    ones = saved.grad_logprobs is None
    return torch.stack(
        (
            saved.log_sum,
            torch.ones_like(saved.log_sum) if ones else saved.grad_logprobs,
            saved.entropies,
            saved.log_sum if saved.grad_entropies is None else saved.grad_entropies,
        )
    )
