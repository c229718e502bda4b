"""The same work by everybody: log π(a_t) with gradient and, where the op has it, H(π_t) without.

Each entry takes (hidden [N, D], weight [V, D], targets [N], upstream [N]) and returns the loss
Σ upstream · log π; an absent package is skipped with its reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import torch
from torch import Tensor

from erclip.ops import linear_logprob_entropy, linear_policy_loss

Op = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Peer(NamedTuple):
    name: str
    version: str
    entropy: bool
    op: Op | None
    reason: str = ""


def erclip(hidden, weight, targets, upstream):
    return (linear_logprob_entropy(hidden, weight, targets).logprobs * upstream).sum()


def erclip_cached(hidden, weight, targets, upstream):
    out = linear_logprob_entropy(hidden, weight, targets, cache_logits=True)
    return (out.logprobs * upstream).sum()


def erclip_live(hidden, weight, targets, upstream):
    def token_loss(scores, at):
        return (scores.logprobs * upstream[at]).sum()

    return linear_policy_loss(hidden, weight, targets, token_loss).loss


def naive(hidden, weight, targets, upstream):
    log_p = torch.log_softmax(torch.nn.functional.linear(hidden, weight).float(), -1)
    with torch.no_grad():
        _ = -(log_p.exp() * log_p).sum(-1)
    return (log_p.gather(1, targets[:, None])[:, 0] * upstream).sum()


def bare_matmul(hidden, weight, targets, upstream):
    return torch.nn.functional.linear(hidden, weight)[0, 0].float()


class VerlTorch(torch.autograd.Function):
    """verl's torch path, written anew from its description: 512 tokens at a time, logits in the
    inputs' dtype, softmax and log_softmax of them in float32, lse − Σ p z, and all of it again in
    the backward pass, with a one-hot matrix."""

    TOKENS = 512

    @staticmethod
    def probabilities(hidden, weight):
        z = (hidden @ weight.T).float()
        return z, z.softmax(-1)

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        ctx.save_for_backward(hidden, weight, targets)
        parts = []
        for h, t in zip(hidden.split(512), targets.split(512), strict=True):
            z, p = VerlTorch.probabilities(h, weight)
            logprobs = z.log_softmax(-1).gather(1, t[:, None])[:, 0]
            entropies = z.logsumexp(-1) - (p * z).sum(-1)
            parts.append((logprobs.to(h.dtype), entropies.to(h.dtype)))
        logprobs, entropies = (torch.cat(x) for x in zip(*parts, strict=True))
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx, *grads):
        grad = grads[0]
        hidden, weight, targets = ctx.saved_tensors
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), VerlTorch.TOKENS):
            at = slice(start, start + VerlTorch.TOKENS)
            z, p = VerlTorch.probabilities(hidden[at], weight)
            one_hot = torch.zeros_like(z).scatter_(1, targets[at][:, None], 1)
            dz = (grad[at].float()[:, None] * (one_hot - p)).to(hidden.dtype)
            grad_hidden[at] += dz @ weight
            grad_weight += dz.T @ hidden[at]
        return grad_hidden, grad_weight, None


def verl_torch(hidden, weight, targets, upstream):
    return (VerlTorch.apply(hidden, weight, targets)[0].float() * upstream).sum()


def _trl() -> Op:
    function = importlib.import_module("trl.kernels.chunked_logprob").ChunkedLogProbFunction

    def trl(hidden, weight, targets, upstream):
        out = function.apply(
            hidden, weight, None, targets, 1.0, 32_768, None, 1.0, ("entropy",)
        )  # the trainer's own chunk size
        return (out[0] * upstream).sum()

    return trl


def _liger() -> Op:
    module = importlib.import_module("liger_kernel.chunked_loss.fused_linear_ppo")

    def liger(hidden, weight, targets, upstream):
        logprobs = module._ChunkedSelectiveLogProbFunction.apply(
            hidden, weight, targets, None, 1.0, module._SELECTIVE_LOGPROB_VOCAB_CHUNK_SIZE
        )
        return (logprobs * upstream).sum()

    return liger


def _torch_linear_cross_entropy() -> Op:
    options = torch.nn.LinearCrossEntropyOptions()

    def torch_linear_cross_entropy(hidden, weight, targets, upstream):
        nll = torch.nn.functional.linear_cross_entropy(
            hidden, weight, targets, reduction="none", options=options
        )
        return -(nll.float() * upstream).sum()

    return torch_linear_cross_entropy


def _cut_cross_entropy() -> Op:
    function = importlib.import_module("cut_cross_entropy").linear_cross_entropy

    def cut_cross_entropy(hidden, weight, targets, upstream):
        return -(function(hidden, weight, targets, reduction="none") * upstream).sum()

    return cut_cross_entropy


def peers() -> list[Peer]:
    """Everybody, present or not."""
    torch_version = torch.__version__
    ours = version("erclip")
    found = [
        Peer("erclip", ours, True, erclip),
        Peer("erclip, logits kept", ours, True, erclip_cached),
        Peer("erclip, live loss", ours, True, erclip_live),
        Peer("naive", torch_version, True, naive),
        Peer("bare matmul", torch_version, False, bare_matmul),
        Peer("verl's torch path, re-stated", torch_version, True, verl_torch),
    ]
    for name, package, entropy, make in (
        ("TRL chunked", "trl", True, _trl),
        ("Liger chunked", "liger-kernel", False, _liger),
        ("torch linear_cross_entropy", "torch", False, _torch_linear_cross_entropy),
        ("cut-cross-entropy", "cut-cross-entropy", False, _cut_cross_entropy),
    ):
        try:
            found.append(Peer(name, version(package), entropy, make()))
        except (ImportError, AttributeError) as error:
            found.append(Peer(name, "", entropy, None, f"{type(error).__name__}: {error}"))
    return found
