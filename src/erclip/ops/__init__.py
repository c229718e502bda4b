"""The head as one op: log-probabilities and entropies without the logits."""

from __future__ import annotations

from erclip.ops.head import LogprobEntropyHead, layer_logprob_entropy
from erclip.ops.live import PolicyLoss, linear_policy_loss
from erclip.ops.logprob_entropy import LogprobEntropy, linear_logprob_entropy

__all__ = [
    "LogprobEntropy",
    "LogprobEntropyHead",
    "PolicyLoss",
    "layer_logprob_entropy",
    "linear_logprob_entropy",
    "linear_policy_loss",
]
