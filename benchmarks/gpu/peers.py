"""The ops that are compared on a GPU; each gives (log π [N] with gradient, H [N] or None)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import foreign
import torch
from torch import Tensor
from variants import Unfused

from erclip.ops import linear_logprob_entropy, linear_policy_loss

Scores = tuple[Tensor, Tensor | None]
Op = Callable[[Tensor, Tensor, Tensor], Scores]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Peer(NamedTuple):
    """An op, or for one that forms its gradients with the loss (hidden, weight, targets, upstream)
    → loss; with neither, the reason. `own_loss`: its loss is another one, so only time compares.
    """

    name: str
    version: str
    op: Op | None
    loss: Loss | None = None
    reason: str = ""
    own_loss: bool = False


def ours(**options) -> Op:
    def erclip(hidden, weight, targets):
        out = linear_logprob_entropy(hidden, weight, targets, **options)
        return out.logprobs, out.entropies.detach()

    return erclip


def unfused(hidden, weight, targets):
    with Unfused():
        return ours()(hidden, weight, targets)


def unfused_loss(hidden, weight, targets, upstream):
    """Forward and backward pass at once: both have to run while it is switched off."""
    with Unfused():
        loss = (ours()(hidden, weight, targets)[0] * upstream).sum()
        loss.backward()
    return torch.zeros((), requires_grad=True)


def live(hidden, weight, targets, upstream):
    def token_loss(scores, at):
        return (scores.logprobs * upstream[at]).sum()

    return linear_policy_loss(hidden, weight, targets, token_loss).loss


def naive(hidden, weight, targets):
    log_p = torch.log_softmax((hidden @ weight.T).float(), -1)
    with torch.no_grad():
        entropies = -(log_p.exp() * log_p).sum(-1)
    return log_p.gather(1, targets[:, None])[:, 0], entropies


def _trl() -> Op:
    function = foreign.trl_chunked()

    def trl(hidden, weight, targets):
        out = function.apply(hidden, weight, None, targets, 1.0, 32_768, None, 1.0, ("entropy",))
        return out[0], out[1].detach()

    return trl


def _verl() -> Op:
    function = foreign.verl_kernel()
    if not torch.cuda.is_available():
        raise ImportError("verl's kernel needs CUDA")

    def verl(hidden, weight, targets):
        logprobs, entropies = function(hidden, weight, targets, 1.0, "none")
        return logprobs, entropies.detach()

    return verl


def _verl_torch() -> Op:
    function = foreign.verl_torch()

    def verl_torch(hidden, weight, targets):
        logprobs, entropies = function.apply(hidden, weight, targets)
        return logprobs, entropies.float().detach()

    return verl_torch


def _liger() -> Op:
    from liger_kernel.chunked_loss import fused_linear_ppo

    function = fused_linear_ppo._ChunkedSelectiveLogProbFunction
    columns = fused_linear_ppo._SELECTIVE_LOGPROB_VOCAB_CHUNK_SIZE

    def liger(hidden, weight, targets):
        return function.apply(hidden, weight, targets, None, 1.0, columns), None

    return liger


def _liger_cross_entropy() -> Loss:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    def liger_cross_entropy(hidden, weight, targets, upstream):
        return LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, targets)[0].float()

    return liger_cross_entropy


def _cut_cross_entropy() -> Op:
    from cut_cross_entropy import linear_cross_entropy

    def cut_cross_entropy(hidden, weight, targets):
        return -linear_cross_entropy(hidden, weight, targets, reduction="none").float(), None

    return cut_cross_entropy


FOREIGN: tuple[tuple[str, str, Callable[[], Op]], ...] = (
    ("verl, kernel", "verl", _verl),
    ("verl, torch", "verl", _verl_torch),
    ("TRL", "trl", _trl),
    ("Liger, chunked log-probs", "liger-kernel", _liger),
    ("cut-cross-entropy", "cut-cross-entropy", _cut_cross_entropy),
)


def peers() -> list[Peer]:
    """Everybody, present or not."""
    own, torch_version = version("erclip"), torch.__version__
    found = [
        Peer("erclip", own, ours()),
        Peer("erclip, slopes", own, ours(slopes=True)),
        Peer("erclip, logits kept", own, ours(cache_logits=True)),
        Peer("erclip, policy loss", own, None, loss=live),
        Peer("erclip, cuBLAS and an epilogue", own, unfused, loss=unfused_loss),
        Peer("erclip, chunked", own, ours(impl="chunked")),
        Peer("naive", torch_version, naive),
    ]
    for name, package, make in FOREIGN:
        try:
            found.append(Peer(name, version(package), make()))
        except (ImportError, AttributeError, PackageNotFoundError) as error:
            found.append(Peer(name, "", None, reason=f"{type(error).__name__}: {error}"))
    with contextlib.suppress(ImportError):
        loss = _liger_cross_entropy()
        name = "Liger, mean cross entropy"
        found.append(Peer(name, version("liger-kernel"), None, loss, own_loss=True))
    return found
