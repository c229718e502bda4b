"""What a run is doing right now, told to whoever watches; nothing that training rests on."""

from __future__ import annotations

from typing import Literal

Phase = Literal["loading", "evaluating", "sampling", "grading", "scoring", "updating", "saving"]


class Work:
    """Listens to phases and counts; this one does nothing with them."""

    def begin(self, phase: Phase, total: int = 0, unit: str = "") -> None:
        """A phase begins, of `total` tokens or responses (0: not known)."""

    def advance(self, count: int = 0, *, share: float | None = None) -> None:
        """So many more are done; `share` of the phase at least, where the count alone misleads."""

    def say(self, text: str) -> None:
        """A sentence for the user."""
