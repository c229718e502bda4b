"""The model that is trained: loaded, in its precision, with its adapters, scoring through the op."""

from erclip.policy.policy import Policy, Scores, load_policy

__all__ = ["Policy", "Scores", "load_policy"]
