"""The one exception that the command line turns into a single sentence and exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """A user's mistake: the message names the offending value and the remedy in one sentence."""


class Diverged(UserError):
    """Training cannot go on: loss or gradients are no numbers any more."""
