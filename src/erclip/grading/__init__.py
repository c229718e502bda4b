"""Grading of mathematical answers that cannot hang, crash or lie. Importing it is cheap."""

from __future__ import annotations

from erclip.extras import stand_on

stand_on("grading", "erclip.grading")

from erclip.grading.gold import Gold
from erclip.grading.grader import Grader, grade

__all__ = ["Gold", "Grader", "grade"]
