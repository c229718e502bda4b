"""The model that is trained: loading, precision, adapters, and scoring through the op."""

from erclip.policy.policy import Policy, Scores, load_policy

__all__ = ["Policy", "Scores", "load_policy"]
