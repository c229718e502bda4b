"""What float64 says of some of the rows: log π, H, the hidden states' gradient, ERC's decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erclip.losses import entropy_ratio

if TYPE_CHECKING:
    from head import Work
    from peers import Peer

ROWS = 1024  # V = 262,144 in float64: 2 GiB
BAND = 0.05


def scores64(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log π and H of every row, 256 rows at a time."""
    parts = []
    for h, t in zip(hidden.split(256), targets.split(256), strict=True):
        log_p = (h.double() @ weight.double().T).log_softmax(-1)
        parts.append((log_p.gather(1, t[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)))
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def outside(new: Tensor, old: Tensor) -> Tensor:
    ratio = entropy_ratio(new.double(), old.double())
    return (ratio <= 1 - BAND) | (ratio >= 1 + BAND)


class Truth:
    """Computed once for the inputs of a shape."""

    @torch.no_grad()
    def __init__(self, work: Work):
        self.rows = slice(0, min(ROWS, len(work.targets)))
        hidden, weight = work.hidden[self.rows], work.weight
        targets = work.targets[self.rows]
        self.logprobs, self.entropies = scores64(hidden, weight, targets)
        self.moved = scores64(work.moved[self.rows], weight, targets)[1]
        self.clipped = outside(self.moved, self.entropies)
        grads = []
        upstream = work.upstream[0.0][self.rows].double()
        for h, t, u in zip(hidden.split(256), targets.split(256), upstream.split(256), strict=True):
            p = (h.double() @ weight.double().T).softmax(-1)
            one_hot = torch.zeros_like(p).scatter_(1, t[:, None], 1.0)
            grads.append(((one_hot - p) * u[:, None]) @ weight.double())
        self.gradient = torch.cat(grads)

    @torch.no_grad()
    def of_scores(self, peer: Peer, work: Work) -> dict[str, str]:
        """Largest errors in nats, and the share of ERC decisions that are not float64's."""
        assert peer.op is not None
        logprobs, entropies = peer.op(work.hidden, work.weight, work.targets)
        found = {"logprob_error": _largest(logprobs[self.rows], self.logprobs)}
        if entropies is None:
            return found
        moved = peer.op(work.moved, work.weight, work.targets)[1]
        assert moved is not None
        got = outside(moved[self.rows], entropies[self.rows])
        return {
            **found,
            "entropy_error": _largest(entropies[self.rows], self.entropies),
            "wrong_erc_frac": f"{(got != self.clipped).double().mean():.4f}",
            "clipped_erc_frac": f"{self.clipped.double().mean():.4f}",
        }

    def of_gradient(self, work: Work) -> str:
        """‖∂L/∂hidden − float64's‖ / ‖float64's‖ of what was just run."""
        assert work.hidden.grad is not None
        gap = work.hidden.grad[self.rows].double() - self.gradient
        return f"{gap.norm() / self.gradient.norm():.2e}"


def _largest(values: Tensor, true: Tensor) -> str:
    return f"{(values.double() - true).abs().max():.2e}"
