"""Per-row statistics of a softmax, gathered tile by tile without cancellation.

With m the row's maximum and d = z − m ≤ 0 (sums Σ' leave the position of the maximum out):

    S' = Σ' e^d      T = Σ' e^d (−d)      E' = Σ' e^{2d}      F = Σ' e^{2d} (−d)
    H = log1p(S') + T / (1 + S')          log π_a = d_a − log1p(S')

Every term is non-negative, so nothing cancels: H ≈ 1e-8 is as accurate as H ≈ 1. The usual
lse − E[z] subtracts two numbers of the size of the logits to get the same.

Letters: N tokens, R rows and C columns of a tile. The state is one tensor [6, N].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from erclip.ops.options import HeadOptions
from erclip.ops.tiles import local_targets, to_z

# e^FLOOR is 0 in float32 and float64, so a masked logit (−inf) adds 0 · 1e4 = 0, never 0 · inf.
FLOOR = -1e4


class RowStatistics(NamedTuple):
    """m, S', T, E', F, each [R]. Without slopes E' and F are left alone."""

    peak: Tensor
    others: Tensor
    spread: Tensor
    others_sq: Tensor
    spread_sq: Tensor


class Results(NamedTuple):
    """What the rows come to: [N] each; log_sum is m + log1p S'.

    `slopes` are the slopes and Σ p_j S_j, [2, N]; [2, 0] where nobody asked.
    """

    logprobs: Tensor
    entropies: Tensor
    slopes: Tensor
    log_sum: Tensor


def lowest(dtype: torch.dtype) -> float:
    """A finite stand-in for the maximum of nothing, or of logits that are −inf throughout."""
    return torch.finfo(dtype).min / 4


def empty_state(num_rows: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """No column seen yet: S' = −1 makes the total 1 + S' zero; the target's logit is unknown."""
    start = [lowest(dtype), -1.0, 0.0, -1.0, 0.0, torch.nan]
    column = torch.tensor(start, dtype=dtype, device=like.device)
    return column[:, None].repeat(1, num_rows)


def reduce_tile(
    state: Tensor, raw: Tensor, bias: Tensor | None, targets: Tensor, start: int, opts: HeadOptions
) -> None:
    """Bring one tile [R, C] of raw products into the state [6, R]; overwrites the tile."""
    z = to_z(raw, bias, opts)
    index, inside = local_targets(targets, start, z.shape[1])
    torch.where(inside, z.gather(1, index)[:, 0], state[5], out=state[5])
    before = RowStatistics(*state[:5].unbind(0))
    after = merge(before, tile_statistics(z, opts.slopes), opts.slopes)
    for row, value in zip(state, after, strict=False):
        row.copy_(value)


def tile_statistics(z: Tensor, slopes: bool) -> RowStatistics:
    """Statistics of one tile; overwrites z with d.

    Every position that ties for the maximum is floored and counted instead: on a CPU that takes a
    third of the time of an argmax. A tile that is −inf throughout counts −1, so that it weighs 0.
    """
    peak = z.amax(dim=1, keepdim=True).clamp_(min=lowest(z.dtype))
    d = z.sub_(peak)
    at_peak = torch.eq(d, 0, out=torch.empty_like(d))
    ties = at_peak.sum(1) - 1
    d.add_(at_peak, alpha=FLOOR).clamp_(min=FLOOR)
    e = torch.exp(d, out=at_peak)
    others, spread = e.sum(1) + ties, -torch.linalg.vecdot(e, d)
    if not slopes:
        return RowStatistics(peak[:, 0], others, spread, others, spread)
    d.mul_(e)
    others_sq, spread_sq = torch.linalg.vecdot(e, e) + ties, -torch.linalg.vecdot(e, d)
    return RowStatistics(peak[:, 0], others, spread, others_sq, spread_sq)


def merge(a: RowStatistics, b: RowStatistics, slopes: bool) -> RowStatistics:
    """Two sets of columns side by side: the lower one is moved down by the gap of the maxima."""
    swap, gap = b.peak > a.peak, (a.peak - b.peak).abs()

    def side_by_side(i: int, factor: Tensor) -> tuple[Tensor, Tensor]:
        high_total, low_total = torch.where(swap, b[i], a[i]), 1 + torch.where(swap, a[i], b[i])
        high_spread, low_spread = (
            torch.where(swap, b[i + 1], a[i + 1]),
            torch.where(swap, a[i + 1], b[i + 1]),
        )
        return (
            high_total + factor * low_total,
            high_spread + factor * (low_spread + gap * low_total),
        )

    shrink = torch.exp(-gap)
    others, spread = side_by_side(1, shrink)
    squares = side_by_side(3, shrink.square()) if slopes else (a.others_sq, a.spread_sq)
    return RowStatistics(torch.maximum(a.peak, b.peak), others, spread, *squares)


def finish(state: Tensor, slopes: bool) -> Results:
    """Results from the state [6, N]; rows without a finite logit are NaN, as in log_softmax.

    With Z = 1 + S' and S_j = p_j (log p_j + H):

        Σ p_j S_j = [T (1 + E') / Z − F] / Z²
        slope = −[e_a d_a Z + T (expm1(d_a) + e_a S' − E') / Z + F] / Z²

    which is −(S_a − Σ p_j S_j) with nothing left to cancel where a is the likeliest token.
    """
    peak = state[0].masked_fill(state[0] <= lowest(state.dtype), torch.nan)
    stats = RowStatistics(peak, *state[1:5].unbind(0))
    total, log_total = 1 + stats.others, torch.log1p(stats.others)
    share = stats.spread / total
    d_a = state[5] - peak
    pair = state.new_empty((2, 0))
    if slopes:
        bounded = d_a.clamp(min=FLOOR)
        e_a = bounded.exp()
        bracket = torch.expm1(bounded) + e_a * stats.others - stats.others_sq
        slope = -(e_a * bounded * total + share * bracket + stats.spread_sq)
        mean = share * (1 + stats.others_sq) - stats.spread_sq
        pair = torch.stack((slope, mean)) / total.square()
    return Results(d_a - log_total, log_total + share + 0 * peak, pair, peak + log_total)
