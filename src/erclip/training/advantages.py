"""Reward → advantage: how much better a response was than its group."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def group_advantages(rewards: Float[Tensor, "P G"], epsilon: float = 1e-6) -> Float[Tensor, "P G"]:
    """A_i = (R_i − mean R) / (std R + ε), per group of G responses to one prompt, std with ddof 1.

    GRPO (2402.03300), as DAPO uses it. Equal rewards give exactly zero: they teach nothing.

    >>> [round(a, 2) for a in group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))[0].tolist()]
    [0.87, -0.87, -0.87, 0.87]

    Raises ValueError for groups of one response (no spread to divide by) and for NaN rewards.
    """
    if rewards.shape[-1] < 2:
        raise ValueError("A group of one response has no standard deviation; sample at least 2.")
    if not torch.isfinite(rewards).all():
        raise ValueError(f"Rewards must be finite numbers, got {rewards[~rewards.isfinite()][0]}.")
    exact = rewards.double()  # a float32 mean of equal numbers is not always that number
    centred = exact - exact.mean(-1, keepdim=True)
    advantages = centred / (exact.std(-1, keepdim=True, correction=1) + epsilon)
    return advantages.where(has_signal(rewards)[..., None], 0.0).to(rewards.dtype)


def has_signal(rewards: Float[Tensor, "P G"]) -> Tensor:
    """Which groups' rewards are not all equal [P]: the others have no advantage.

    >>> has_signal(torch.tensor([[1.0, 1.0], [1.0, 0.0]])).tolist()
    [False, True]
    """
    return (rewards != rewards[:, :1]).any(-1)
