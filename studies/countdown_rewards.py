"""Rewards on countdown whose optimum is elsewhere than the model's habits: `reward.function`.

reward = { function = "studies/countdown_rewards.py:without_times" }
"""

from __future__ import annotations

from erclip.records import Grade, Response


def without_times(response: Response, grade: Grade) -> float:
    """Right, and nothing multiplied: the first phase of a reward that moves."""
    return float(grade.correct and "*" not in response.text)


def with_times(response: Response, grade: Grade) -> float:
    """Right, and something multiplied: the second phase, the opposite of the first."""
    return float(grade.correct and "*" in response.text)


def rare(response: Response, grade: Grade) -> float:
    """Right, and both steps are products: one response in thirty at the start."""
    return float(grade.correct and response.text.count("*") == 2)
