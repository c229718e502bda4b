"""The model that is trained: loading, precision, adapters, and scoring through the op."""

from erclip.training.policy.policy import Policy, Scores, load_policy

__all__ = ["Policy", "Scores", "load_policy"]
